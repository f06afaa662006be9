"""Which of several classes are in a picture: a yes or no for each, calibrated on examples that were left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

if TYPE_CHECKING:
    from typing_extensions import Self

_LOWEST, _HIGHEST = 0.1, 0.9  # of thresholds that are chosen on few decisions
_STEPS = 50
_PRIOR_PRECISION = 0.1


class MultiLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Decide on each class independently: ridge regression from unit vectors, one class against the rest.

    Parameters
    ----------
    penalty : float, default 0.005
        Lambda, above 0, beside second moments divided by the number of examples. Chosen on development classes, see
        benchmarks/multilabel.py.
    threshold : float, optional
        The probability from which on a class is answered, in (0, 1); by default that of the highest F1 of all decisions
        on left-out examples, within [0.1, 0.9], and 0.5 where none can be left out.

    Attributes
    ----------
    n_classes_ : int
        c.
    threshold_ : float
    leave_one_out_ : ndarray of shape (s, c)
        The probabilities of the examples, each left out of what they are computed from; NaN where that leaves no
        example of the class, or none of the others.

    Notes
    -----
    A regression on the indicator of a class has the direction of the linear discriminant, (S + lambda)^-1 (m1 - m0),
    of the means with and without the class; all classes share one hat matrix H. A left-out example's output is exact
    and costs nothing more: y - (y - f) / (1 - h) (Allen's PRESS). Outputs divided by p (1 - p), p being the class's
    share, are comparable among classes; on the left-out ones of all classes together, two numbers a and b of Platt's
    sigmoid are fitted, logit P = logit p + a + b z, with a weak prior around 0 and 1: a few decisions of each class
    suffice. Departs from Platt in the offset logit p.

    References
    ----------
    Rifkin & Klautau 2004, JMLR 5:101 (one-vs-rest). Allen 1974, Technometrics 16:125. Platt 1999. Alfassy et al. 2019,
    arXiv:1902.09811 (multi-label few-shot classification, LaSO). Simon et al. 2022, WACV, "Meta-Learning for
    Multi-Label Few-Shot Classification" (prototypes).

    Examples
    --------
    >>> from fewshot import MultiLabelClassifier
    >>> X = [[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 1, 0], [0.7, 0.7, 0], [0, 0, 1], [0, 0.1, 1], [0.1, 0, 1]]
    >>> Y = [[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [0, 0], [0, 0], [0, 0]]  # a cat, a dog
    >>> MultiLabelClassifier().fit(X, Y).predict([[0.7, 0.6, 0], [0, 0.1, 0.9]]).tolist()
    [[True, True], [False, False]]
    """

    def __init__(self, *, penalty: float = 0.005, threshold: float | None = None) -> None:
        self.penalty, self.threshold = penalty, threshold

    def fit(self, X: ArrayLike, Y: ArrayLike) -> Self:
        """Learn from examples (s, d) and whether each class is in each of them: (s, c).

        Raises
        ------
        ValueError : for another number of rows, or a penalty or threshold out of its range.
        """
        if not self.penalty > 0:
            raise ValueError(f"penalty must be above 0, not {self.penalty!r}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), not {self.threshold!r}")
        units = _units(validate_data(self, X, dtype=np.float64))
        y = np.asarray(Y, np.float64)
        if y.ndim != 2 or len(y) != len(units) or not np.isin(y, (0, 1)).all():
            raise ValueError(
                f"expected Y of shape ({len(units)}, c), of zeros and ones, a row for each example and a column for "
                f"each class, got shape {y.shape}"
            )
        n, self.n_classes_ = y.shape
        self._mean, self._share = units.mean(axis=0), y.mean(axis=0)
        centered, residual = units - self._mean, y - self._share
        self._weights, leverage = _ridge(centered, residual, self.penalty)
        left_out = y - (residual - centered @ self._weights) / (1.0 - leverage - 1.0 / n).clip(1e-9)[:, None]
        share = (y.sum(axis=0) - y) / max(1, n - 1)
        z, some = _comparable(left_out, share), (share > 0) & (share < 1)
        self._scale = float(np.sqrt((z[some] ** 2).mean())) if some.any() else 1.0
        offsets = _log_odds(share, n)
        self._sigmoid = _platt(z[some] / self._scale, offsets[some], y[some])
        probabilities = self._probabilities(z, offsets)
        self.leave_one_out_: NDArray[np.float64] = np.where(some, probabilities, np.nan)
        chosen = _best_f1(probabilities[some], y[some]) if self.threshold is None else self.threshold
        self.threshold_: float = chosen
        self._log_odds = _log_odds(self._share, n)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class in each of q queries (q, d): (q, c), rows that sum to anything."""
        check_is_fitted(self)
        units = _units(validate_data(self, X, dtype=np.float64, reset=False))
        outputs = self._share + (units - self._mean) @ self._weights
        return self._probabilities(_comparable(outputs, self._share), self._log_odds)

    def predict(self, X: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each class is in each of q queries: (q, c)."""
        found: NDArray[np.bool_] = self.predict_proba(X) >= self.threshold_
        return found

    def _probabilities(self, z: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = self._sigmoid
        return _logistic(offsets + a + b * z / self._scale)


def _units(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float64] = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
    return units


def _ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights (d, c) of centered examples (s, d) and targets (s, c), and the diagonal of H: (s,)."""
    n, d = x.shape
    if n <= d:
        kernel = x @ x.T / n
        inverse = np.linalg.inv(kernel + penalty * np.eye(n))
        return x.T @ (inverse @ y) / n, np.einsum("ij,ji->i", kernel, inverse)
    solved = np.linalg.solve(x.T @ x / n + penalty * np.eye(d), x.T) / n
    return solved @ y, np.einsum("ij,ji->i", x, solved)


def _comparable(outputs: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs of a regression on an indicator as if all classes were as frequent; 0 where all or none have a class."""
    spread = share * (1.0 - share)
    some = np.broadcast_to(spread > 0, outputs.shape)
    return np.divide(outputs - share, spread, out=np.zeros_like(outputs), where=some)


def _log_odds(share: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    inside = share.clip(0.5 / n, 1.0 - 0.5 / n)
    found: NDArray[np.float64] = np.log(inside / (1.0 - inside))
    return found


def _logistic(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return found


def _platt(z: NDArray[np.float64], offsets: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a and b of logit P = offset + a + b z by penalised likelihood, which is concave, by Newton's method."""
    x, mean = np.stack([np.ones_like(z), z], axis=-1), np.array([0.0, 1.0])

    def loss(w: NDArray[np.float64]) -> float:
        logits = offsets + x @ w
        return float((np.logaddexp(0.0, logits) - y * logits).sum() + 0.5 * _PRIOR_PRECISION * ((w - mean) ** 2).sum())

    w, best = mean, loss(mean)
    for _ in range(_STEPS):
        p = _logistic(offsets + x @ w)
        gradient = x.T @ (p - y) + _PRIOR_PRECISION * (w - mean)
        curvature = (x.T * (p * (1.0 - p))) @ x + _PRIOR_PRECISION * np.eye(2)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (now := loss(w - size * step)) > best and size > 1e-6:
            size /= 2.0
        if best - now < 1e-9:
            break
        w, best = w - size * step, now
    return float(w[0]), float(w[1])


def _best_f1(probabilities: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the threshold of the highest F1, halfway between two probabilities; 0.5 where there is no positive."""
    if not y.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    sorted_, hits = probabilities[order], np.cumsum(y[order])
    f1 = 2.0 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    ends = np.append(sorted_[1:] < sorted_[:-1], True)  # of runs of equal ones
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    after = sorted_[best + 1] if best + 1 < len(sorted_) else 0.0
    return float(np.clip((sorted_[best] + after) / 2.0, _LOWEST, _HIGHEST))
