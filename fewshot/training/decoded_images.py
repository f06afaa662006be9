"""Data sets decoded into memory, as uint8."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewshot.datasets import Dataset
from fewshot.errors import ExampleError, FewShotError, ImageError
from fewshot.media import ImageSource, map_ahead, open_image
from fewshot.progress import Progress

# Images to be cropped are held a little larger than they are used; none is enlarged for that.
_MARGIN = 1.25
_SIZE_SAMPLE = 32
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class DecodedImages:
    """The images of a data set in memory, and their classes.

    Attributes
    ----------
    name : str
    pixels : uint8 Tensor of shape (n, 3, side, side), or (n, 1, side, side) in grey
    labels : int64 Tensor of shape (n,), indices of ``classes``
    classes : tuple of str
    groups : tuple of str, optional
        Of each image.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> DecodedImages:
        """Move the pixels to a device; labels stay on the CPU, where batches are drawn."""
        return replace(self, pixels=self.pixels.to(device))


@dataclass(frozen=True)
class Decoding:
    """How a data set is to be decoded: images resized to ``side`` x ``side`` pixels, in RGB or grey.

    In grey, images are dark on light: one with a dark border is inverted.
    """

    dataset: Dataset
    side: int
    grey: bool = False

    @classmethod
    def of(cls, dataset: Dataset, size: int, *, grey: bool = False, margin: bool = False) -> Decoding:
        """Choose the side for a network that takes ``size`` pixels a side.

        With ``margin`` it is up to a quarter larger, for crops, where the images have as many pixels.
        """
        return cls(dataset, _side(dataset, size) if margin else size, grey)

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take."""
        return len(self.dataset) * self.side**2 * (1 if self.grey else 3)

    def run(self) -> DecodedImages:
        """Decode every image.

        Raises
        ------
        ImageError : naming the first image that cannot be read, and the number of those.
        """
        dataset, side, channels = self.dataset, self.side, 1 if self.grey else 3
        pixels = np.empty((len(dataset), side, side, channels), np.uint8)
        failed: list[ExampleError] = []
        with Progress(len(dataset), f"read {dataset.name}") as bar:
            read = map_ahead(partial(_read, side=side, grey=self.grey), dataset.images, ahead=256)
            for i, image in enumerate(read):
                if isinstance(image, ExampleError):
                    failed.append(image)
                else:
                    pixels[i] = image.reshape(side, side, channels)
                bar.advance(1)
        if failed:
            raise ImageError(
                failed[0].source,
                f"{failed[0].reason} ({len(failed)} of the {len(dataset)} images of {dataset.name} cannot be read: "
                "repair or remove them)",
            )
        classes, labels = np.unique(dataset.labels, return_inverse=True)
        return DecodedImages(
            dataset.name,
            torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(labels.astype(np.int64)),
            tuple(map(str, classes)),
            dataset.groups,
        )


def check_memory(decodings: Sequence[Decoding]) -> None:
    """Refuse data sets that do not fit in memory together.

    Raises
    ------
    FewShotError : with the bytes they need and those there are.
    """
    try:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    needed = sum(decoding.nbytes for decoding in decodings)
    if needed > _MEMORY_SHARE * available:
        names = ", ".join(f"{decoding.dataset.name} ({len(decoding.dataset):,})" for decoding in decodings)
        raise FewShotError(
            f"the images of {names} take {needed / 2**30:.1f} GiB at {max(d.side for d in decodings)} pixels a side, "
            f"but this machine has {available / 2**30:.1f} GiB: lower --size, or give fewer images"
        )


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
    """Pixels a side to keep: ``_MARGIN`` times the size, or what the larger images have."""
    some = np.linspace(0, len(dataset) - 1, min(_SIZE_SAMPLE, len(dataset))).astype(int)
    largest = 0
    for found in map_ahead(lambda i: open_image(dataset.images[i]).size, some.tolist()):
        largest = largest if isinstance(found, ExampleError) else max(largest, min(found))
    return max(size, min(round(_MARGIN * size), largest))
