"""A folder behind a URL is listed as the same folder on disk is, and what cannot be listed says why."""

from __future__ import annotations

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fewshot import load_dataset
from fewshot.errors import AmbiguousFolders
from fewshot.media import CloudFile, find_images, folder_at, labelled_images, matching

TREES = {
    "classes": ["cat/1.jpg", "cat/old/2.PNG", "dog/3.webp", "dog/notes.txt", "dog/.hidden.jpg", ".git/4.jpg", "x.gif"],
    "wrapped": ["photos/cat/1.jpg", "photos/dog/what#1?.jpg", "photos/dog/a::b.jpg", "README.txt"],
    "splits": ["train/cat/1.jpg", "train/dog/2.jpg", "test/bird/3.jpg", "test/cow/4.jpg", "notes.txt"],
    "one called test": ["test/1.jpg", "cat/2.jpg"],
    "deep": ["a/cat/1.jpg", "a/dog/2.jpg", "b/cow/3.jpg"],
    "sounds": ["low/1.wav", "high/2.flac"],
    "texts": ["film/1.txt", "soup/2.txt"],
    "loose": ["1.jpg", "2.jpg"],
}


@pytest.fixture(params=TREES)
def both(request, memory, tmp_path):
    """The same files on disk and in memory: both places."""
    for name in TREES[request.param]:
        (tmp_path / "place" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / name).write_bytes(b"x")
        memory.pipe(f"/bucket/place/{name}", b"x")
    return str(tmp_path / "place"), "memory://bucket/place"


def outcome(function, place):
    """What a function gives for a place, or how it fails, the place's name left out."""
    try:
        found = function(place)
    except (ValueError, OSError) as error:
        return type(error), str(error).replace(place, "PLACE")
    if isinstance(found, tuple):
        return found
    names = [str(image).replace(place, "PLACE") for image in found.images]
    ignored = [name.replace(place, "PLACE") for name in found.ignored]
    return names, found.labels, ignored, found.modality, getattr(found, "split", None), getattr(found, "name", None)


@pytest.mark.parametrize(
    "function",
    [
        lambda place: labelled_images(place),
        lambda place: labelled_images(place, None),
        lambda place: find_images(place, None),
        lambda place: load_dataset(place),
        lambda place: load_dataset(place, split="train"),
        lambda place: tuple(folder_at(place).entries().items()),
        lambda place: folder_at(place).files(),
    ],
    ids=["classes", "of any medium", "all", "data set", "its split", "entries", "files"],
)
def test_a_folder_behind_a_url_gives_what_the_same_on_disk_gives(function, both):
    on_disk, behind_url = both
    assert outcome(function, behind_url) == outcome(function, on_disk)


def test_a_slash_at_the_end_of_a_url_changes_nothing(memory):
    memory.pipe({"/b/cat/1.jpg": b"x", "/b/dog/2.jpg": b"x"})
    found = labelled_images("memory://b/")
    assert found.images == (CloudFile("memory://b/cat/1.jpg"), CloudFile("memory://b/dog/2.jpg"))
    assert load_dataset("memory://b/").name == "b"


def test_a_folders_own_entry_is_no_file(memory, monkeypatch):
    memory.pipe({"/b/cat/1.jpg": b"x"})
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, **_: {"/b/": {}, "/b/cat/1.jpg": {}})
    assert folder_at("memory://b").files() == (["cat/1.jpg"], ())


def test_ambiguous_folders_are_named_so_that_each_can_be_given(memory):
    memory.pipe({"/b/train/cat/1.jpg": b"x", "/b/train/dog/1.jpg": b"x", "/b/test/cow/2.jpg": b"x"})
    with pytest.raises(AmbiguousFolders, match="holds splits") as caught:
        labelled_images("memory://b")
    assert caught.value.inside == ("memory://b/test", "memory://b/train")
    assert labelled_images(caught.value.inside[0]).labels == ("cow",)


@pytest.mark.parametrize("function", [labelled_images, find_images, load_dataset])
def test_a_url_of_nothing_or_of_a_file_is_refused(function, memory):
    memory.pipe("/b/photos.zip", b"x")
    with pytest.raises(FileNotFoundError, match=r"memory://none"):
        function("memory://none")
    with pytest.raises(ValueError, match=r"memory://b/photos\.zip is a file, not a folder; a zip behind a URL is not"):
        function("memory://b/photos.zip")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PermissionError("Access Denied"), PermissionError, r"may not be read with the credentials given \(Access D"),
        (OSError("no route"), ConnectionError, r"cannot be read \(no route\); check the network"),
        (FileNotFoundError("The specified bucket does not exist"), FileNotFoundError, "lies in no bucket that there"),
    ],
)
def test_what_cannot_be_listed_says_why_without_secrets(monkeypatch, error, kind, message):
    def find(*_, **__):
        raise error

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    with pytest.raises(kind, match=rf"^memory://b/photos {message}") as caught:
        labelled_images("memory://user:secret@b/photos?sig=secret")
    assert "secret" not in str(caught.value)


def test_a_pattern_of_a_url_stands_for_files_as_a_shells_does(memory):
    memory.pipe({f"/b/scans/{name}": b"x" for name in ("2.png", "1.png", "1.jpg", "old/3.png")})
    assert matching("memory://b/scans/*.png") == ["memory://b/scans/1.png", "memory://b/scans/2.png"]
    assert matching("memory://b/*/old/3.*") == ["memory://b/scans/old/3.png"]
    assert matching("memory://b/scans/*.gif") == []


def test_pictures_of_a_class_come_in_the_order_of_their_names(memory):
    names = [f"cat/{n}.jpg" for n in np.random.default_rng(0).permutation(12)]
    memory.pipe({f"/b/{name}": b"x" for name in names})
    assert [str(image).removeprefix("memory://b/") for image in labelled_images("memory://b").images] == sorted(names)
