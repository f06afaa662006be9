"""The support at the cut: maps of its pictures and of their views, as many as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fewshot.finetuning.cut import Top, Trunk
from fewshot.finetuning.gradient_steps import Portions
from fewshot.finetuning.views import GIB, altered, plain
from fewshot.finetuning.walk import Support
from fewshot.progress import Progress
from fewshot.training import Lens, Workers

# Graphs of this many bytes are computed together on a CPU: maps of more pictures are so large that the allocator takes
# fresh pages for each, and to clear these takes longer than to compute on them.
_TOGETHER = 2**29


@dataclass(frozen=True)
class Viewer:
    """Computes maps at the cut.

    Attributes
    ----------
    trunk : Trunk
        As ``quick`` converts it.
    lens : Lens
    workers : Workers
        Each computes batches of its own.
    batch : int
        Pictures of a batch.
    flip : bool
        Whether views may be mirrored.
    seed : int
        Of views.
    """

    trunk: Trunk
    lens: Lens
    workers: Workers
    batch: int
    flip: bool
    seed: int

    def support(self, pixels: Tensor, labels: Tensor, views: int, room: float) -> Support:
        """Compute the maps of pictures and of ``views`` views of each.

        Parameters
        ----------
        pixels : Tensor of shape (s, 3, h, w), uint8
        labels : Tensor of shape (s,), int64
            0 to c - 1.
        views : int
            There are fewer where they would take too much.
        room : float
            Bytes that the maps may take.

        Raises
        ------
        ValueError : if not even two views fit, naming what they take.
        """
        with Progress(len(pixels) * (1 + views), "views") as bar:
            own = self._computed(pixels, -1, bar)
            taken = sum(each.nbytes for each in own)
            fitting = min(views, int(room / taken) - 1)
            if fitting < min(2, views):
                raise ValueError(
                    f"the maps of {len(pixels)} pictures take {taken / GIB:.2g} GiB a view, too much for two views in "
                    f"{room / GIB:.2g} GiB, their part of memory: raise memory, train fewer blocks or give "
                    "fewer pictures"
                )
            made = tuple(each.new_empty(fitting, *each.shape) for each in own)
            for view in range(fitting):
                for maps, each in zip(made, self._computed(pixels, view, bar), strict=True):
                    maps[view] = each
        return Support(own, made, labels, int(labels.max()) + 1)

    def plain(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of pictures (n, 3, h, w), uint8, as they are."""
        with Progress(len(pixels), "maps") as bar:
            return self._computed(pixels, -1, bar)

    def _computed(self, pixels: Tensor, view: int, bar: Progress) -> tuple[Tensor, ...]:
        """Maps of one view of each picture; -1 is the picture as it is."""
        shares = torch.split(torch.arange(len(pixels)), self.batch)
        n = len(self.workers.twins)
        found: list[tuple[Tensor, ...]] = []
        for at in range(0, len(shares), n):
            some = shares[at : at + n]
            found += self.workers.map(partial(self._share, pixels, view), some)
            bar.advance(sum(map(len, some)))
        return tuple(torch.cat(each) for each in zip(*found, strict=True))

    def _share(self, pixels: Tensor, view: int, share: Tensor) -> tuple[Tensor, ...]:
        dtype = torch.bfloat16 if self.lens.precision == "bfloat16" else torch.float32
        if view < 0:
            x = plain(pixels[share])
        else:
            # A source of chance for each share, so that threads may take them in any order.
            generator = torch.Generator().manual_seed((self.seed * 1009 + view) * 1_000_003 + int(share[0]))
            x = altered(pixels[share], generator, flip=self.flip)
        with torch.no_grad():
            maps: tuple[Tensor, ...] = self.trunk(self.lens(x.to(self.lens.device)).to(dtype))
            return maps


def graph_bytes(top: Top, maps: Sequence[Tensor], lens: Lens) -> int:
    """How many bytes are kept for the gradients of one picture more; ``maps`` are of two at least."""

    def kept(n: int) -> int:
        with lens.autocast():
            return saved_bytes(lambda: top(*(each[:n].clone() for each in maps)))

    return kept(2) - kept(1)  # weights, and what they are turned into, are kept once


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """How many bytes a forward pass keeps for its gradients."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out  # until here, so that no two tensors had one address
    return sum(found.values())


def portions(top: Top, maps: Sequence[Tensor], lens: Lens, workers: int, memory: float) -> Portions:
    """Share half of ``memory`` GiB among workers: one picture each at least."""
    each = max(1, graph_bytes(top, maps, lens))
    kept = max(1, int(memory / 2 * GIB / each / workers))
    return Portions(kept, kept if lens.device.type != "cpu" else max(1, min(kept, _TOGETHER // each)))
