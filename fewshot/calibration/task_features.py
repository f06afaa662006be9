"""What a task shows of how sure its answers may be, as the numbers that a sharpness is a sum of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The numbers of classes and of examples that the shipped numbers were fitted to; beyond them nothing changes any more.
WAYS, SHOTS = (5, 20), (1, 5)
# What a table's numbers multiply, in this order: signs, and products of two.
SIGNS = (
    "one", "ways", "few", "ways few",
    "lead", "lead few", "lead lead", "near", "near few",
    "alike", "alike few", "alike alike", "alike lead",
    "kept", "kept few", "kept kept", "kept alike", "kept lead",
    "broad", "broad few", "broad lead", "broad near", "broad alike",
    "own-lead", "own-lead few", "own-near", "own-near few", "own-lead ways",
)  # fmt: skip
# What also tells how much to doubt, and how far to bend a softmax.
DOUBTS = ("one", "ways", "few", "alike", "broad")
# Beyond what the fits have seen nothing changes: centred embeddings, for one, have a breadth of 0.8 and are not alike.
_NEAR, _ALIKE, _BROAD = (-0.2, 1.2), (0.12, 0.95), (0.35, 0.55)


@dataclass(frozen=True)
class Signs:
    """What a task shows, before any query's class is known, of how sure its answers may be.

    Attributes
    ----------
    ways : int
        c, the number of classes.
    shots : Tensor of shape (e,)
        Mean number of examples of a class.
    alike : Tensor of shape (e,)
        Mean cosine between the classes' mean directions: photographs and glyphs differ in it, encoder by encoder.
    kept : Tensor of shape (e,)
        What share of the margin by which examples are closer to their own class is kept when they are left out of it;
        NaN where no class has two.
    broad : Tensor of shape (e,)
        Mean absolute value of the examples' numbers, in root mean squares; 0.8 for a normal distribution, less where
        few numbers are far from 0. Pictures unlike those that an encoder was trained on excite its outputs less evenly
        (Sun, Guo & Li 2021, arXiv:2111.12797, figure 1); how evenly is usual differs from encoder to encoder.
    """

    ways: int
    shots: Tensor
    alike: Tensor
    kept: Tensor
    broad: Tensor

    def columns(self, gap: Tensor, near: Tensor, *, together: bool) -> Tensor:
        """Write them as what ``SIGNS`` names: (e, q, len(SIGNS)).

        "lead" is the logarithm of how far the best class is ahead of the mean of the others, in the support's margins.
        Where queries are answered ``together`` it is their mean lead's, as "near" is their mean, and "own-lead" and
        "own-near" are by how much each query's exceeds that; else these are 0.

        Parameters
        ----------
        gap : Tensor of shape (e, q, c)
            How far each class is behind the best, in the support's margins.
        near : Tensor of shape (e, q)
            How near each query is to its best class: 0 as near as the support to its other classes, 1 as to its own.
        together : bool
        """
        lead = gap.sum(-1) / (gap.shape[2] - 1)
        own_lead, own_near = _lead(lead), near.clamp(*_NEAR)
        if together:
            lead, near = (some.mean(1, keepdim=True).expand_as(some) for some in (lead, own_near))
        one = torch.ones_like(lead)
        found = {
            "one": one,
            "ways": math.log(min(max(self.ways, WAYS[0]), WAYS[1]) / 10.0) * one,
            "few": (2.5 / self.shots.clamp(*SHOTS) - 1.5).unsqueeze(1) * one,  # 1 at one example, -1 at five
            "lead": _lead(lead),
            "near": near.clamp(*_NEAR),
            "alike": 2.0 * self.alike.clamp(*_ALIKE).unsqueeze(1) * one - 1.0,
            "kept": self.kept.clamp(0.05, 1.5).log().add(0.5).nan_to_num(0.0).unsqueeze(1) * one,
            "broad": (10.0 * self.broad.clamp(*_BROAD) - 5.0).unsqueeze(1) * one,
        }
        found |= {"own-lead": own_lead - found["lead"], "own-near": own_near - found["near"]}
        return torch.stack([math.prod((found[part] for part in name.split()), start=one) for name in SIGNS], dim=-1)


def _lead(share: Tensor) -> Tensor:
    return share.clamp(0.02, 5.0).log()
