"""Features of a task that predict how confident a method may be, computed without any query's label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers of classes and of examples that the shipped parameters were fitted to; features are constant beyond them.
WAYS_RANGE, SHOTS_RANGE = (5, 20), (1, 5)
# The columns of the design matrix: features and products of them, separated by blanks.
FEATURES = (
    "intercept", "log_ways", "inverse_shots", "log_ways inverse_shots",
    "log_margin", "log_margin inverse_shots", "log_margin log_margin", "similarity", "similarity inverse_shots",
    "class_similarity", "class_similarity inverse_shots", "class_similarity class_similarity",
    "class_similarity log_margin",
    "loo_margin", "loo_margin inverse_shots", "loo_margin loo_margin", "loo_margin class_similarity",
    "loo_margin log_margin",
    "density", "density inverse_shots", "density log_margin", "density similarity", "density class_similarity",
    "query_log_margin", "query_log_margin inverse_shots", "query_similarity", "query_similarity inverse_shots",
    "query_log_margin log_ways",
)  # fmt: skip
# The columns of which lambda and gamma are made.
MIX_SHAPE_FEATURES = ("intercept", "log_ways", "inverse_shots", "class_similarity", "density")
# Values are clipped to what the fits have seen: centred embeddings, for one, have a density of 0.8.
_SIMILARITY, _CLASS_SIMILARITY, _DENSITY = (-0.2, 1.2), (0.12, 0.95), (0.35, 0.55)


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

    def design_matrix(self, margins: Tensor, similarity: Tensor, *, transductive: bool) -> Tensor:
        """Return the features named by ``FEATURES``: (e, q, len(FEATURES)).

        "log_margin" is the logarithm of the mean margin of the best class over the others. Where queries are classified
        jointly (``transductive``), it and "similarity" are means over the queries, and "query_log_margin" and
        "query_similarity" are each query's deviation from them; else these two are 0.

        Parameters
        ----------
        margins : Tensor of shape (e, q, c)
            Each class's distance behind the best one, in support margins.
        similarity : Tensor of shape (e, q)
            Score of the best class, scaled such that the support's mean is 0 for other classes and 1 for its own.
        transductive : bool
        """
        margin = margins.sum(-1) / (margins.shape[2] - 1)
        own_margin, own_similarity = _log_margin(margin), similarity.clamp(*_SIMILARITY)
        if transductive:
            margin, similarity = (some.mean(1, keepdim=True).expand_as(some) for some in (margin, own_similarity))
        one = torch.ones_like(margin)
        values = {
            "intercept": one,
            "log_ways": math.log(min(max(self.ways, WAYS_RANGE[0]), WAYS_RANGE[1]) / 10.0) * one,
            # 1 at one example, -1 at five
            "inverse_shots": (2.5 / self.shots.clamp(*SHOTS_RANGE) - 1.5).unsqueeze(1) * one,
            "log_margin": _log_margin(margin),
            "similarity": similarity.clamp(*_SIMILARITY),
            "class_similarity": 2.0 * self.class_similarity.clamp(*_CLASS_SIMILARITY).unsqueeze(1) * one - 1.0,
            "loo_margin": self.loo_margin.clamp(0.05, 1.5).log().add(0.5).nan_to_num(0.0).unsqueeze(1) * one,
            "density": (10.0 * self.density.clamp(*_DENSITY) - 5.0).unsqueeze(1) * one,
        }
        values |= {
            "query_log_margin": own_margin - values["log_margin"],
            "query_similarity": own_similarity - values["similarity"],
        }
        columns = [math.prod((values[part] for part in name.split()), start=one) for name in FEATURES]
        return torch.stack(columns, dim=-1)


def _log_margin(margin: Tensor) -> Tensor:
    return margin.clamp(0.02, 5.0).log()
