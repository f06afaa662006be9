"""Images are found in folders and zips, each with the class folder it lies in; nothing is left out in silence."""

from __future__ import annotations

import io
import os
import threading
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from fewshot.media import ZippedImage, find_images, labelled_images, open_image

PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def png():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG")
    return out.getvalue()


TREE = (
    "cat/1.jpg",
    "cat/old/2.PNG",
    "dog/3.webp",
    "dog/notes.txt",
    "dog/.hidden.jpg",
    ".git/4.jpg",
    "__MACOSX/cat/5.jpg",
    "__MACOSX/cat/._1.jpg",
    ".DS_Store",
    "cat/.DS_Store",
)


def folder_of(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def zip_of(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def test_a_folder_gives_each_picture_its_class_and_names_what_was_passed_over(tmp_path):
    found = labelled_images(folder_of(tmp_path, (*TREE, "loose.gif")))
    assert found.images == tuple(str(tmp_path / name) for name in TREE[:3])
    assert found.labels == ("cat", "cat", "dog")
    assert found.ignored == (str(tmp_path / "dog/notes.txt"), str(tmp_path / "loose.gif"))


def test_find_images_lists_loose_pictures_too_under_no_label(tmp_path):
    found = find_images(folder_of(tmp_path, ("b.jpg", "a.tif", "sub/c.jpeg", "x.txt")))
    assert found.images == tuple(str(tmp_path / name) for name in ("a.tif", "b.jpg", "sub/c.jpeg"))
    assert found.labels == ("", "", "sub")
    assert found.ignored == (str(tmp_path / "x.txt"),)


def test_a_folder_under_a_hidden_one_is_not_hidden_itself(tmp_path):
    place = folder_of(tmp_path / ".cache" / "photos", ("cat/1.jpg",))
    assert labelled_images(place).labels == ("cat",)


def test_linked_class_folders_are_listed_and_links_that_lead_back_are_not_followed(tmp_path):
    place, elsewhere = folder_of(tmp_path / "place", ("dog/1.jpg",)), folder_of(tmp_path / "far", ("2.jpg",))
    try:
        (place / "cat").symlink_to(elsewhere, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    (place / "dog" / "up").symlink_to(place, target_is_directory=True)
    (elsewhere / "back").symlink_to(place / "dog", target_is_directory=True)
    found = labelled_images(place)
    assert found.images == tuple(str(place / name) for name in ("cat/2.jpg", "cat/back/1.jpg", "dog/1.jpg"))
    assert found.labels == ("cat", "cat", "dog")


@pytest.mark.parametrize("wrapper", ["", "photos/", "p/"])
def test_a_zip_gives_the_same_classes_with_or_without_a_folder_around_them(wrapper, tmp_path):
    names = [wrapper + name if not name.startswith("__MACOSX") else name for name in TREE]
    found = labelled_images(zip_of(tmp_path / "z.zip", [*names, ".hidden/cat/6.jpg", "__MACOSX/._photos"]))
    assert found.images == tuple(ZippedImage(str(tmp_path / "z.zip"), wrapper + name) for name in TREE[:3])
    assert found.labels == ("cat", "cat", "dog")
    assert found.ignored == (f"{tmp_path}/z.zip/{wrapper}dog/notes.txt",)


def test_a_readme_beside_the_class_folders_of_a_wrapped_zip_does_not_become_a_class_of_all(tmp_path):
    found = labelled_images(zip_of(tmp_path / "z.zip", ["photos/README.txt", "photos/cat/1.jpg", "photos/dog/2.jpg"]))
    assert found.labels == ("cat", "dog")
    assert found.ignored == (f"{tmp_path}/z.zip/photos/README.txt",)


def test_a_zip_of_one_class_is_not_taken_for_a_wrapper(tmp_path):
    assert labelled_images(zip_of(tmp_path / "z.zip", ["cat/1.jpg", "cat/2.jpg"])).labels == ("cat", "cat")


def test_zipped_pictures_that_were_listed_can_be_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("photos/cat/1.png", png())
    assert_array_equal(np.asarray(open_image(labelled_images(tmp_path / "z.zip").images[0])), PIXELS)


def test_a_place_without_class_folders_is_refused_saying_what_it_holds_and_what_was_expected(tmp_path):
    expected = f"expected one subfolder a class: {tmp_path}/<class>/<image>"
    with pytest.raises(ValueError, match="holds no images; ") as error:
        labelled_images(tmp_path)
    assert expected in str(error.value)
    folder_of(tmp_path, ("1.jpg", "2.jpg", "x.txt"))
    with pytest.raises(ValueError, match="holds 2 images but no class folders; ") as error:
        labelled_images(tmp_path)
    assert expected in str(error.value)
    with pytest.raises(ValueError, match="holds no images"):
        labelled_images(zip_of(tmp_path / "z.zip", ["cat/readme.txt"]))


def test_a_place_that_is_missing_or_neither_folder_nor_zip_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder or zip: .*nowhere"):
        labelled_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        find_images(tmp_path / "nowhere")
    path = tmp_path / "x.rar"
    path.write_bytes(b"Rar!")
    with pytest.raises(ValueError, match=r"x\.rar is neither a folder nor a zip of class folders"):
        labelled_images(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_folder_s_pipes_are_passed_over_and_a_named_pipe_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")  # listed: whoever reads it is told
    found = find_images(tmp_path)
    assert found.images == (str(tmp_path / "gone.png"),)
    assert found.ignored == (str(tmp_path / "pipe.png"),)
    data = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(data, "PNG")
    writer = threading.Thread(target=(tmp_path / "pipe.png").write_bytes, args=(data.getvalue(),))
    writer.start()
    assert open_image(tmp_path / "pipe.png").size == (3, 2)
    writer.join()
