"""The lower blocks of a transformer, computed once for each text while the upper ones train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 4  # blocks that train by default


def top_blocks(model: nn.Module, trainable: str | None) -> tuple[nn.ModuleList | None, int]:
    """Return the blocks of a transformer, and how many of them stay as they are; None where all of the model trains.

    Parameters
    ----------
    model : nn.Module
    trainable : {"last", "last-N", "all"}, optional
        By default the last four, or all of fewer blocks.

    Raises
    ------
    ValueError : for other parts, or more blocks than there are.
    """
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(set(map(type, one))) == 1]
    if trainable == "all" or (trainable is None and not lists):
        return None, 0
    if not lists or not (trainable is None or trainable.startswith("last")):
        able = "'all'" if not lists else "'last', 'last-N' or 'all'"
        raise ValueError(f"of a model of texts trainable is {able}, not {trainable!r}")
    blocks = max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
    if trainable is None:
        return blocks, max(0, len(blocks) - _DEEPEST)
    wanted = int(trainable.partition("-")[2] or 1)
    if (most := len(blocks)) < wanted:
        raise ValueError(f"trainable={trainable!r}, but the model has {most} blocks: give at most last-{most}")
    return blocks, len(blocks) - wanted


class FrozenBlocks:
    """Puts what the first blocks gave of each text, without padding, in their place.

    Parameters
    ----------
    blocks : nn.ModuleList
        All, in the model.
    n_below : int
        How many do not train.
    """

    def __init__(self, blocks: nn.ModuleList, n_below: int) -> None:
        self._blocks, self._own = blocks, list(blocks[:n_below])
        self._hidden: dict[int, Tensor] = {}
        self._given = _Given()
        self._shown: tuple[Sequence[int], Tensor] | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what the blocks give of the texts shown within; afterwards they are not computed again."""
        hook = self._own[-1].register_forward_hook(self._record)
        try:
            with torch.no_grad():
                yield
        finally:
            hook.remove()
        for number in range(len(self._own)):
            self._blocks[number] = self._given

    def show(self, positions: Sequence[int], real: Tensor) -> None:
        """Say which texts the model reads next: their positions (n,), and which tokens (n, t) are no padding."""
        self._shown = positions, real
        if len(self._hidden) and self._blocks[0] is self._given:
            some = torch.cat([self._hidden[position] for position in positions])
            hidden = some.new_zeros(*real.shape, some.shape[-1])
            hidden[real] = some
            self._given.hidden = hidden

    def restore(self) -> None:
        """Put the blocks back into the model."""
        for number, block in enumerate(self._own):
            self._blocks[number] = block

    def _record(self, module: nn.Module, inputs: Any, output: Any) -> None:
        assert self._shown is not None
        self._given.as_tuple = isinstance(output, tuple)
        hidden = output[0] if isinstance(output, tuple) else output
        for position, one, real in zip(self._shown[0], hidden, self._shown[1], strict=True):
            self._hidden[position] = one[real].detach()


class _Given(nn.Module):
    """Gives what it was given, whatever it is called with."""

    hidden: Tensor
    as_tuple = False

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.hidden,) if self.as_tuple else self.hidden
