"""Files behind URLs are read whole, within the limit, again where a download breaks off; no secret is ever shown."""

from __future__ import annotations

import io
import pickle
import threading

import numpy as np
import pytest
from buckets import bucket_server
from fakes import BLUE, RED, png
from fsspec.implementations.memory import MemoryFileSystem

from fewshot import ImageError, load_dataset
from fewshot.errors import MissingExtra, SoundError, TextError
from fewshot.media import (
    CloudFile,
    check_cloud,
    cloud_files,
    find_images,
    map_ahead,
    matching,
    open_image,
    open_sound,
    open_text,
    prefetch,
    wav_bytes,
    without_secrets,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/cat/1.jpg", "s3://bucket/cat/1.jpg"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ("s3://bucket/1.jpg?versionId=a.B_c-1", "s3://bucket/1.jpg?versionId=a.B_c-1"),
        ("s3://bucket/1.jpg?versionId=a&X-Amz-Signature=secret", "s3://bucket/1.jpg"),
        ("s3://key:secret@bucket/1.jpg", "s3://bucket/1.jpg"),
        ("https://user:secret@host:8080/a.jpg?token=secret", "https://host:8080/a.jpg"),
        ("https://secret@host/a.jpg?secret", "https://host/a.jpg"),
        ("HTTPS://host?secret", "HTTPS://host"),
        ("ftp://u:se/cret@host/a", "ftp://u:se/cret@host/a"),  # a "/" ends the host
        ("abfs://container@account.dfs.core.windows.net/a.jpg?sig=secret", None),
        ("memory://a/b", "memory://a/b"),
        ("C://a?b=c", "C://a?b=c"),
        ("a picture.jpg?x=y", "a picture.jpg?x=y"),
    ],
)
def test_a_url_is_shown_without_passwords_and_signatures(url, shown):
    assert without_secrets(url) == (shown or "abfs://container@account.dfs.core.windows.net/a.jpg")
    assert without_secrets(without_secrets(url)) == without_secrets(url)


def test_images_sounds_and_texts_behind_urls_are_opened(memory):
    tone = wav_bytes(np.sin(np.arange(8000.0)).astype(np.float32), 8000)
    memory.pipe({"/b/a.png": png(RED), "/b/a.wav": tone, "/b/a.txt": "ein Bär".encode()})
    for red in ("memory://b/a.png", CloudFile("memory://b/a.png")):
        assert open_image(red).getpixel((0, 0)) == RED
    assert open_sound("memory://b/a.wav").n_samples == open_sound(CloudFile("memory://b/a.wav")).n_samples == 8000
    assert open_text(CloudFile("memory://b/a.txt")) == "ein Bär"


def test_a_text_that_begins_as_a_url_is_a_text(memory):
    assert open_text("s3://bucket/a.txt") == "s3://bucket/a.txt"


def test_an_empty_file_is_one_of_no_bytes(memory):
    memory.pipe("/b/a.png", b"")
    assert CloudFile("memory://b/a.png").read() == b""
    with pytest.raises(ImageError, match=r"memory://b/a\.png: the file is empty"):
        open_image("memory://b/a.png")


@pytest.mark.parametrize(
    ("read", "error"), [(open_image, ImageError), (open_sound, SoundError), (open_text, TextError)]
)
def test_a_missing_file_is_named_as_an_error_of_its_medium(memory, read, error):
    with pytest.raises(error, match=r"^memory://b/none: does not exist$"):
        read(CloudFile("memory://b/none"))


def test_too_large_a_file_is_refused_unread(memory, monkeypatch):
    memory.pipe("/b/a.png", bytes(100))
    with pytest.raises(ImageError, match="it is 100 bytes long, over the limit of 99"):
        CloudFile("memory://b/a.png").read(99)
    assert CloudFile("memory://b/a.png").downloaded().read(100) == bytes(100)
    with pytest.raises(ImageError, match="it is 100 bytes long, over the limit of 99"):
        CloudFile("memory://b/a.png").downloaded().read(99)
    memory.pipe("/b/a.txt", bytes(4_000_001))
    with pytest.raises(TextError, match=r"over the limit of 4,000,000"):
        open_text(CloudFile("memory://b/a.txt"))


class Unsized(io.BytesIO):
    """A file whose server does not say how long it is."""

    size = None


def opening(monkeypatch, *outcomes):
    """Have files of the store in memory open as these, one after the other, errors raised; returns what was opened."""
    left, opened = list(outcomes), []

    def open_(self, path, mode="rb", **how):
        opened.append(path)
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(MemoryFileSystem, "open", open_)
    monkeypatch.setattr(cloud_files, "_PAUSES", (0.0, 0.0))
    return opened


class Cut(io.BytesIO):
    """A download that breaks off."""

    size = 1000


def test_of_a_listed_file_the_length_is_not_asked_and_the_limit_holds(memory, monkeypatch):
    memory.pipe({"/b/a.png": bytes(100), "/b/empty.png": b""})
    listed, empty = find_images("memory://b").images
    assert (listed.size, empty.size) == (100, 0)
    ranges = []
    real = MemoryFileSystem.cat_file

    def cat_file(self, path, start=None, end=None):
        ranges.append((start, end))
        return real(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    monkeypatch.delattr(MemoryFileSystem, "info")
    assert (listed.read(100), empty.read(100)) == (bytes(100), b"")
    with pytest.raises(ImageError, match="it is 100 bytes long, over the limit of 99"):
        listed.read(99)
    memory.pipe("/b/a.png", bytes(5000))  # it grows
    with pytest.raises(ImageError, match="it is over the limit of 100 bytes"):
        listed.read(100)
    assert ranges == [(0, 101)] * 2


def test_a_file_of_unknown_length_is_read_no_further_than_the_limit(monkeypatch):
    opening(monkeypatch, Unsized(b"abc"), stream := Unsized(bytes(1000)))
    assert CloudFile("memory://b/a").read(3) == b"abc"
    with pytest.raises(ImageError, match="it is over the limit of 3 bytes"):
        CloudFile("memory://b/a").read(3)
    assert stream.closed


def test_an_interrupted_download_is_tried_again_twice(monkeypatch):
    opened = opening(monkeypatch, Cut(b"abc"), TimeoutError(), Cut(bytes(1000)))
    assert CloudFile("memory://b/a").read() == bytes(1000)
    assert len(opened) == 3
    opening(monkeypatch, *[Cut(b"abc") for _ in range(3)])
    with pytest.raises(ImageError, match=r"the download broke off after 3 of 1,000 bytes.*try again"):
        CloudFile("memory://b/a").read()


class NoCredentialsError(Exception):
    """As botocore's."""


class ClientResponseError(Exception):
    """As aiohttp's: it names the URL."""

    status = 403


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NoCredentialsError("Unable to locate credentials"), r"without credentials; set AWS_ACCESS_KEY_ID and .*ANON"),
        (PermissionError("Forbidden"), r"may not be read with the credentials given \(Forbidden\); check AWS_ACCESS"),
        (OSError(5, "An error occurred (ExpiredToken)"), "may not be read with the credentials given"),
        (ClientResponseError("403, url='s3://k:secret@b/a?sig=secret'"), "may not be read with the credentials given"),
        (FileNotFoundError("The specified bucket does not exist"), "lies in no bucket that there is; check its name"),
        (FileNotFoundError("b/a"), "does not exist"),
        (IsADirectoryError("b/a"), "is a folder, not a file"),
        (OSError("cannot connect to\ns3://b/a?sig=secret (down)"), r"\(cannot connect to s3://b/a \(down\)\); check"),
    ],
)
def test_what_a_store_says_becomes_one_line_with_the_remedy_and_without_secrets(monkeypatch, error, message):
    opened = opening(monkeypatch, error)
    monkeypatch.setattr(cloud_files, "_filesystem", lambda url: MemoryFileSystem())
    with pytest.raises(ImageError, match=rf"^s3://b/a: .*{message}") as caught:
        CloudFile("s3://key:secret@b/a?X-Amz-Signature=secret").read()
    assert len(opened) == 1
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__  # a traceback would show the library's message


def test_the_url_that_is_read_is_not_in_the_repr():
    assert repr(CloudFile("s3://key:secret@b/a?X-Amz-Signature=secret")) == "CloudFile('s3://b/a')"


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("gs://b/a", MissingExtra, r"^gs:// URLs need gcsfs: pip install gcsfs$"),
        ("az://b/a", MissingExtra, r"^az:// URLs need adlfs: pip install adlfs$"),
        ("s3://b/a", MissingExtra, r"^s3:// URLs need s3fs: pip install 'fewshot\[cloud\]'$"),
        ("nothing://b/a", ValueError, r"fsspec knows no nothing://"),
        ("simplecache::s3://b/a", ValueError, "expected a URL"),
        ("s3://key:secret@b/a", ValueError, r"^s3://b/a: credentials in the URL are not read; set AWS_ACCESS_KEY_ID"),
        ("https://b/a", MissingExtra, r"^https:// URLs need aiohttp: pip install 'fewshot\[cloud\]'$"),
        ("zip://a.jpg::s3://b/a.zip?sig=secret", ValueError, r"^zip://a\.jpg: is followed by :: and another URL; give"),
    ],
)
def test_what_cannot_be_read_here_says_what_to_install(monkeypatch, url, error, message):
    monkeypatch.setattr(cloud_files, "find_spec", lambda name: None)
    monkeypatch.setattr("fewshot.validation.find_spec", lambda name: object() if name == "fsspec" else None)
    with pytest.raises(error, match=message):
        check_cloud(url)


def test_what_is_wrong_with_a_url_is_told_of_the_one_file(memory):
    with pytest.raises(ImageError, match=r"^s3://b/a: credentials in the URL are not read; set AWS_ACCESS_KEY_ID"):
        open_image("s3://key:secret@b/a?sig=secret")


def test_a_missing_library_is_told_once_and_not_of_each_file(monkeypatch):
    monkeypatch.setattr(cloud_files, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install gcsfs"):
        open_image("gs://b/a.jpg")


def test_downloads_wait_beside_each_other(memory, monkeypatch):
    monkeypatch.setattr(prefetch, "_DOWNLOADS", 5)
    together = threading.Barrier(5, timeout=20)
    urls = [f"memory://b/{n}" for n in range(5)]

    def read(url):
        together.wait()
        return url

    assert list(map_ahead(read, urls)) == urls


def test_a_download_ahead_keeps_why_it_failed_for_the_reader(memory):
    memory.pipe("/b/a", b"abc")
    there, gone, other = prefetch.downloaded_ahead(["memory://b/a", "memory://b/none", b"not behind a url"])
    memory.rm("/b/a")
    assert (there.read(), str(there), other) == (b"abc", "memory://b/a", b"not behind a url")
    with pytest.raises(ImageError, match=r"memory://b/none: does not exist"):
        gone.read()


def test_a_file_behind_a_url_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(CloudFile("s3://b/a"))) == CloudFile("s3://b/a")


# A real store, where s3fs and moto's server are there


@pytest.fixture(scope="module")
def s3():
    """Buckets behind s3:// URLs, and the server's address."""
    pytest.importorskip("s3fs", reason="needs the extra cloud")
    pictures = {
        f"photos/{split}/{label}/{n}.png": png(colour, 8 + n)
        for split in ("train", "test")
        for label, colour in (("red", RED), ("blue", BLUE))
        for n in range(3)
    }
    odd = {"odd/what?.png": png(RED), "odd/a#b +%41ä.png": png(RED), "odd/empty.png": b"", "odd/cat/": b""}
    with bucket_server(pictures | odd) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "x"}.items():
            patch.setenv(f"AWS_{name}", value)
        yield url


def test_a_bucket_is_listed_and_read_as_a_folder(s3):
    found = load_dataset("s3://photos", split="train")
    assert (found.name, found.split, found.labels) == ("photos", "train", ("blue",) * 3 + ("red",) * 3)
    assert str(found.images[0]) == "s3://photos/train/blue/0.png"
    assert list(map_ahead(lambda image: open_image(image).getpixel((0, 0)), found.images)) == [BLUE] * 3 + [RED] * 3
    assert matching("s3://photos/*/red/1.png") == ["s3://photos/test/red/1.png", "s3://photos/train/red/1.png"]


def test_objects_of_any_name_are_read_and_a_folders_own_is_none(s3):
    found = find_images("s3://odd")
    assert [str(image) for image in found.images] == [
        "s3://odd/a#b +%41ä.png",
        "s3://odd/empty.png",
        "s3://odd/what?.png",
    ]
    assert [len(image.read()) for image in found.images] == [len(png(RED)), 0, len(png(RED))]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://photos/none.png", r"^s3://photos/none\.png: does not exist$"),
        ("s3://no-bucket/none.png", r"^s3://no-bucket/none\.png: (does not exist|lies in no bucket)"),
        ("s3://photos/train", r"^s3://photos/train: is a folder, not a file$"),
    ],
)
def test_what_a_bucket_has_not_is_an_error_of_one_image(s3, url, message):
    with pytest.raises(ImageError, match=message):
        open_image(url)


def test_a_bucket_that_is_not_there_says_what_to_check(s3):
    with pytest.raises(FileNotFoundError, match=r"s3://no-bucket.*"):
        find_images("s3://no-bucket/photos")


def test_without_credentials_the_variables_are_named(s3, monkeypatch):
    from s3fs import S3FileSystem

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    for name, value in (
        ("EC2_METADATA_DISABLED", "true"),
        ("SHARED_CREDENTIALS_FILE", "none"),
        ("CONFIG_FILE", "none"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ConnectionError, match=r"s3://photos/train .*without credentials; set AWS_ACCESS_KEY_ID"):
        find_images("s3://photos/train")
    S3FileSystem.clear_instance_cache()
