"""Pictures decoded once into memory, as uint8, and the classes put aside to validate on."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewshot.datasets import Dataset
from fewshot.errors import FewShotError, ImageError
from fewshot.media import ImageSource, describe, map_ahead, open_image
from fewshot.progress import Progress

# Pictures to be cropped wait in memory a little larger than they are used; none is enlarged for that.
_SPARE = 1.25
_LOOKED_AT = 32


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures and their classes.

    Attributes
    ----------
    name : str
    pixels : uint8 Tensor of shape (n, 3, side, side), or (n, 1, side, side) in grey
    labels : int64 Tensor of shape (n,), positions in ``classes``
    classes : tuple of str
    groups : tuple of str, optional
        Of each picture.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Pictures:
        """Move the pixels to a device; labels are read where batches are planned, on the CPU."""
        return replace(self, pixels=self.pixels.to(device))


def decoded(dataset: Dataset, size: int, *, grey: bool = False, spare: bool = False) -> Pictures:
    """Read every picture of a data set, squeezed to a square.

    Parameters
    ----------
    dataset : Dataset
    size : int
        Pixels a side that the network sees.
    grey : bool
        One channel, dark on light: a picture with a dark border is inverted.
    spare : bool
        Keep up to a quarter more pixels a side, for crops, where the pictures have them.

    Raises
    ------
    ImageError : naming the first picture that cannot be read and the number of those.
    FewShotError : before anything is read, if the pictures do not fit.
    """
    side = _side(dataset, size) if spare else size
    channels = 1 if grey else 3
    _check_memory(dataset, side, channels)
    pixels = np.empty((len(dataset), side, side, channels), np.uint8)
    failed: list[ImageError] = []
    with Progress(len(dataset), f"read {dataset.name}") as bar:
        read = map_ahead(partial(_read, side=side, grey=grey), dataset.images, ahead=256)
        for i, picture in enumerate(read):
            if isinstance(picture, ImageError):
                failed.append(picture)
            else:
                pixels[i] = picture.reshape(side, side, channels)
            bar.advance(1)
    if failed:
        raise ImageError(
            failed[0].source,
            f"{failed[0].reason} ({len(failed)} of the {len(dataset)} pictures of {dataset.name} cannot be read: "
            "repair or remove them)",
        )
    classes, labels = np.unique(dataset.labels, return_inverse=True)
    return Pictures(
        dataset.name,
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
        tuple(map(str, classes)),
        dataset.groups,
    )


def split_off(dataset: Dataset, share: float, *, ways: int, examples: int, seed: int) -> tuple[Dataset, Dataset]:
    """Part a data set's classes into those to learn from and those to validate on; whole groups where it has groups.

    Parameters
    ----------
    dataset : Dataset
    share : float
        Of the classes, or of the groups, to validate on; rounded, but at least as many classes as ``ways``.
    ways, examples : int
        Classes of an episode, and pictures that each of them must have.
    seed : int

    Raises
    ------
    ValueError : if too few classes are left on either side, or have enough pictures.
    """
    counts = Counter(dataset.labels)
    unit = dict(zip(dataset.labels, dataset.groups or dataset.labels, strict=True))
    units = sorted(set(unit.values()))
    held: list[str] = []
    chosen: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(units)):
        classes = [label for label, name in unit.items() if name == units[number] and counts[label] >= examples]
        if len(chosen) >= max(1, round(share * len(units))) and len(held) >= ways:
            break
        if classes:
            chosen.add(units[number])
            held += classes
    left = [label for label in counts if unit[label] not in chosen]
    if len(held) < ways or len(left) < 2:
        able = sum(count >= examples for count in counts.values())
        raise ValueError(
            f"{dataset.name} has {len(counts)} classes, {able} of them with the {examples} pictures that a validation "
            f"episode needs: too few to keep {ways} aside to validate on and to learn from the others. Name other data "
            "with --validation, lower --ways, --shots or --queries, or take --hold-out 0 to go without validation"
        )
    return _chosen(dataset, set(left)), _chosen(dataset, set(held))


def _chosen(dataset: Dataset, labels: set[str]) -> Dataset:
    return dataset.take([i for i, label in enumerate(dataset.labels) if label in labels])


def thinned(dataset: Dataset, most: int) -> Dataset:
    """Return a data set with no more than so many pictures of a class, evenly spaced among all of the class's."""
    of_class: dict[str, list[int]] = {}
    for i, label in enumerate(dataset.labels):
        of_class.setdefault(label, []).append(i)
    keep = [
        members[i]
        for members in of_class.values()
        for i in np.linspace(0, len(members) - 1, min(most, len(members))).round().astype(int)
    ]
    return dataset.take(sorted(keep))


def content(dataset: Dataset) -> str:
    """Return 16 hexadecimal digits made of the pictures' names and classes."""
    digest = hashlib.sha256()
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        digest.update(f"{os.path.basename(describe(image))}\0{label}\0".encode())
    return digest.hexdigest()[:16]


def _read(source: ImageSource, *, side: int, grey: bool) -> NDArray[np.uint8]:
    image = open_image(source)
    if grey:
        image = image.convert("L")
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    if grey:
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        pixels = 255 - pixels if border.mean() < 127.5 else pixels
    return pixels


def _side(dataset: Dataset, size: int) -> int:
    """Pixels a side to keep: ``_SPARE`` times the size, or what the larger of the pictures have."""
    some = np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(int)
    largest = 0
    for found in map_ahead(lambda i: open_image(dataset.images[i]).size, some.tolist()):
        largest = largest if isinstance(found, ImageError) else max(largest, min(found))
    return max(size, min(round(_SPARE * size), largest))


def _check_memory(dataset: Dataset, side: int, channels: int) -> None:
    try:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    needed = len(dataset) * side * side * channels
    if needed > 0.8 * available:
        raise FewShotError(
            f"the {len(dataset):,} pictures of {dataset.name} take {needed / 2**30:.1f} GiB at {side} pixels a side, "
            f"but this machine has {available / 2**30:.1f} GiB: lower --size, or give fewer pictures"
        )
