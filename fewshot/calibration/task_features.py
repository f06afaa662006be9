"""Features of a task that predict how confident a method may be, computed without any query's label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Columns of the design matrix.
FEATURES = (
    "intercept",
    "log_ways",
    "inverse_shots",
    "loo_margin",
    "class_similarity",
    "sparsity",
    "similarity",
    "log_margin",
)
# Numbers of classes and of examples that the shipped parameters were fitted to; features are constant beyond them.
WAYS_RANGE, SHOTS_RANGE = (5, 20), (1, 5)
# Values are clipped to what the fits have seen: centred embeddings, for one, have a density of 0.8.
SIMILARITY_RANGE, MARGIN_RANGE = (-0.2, 1.2), (0.02, 5.0)
_CLASS_SIMILARITY, _DENSITY = (0.12, 0.95), (0.35, 0.5)


@dataclass(frozen=True)
class TaskFeatures:
    """Features of the support sets of e episodes.

    Attributes
    ----------
    ways : int
        c, the number of classes.
    shots : Tensor of shape (e,)
        Mean number of examples of a class.
    class_similarity : Tensor of shape (e,)
        Mean cosine between the classes' mean directions, -1 to 1.
    loo_margin : Tensor of shape (e,)
        Leave-one-out margin of the examples (cosine with their own class mean less that with the others) over their
        margin when they are part of it; NaN where no class has two examples.
    density : Tensor of shape (e,)
        Mean absolute value of an embedding over its root mean square: 0.8 for a normal distribution, less for sparse
        ones. Inputs unlike those that an encoder was trained on excite it less evenly.

    References
    ----------
    Sun, Guo & Li 2021, arXiv:2111.12797, figure 1 (activations of out-of-distribution inputs).
    """

    ways: int
    shots: Tensor
    class_similarity: Tensor
    loo_margin: Tensor
    density: Tensor

    def design_matrix(self, margins: Tensor, similarity: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the features named by ``FEATURES``: (e, q, len(FEATURES)).

        Parameters
        ----------
        margins : Tensor of shape (e, q, c)
            Each class's distance behind the best one, in support margins; "log_margin" is the logarithm of their mean
            over all classes but the best.
        similarity : Tensor of shape (e, q)
            Score of the best class, scaled such that the support's mean is 0 for other classes and 1 for its own.
        weights : Tensor of shape (q, c), optional
            How many classes each margin is that of, by default one.
        """
        one = torch.ones_like(similarity)
        shots = self.shots.clamp(*SHOTS_RANGE)
        # With two examples what is left is one: that margin says little.
        loo_margin = self.loo_margin.clamp(0.05, 1.5).log().add(0.5).nan_to_num(0.0) * (1.0 - 2.0 / shots).clamp_min(
            0.0
        )
        values = {
            "intercept": one,
            "log_ways": math.log(min(max(self.ways, WAYS_RANGE[0]), WAYS_RANGE[1]) / 10.0) * one,
            "inverse_shots": (2.5 / shots - 1.5).unsqueeze(1) * one,  # 1 at one example, -1 at five
            "loo_margin": loo_margin.unsqueeze(1) * one,
            "class_similarity": 2.0 * self.class_similarity.clamp(*_CLASS_SIMILARITY).unsqueeze(1) * one - 1.0,
            # squared, so that dense embeddings hardly differ
            "sparsity": (5.0 - 10.0 * self.density.clamp(*_DENSITY)).square().unsqueeze(1) * one,
            "similarity": similarity.clamp(*SIMILARITY_RANGE),
            "log_margin": mean_margin(margins, weights)[..., 0].clamp(*MARGIN_RANGE).log(),
        }
        return torch.stack([values[name] for name in FEATURES], dim=-1)


def mean_margin(margins: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean margin (..., 1) of all classes but the best; with weights each is that of so many classes."""
    if weights is None:
        return margins.sum(-1, keepdim=True) / max(1, margins.shape[-1] - 1)
    return (margins * weights).sum(-1, keepdim=True) / (weights.sum(-1, keepdim=True) - 1.0).clamp_min(1.0)
