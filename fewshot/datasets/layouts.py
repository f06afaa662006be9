"""The standard few-shot sets of photographs, as they are laid out on disk."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewshot.datasets.dataset import (
    Dataset,
    Splits,
    entries,
    missing_data,
    own_split,
    split_names,
)
from fewshot.datasets.overlap import IMAGENET, TINY_TRAIN
from fewshot.media import (
    SPLITS,
    SUFFIXES,
    Folder,
    ImageSource,
    LabelledImages,
    find_images,
    folder_at,
    labelled_images,
    normalised_name,
)

_CUB: Splits = {"base": SPLITS["train"] + ("train",), "val": SPLITS["val"], "novel": SPLITS["test"] + ("test",)}

# Reads a split by the set's own name of it; None where the folder is laid out otherwise.
Reader = Callable[[Path, str, "Layout"], "LabelledImages | None"]


@dataclass(frozen=True)
class Layout:
    """A standard data set: the names of its folder, readers of its possible layouts, and where it comes from."""

    name: str
    title: str
    folders: tuple[str, ...]
    readers: tuple[Reader, ...]
    fetch: str
    place: str
    splits: Splits
    contained_in: tuple[str, ...] = ()


def standard(layout: Layout, split: str, root: str | os.PathLike[str] | None) -> Dataset:
    """Read a split of a standard data set from the data folder."""
    own = own_split(layout.title, split, layout.splits)
    for folder in entries(root, layout.folders):
        for reader in layout.readers if folder.is_dir() else ():
            found = reader(folder, own, layout)
            if found is not None:
                return Dataset(
                    layout.name,
                    found.images,
                    tuple(map(_wnid, found.labels)),
                    split=own,
                    contained_in=layout.contained_in + ((TINY_TRAIN,) if (layout.name, own) == _TINY_LEARNED else ()),
                    ignored=found.ignored,
                )
    raise missing_data(f"{layout.title}'s split {own!r}", layout.fetch, layout.place.format(split=own), root)


_TINY_LEARNED = ("tiny-imagenet", "train")


def _wnid(label: str) -> str:
    """Of "n01443537_goldfish" the WordNet id; any other label as it is."""
    found = re.match(r"n\d{8}(?=_|$)", label)
    return found.group() if found else label


def split_folder(folder: Folder, own: str, splits: Splits) -> str | None:
    """Return the name of the folder, or zip, of class folders in a folder that is named for a split."""
    for name, is_folder in folder.entries().items():
        if normalised_name(name.removesuffix(".zip")) in split_names(own, splits):
            if is_folder or name.endswith(".zip"):
                return name
    return None


def _class_folders(folder: Path, own: str, layout: Layout) -> LabelledImages | None:
    """<folder>/<split>/<class>/*, or <folder>/<split>.zip."""
    name = split_folder(folder_at(folder), own, layout.splits)
    return None if name is None else labelled_images(folder / name)


def _chosen_classes(folder: Path, names: Iterable[str], of_each: int | None = None) -> LabelledImages:
    """The images, or the first so many in order of their names, of some of a folder's class folders."""
    images: list[ImageSource] = []
    labels: list[str] = []
    ignored: list[str] = []
    for name in names:
        found = find_images(folder / name)
        images += found.images[:of_each]
        labels += [name] * len(found.images[:of_each])
        ignored += found.ignored
    return LabelledImages(tuple(images), tuple(labels), tuple(ignored))


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _tiny_imagenet_200(folder: Path, own: str, layout: Layout) -> LabelledImages | None:
    """tiny-imagenet-200/train/<wnid>/images/*.JPEG; 120, 30 and 50 of its classes, permuted by ``default_rng(0)``."""
    if not (folder / "wnids.txt").is_file():
        return None
    wnids = _subfolders(folder / "train")
    order = np.random.default_rng(0).permutation(len(wnids))
    first, last, of_each = {"train": (0, 120, 350), "val": (120, 150, 200), "test": (150, 200, 200)}[own]
    return _chosen_classes(folder / "train", sorted(wnids[i] for i in order[first:last]), of_each)


def _listed_images(folder: Path, own: str, layout: Layout) -> LabelledImages | None:
    """<folder>/images/* and <folder>/<split>.csv with the columns filename and label."""
    table = folder / f"{own}.csv"
    if not table.is_file() or not (folder / "images").is_dir():
        return None
    with open(table, newline="") as file:
        rows = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
    there = {name for name in os.listdir(folder / "images") if Path(name).suffix.lower() in SUFFIXES}
    _refuse_missing(table, [name for name, _ in rows], there)
    return LabelledImages(tuple(str(folder / "images" / name) for name, _ in rows), tuple(row[1] for row in rows), ())


def _listed_classes(folder: Path, own: str, layout: Layout) -> LabelledImages | None:
    """<folder>/data/<class>/* and <folder>/splits/bertinetto/<split>.txt with a class a line."""
    table = folder / "splits" / "bertinetto" / f"{own}.txt"
    if not table.is_file() or not (folder / "data").is_dir():
        return None
    names = table.read_text().split()
    _refuse_missing(table, names, set(_subfolders(folder / "data")))
    return _chosen_classes(folder / "data", names)


def _refuse_missing(table: Path, names: Sequence[str], there: set[str]) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"{table} names {len(names)}, of which {len(missing)} are not there, {missing[0]!r} for one")


def _every_second(folder: Path, own: str, layout: Layout) -> LabelledImages | None:
    """<folder>/images/<class>/*: of the sorted classes the even are base, every fourth from 1 val, from 3 novel."""
    if not (folder / "images").is_dir():
        return None
    start, step = {"base": (0, 2), "val": (1, 4), "novel": (3, 4)}[own]
    return _chosen_classes(folder / "images", _subfolders(folder / "images")[start::step])


_FOLDERS = "arranged as one folder a class (<split>/<class>/<image>)"
LAYOUTS = (
    Layout(
        "tiny-imagenet",
        "Tiny ImageNet",
        ("tinyimagenet", "tinyimagenet200"),
        (_tiny_imagenet_200, _class_folders),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked (its train folder is split by class)",
        "tiny-imagenet-200",
        SPLITS,
        (IMAGENET,),
    ),
    Layout(
        "cifar-fs",
        "CIFAR-FS",
        ("cifarfs", "cifar100"),
        (_listed_classes, _class_folders),
        "the archive linked from https://github.com/bertinetto/r2d2 (with data/ and splits/bertinetto/), unpacked, or "
        f"the images {_FOLDERS}",
        "cifar-fs",
        SPLITS,
    ),
    Layout(
        "fc100",
        "FC100",
        ("fc100",),
        (_class_folders,),
        f"the set described at https://github.com/ServiceNow/TADAM, {_FOLDERS} (its pickle files are not read)",
        os.path.join("fc100", "{split}"),
        SPLITS,
    ),
    Layout(
        "mini-imagenet",
        "mini-ImageNet",
        ("miniimagenet",),
        (_listed_images, _class_folders),
        "the images from https://image-net.org and the lists train.csv, val.csv and test.csv from "
        "https://github.com/twitter-research/meta-learning-lstm (images/ beside the lists), or the images "
        f"{_FOLDERS}",
        "mini-imagenet",
        SPLITS,
        (IMAGENET, TINY_TRAIN),
    ),
    Layout(
        "tiered-imagenet",
        "tiered-ImageNet",
        ("tieredimagenet",),
        (_class_folders,),
        "the images from https://image-net.org by the lists of https://github.com/renmengye/few-shot-ssl-public, "
        f"{_FOLDERS} (its pickle files are not read)",
        os.path.join("tiered-imagenet", "{split}"),
        SPLITS,
        (IMAGENET, TINY_TRAIN),
    ),
    Layout(
        "cub-200",
        "CUB-200-2011",
        ("cub", "cub200", "cub2002011"),
        (_every_second, _class_folders),
        "CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/, unpacked",
        "CUB_200_2011",
        _CUB,
        (IMAGENET,),  # the project page warns that its images may be ImageNet's too
    ),
)
