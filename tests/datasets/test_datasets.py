"""Each data set's layout is read as its authors split it, and each picture is the one its label says."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import sys
import urllib.error
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from fewshot.datasets.dataset import Dataset
from fewshot.datasets.lazy_images import RotatedImage
from fewshot.datasets.loading import load_dataset
from fewshot.datasets.omniglot import omniglot_one_shot_runs
from fewshot.datasets.overlap import training_overlap
from fewshot.episodes import EpisodeSampler
from fewshot.errors import ImageError
from fewshot.media import ZippedImage, describe, image_bytes, image_hash, open_image

CORNERS = np.array([[0, 80], [160, 240]], np.uint8)  # upper left, upper right; lower left, lower right


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "own"))


def paint(path, *, value=None):
    """A picture of one grey, or of four corners; made anew each time, so that each has its own value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = CORNERS if value is None else np.full((4, 4), value, np.uint8)
    Image.fromarray(pixels).save(path)


def grey(source):
    return int(np.asarray(open_image(source))[0, 0, 0])


def zipped(folder, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def class_folders(root, classes, each=2, suffix=".png"):
    for name in classes:
        for number in range(each):
            paint(root / name / f"{number}{suffix}", value=number)


# Omniglot


@pytest.fixture(params=["folder", "zip"])
def omniglot_root(request, tmp_path):
    """Two alphabets of two characters a part, two drawers each: picture k, in sorted order, is of grey k."""
    files = tmp_path / "made" / "omniglot"
    value = itertools.count()
    for part, alphabets in (("background", ("Greek", "Latin")), ("evaluation", ("Elvish", "Klingon"))):
        for alphabet, character, drawer in itertools.product(alphabets, ("01", "02"), ("1", "2")):
            folder = files / f"images_{part}" / alphabet / f"character{character}"
            paint(folder / f"00{character}_{drawer}.png", value=next(value))
    for run in ("run01", "run02"):
        for number in (1, 2, 3):
            paint(files / "one_shot_runs" / run / "training" / f"class0{number}.png", value=100 + number)
            paint(files / "one_shot_runs" / run / "test" / f"item0{number}.png", value=200 + number)
        (files / "one_shot_runs" / run / "class_labels.txt").write_text(
            f"{run}/test/item01.png {run}/training/class03.png\n"
            f"{run}/test/item02.png {run}/training/class01.png\n"
            f"{run}/test/item03.png {run}/training/class02.png\n"
        )
    (files / "LICENSE").write_text("MIT")
    if request.param == "folder":
        return files.parent
    zipped(files, tmp_path / "archived" / "omniglot.zip")
    return tmp_path / "archived"


def test_omniglot_labels_a_picture_by_its_alphabet_and_character_and_groups_it_by_the_alphabet(omniglot_root):
    evaluation = load_dataset("omniglot", split="evaluation", root=omniglot_root)
    assert evaluation.labels[::2] == (
        "Elvish/character01",
        "Elvish/character02",
        "Klingon/character01",
        "Klingon/character02",
    )
    assert evaluation.groups == ("Elvish",) * 4 + ("Klingon",) * 4
    assert [grey(image) for image in evaluation.images] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert (evaluation.name, evaluation.split, len(evaluation)) == ("omniglot", "evaluation", 8)


@pytest.mark.parametrize(
    ("word", "own"), [("train", "background"), ("test", "evaluation"), ("Evaluation", "evaluation")]
)
def test_train_and_test_are_words_for_omniglots_own_parts(omniglot_root, word, own):
    assert load_dataset("Omniglot", split=word, root=omniglot_root).split == own


def test_rotated_omniglot_has_a_class_for_each_quarter_turn(omniglot_root):
    turned = load_dataset("omniglot_rotated", split="background", root=omniglot_root)
    assert turned.classes[:5] == (
        "Greek/character01/rot000",
        "Greek/character01/rot090",
        "Greek/character01/rot180",
        "Greek/character01/rot270",
        "Greek/character02/rot000",
    )
    assert Counter(turned.labels) == dict.fromkeys(turned.classes, 2)
    assert len(turned.classes) == 4 * 4
    assert Counter(turned.groups) == {"Greek": 16, "Latin": 16}


def test_the_vinyals_split_takes_the_turned_characters_its_file_names_from_both_parts(omniglot_root):
    lists = omniglot_root / "omniglot_vinyals"
    lists.mkdir()
    (lists / "train.txt").write_text("Latin/character02/rot090\nElvish/character01/rot000\n")
    (lists / "test.txt").write_text("Klingon/character01/rot180\n")
    train = load_dataset("omniglot-vinyals", split="train", root=omniglot_root)
    assert train.labels == ("Latin/character02/rot090",) * 2 + ("Elvish/character01/rot000",) * 2
    assert [grey(image) for image in train.images] == [6, 7, 8, 9]
    assert train.groups is None
    assert train.images[0].quarter_turns == 1
    assert train.contained_in == ("omniglot background",)
    assert load_dataset("omniglot-vinyals", root=omniglot_root).contained_in == ()


@pytest.mark.parametrize("line", ["Greek/character09/rot000", "Greek/character01/rot045", "Greek/character01"])
def test_a_vinyals_file_that_names_no_turned_character_is_refused(omniglot_root, line):
    (omniglot_root / "omniglot_vinyals").mkdir()
    (omniglot_root / "omniglot_vinyals" / "val.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=rf"val.txt names '{line}', which is no rotated character"):
        load_dataset("omniglot-vinyals", split="val", root=omniglot_root)


def test_a_run_pairs_each_query_with_the_class_its_file_says(omniglot_root):
    runs = omniglot_one_shot_runs(omniglot_root)
    assert [run.name for run in runs] == ["run01", "run02"]
    assert runs[1].support_labels == ("class01", "class02", "class03")
    assert [grey(image) for image in runs[1].support] == [101, 102, 103]
    assert runs[1].query_labels == ("class03", "class01", "class02")
    assert [grey(image) for image in runs[1].query] == [201, 202, 203]


def test_a_run_that_names_a_missing_picture_is_refused(tmp_path):
    run = tmp_path / "omniglot" / "one_shot_runs" / "run01"
    paint(run / "training" / "class01.png")
    (run / "class_labels.txt").write_text("run01/test/item01.png run01/training/class01.png\n")
    with pytest.raises(ValueError, match=r"run01's class_labels.txt names .* not there: \['run01/test/item01.png'\]"):
        omniglot_one_shot_runs(tmp_path)


# Turned pictures


@pytest.mark.parametrize(
    ("turns", "corners"),
    [
        (0, [[0, 80], [160, 240]]),
        (1, [[80, 240], [0, 160]]),  # counter-clockwise: the upper right corner comes to the upper left
        (2, [[240, 160], [80, 0]]),
        (3, [[160, 0], [240, 80]]),
    ],
)
def test_a_rotated_image_is_turned_counter_clockwise(tmp_path, turns, corners):
    paint(tmp_path / "a.png")
    turned = RotatedImage(str(tmp_path / "a.png"), turns)
    for _ in range(2):  # a second reading gives the picture again
        assert_array_equal(np.asarray(open_image(turned))[:, :, 0], corners)
    assert image_bytes(turned).startswith(b"\x89PNG")
    assert image_hash(turned) == image_hash(RotatedImage(np.array(CORNERS), turns))


def test_a_rotated_image_is_named_for_its_source_and_its_turn(tmp_path):
    missing = RotatedImage(str(tmp_path / "gone.png"), 3)
    assert describe(missing) == str(missing) == f"{tmp_path}/gone.png rotated by 270 degrees"
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        open_image(missing)


# Zips that stay open


def test_an_archived_image_is_read_anew_when_its_zip_has_changed(tmp_path):
    place = tmp_path / "a.zip"
    image = ZippedImage(str(place), "x")
    for content in (b"first", b"another"):
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("x", content)
        assert image.read() == content


def test_threads_read_one_open_zip_without_mixing_its_members(tmp_path):
    contents = {f"{i}": bytes([i]) * 5000 for i in range(200)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: ZippedImage(str(tmp_path / "a.zip"), name).read(), contents))
    assert read == list(contents.values())


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "omniglot.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"omniglot\.zip is neither a folder nor a zip, or is damaged"):
        load_dataset("omniglot", root=tmp_path)


# Sets of photographs


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar-fs", "CIFAR-FS"),
        ("fc100", "FC100"),
        ("mini-imagenet", "miniImageNet"),
        ("tiered-imagenet", "tiered_imagenet"),
        ("tiny-imagenet", "tiny_imagenet"),
        ("cub-200", "CUB"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_class_folders_below_a_folder_or_zip_for_each_split_are_read(tmp_path, name, folder, archived):
    for split, classes in (("train", "ab"), ("val", "c"), ("test", "de")):
        class_folders(tmp_path / "made" / split, classes)
        if archived:
            zipped(tmp_path / "made" / split, tmp_path / folder / f"{split}.zip")
        else:
            shutil.copytree(tmp_path / "made" / split, tmp_path / folder / split)
    test, train = (load_dataset(name, split=split, root=tmp_path) for split in ("test", "train"))
    assert test.labels == ("d", "d", "e", "e")
    assert train.classes == ("a", "b")
    assert [grey(image) for image in test.images] == [0, 1, 0, 1]
    assert (test.name, test.groups) == (name, None)
    assert test.split == ("novel" if name == "cub-200" else "test")


def test_meta_test_is_another_word_for_test_in_folders_and_in_the_call(tmp_path):
    class_folders(tmp_path / "fc100" / "meta-test", "xy")
    assert load_dataset("fc100", split="meta_test", root=tmp_path).classes == ("x", "y")


def test_cub_splits_its_sorted_classes_by_their_number(tmp_path):
    classes = [f"{i:03}.Bird_{i}" for i in range(1, 9)]
    class_folders(tmp_path / "CUB_200_2011" / "images", classes)
    chosen = {split: load_dataset("cub-200", split=split, root=tmp_path).classes for split in ("base", "val", "novel")}
    assert chosen == {
        "base": ("001.Bird_1", "003.Bird_3", "005.Bird_5", "007.Bird_7"),  # indices 0, 2, 4, 6
        "val": ("002.Bird_2", "006.Bird_6"),  # 1, 5
        "novel": ("004.Bird_4", "008.Bird_8"),  # 3, 7
    }
    assert load_dataset("CUB_200", root=tmp_path).split == "novel"


def test_mini_imagenet_is_read_by_its_lists(tmp_path):
    for number in range(3):
        paint(tmp_path / "mini-imagenet" / "images" / f"n0000000{number}.jpg", value=9)
    (tmp_path / "mini-imagenet" / "test.csv").write_text(
        "filename,label\nn00000002.jpg,n02110341\nn00000000.jpg,n01930112\n"
    )
    found = load_dataset("mini-imagenet", root=tmp_path)
    assert found.labels == ("n02110341", "n01930112")
    assert [describe(image)[-13:] for image in found.images] == ["n00000002.jpg", "n00000000.jpg"]


def test_a_list_of_missing_pictures_is_refused(tmp_path):
    paint(tmp_path / "mini-imagenet" / "images" / "a.jpg")
    (tmp_path / "mini-imagenet" / "test.csv").write_text("filename,label\na.jpg,x\nb.jpg,x\nc.jpg,x\n")
    with pytest.raises(ValueError, match=r"test.csv names 3, of which 2 are not there, 'b.jpg' for one"):
        load_dataset("mini-imagenet", root=tmp_path)


@pytest.mark.parametrize("folder", ["cifar-fs", "cifar100"])
def test_cifar_fs_is_read_by_the_lists_of_its_authors(tmp_path, folder):
    class_folders(tmp_path / folder / "data", ("apple", "bear", "whale"))
    (tmp_path / folder / "splits" / "bertinetto").mkdir(parents=True)
    (tmp_path / folder / "splits" / "bertinetto" / "test.txt").write_text("whale\napple\n")
    assert load_dataset("cifar-fs", root=tmp_path).labels == ("whale", "whale", "apple", "apple")


def test_tiny_imagenets_labels_are_wordnet_ids(tmp_path):
    class_folders(tmp_path / "tiny_imagenet" / "test", ("n01443537_goldfish", "n02074367_ice"), suffix=".jpg")
    assert load_dataset("tiny-imagenet", root=tmp_path).classes == ("n01443537", "n02074367")


def test_stanfords_own_tiny_imagenet_is_split_by_the_stated_rule(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    wnids = [f"n{i:08}" for i in range(200)]
    order = np.random.default_rng(0).permutation(200)
    large = wnids[order[150]]  # of test, where 200 of its pictures are kept
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(202 if wnid == large else 1):
            (root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").touch()
    (root / "test" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)))
    chosen = {split: load_dataset("tiny-imagenet", split=split, root=tmp_path) for split in ("train", "val", "test")}
    assert chosen["train"].classes == tuple(sorted(wnids[i] for i in order[:120]))
    assert chosen["val"].classes == tuple(sorted(wnids[i] for i in order[120:150]))
    assert chosen["test"].classes == tuple(sorted(wnids[i] for i in order[150:]))
    test = chosen["test"]
    kept = [describe(image) for image, label in zip(test.images, test.labels, strict=True) if label == large]
    names = sorted(f"{large}_{number}.JPEG" for number in range(202))  # "..._10" before "..._2"
    assert [name.rpartition("/")[2] for name in kept] == names[:200]


def test_files_that_are_no_pictures_are_named_not_forgotten(tmp_path):
    class_folders(tmp_path / "fc100" / "test", "ab")
    (tmp_path / "fc100" / "test" / "a" / "notes.txt").touch()
    assert load_dataset("fc100", root=tmp_path).ignored == (str(tmp_path / "fc100" / "test" / "a" / "notes.txt"),)


NAMED = ["omniglot", "omniglot-vinyals", "tiny-imagenet", "cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet"]


@pytest.mark.parametrize("name", [*NAMED, "cub-200"])
def test_absent_data_is_an_error_that_says_what_to_fetch_from_where_and_where_to_put_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"was not found in .*/own\. Fetch ") as caught:
        load_dataset(name)
    message = str(caught.value)
    assert "http" in message
    assert f"put it there as {tmp_path / 'own'}/" in message
    assert "(or set $FEWSHOT_DATA to the folder that holds your data sets)" in message
    assert "shared" not in message


def test_the_advice_for_absent_data_can_be_followed(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("cub-200", root=tmp_path)
    place = str(caught.value).partition("put it there as ")[2]
    assert place == str(tmp_path / "CUB_200_2011")
    class_folders(tmp_path / "CUB_200_2011" / "images", "abcd")
    assert load_dataset("cub-200", root=tmp_path).classes == ("d",)


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("omniglot", "background, evaluation"),
        ("cub-200", "base, val, novel"),
        ("omniglot-vinyals", "train, val, trainval, test"),
    ],
)
def test_an_unknown_split_is_refused_with_those_there_are(name, has):
    with pytest.raises(ValueError, match=rf"has no split 'tset'; it has {has}"):
        load_dataset(name, split="tset")


# Where data is looked for


def test_data_is_looked_for_in_the_folder_given_or_else_in_fewshot_data(tmp_path):
    class_folders(tmp_path / "own" / "fc100" / "test", ("own",))
    assert load_dataset("fc100").classes == ("own",)
    class_folders(tmp_path / "given" / "fc100" / "test", ("given",))
    assert load_dataset("fc100", root=tmp_path / "given").classes == ("given",)


def test_without_variables_data_is_looked_for_in_the_users_cache_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.delenv("FEWSHOT_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    class_folders(tmp_path / "shared" / "data" / "fc100" / "test", ("beside",))
    monkeypatch.setenv("FEWSHOT_SHARED", str(tmp_path / "shared"))
    with pytest.raises(FileNotFoundError, match=r"was not found in .*home/\.cache/fewshot/datasets\. Fetch"):
        load_dataset("fc100")
    class_folders(tmp_path / "home" / ".cache" / "fewshot" / "datasets" / "fc100" / "test", ("home",))
    found = load_dataset("fc100")
    assert found.classes == ("home",)
    monkeypatch.chdir(tmp_path)
    assert grey(found.images[0]) == 0  # still found from elsewhere


def test_a_folder_of_data_that_is_given_relative_is_found_from_elsewhere(tmp_path, monkeypatch):
    class_folders(tmp_path / "own" / "fc100" / "test", ("own",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_DATA", "own")
    found = load_dataset("fc100")
    monkeypatch.chdir(tmp_path / "own")
    assert grey(found.images[0]) == 0


# Folders and zips


@pytest.mark.parametrize("archived", [False, True])
def test_any_folder_or_zip_of_class_folders_is_a_data_set(tmp_path, archived):
    class_folders(tmp_path / "parts", ("bolt", "nut"), each=3)
    place = zipped(tmp_path / "parts", tmp_path / "parts.zip") if archived else tmp_path / "parts"
    found = load_dataset(str(place))
    assert (found.name, found.split, found.groups) == ("parts", None, None)
    assert found.labels == ("bolt",) * 3 + ("nut",) * 3
    assert [grey(image) for image in found.images] == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="has no split 'train': it holds class folders"):
        load_dataset(place, split="train")


def test_a_folder_of_splits_is_read_by_split_and_not_as_classes_called_train_and_test(tmp_path):
    class_folders(tmp_path / "parts" / "train", ("bolt", "nut"))
    class_folders(tmp_path / "parts" / "test", ("cog", "pin"))
    assert load_dataset(tmp_path / "parts").classes == ("cog", "pin")
    assert load_dataset(tmp_path / "parts", split="base").classes == ("bolt", "nut")
    with pytest.raises(ValueError, match=r"parts has no split 'val'; it has train, test"):
        load_dataset(tmp_path / "parts", split="val")


def test_folders_beside_the_splits_are_named_not_forgotten(tmp_path):
    class_folders(tmp_path / "parts" / "train", ("bolt", "nut"))
    class_folders(tmp_path / "parts" / "test", ("cog", "pin"))
    (tmp_path / "parts" / "annotations").mkdir()
    found = load_dataset(tmp_path / "parts")
    assert found.classes == ("cog", "pin")
    assert found.ignored == (str(tmp_path / "parts" / "annotations"),)


def test_a_class_called_test_with_subfolders_does_not_hide_the_other_classes(tmp_path):
    class_folders(tmp_path / "kinds" / "test", ("old", "new"))
    class_folders(tmp_path / "kinds", ("exam",))
    assert load_dataset(tmp_path / "kinds").classes == ("exam", "test")


def test_a_zip_of_splits_is_refused_and_not_read_as_classes_called_train_and_test(tmp_path):
    class_folders(tmp_path / "parts" / "train", ("bolt", "nut"))
    class_folders(tmp_path / "parts" / "test", ("cog", "pin"))
    zipped(tmp_path / "parts", tmp_path / "parts.zip")
    with pytest.raises(ValueError, match=r"parts\.zip holds splits, test, train; unpack it"):
        load_dataset(tmp_path / "parts.zip")


def test_a_class_may_be_called_test_where_its_folder_holds_the_pictures(tmp_path):
    class_folders(tmp_path / "results", ("test", "train"))
    assert load_dataset(tmp_path / "results").classes == ("test", "train")


def test_a_path_with_a_sets_name_is_the_folder_and_the_bare_name_is_the_set(tmp_path, monkeypatch):
    class_folders(tmp_path / "fc100" / "test" / "odd", ("x", "y"))
    class_folders(tmp_path / "own" / "fc100" / "test", ("a", "b"))
    monkeypatch.chdir(tmp_path)
    assert load_dataset("fc100").classes == ("a", "b")
    assert load_dataset("./fc100/test/odd").classes == ("x", "y")


@pytest.mark.parametrize(
    ("name", "close"), [("EuroSat", "EuroSAT"), ("tiny-imgnet", "tiny-imagenet"), ("flowers", "Flowers102")]
)
def test_an_unknown_name_gets_close_matches(name, close):
    with pytest.raises(ValueError, match=rf"no data set, folder or zip '{name}'; close: {close}"):
        load_dataset(name)


def test_a_path_that_is_not_there_is_not_taken_for_a_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder or zip: .*missing"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no such folder or zip: missing\.zip"):
        load_dataset("missing.zip")


# torchvision


def test_a_torchvision_set_without_splits_is_read_whole_with_its_class_names(tmp_path):
    class_folders(tmp_path / "torchvision" / "eurosat" / "2750", ("Forest", "River"), each=3)
    found = load_dataset("EuroSAT", root=tmp_path)
    assert found.labels == ("Forest",) * 3 + ("River",) * 3
    assert [grey(image) for image in found.images] == [0, 1, 2, 0, 1, 2]
    assert (found.name, found.split, describe(found.images[4])) == ("EuroSAT", None, "EuroSAT/4")
    with pytest.raises(ValueError, match="EuroSAT has no split 'train'; it has no splits"):
        load_dataset("EuroSAT", split="train", root=tmp_path)


def test_a_torchvision_set_is_read_by_its_own_splits_without_decoding_every_picture(tmp_path):
    dtd = tmp_path / "torchvision" / "dtd" / "dtd"
    class_folders(dtd / "images", ("lined", "woven"), each=20, suffix=".jpg")
    (dtd / "labels").mkdir()
    names = [f"{kind}/{i}.jpg" for i in range(20) for kind in ("woven", "lined")]
    (dtd / "labels" / "val1.txt").write_text("\n".join(names))
    (dtd / "images" / "lined" / "3.jpg").write_bytes(b"damaged")
    found = load_dataset("DTD", split="val", root=tmp_path)
    assert found.labels == ("woven", "lined") * 20
    assert found.split == "val"
    with pytest.raises(ValueError, match="Unknown value 'vla' for argument split"):
        load_dataset("DTD", split="vla", root=tmp_path)


def test_a_torchvision_set_without_class_names_is_labelled_by_number(tmp_path):
    gtsrb = tmp_path / "torchvision" / "gtsrb"
    for number, value in enumerate((5, 6, 7)):
        paint(gtsrb / "GTSRB" / "Final_Test" / "Images" / f"{number}.ppm", value=value)
    (gtsrb / "GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;12\n1.ppm;3\n2.ppm;3\n")
    found = load_dataset("GTSRB", root=tmp_path)
    assert found.labels == ("12", "03", "03")
    assert [grey(image) for image in found.images] == [5, 6, 7]


def ubyte(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def test_a_torchvision_set_with_a_train_flag_is_read_by_train_and_test(tmp_path):
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    for part, targets in (("train", [7, 1, 1]), ("t10k", [3, 4])):
        targets = np.array(targets, np.uint8)
        ubyte(raw / f"{part}-labels-idx1-ubyte", targets)
        ubyte(raw / f"{part}-images-idx3-ubyte", np.repeat(targets, 16).reshape(-1, 4, 4))
    train, test = (load_dataset("MNIST", split=split, root=tmp_path) for split in ("train", "test"))
    assert train.labels == ("7 - seven", "1 - one", "1 - one")
    assert test.labels == ("3 - three", "4 - four")
    assert [grey(image) for image in train.images] == [7, 1, 1]
    with pytest.raises(ValueError, match="MNIST has no split 'val'; it has train and test"):
        load_dataset("MNIST", split="val", root=tmp_path)


class Kept:
    """A set whose list of targets is of something else, as a private list might come to be."""

    targets = (0, 0, 0)

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return Image.new("L", (2, 2)), [0, 1, 2][i]


def test_a_list_of_targets_that_disagrees_with_the_pictures_is_not_believed():
    from fewshot.datasets.torchvision_sets import _targets

    assert _targets("Kept", Kept()) == [0, 1, 2]


def test_a_torchvision_set_that_is_not_of_classes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "__getitem__", lambda self, i: (Image.new("L", (2, 2)), {"boxes": []}))
    from fewshot.datasets.torchvision_sets import _targets

    with pytest.raises(ValueError, match="torchvision's Kept does not hold images of classes"):
        _targets("Kept", Kept())


def test_a_torchvision_set_that_cannot_be_fetched_says_how_to_get_it(tmp_path, monkeypatch):
    from torchvision.datasets import EuroSAT

    def download(self):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(EuroSAT, "download", download)
    with pytest.raises(
        FileNotFoundError, match=r"found no EuroSAT and could not fetch it \(.*no route to host"
    ) as caught:
        load_dataset("EuroSAT")
    assert f"torchvision.datasets.EuroSAT('{tmp_path}/own/torchvision', download=True)" in str(caught.value)


def test_a_download_goes_to_fewshot_data(tmp_path, monkeypatch):
    from torchvision.datasets import EuroSAT

    monkeypatch.setattr(EuroSAT, "download", lambda self: class_folders(tmp_path / self._data_folder, ("a", "b")))
    assert load_dataset("EuroSAT").classes == ("a", "b")
    assert (tmp_path / "own" / "torchvision" / "eurosat" / "2750" / "a").is_dir()


def test_torchvision_is_not_imported_for_other_sets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # an import of it would fail
    class_folders(tmp_path / "fc100" / "test", "ab")
    assert load_dataset("fc100", root=tmp_path).classes == ("a", "b")
    with pytest.raises(ImportError):
        load_dataset("EuroSAT", root=tmp_path)


# Training sets


def a_set(*contained_in):
    return Dataset("some", (), (), contained_in=contained_in)


@pytest.mark.parametrize(
    "encoder",
    [
        "mobilenetv2_100.ra_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "convnext_tiny.in12k",
        "swin_tiny_patch4_window7_224.ms_in22k",
        "hf-hub:timm/resnet50.a1_in1k",
        "local-dir:/weights/mobilenetv1_100.tf_in1k/",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch16_224.mae",
        "vit_small_patch16_224.dino",
    ],
)
def test_an_encoder_that_learned_from_imagenet_is_flagged_on_its_classes_and_on_no_others(encoder):
    assert training_overlap(encoder, a_set("imagenet")) == (
        "the encoder has seen classes of this set in training: ImageNet"
    )
    assert training_overlap(encoder, a_set("omniglot background", "tiny-imagenet train")) is None


@pytest.mark.parametrize(
    "encoder", ["vit_base_patch16_clip_224.openai", "samvit_base_patch16.sa1b", "runs/main1k/best"]
)
def test_an_encoder_of_other_origin_is_not_flagged(encoder):
    assert training_overlap(encoder, a_set("imagenet", "tiny-imagenet train", "omniglot background")) is None


def test_pocket_is_flagged_on_what_it_learned_from():
    assert "background alphabets of Omniglot" in training_overlap("pocket", a_set("omniglot background"))
    assert "train classes of Tiny ImageNet" in training_overlap("pocket", a_set("imagenet", "tiny-imagenet train"))
    assert training_overlap("pocket", a_set("imagenet")) is None


def test_a_timm_name_without_its_tag_is_flagged_as_unknown_on_imagenets_classes():
    assert "does not tell what it was trained on" in training_overlap("resnet50", a_set("imagenet"))
    assert training_overlap("resnet50", a_set("omniglot background")) is None


@pytest.mark.parametrize(
    ("name", "split", "contained_in"),
    [
        ("tiny-imagenet", "train", {"imagenet", "tiny-imagenet train"}),
        ("tiny-imagenet", "test", {"imagenet"}),
        ("mini-imagenet", "test", {"imagenet", "tiny-imagenet train"}),
        ("tiered-imagenet", "val", {"imagenet", "tiny-imagenet train"}),
        ("cub-200", "test", {"imagenet"}),
        ("cifar-fs", "test", set()),
        ("fc100", "test", set()),
    ],
)
def test_each_set_says_which_training_sets_hold_its_classes(tmp_path, name, split, contained_in):
    class_folders(tmp_path / name / split, "ab")
    assert set(load_dataset(name, split=split, root=tmp_path).contained_in) == contained_in


def test_a_data_set_with_a_label_missing_cannot_be_made():
    with pytest.raises(ValueError, match="some has 2 images but 1 labels"):
        Dataset("some", ("a.jpg", "b.jpg"), ("x",))
    with pytest.raises(ValueError, match="some has 1 images but 2 groups"):
        Dataset("some", ("a.jpg",), ("x",), groups=("g", "h"))


def test_a_data_set_can_be_sent_to_another_process(omniglot_root):
    turned = load_dataset("omniglot-rotated", root=omniglot_root)
    again = pickle.loads(pickle.dumps(turned))
    assert again == turned
    assert image_hash(again.images[5]) == image_hash(turned.images[5])


# The real files


@pytest.fixture
def real(shared, monkeypatch):
    monkeypatch.setenv("FEWSHOT_DATA", str(shared / "data"))
    return shared / "data"


@cache
def loaded(name, split):
    """A real data set, read once: it does not change."""
    return load_dataset(name, split=split)


@pytest.mark.data
@pytest.mark.parametrize(("split", "characters", "alphabets"), [("background", 964, 30), ("evaluation", 659, 20)])
def test_the_real_omniglot_has_20_drawers_of_each_character(real, split, characters, alphabets):
    found = loaded("omniglot", split)
    assert Counter(Counter(found.labels).values()) == {20: characters}
    assert len(set(found.groups)) == alphabets
    assert all(label.startswith(f"{group}/character") for label, group in zip(found.labels, found.groups, strict=True))
    assert len(EpisodeSampler(found.labels, groups=found.groups, n_way=20, n_shot=1, n_query=1, n_episodes=3)) == 3


@pytest.mark.data
@pytest.mark.parametrize(
    ("split", "classes", "seen"),
    [("train", 4112, True), ("val", 688, True), ("trainval", 4800, True), ("test", 1692, False)],
)
def test_the_real_vinyals_split_has_its_published_sizes(real, split, classes, seen):
    found = loaded("omniglot-vinyals", split)
    assert Counter(Counter(found.labels).values()) == {20: classes}
    assert (training_overlap("pocket", found) is not None) == seen


@pytest.mark.data
def test_the_real_rotation_classes_are_the_rotated_pixels_of_their_character(real):
    found = loaded("omniglot-vinyals", "test")
    first = {
        label: np.asarray(open_image(found.images[i])) for i, label in reversed(list(enumerate(found.labels[:400])))
    }
    for name, turns in (("rot090", 1), ("rot180", 2), ("rot270", 3)):
        upright = first["Gurmukhi/character42/rot000"]
        assert_array_equal(first[f"Gurmukhi/character42/{name}"], np.rot90(upright, turns))
        assert (np.rot90(upright, turns) != upright).any()
    assert upright.shape == (105, 105, 3)


@pytest.mark.data
def test_the_real_runs_are_20_by_20_trials_of_pictures_of_one_alphabet_that_occur_in_the_evaluation_part(real):
    runs = omniglot_one_shot_runs()
    assert [run.name for run in runs] == [f"run{i:02}" for i in range(1, 21)]
    evaluation = loaded("omniglot", "evaluation")
    label_of = {open_image(i).tobytes(): label for i, label in zip(evaluation.images, evaluation.labels, strict=True)}
    for run in runs:
        assert sorted(run.support_labels) == sorted(run.query_labels) == [f"class{i:02}" for i in range(1, 21)]
        support = [label_of[open_image(image).tobytes()] for image in run.support]
        query = [label_of[open_image(image).tobytes()] for image in run.query]
        assert len({label.split("/")[0] for label in support}) == 1
        truth = dict(zip(run.support_labels, support, strict=True))
        assert [truth[label] for label in run.query_labels] == query


@pytest.mark.data
@pytest.mark.parametrize(("split", "classes", "each"), [("train", 120, 350), ("val", 30, 200), ("test", 50, 200)])
def test_the_real_tiny_imagenet_has_its_split_and_follows_the_stated_rule(real, split, classes, each):
    found = load_dataset("tiny-imagenet", split=split)
    assert Counter(Counter(found.labels).values()) == {each: classes}
    splits = json.loads((real / "tiny_imagenet" / "splits.json").read_text())["splits"]
    assert found.classes == tuple(entry["wnid"] for entry in splits[split])
    wnids = sorted(entry["wnid"] for entries in splits.values() for entry in entries)
    first, last = {"train": (0, 120), "val": (120, 150), "test": (150, 200)}[split]
    assert found.classes == tuple(sorted(wnids[i] for i in np.random.default_rng(0).permutation(200)[first:last]))
    assert open_image(found.images[-1]).size == (64, 64)
