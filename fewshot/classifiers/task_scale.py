"""The unit of a support set's scores, and the features of its task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewshot.calibration import TaskFeatures, margins


@dataclass(frozen=True)
class TaskScale:
    """What logits are compared with to calibrate them.

    Attributes
    ----------
    unit, others : Tensor of shape (e, 1, 1)
        ``calibration.support_margin``'s.
    features : TaskFeatures
    """

    unit: Tensor
    others: Tensor
    features: TaskFeatures

    def margins(self, logits: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return margins (e, q, c) in units of the support's, and task features (e, q, f), of logits (e, q, c).

        With weights (q, c) each column is that of so many classes.
        """
        behind = margins(logits, self.unit)
        similarity = ((logits.amax(-1, keepdim=True) - self.others) / self.unit).squeeze(-1)
        return behind, self.features.design_matrix(behind, similarity, weights)


class LazyScale:
    """Holds the scale of a support set once it has been asked for; no part of a classifier's state."""

    scale: TaskScale | None = None

    def __reduce__(self) -> tuple[type[LazyScale], tuple[()]]:
        return LazyScale, ()
