"""How many images' gradient graphs fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot.encoders import LoadedNetwork, autocast
from fewshot.finetuning.image_views import GIB

# Larger graphs are computed in parts on a CPU: the allocator takes fresh pages for larger maps, and to clear these
# takes longer than to compute on them.
_CPU_CHUNK = 2**29


@dataclass(frozen=True)
class ChunkSizes:
    """Images of which a worker may keep the graph at once, and of these, images that it computes in one pass."""

    kept: int
    computed: int


def chunk_sizes(
    top: nn.Module, maps: Sequence[Tensor], loaded: LoadedNetwork, workers: int, memory: float
) -> ChunkSizes:
    """Share half of ``memory`` GiB among workers, with room for one image each at least; ``maps`` are of two images."""
    each = max(1, graph_bytes(top, maps, loaded))
    kept = max(1, int(memory / 2 * GIB / each / workers))
    return ChunkSizes(kept, kept if loaded.device.type != "cpu" else max(1, min(kept, _CPU_CHUNK // each)))


def graph_bytes(top: nn.Module, maps: Sequence[Tensor], loaded: LoadedNetwork) -> int:
    """Count the bytes kept for the gradients of one image more; ``maps`` are of two at least."""

    def kept(n: int) -> int:
        with autocast(loaded.device, loaded.precision):
            return _saved_bytes(lambda: top(*(each[:n].clone() for each in maps)))

    return kept(2) - kept(1)  # weights, and what they are converted to, are kept once


def _saved_bytes(forward: Callable[[], Tensor]) -> int:
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out  # kept until here, so that no two tensors had one address
    return sum(found.values())
