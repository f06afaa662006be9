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

from fewshot.errors import AmbiguousFolders
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
    with pytest.raises(FileNotFoundError, match=r"no such folder or zip: .*nowhere"):
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


def made(tmp_path, names, archived):
    return zip_of(tmp_path / "z.zip", names) if archived else folder_of(tmp_path / "place", names)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("names", "labels", "nested"),
    [
        (("cat/1.jpg", "dog/2.jpg"), ("cat", "dog"), ()),
        (("photos/cat/1.jpg", "photos/dog/2.jpg"), ("cat", "dog"), ()),
        (("a/b/cat/1.jpg", "a/b/dog/2.jpg"), ("cat", "dog"), ()),
        (("photos/cat/1.jpg",), ("cat",), ()),
        (("cat/1.jpg", "cat/old/2.jpg", "dog/new/3.jpg"), ("cat", "cat", "dog"), ("cat/old", "dog/new")),
        (("cat/images/1.jpg", "dog/images/2.jpg"), ("cat", "dog"), ("cat/images", "dog/images")),
        (("test/1.jpg", "exam/2.jpg"), ("exam", "test"), ()),
        (("test/1.jpg", "test/old/2.jpg", "test/new/3.jpg", "exam/2.jpg"), ("exam", "test"), ("test/new", "test/old")),
    ],
)
def test_the_outermost_folders_that_hold_images_are_the_classes_of_a_folder_and_of_a_zip(
    archived, names, labels, nested, tmp_path
):
    place = made(tmp_path, names, archived)
    found = labelled_images(place)
    assert tuple(dict.fromkeys(found.labels)) == tuple(dict.fromkeys(labels))
    assert found.nested == tuple(f"{place}/{name}" for name in nested)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("wrapper", ["", "data/"])
@pytest.mark.parametrize("splits", [("test", "train", "valid"), ("novel", "base"), ("Training", "Validation")])
def test_splits_are_recognised_and_each_can_be_read_by_itself(archived, wrapper, splits, tmp_path):
    names = [f"{wrapper}{split}/{label}/{n}.jpg" for n, split in enumerate(splits) for label in ("cat", "dog")]
    place = made(tmp_path, names, archived)
    with pytest.raises(AmbiguousFolders) as error:
        labelled_images(place)
    inside = tuple(f"{place}/{wrapper}{split}" for split in sorted(splits))
    assert error.value.inside == inside
    assert str(error.value) == f"{place} holds splits, {', '.join(sorted(splits))}; give one of {', '.join(inside)}"
    for split in inside:
        found = labelled_images(split)
        assert found.labels == ("cat", "dog")
        assert [str(image) for image in found.images] == [
            f"{split}/{label}/{splits.index(split.rpartition('/')[2])}.jpg" for label in ("cat", "dog")
        ]


def test_roboflows_splits_of_unsorted_images_are_no_classes(tmp_path):
    folder_of(tmp_path, ("train/images/1.jpg", "train/labels/1.txt", "valid/images/2.jpg", "valid/labels/2.txt"))
    with pytest.raises(AmbiguousFolders, match="holds splits, train, valid"):
        labelled_images(tmp_path)


@pytest.mark.parametrize("archived", [False, True])
def test_folders_of_folders_that_may_be_the_classes_or_hold_them_are_asked_about(archived, tmp_path):
    place = made(tmp_path, ("fruit/apple/1.jpg", "fruit/pear/2.jpg", "tools/saw/3.jpg"), archived)
    with pytest.raises(AmbiguousFolders) as error:
        labelled_images(place)
    assert (
        "holds folders of folders of images (fruit/apple, fruit/pear, tools/saw), so that either may be the classes"
        in str(error.value)
    )
    assert error.value.inside == (f"{place}/fruit", f"{place}/tools")


def test_a_zip_made_on_windows_with_backslashes_has_the_same_classes(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("photos\\", "photos\\cat\\", "photos\\cat\\1.png", "photos\\dog\\2.png"):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, 0
            archive.writestr(info, png() if name.endswith("png") else b"")
    found = labelled_images(path)
    assert found.labels == ("cat", "dog")
    assert found.ignored == ()
    assert_array_equal(np.asarray(open_image(found.images[1])), PIXELS)


def test_labels_of_folders_are_composed_and_stripped(tmp_path):
    place = folder_of(tmp_path, ("Cafe\u0301/1.jpg", "Caf\u00e9/2.jpg", " Lemon /3.jpg"))
    assert set(labelled_images(place).labels) == {"Caf\u00e9", "Lemon"}


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["a/1.txt", "a/2.txt"], "text"),
        (["a/1.txt", "a/2.txt", "a/1.jpg"], "image"),
        (["a/1.wav", "a/1.txt", "a/2.mp3"], "audio"),
        (["a/1.wav", "a/2.ogg", "a/cover.jpg"], "audio"),
        (["a/1.wav", "a/1.jpg"], "image"),
    ],
)
def test_without_a_modality_it_is_that_of_most_files_and_texts_only_where_they_are_alone(tmp_path, names, modality):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    found = labelled_images(tmp_path, None)

    assert found.modality == modality
    assert len(found.images) == sum(name.endswith(SUFFIXES_OF[modality]) for name in names)
    assert {type(source) for source in found.images} == {type(tmp_path) if modality == "text" else str}


SUFFIXES_OF = {"text": (".txt",), "image": (".jpg",), "audio": (".wav", ".mp3", ".ogg")}
