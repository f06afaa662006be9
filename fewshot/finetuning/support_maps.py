"""Feature maps of the support and of its augmented views at the split, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.encoders import LoadedNetwork
from fewshot.finetuning.image_views import GIB, augmented, scaled
from fewshot.finetuning.network_split import FrozenTrunk
from fewshot.progress import Progress
from fewshot.training import Workers


@dataclass(frozen=True)
class SupportMaps:
    """What the top trains on.

    Attributes
    ----------
    plain : tuple of Tensor of shape (s, ...)
        Maps of the images as they are.
    views : tuple of Tensor of shape (v, s, ...)
        Maps of v augmented views of each.
    labels : Tensor of shape (s,), int64
    n_classes : int
        c.
    """

    plain: tuple[Tensor, ...]
    views: tuple[Tensor, ...]
    labels: Tensor
    n_classes: int


@dataclass(frozen=True)
class TrunkEncoder:
    """Computes maps at the split.

    Attributes
    ----------
    trunk : FrozenTrunk
        As ``inference_trunk`` converts it.
    loaded : LoadedNetwork
        The encoder's own, for its normalisation, device, precision and batch size.
    workers : Workers
        Each computes batches of its own.
    flip : bool
        Whether views may be flipped.
    seed : int
        Of views.
    """

    trunk: FrozenTrunk
    loaded: LoadedNetwork
    workers: Workers
    flip: bool
    seed: int

    def support(self, pixels: NDArray[np.uint8], labels: Tensor, views: int, room: float) -> SupportMaps:
        """Compute the maps of images and of augmented views of each.

        Parameters
        ----------
        pixels : ndarray of shape (s, h, w, 3), uint8
        labels : Tensor of shape (s,), int64
            0 to c - 1.
        views : int
            Of each image; fewer where their maps would take more than ``room``.
        room : float
            Bytes.

        Raises
        ------
        ValueError : if not even two views fit, naming what they take.
        """
        with Progress(len(pixels) * (1 + views), "views") as bar:
            plain = self._maps(pixels, None, bar)
            taken = sum(each.nbytes for each in plain)
            fitting = min(views, int(room / taken) - 1)
            if fitting < min(2, views):
                raise ValueError(
                    f"the maps of {len(pixels)} images take {taken / GIB:.2g} GiB a view, too much for two views in "
                    f"{room / GIB:.2g} GiB, their part of memory: raise memory, train fewer blocks or give "
                    "fewer images"
                )
            made = tuple(each.new_empty(fitting, *each.shape) for each in plain)
            for view in range(fitting):
                for maps, each in zip(made, self._maps(pixels, view, bar), strict=True):
                    maps[view] = each
        return SupportMaps(plain, made, labels, int(labels.max()) + 1)

    def plain(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """Compute the maps of images (n, h, w, 3), uint8, as they are."""
        with Progress(len(pixels), "maps") as bar:
            return self._maps(pixels, None, bar)

    def _maps(self, pixels: NDArray[np.uint8], view: int | None, bar: Progress) -> tuple[Tensor, ...]:
        """Maps of one view of each image; None is the image as it is."""
        shares = torch.split(torch.arange(len(pixels)), self.loaded.cpu_batch)
        n = len(self.workers.replicas)
        found: list[tuple[Tensor, ...]] = []
        for at in range(0, len(shares), n):
            some = shares[at : at + n]
            found += self.workers.map(partial(self._share, pixels, view), some)
            bar.advance(sum(map(len, some)))
        return tuple(torch.cat(each) for each in zip(*found, strict=True))

    def _share(self, pixels: NDArray[np.uint8], view: int | None, share: Tensor) -> tuple[Tensor, ...]:
        loaded = self.loaded
        dtype = torch.bfloat16 if loaded.precision == "bfloat16" else torch.float32
        images = torch.from_numpy(pixels[share.numpy()]).permute(0, 3, 1, 2).contiguous()
        if view is None:
            x = scaled(images)
        else:
            # A generator for each share, so that threads may take them in any order.
            generator = torch.Generator().manual_seed((self.seed * 1009 + view) * 1_000_003 + int(share[0]))
            x = augmented(images, generator, flip=self.flip)
        with torch.no_grad():
            x = (x.to(loaded.device) - loaded.mean.view(-1, 1, 1)) / loaded.std.view(-1, 1, 1)
            maps: tuple[Tensor, ...] = self.trunk(x.to(dtype, memory_format=torch.channels_last))
            return maps
