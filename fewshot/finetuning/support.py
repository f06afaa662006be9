"""The support at the cut: maps of its pictures and of their views, as many as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewshot.finetuning.cut import Top, Trunk
from fewshot.finetuning.tuning import Portions, Support
from fewshot.finetuning.views import GIB, altered, plain
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers

# Graphs of this many bytes are computed together on a CPU: maps of more pictures are so large that the allocator takes
# fresh pages for each, and to clear these takes longer than to compute on them.
_TOGETHER = 2**29


def support_maps(
    trunk: Trunk,
    pixels: Tensor,
    labels: Tensor,
    *,
    views: int,
    flip: bool,
    lens: Lens,
    workers: Workers,
    batch: int,
    memory: float,
    seed: int,
) -> Support:
    """Compute the maps of pictures and of ``views`` views of each.

    Parameters
    ----------
    trunk : Trunk
        As ``quick`` converts it.
    pixels : Tensor of shape (s, 3, h, w), uint8
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    views, flip, memory, seed
        ``FineTuneClassifier``'s; memory in GiB, half of which the maps may take: there are fewer views where they
        would take more.
    lens : Lens
    workers : Workers
        Each computes batches of its own.
    batch : int
        Pictures of a batch.

    Raises
    ------
    ValueError : if not even two views fit, naming what they take.
    """
    dtype = torch.bfloat16 if lens.precision == "bfloat16" else torch.float32

    def compute(share: Tensor, view: int) -> tuple[Tensor, ...]:
        if view < 0:
            x = plain(pixels[share])
        else:
            # A source of chance for each share, so that threads may take them in any order.
            generator = torch.Generator().manual_seed((seed * 1009 + view) * 1_000_003 + int(share[0]))
            x = altered(pixels[share], generator, flip=flip)
        with torch.no_grad():
            maps: tuple[Tensor, ...] = trunk(lens(x.to(lens.device)).to(dtype))
            return maps

    shares = torch.split(torch.arange(len(pixels)), batch)
    with Progress(len(pixels) * (1 + views), "views") as bar:
        own = _joined(_each(compute, shares, -1, workers, bar))
        taken = sum(each.numel() * each.element_size() for each in own)
        fitting = min(views, int(memory / 2 * GIB / taken) - 1)
        if fitting < min(2, views):
            raise ValueError(
                f"the maps of {len(pixels)} pictures take {taken / GIB:.2g} GiB a view, too much for two views in "
                f"half of memory={memory:g} GiB: raise memory, train fewer blocks or give fewer pictures"
            )
        made = tuple(each.new_empty(fitting, *each.shape) for each in own)
        for view in range(fitting):
            for maps, each in zip(made, _joined(_each(compute, shares, view, workers, bar)), strict=True):
                maps[view] = each
    return Support(own, made, labels, int(labels.max()) + 1)


def graph_bytes(top: Top, maps: Sequence[Tensor], lens: Lens) -> int:
    """How many bytes are kept for the gradients of one picture more; ``maps`` are of two at least."""

    def kept(n: int) -> int:
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), lens.autocast():
            out = top(*(each[:n].clone() for each in maps))
        del out
        return sum(found.values())

    return kept(2) - kept(1)  # weights, and what they are turned into, are kept once


def portions(top: Top, maps: Sequence[Tensor], lens: Lens, workers: int, memory: float) -> Portions:
    """Share half of ``memory`` GiB among workers: one picture each at least."""
    each = max(1, graph_bytes(top, maps, lens))
    kept = max(1, int(memory / 2 * GIB / each / workers))
    return Portions(kept, kept if lens.device.type != "cpu" else max(1, min(kept, _TOGETHER // each)))


def _each(
    compute: Callable[[Tensor, int], tuple[Tensor, ...]],
    shares: Sequence[Tensor],
    view: int,
    workers: Workers,
    bar: Progress,
) -> list[tuple[Tensor, ...]]:
    n = len(workers.twins)
    found: list[tuple[Tensor, ...]] = []
    for at in range(0, len(shares), n):
        some = shares[at : at + n]
        found += workers.map(compute, some, [view] * len(some))
        bar.advance(sum(map(len, some)))
    return found


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))
