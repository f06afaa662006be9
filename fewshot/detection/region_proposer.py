"""Boxes of what stands out in an image, without a network: regions of its grey and its saturation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torchvision.ops import box_iou, nms

from fewshot.detection.boxes import Box
from fewshot.detection.proposals import Proposal
from fewshot.validation import check_count

_LONGEST_SIDE = 640
_LEVELS = 4
_RADII = (0, 2, 4, 8, 12, 16, 24, 32, 48)
_SMALLEST, _LARGEST = 5e-4, 0.5
_SAME = 0.8
_MOST_PER_MASK = 500


class RegionProposer:
    """Proposes the boxes of connected regions that are brighter or darker, more or less colourful than a level.

    Levels are quantiles of the pixels. Regions that touch are parted as a watershed of the distance transform parts
    them: those whose pixels lie deeper than a radius are boxed, and the boxes grown by it (Serra, Image Analysis and
    Mathematical Morphology, 1982; the many levels as in MSER, Matas et al. 2002). For objects that stand out of a
    background, as cells, parts on a table or seeds; for photographs of streets give a detector instead.

    Parameters
    ----------
    most : int, default 500
        Boxes of an image at most, those that most levels and radii agree on.

    Notes
    -----
    Images are scaled to 640 pixels a side; boxes below 0.05 % and above half of their area are left out. A proposal's
    score is the share of levels and radii that give the same box, up to an intersection over union of 0.8.

    Examples
    --------
    >>> from PIL import Image, ImageDraw
    >>> from fewshot.detection import RegionProposer
    >>> image = Image.new("RGB", (100, 80), "white")
    >>> ImageDraw.Draw(image).rectangle((20, 30, 49, 59), fill="navy")
    >>> [round(value) for value in RegionProposer().propose(image, "drawn")[0].box.xyxy]
    [20, 30, 50, 60]
    """

    def __init__(self, most: int = 500) -> None:
        self.most = check_count("most", most)

    def propose(self, image: Image.Image, name: str) -> list[Proposal]:
        """Return the boxes of an upright RGB image, those of the highest score first."""
        small = image.copy()
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=None)
        boxes = torch.as_tensor(np.concatenate([np.empty((0, 4)), *_regions(small)]), dtype=torch.float32)
        if not len(boxes):
            return []
        boxes, votes = _distinct(boxes)
        order = torch.argsort(votes, descending=True, stable=True)[: self.most]
        scale = torch.tensor([image.width / small.width, image.height / small.height] * 2)
        largest = float(votes.max())
        return [
            Proposal(Box(*map(float, box)), float(vote) / largest)
            for box, vote in zip((boxes[order] * scale).tolist(), votes[order].tolist(), strict=True)
        ]


def _regions(image: Image.Image) -> Iterator[NDArray[np.float64]]:
    """Boxes (n, 4) of the regions of each channel, level, side of it and radius."""
    hsv = np.asarray(image.convert("HSV"))
    for channel in (np.asarray(image.convert("L")), hsv[..., 1]):
        smooth = ndimage.gaussian_filter(channel.astype(np.float32), 1.0)
        levels = np.unique(np.quantile(smooth, np.linspace(0, 1, _LEVELS + 2)[1:-1]))
        middle = (smooth.min() + smooth.max()) / 2  # a level of its own where nearly all pixels are equal
        for level in (*levels, middle):
            for mask in (smooth > level, smooth <= level):
                yield from _parted(ndimage.binary_fill_holes(mask))


def _parted(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Boxes of a mask's regions, and of those deeper than each radius, grown by it."""
    height, width = mask.shape
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    for radius in _RADII:
        labels, count = ndimage.label(depth > radius)
        if not count:
            return
        found = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)], float)
        found += (-radius, -radius, radius, radius)
        np.clip(found, 0, (width, height, width, height), out=found)
        area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        sized = (area >= _SMALLEST * width * height) & (area <= _LARGEST * width * height)
        yield found[sized][np.argsort(-area[sized], kind="stable")[:_MOST_PER_MASK]]


def _distinct(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of boxes that are nearly the same the mean, and how many there are of each."""
    first = torch.arange(len(boxes), 0, -1, dtype=torch.float32)
    means, votes = [], []
    for part in torch.split(boxes[nms(boxes, first, _SAME)], 64):
        same = (box_iou(part, boxes) > _SAME).float()
        votes.append(same.sum(1))
        means.append(same @ boxes / votes[-1][:, None])
    return torch.cat(means), torch.cat(votes)
