"""Whether an adaptation helped, as far as a support set can tell."""

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
class DomainReport:
    """Cosine prototypes of a support set before and after adaptation, each example left out of its own in turn.

    Attributes
    ----------
    method : str
    classes, judged : int
        Classes of the support set; its examples that could be left out, those of classes with two or more.
    before, after : float
        Share of the judged put into their class, in [0, 1]; NaN where none is judged.
    margin_before, margin_after : float
        Share of the other classes that each judged example is further from than from its own, in [0, 1]: finer than
        ``before`` and ``after``, and like them not changed by the scale of the cosines, which adaptation changes.
    gain, ci95 : float
        Mean of the margin's paired differences, and the half-width of its 95 % interval. Examples of a class share
        their prototype, so that the interval is somewhat too narrow.
    """

    method: str
    classes: int
    judged: int
    before: float
    after: float
    margin_before: float
    margin_after: float
    gain: float
    ci95: float

    @property
    def helped(self) -> bool | None:
        """True or False where the margin's interval leaves out zero; None where the support cannot tell."""
        return bool(self.gain > 0) if abs(self.gain) > self.ci95 else None

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.classes < 2:
            return f"the support holds {self.classes} class, so nothing can be confused: it cannot tell"
        if not self.judged:
            return "with one example a class none can be left out: this support cannot tell whether it helped"
        outcome = {True: "helped", False: "did harm", None: "made no difference that this support could show"}
        return (
            f"{self.method!r} {outcome[self.helped]}: of {self.judged} examples left out in turn, "
            f"{100 * self.before:.0f} % were right before and {100 * self.after:.0f} % after; the share of other "
            f"classes kept further away changed by {100 * self.gain:+.1f} ± {100 * self.ci95:.1f} points"
        )

    @classmethod
    def compare(cls, method: str, before: ArrayLike, after: ArrayLike, y: Any) -> DomainReport:
        """Judge support vectors (s, d) and the same adapted (s, d'), with their s labels."""
        labels = check_labels(y, len(np.asarray(before)))
        codes = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
        y = np.array([codes[label] for label in labels.tolist()], np.int64)
        right, beaten = _left_out(np.asarray(before), y)
        right_after, beaten_after = _left_out(np.asarray(after), y)
        change = beaten_after - beaten
        error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else float("nan")
        return cls(
            method,
            classes=len(codes),
            judged=len(change),
            before=_mean(right),
            after=_mean(right_after),
            margin_before=_mean(beaten),
            margin_after=_mean(beaten_after),
            gain=_mean(change),
            ci95=float(_Z * error),
        )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _left_out(vectors: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each judged example (j,) is right, and the share of other classes that are further than its own."""
    vectors = check_vectors(vectors, vectors.shape[1] if vectors.ndim == 2 else 0)
    counts = np.bincount(y)
    judged = np.flatnonzero(counts[y] > 1) if len(counts) > 1 else np.empty(0, np.int64)
    sums = np.stack([vectors[y == code].sum(0) for code in range(len(counts))])
    own = sums[y[judged]] - vectors[judged]
    query = torch.from_numpy(vectors[judged]).unsqueeze(1)
    to_own = closeness(query, torch.from_numpy(own).unsqueeze(1), "cosine")[:, 0].numpy()
    to_all = closeness(query[:, 0], torch.from_numpy(sums), "cosine").numpy()
    others = np.arange(len(counts)) != y[judged, None]
    beaten = ((to_all < to_own) & others).sum(1) / max(1, len(counts) - 1)
    return (beaten == 1.0).astype(np.float64), beaten
