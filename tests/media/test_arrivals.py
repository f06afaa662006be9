"""Files that arrive in a folder are given once each is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fakes import png

from fewshot.errors import MissingExtra
from fewshot.media import Arrivals, arrivals, medium_of

watchfiles = pytest.importorskip("watchfiles", reason="needs the extra watch")
TICKS = 100  # some 20 s


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(arrivals, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(arrivals, "PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(arrivals, "_TICK_MILLISECONDS", 50)


@pytest.fixture
def watched(quick, tmp_path):
    """The folder, and what arrives in it, of which the first look is over."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "before.png").write_bytes(png())
    found = Arrivals(str(folder), medium_of("image"))
    looks = iter(found)
    next(looks)
    return folder, found, looks


def gathered(looks: Iterator, count: int, what: str = "files") -> list[str]:
    """The names of so many files as they come."""
    names: list[str] = []
    for _, arrived in zip(range(TICKS), looks, strict=False):
        names += map(os.path.basename, getattr(arrived, what))
        if len(names) >= count:
            break
    return names


def test_new_files_arrive_and_those_from_before_do_not(watched):
    folder, _, looks = watched
    (folder / "a.png").write_bytes(png())
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "b.PNG").write_bytes(png())
    (folder / ".part").write_bytes(png())
    os.replace(folder / ".part", folder / "c.png")

    assert sorted(gathered(looks, 3)) == ["a.png", "b.PNG", "c.png"]


def test_a_name_begins_with_the_folder_as_it_was_given(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("inbox")
    looks = iter(Arrivals("inbox", medium_of("image")))
    next(looks)
    (tmp_path / "inbox" / "a.png").write_bytes(png())

    found = next(arrived.files for arrived in looks if arrived.files)
    assert found == (os.path.join("inbox", "a.png"),)


def test_a_file_that_is_still_written_does_not_arrive_before_its_end(watched, monkeypatch):
    folder, _, looks = watched
    clock = iter(float(n) for n in range(1000))  # a second a look, in which more is written
    monkeypatch.setattr(arrivals, "monotonic", lambda: next(clock))
    with open(folder / "slow.png", "wb") as file:
        for byte in png()[:10]:
            file.write(bytes([byte]))
            file.flush()
            assert next(looks).files == ()
        file.write(png()[10:])

    assert gathered(looks, 1) == ["slow.png"]


def test_files_of_another_kind_are_named_and_hidden_ones_and_pipes_are_not(watched):
    folder, _, looks = watched
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(png())
    os.mkfifo(folder / "pipe.png")
    (folder / "a.png").write_bytes(png())

    both = [(arrived.files, arrived.ignored) for _, arrived in zip(range(20), looks, strict=False)]
    assert [os.path.basename(name) for files, _ in both for name in files] == ["a.png"]
    assert [os.path.basename(name) for _, ignored in both for name in ignored] == ["notes.txt"]


def test_a_file_removed_before_it_was_whole_is_named(watched, monkeypatch):
    folder, _, looks = watched
    monkeypatch.setattr(arrivals, "monotonic", lambda: 0.0)  # no file is ever whole
    (folder / "short.png").write_bytes(png())
    next(looks)  # which has seen it, or sees that it has gone
    os.remove(folder / "short.png")

    assert gathered(looks, 1, "gone") == ["short.png"]


def test_a_file_written_anew_arrives_again_and_one_whose_rights_change_does_not(watched):
    folder, _, looks = watched
    (folder / "a.png").write_bytes(png())
    assert gathered(looks, 1) == ["a.png"]
    os.chmod(folder / "a.png", 0o600)
    assert all(next(looks).files == () for _ in range(10))
    (folder / "a.png").write_bytes(png(size=8))
    assert gathered(looks, 1) == ["a.png"]


def test_a_file_that_cannot_be_read_comes_again_once_or_as_soon_as_it_changes(watched):
    folder, found, looks = watched
    (folder / "broken.png").write_bytes(b"broken")
    name = str(folder / "broken.png")
    assert gathered(looks, 1) == ["broken.png"]
    assert found.again(name)
    assert gathered(looks, 1) == ["broken.png"]
    assert not found.again(name)  # it had its time

    (folder / "late.png").write_bytes(b"\x89PNG")
    assert gathered(looks, 1) == ["late.png"]
    assert found.again(str(folder / "late.png"))
    (folder / "late.png").write_bytes(png())
    assert gathered(looks, 1) == ["late.png"]
    assert found.again(str(folder / "late.png"))  # another content, another chance


def test_thousands_that_come_while_one_is_busy_all_arrive(watched):
    folder, _, looks = watched
    (folder / "whole").mkdir()
    first = folder / "whole" / "0.png"
    first.write_bytes(png())
    for n in range(1, 2000):
        os.link(first, folder / "whole" / f"{n}.png")

    assert len(set(gathered(looks, 2000))) == 2000


def test_a_folder_that_goes_away_is_an_error_that_names_it(watched, tmp_path):
    folder, _, looks = watched
    folder.rename(tmp_path / "elsewhere")

    with pytest.raises(FileNotFoundError, match="inbox, which was watched, is gone"):
        gathered(looks, 1)


def test_what_is_no_folder_and_a_missing_extra_are_refused_before_watching(tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match=r"no such folder: .*nowhere"):
        Arrivals(str(tmp_path / "nowhere"), medium_of("image"))
    monkeypatch.setattr("fewshot.validation.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"watching a folder needs watchfiles: pip install 'fewshot\[watch\]'"):
        Arrivals(str(tmp_path), medium_of("image"))


def test_so_many_stamps_are_remembered_and_no_more(watched, monkeypatch):
    folder, found, looks = watched
    monkeypatch.setattr(arrivals, "_MOST_REMEMBERED", 2)
    for n in range(4):
        (folder / f"{n}.png").write_bytes(png())
    gathered(looks, 4)

    assert len(found._seen) == 2  # nothing public shows the memory it takes


def test_a_url_cannot_be_watched():
    with pytest.raises(NotADirectoryError, match="s3://b/new is a URL, which cannot be watched"):
        Arrivals("s3://b/new", medium_of("image"))
