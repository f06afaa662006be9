"""``fewshot predict --watch``: a JSON line for each file that arrives, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from click.testing import CliRunner
from fakes import png

from fewshot import ClassRegistry
from fewshot.cli import main
from fewshot.media import Arrived

pytest.importorskip("watchfiles", reason="needs the extra watch")
pytestmark = pytest.mark.usefixtures("pocket_stays")


@pytest.fixture
def registry(tmp_path):
    path = str(tmp_path / "colours.fewshot")
    with ClassRegistry(path) as made:
        made.add("red", png((220, 20, 20), 32))
        made.add("blue", png((20, 20, 220), 32))
    (tmp_path / "inbox").mkdir()
    return path


def test_files_are_answered_line_by_line_as_they_come_and_changes_of_the_registry_count(
    registry, tmp_path, warm_python
):
    inbox = tmp_path / "inbox"
    line = [*warm_python, "-m", "fewshot", "predict", registry, "--watch", str(inbox), "--top", "1", "--nearest", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == f"watching {inbox} for new images; Ctrl-C ends it\n"
        (inbox / "a.png").write_bytes(png((200, 40, 30), 32))
        first = json.loads(process.stdout.readline())
        with ClassRegistry(registry) as opened:
            opened.rename("red", "crimson")
        (inbox / "b.png").write_bytes(png((210, 40, 30), 32))
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate()

    assert (first["path"], first["label"]) == (str(inbox / "a.png"), "red")
    assert (second["path"], second["label"]) == (str(inbox / "b.png"), "crimson")
    assert (rest, process.returncode) == ("", 130)
    assert told == f"Interrupted: 2 images of {inbox} predicted\n"


class Looks:
    """What arrives, and then Ctrl-C."""

    def __init__(self, *looks):
        self.looks, self.doubted = looks, []

    def __call__(self, folder, medium):
        return self

    def __iter__(self):
        yield from self.looks
        raise KeyboardInterrupt

    def again(self, name):
        self.doubted.append(name)
        return self.doubted.count(name) == 1


def test_a_broken_file_is_written_as_an_error_the_second_time_and_others_are_named(registry, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png((200, 40, 30), 32))
    (tmp_path / "b.png").write_bytes(b"broken")
    a, b = (str(tmp_path / name) for name in ("a.png", "b.png"))
    looks = Looks(Arrived(), Arrived((b, a), ("notes.txt",), ("gone.png",)), Arrived((b,)))
    monkeypatch.setattr("fewshot.media.Arrivals", looks)

    result = CliRunner().invoke(main, ["predict", registry, "--watch", "inbox"])

    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["path"], first["label"]) == (a, "red")
    assert second == {"path": b, "error": second["error"]}
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-4:] == [
        "watching inbox for new images; Ctrl-C ends it",
        "ignored, not an image by its name: notes.txt",
        "gone before it was read: gone.png",
        "Interrupted: 1 image of inbox predicted, 1 could not be read",
    ]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("inbox/a.png",), 2, "FILE does not go with --watch"),
        (("--group", "folder"), 2, "--group does not go with --watch"),
        (("--from-csv", "a.csv"), 2, "--from-csv does not go with --watch"),
        (("--format", "csv"), 2, "--watch writes a JSON object per line: --format jsonl, not csv"),
        ((), 1, "no such folder: nowhere"),
    ],
)
def test_what_cannot_be_watched_is_refused(registry, words, status, message):
    result = CliRunner().invoke(main, ["predict", registry, "--watch", "nowhere", *words])

    assert result.exit_code == status
    assert message in result.stderr


def test_an_empty_registry_and_a_missing_extra_are_refused_at_once(tmp_path, registry, monkeypatch):
    with ClassRegistry(registry) as opened:
        opened.remove("red")
        opened.remove("blue")
    result = CliRunner().invoke(main, ["predict", registry, "--watch", str(tmp_path / "inbox")])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        f"Error: {registry} holds no classes yet; register some with: fewshot add {registry} ...",
    )
    monkeypatch.setattr("fewshot.validation.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["predict", registry, "--watch", str(tmp_path / "inbox")])
    assert result.exit_code == 1
    assert "pip install 'fewshot[watch]'" in result.stderr
