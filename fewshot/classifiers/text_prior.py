"""Descriptions of classes as a prior on their means: examples moved towards the vectors of texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The variance between classes is at most and at least so many times that within; it is taken to be ``_RATIO`` times,
# which counts as ``_PRIOR`` residuals: as of ``WhitenedPrototypeClassifier``.
_MOST_RATIO, _LEAST_RATIO, _RATIO, _PRIOR = 2.0, 0.125, 0.5, 2.0
# Examples that are left out in turn, at equal distances among all.
_MOST_LEFT_OUT = 2_000


@dataclass(frozen=True)
class TextPrior:
    """How far the texts say where the classes' means lie.

    With class means p_c of unit vectors, around m, and unit vectors of texts t_c, around their mean u, the means of the
    classes are taken to be normal around m + b (t_c - u). Seen from m, the posterior mean of a class with n_c examples
    has then the direction of

        p_c - m + alpha(n_c) (t_c - u),    alpha(n) = k b / n,    k = within-class / between-class variance,

    the latter around the texts.

    Both are estimated in closed form: b by least squares of p_c - m on t_c - u, at least 0. It is 0, too, where the
    examples object: where predicted without them, each left out in turn, they lie no closer with the texts.

    Attributes
    ----------
    slope : float
        b; 0 where the examples object, or the classes with examples are fewer than two.
    strength : float
        k: as many examples the text counts as.
    center : ndarray of shape (d,)
        m; zero without examples.
    text_center : ndarray of shape (d,)
        u, of the classes with examples; zero without.
    spread : float
        The length of p_c - m over that of t_c - u, in the mean; 1 where there are less than two such classes.

    References
    ----------
    Fay & Herriot 1979, doi:10.1080/01621459.1979.10482505 (class means shrunk to a regression, empirical Bayes).
    Huang et al. 2024, arXiv:2404.02285 (LP++: class weights p_c + alpha_c t_c). Bendou et al. 2025,
    arXiv:2501.11175 (ProKeR: closed form around the zero-shot answer). Liang et al. 2022, arXiv:2203.02053 (images and
    texts lie apart, hence the two centres). That alpha is k b / n, and the objection, are ours.
    """

    slope: float
    strength: float
    center: NDArray[np.float64]
    text_center: NDArray[np.float64]
    spread: float

    @classmethod
    def of(cls, support: NDArray[np.float32], codes: NDArray[np.int64], texts: NDArray[np.float32]) -> TextPrior:
        """Estimate the prior of unit vectors (n, d) of classes ``codes`` (n,), given unit vectors of texts (c, d)."""
        c = int(codes.max()) + 1 if len(codes) else 0
        d = texts.shape[1]
        if c < 2:
            center = support.mean(0, dtype=np.float64) if len(support) else np.zeros(d)
            return cls(0.0, 0.0, center, texts[:c].mean(0, dtype=np.float64) if c else np.zeros(d), 1.0)
        counts = np.bincount(codes, minlength=c).astype(np.float64)
        means = np.zeros((c, d))
        np.add.at(means, codes, support)
        means /= counts[:, None]
        center, text_center = means.mean(0), texts[:c].mean(0, dtype=np.float64)
        apart, said = means - center, texts[:c] - text_center
        agreement, size = float((apart * said).sum()), float((said * said).sum())
        if size <= np.finfo(np.float32).eps * c:  # the texts are all the same
            return cls(0.0, 0.0, center, text_center, 1.0)
        slope = max(0.0, agreement / size)
        squares = float(np.einsum("ij,ij->", support, support, dtype=np.float64))
        within = max(0.0, squares - float((counts * np.square(means).sum(1)).sum()))
        strength = _strength(within, counts, apart, apart - slope * said)
        some = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), _MOST_LEFT_OUT), dtype=np.int64))
        left_out = support[some].astype(np.float64), codes[some]
        if slope and _object(*left_out, counts, means, said, agreement, size, strength):
            slope = 0.0
        return cls(slope, strength, center, text_center, float(np.sqrt((apart * apart).sum() / size)) or 1.0)

    def alpha(self, n_examples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weight of the text of a class with so many examples, beside their mean."""
        return self.strength * self.slope / n_examples


def towards_texts(
    support: NDArray[np.float32], codes: NDArray[np.int64], texts: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Move examples so that the mean of each class has the direction of its posterior mean under ``TextPrior``.

    Its distance from m, and the variation within classes, stay: shrinking means would look like classes that are hard
    to tell apart. A class without examples gets one, m + spread (t_c - u).

    Parameters
    ----------
    support : ndarray of shape (n, d), float32
    codes : ndarray of shape (n,), int64
        0 to c - 1, each at least once.
    texts : ndarray of shape (c + z, d), float32
        Of these classes, and then of z others that have no example.

    Returns
    -------
    support : ndarray of shape (n + z, d), float32
        Around unit vectors.
    codes : ndarray of shape (n + z,), int64
    """
    units, texts = _units(support), _units(texts)
    prior = TextPrior.of(units, codes, texts)
    counts = np.bincount(codes, minlength=len(texts))
    c = int(np.count_nonzero(counts))
    said = texts - prior.text_center
    others = (prior.center + prior.spread * said[c:]).astype(np.float32)
    moved = (
        others if not c else np.concatenate([units + _moves(prior, units, codes, counts[:c], said[:c])[codes], others])
    )
    return moved, np.concatenate([codes, np.arange(c, len(texts))])


def _moves(
    prior: TextPrior,
    units: NDArray[np.float32],
    codes: NDArray[np.int64],
    counts: NDArray[np.int64],
    said: NDArray[np.float64],
) -> NDArray[np.float32]:
    """How far the means (c, d) of unit vectors move."""
    apart = np.zeros_like(said)
    if not prior.slope:
        return apart.astype(np.float32)
    np.add.at(apart, codes, units)
    apart = apart / counts[:, None] - prior.center
    wanted = apart + prior.alpha(counts.astype(np.float64))[:, None] * said
    lengths = np.linalg.norm(apart, axis=1), np.linalg.norm(wanted, axis=1)
    return np.asarray(wanted * (lengths[0] / np.maximum(lengths[1], 1e-12))[:, None] - apart, np.float32)


def _strength(
    within: float, counts: NDArray[np.float64], apart: NDArray[np.float64], left: NDArray[np.float64]
) -> float:
    """k: the variance within classes over what is ``left`` (c, d) of that between them, with a prior on both."""
    n, c = counts.sum(), len(counts)
    between = float((counts[:, None] * np.square(apart)).sum())
    one = (within + _PRIOR * (within + between) / (n * (1.0 + _RATIO))) / (n - c + _PRIOR)
    around = np.square(left).sum() / (c - 1.0) - one * float((1.0 / counts).mean())
    ratio = around / one if one > 0.0 else _MOST_RATIO
    return float(1.0 / np.clip(ratio, _LEAST_RATIO, _MOST_RATIO))


def _object(
    support: NDArray[np.float64],
    codes: NDArray[np.int64],
    counts: NDArray[np.float64],
    means: NDArray[np.float64],
    said: NDArray[np.float64],
    agreement: float,
    size: float,
    strength: float,
) -> bool:
    """Whether examples, each left out in turn, lie no closer to their class's mean predicted with its text.

    Without example x of class c, that has n others, the mean is predicted as (n p + k (m + b (t_c - u))) / (n + k), and
    without the text as with b = 0; p, m, b and u are those without x.
    """
    c, rest = len(counts), counts[codes] - 1.0
    alone = rest == 0.0
    if c == 2 and alone.any():  # of one class nothing can be predicted for another
        return False
    own, text = means[codes], said[codes]
    others = np.where(alone, 1.0, rest)[:, None]
    left = np.where(alone[:, None], 0.0, (own * counts[codes][:, None] - support) / others)
    center = means.mean(0)
    # A class of one example leaves with it: the centres are then those of the others.
    middle = np.where(alone[:, None], (c * center - own) / (c - 1.0), center + (left - own) / c)
    along = (own * text).sum(1)
    agree = np.where(alone, agreement - along + (middle * text).sum(1), agreement + ((left - own) * text).sum(1))
    lengths = np.square(text).sum(1)
    sizes = np.where(alone, size - lengths * c / (c - 1.0), size)
    slope = np.maximum(0.0, agree) / np.maximum(sizes, np.finfo(np.float64).tiny)
    weight = strength / (rest + strength)
    plain = (1.0 - weight)[:, None] * left + weight[:, None] * middle
    move = weight * slope * np.where(alone, c / (c - 1.0), 1.0)
    gain = 2.0 * move * ((support - plain) * text).sum(1) - np.square(move) * lengths
    return bool(gain.sum() <= 0.0)


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
