"""Whether an adaptation helped, judged on a support set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewshot.validation import check_labels, check_vectors
from fewshot.vectors import closeness

# The half-width of a 95 % interval, in standard errors.
_Z = 1.96


@dataclass(frozen=True)
class AdaptationReport:
    """Leave-one-out accuracy of cosine prototypes on a support set, before and after adaptation.

    Attributes
    ----------
    method : str
    n_classes, n_evaluated : int
        Classes of the support set, and its examples in classes of two or more, which can be left out.
    accuracy_before, accuracy_after : float
        In [0, 1]; NaN where nothing is evaluated.
    rank_before, rank_after : float
        Share of the other classes that an example is further from than from its own, the mean over examples, in
        [0, 1]: finer than the accuracy, and not changed by the scale of the cosines.
    gain, ci95 : float
        Mean of ``rank_after`` - ``rank_before`` over examples, and the half-width of its 95 % interval. Examples of a
        class share their prototype, so that the interval is somewhat too narrow.
    """

    method: str
    n_classes: int
    n_evaluated: int
    accuracy_before: float
    accuracy_after: float
    rank_before: float
    rank_after: float
    gain: float
    ci95: float

    @property
    def helped(self) -> bool | None:
        """True or False where the gain's interval leaves out zero, else None."""
        return bool(self.gain > 0) if abs(self.gain) > self.ci95 else None

    @property
    def summary(self) -> str:
        """The report in one sentence."""
        if self.n_classes < 2:
            return f"the support holds {self.n_classes} class: at least two are needed to compare"
        if not self.n_evaluated:
            return "with one example a class none can be left out: this support cannot show whether adaptation helps"
        outcome = {True: "helped", False: "did harm", None: "made no significant difference"}
        return (
            f"{self.method!r} {outcome[self.helped]}: leave-one-out accuracy on {self.n_evaluated} examples was "
            f"{100 * self.accuracy_before:.0f} % before and {100 * self.accuracy_after:.0f} % after; the share of "
            f"other classes that are further away changed by {100 * self.gain:+.1f} ± {100 * self.ci95:.1f} points"
        )

    @classmethod
    def compare(cls, method: str, before: ArrayLike, after: ArrayLike, y: Any) -> AdaptationReport:
        """Compare support vectors (s, d) and the same adapted (s, d'), with their s labels."""
        labels = check_labels(y, len(np.asarray(before)))
        codes = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
        y = np.array([codes[label] for label in labels.tolist()], np.int64)
        right, rank = _leave_one_out(np.asarray(before), y)
        right_after, rank_after = _leave_one_out(np.asarray(after), y)
        change = rank_after - rank
        error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else float("nan")
        return cls(
            method,
            n_classes=len(codes),
            n_evaluated=len(change),
            accuracy_before=_mean(right),
            accuracy_after=_mean(right_after),
            rank_before=_mean(rank),
            rank_after=_mean(rank_after),
            gain=_mean(change),
            ci95=float(_Z * error),
        )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _leave_one_out(
    vectors: NDArray[np.float32], y: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each example (n_evaluated,) is classified rightly, and the share of other classes further away."""
    vectors = check_vectors(vectors, vectors.shape[1] if vectors.ndim == 2 else 0)
    counts = np.bincount(y)
    evaluated = np.flatnonzero(counts[y] > 1) if len(counts) > 1 else np.empty(0, np.int64)
    sums = np.stack([vectors[y == code].sum(0) for code in range(len(counts))])
    own = sums[y[evaluated]] - vectors[evaluated]
    query = torch.from_numpy(vectors[evaluated]).unsqueeze(1)
    to_own = closeness(query, torch.from_numpy(own).unsqueeze(1), "cosine")[:, 0].numpy()
    to_all = closeness(query[:, 0], torch.from_numpy(sums), "cosine").numpy()
    others = np.arange(len(counts)) != y[evaluated, None]
    rank = ((to_all < to_own) & others).sum(1) / max(1, len(counts) - 1)
    return (rank == 1.0).astype(np.float64), rank
