"""Distribution calibration: logistic regression on examples drawn with the statistics of similar base classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fewshot.classifiers.logistic import LogisticRegressionClassifier, Weights
from fewshot.classifiers.membership import Membership
from fewshot.validation import check_count, check_labels, check_vectors
from fewshot.vectors import closeness

if TYPE_CHECKING:
    from typing_extensions import Self

_CPU_BYTES, _GPU_BYTES = 2**26, 2**30  # of drawn examples fitted at once


@dataclass(frozen=True)
class _BaseClasses:
    """Means (b, d) of b base classes, and each one's residuals (n, d) from it over sqrt(n - 1)."""

    means: Tensor
    residuals: tuple[Tensor, ...]

    def draws(self, number: int, n_samples: int, alpha: float, seed: int) -> Tensor:
        """Draw (n_samples, d) around zero with a class's covariance, the same for the same seed.

        As sums of residuals with standard normal weights, without a matrix (d, d).
        """
        residuals = self.residuals[number]
        rng = np.random.default_rng((seed, number))
        weights = rng.standard_normal((n_samples, len(residuals) + 1), dtype=np.float32)
        weight = torch.from_numpy(weights).to(residuals.device)
        variance = residuals.square().sum() / residuals.shape[1]
        return weight[:, 1:] @ residuals + (alpha * variance).sqrt() * weight[:, :1]


class DistributionCalibrationClassifier(LogisticRegressionClassifier):
    """Classify by logistic regression on the support set and on examples drawn with base classes' statistics.

    Each support vector's distribution is calibrated by the means and covariances of its nearest base classes; from
    this normal distribution further examples of its class are drawn.

    Parameters
    ----------
    base : array-like of shape (n, d), optional
        Embeddings of other classes by the same encoder, tens of examples of each. Without them no example is drawn:
        the method is logistic regression on the transformed vectors.
    base_labels : sequence of n labels, optional
        Given with ``base``. A class needs two examples or more.
    power : float, default 0.5
        Exponent of the transform sign(x) |x|^power, eq. 3: the sign is kept, so that no half of a signed embedding is
        lost.
    n_neighbors : int, default 2
        k, the number of base classes whose statistics a support vector takes.
    alpha : float, default 0.21
        Added to every entry of a base class's covariance, as a share of that class's mean variance.
    n_samples : int, default 750
        How many examples are drawn for each class, in equal parts (up to one) from its support vectors.
    C, max_iter, tol
        As in ``LogisticRegressionClassifier``. ``tol=0.1`` halves the time and changes few predictions.
    random_state : int, default 0
        Decides the draws, which are the same for every class and every episode.

    Notes
    -----
    Departs from the paper: base vectors are transformed too, so that all lie in one space; transformed vectors are
    scaled to length 1; and alpha is relative, for encoders of any scale. Alpha is added to every entry of the
    covariance, as in the paper's formula: a variance along (1, ..., 1), which the weights learn to ignore.

    At the default ``n_samples`` an episode of 5 classes and d = 1280 takes about a second of one CPU core. Changing the
    array ``base`` in place has an effect from the next ``fit`` on.

    References
    ----------
    Yang, Liu & Xu 2021, arXiv:2101.06395, eq. 1-2 (base statistics), 3 (power), 4-6 (calibration), 7-8 (draws, fit).

    Examples
    --------
    >>> from fewshot import DistributionCalibrationClassifier
    >>> base = [[1.0, 0.1], [0.8, 0.3], [0.1, 0.9], [0.3, 0.7], [0.6, 0.5], [0.4, 0.6]]
    >>> classifier = DistributionCalibrationClassifier(base=base, base_labels=[0, 0, 1, 1, 2, 2], n_samples=20)
    >>> classifier.fit([[2.0, 0.1], [0.2, 1.0]], ["cat", "dog"]).predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    _known: tuple[Any, ...] = ()

    def __init__(
        self,
        *,
        base: ArrayLike | None = None,
        base_labels: Any = None,
        power: float = 0.5,
        n_neighbors: int = 2,
        alpha: float = 0.21,
        n_samples: int = 750,
        C: float = 1.0,
        max_iter: int = 2000,
        tol: float = 1e-5,
        random_state: int = 0,
    ) -> None:
        super().__init__(C=C, max_iter=max_iter, tol=tol)
        self.base = base
        self.base_labels = base_labels
        self.power = power
        self.n_neighbors = n_neighbors
        self.alpha = alpha
        self.n_samples = n_samples
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any, *, copy: bool = True) -> Self:
        """Learn the classes of the support set (s, d) with labels y, forgetting any learned before.

        Raises
        ------
        ValueError : as any classifier's; or where base data are of another d, without labels, or have fewer classes
            than ``n_neighbors`` or a class of one example.
        """
        self._known = ()
        return super().fit(X, y, copy=copy)

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors of sign(x) |x|^power."""
        if not self.power > 0:
            raise ValueError(f"power must be above 0, not {self.power!r}")
        return normalize(vectors.sign() * vectors.abs().pow(self.power), dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> Weights:
        base = self._base_classes(support)
        if base is None:
            return super()._learn(support, membership)
        near = closeness(support, base.means, "sqeuclidean").topk(self.n_neighbors, dim=-1).indices  # (e, s, k)
        used, near = torch.unique(near, return_inverse=True)
        seed = check_count("random_state", self.random_state, minimum=0)
        draws = torch.stack([base.draws(j, self.n_samples, self.alpha, seed) for j in used.tolist()])
        total = base.means[used][near].sum(dim=2) + support
        calibrated = total / (self.n_neighbors + 1)
        room = _CPU_BYTES if support.device.type == "cpu" else _GPU_BYTES
        size = max(1, room // (membership.n_classes * draws[0].nbytes))
        parts = []
        for at in range(0, len(support), size):
            few = slice(at, at + size)
            labels = Membership(membership.labels[few], membership.n_classes)
            x, targets = self._drawn(calibrated[few], near[few], labels, draws)
            x = torch.cat([support[few], x], dim=1)
            parts.append(self.solve(x, torch.cat([labels.one_hot(), targets], dim=1)))
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        return Weights(weight, bias, max(part.steps for part in parts))

    def _drawn(self, calibrated: Tensor, near: Tensor, membership: Membership, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw m examples of each class: (e, c m, d), and one-hot targets (e, c m, c).

        The i-th of a class comes from its support vector i modulo their number, so that neither padding nor another
        class changes it.
        """
        e, c, m = len(calibrated), membership.n_classes, draws.shape[1]
        counts = membership.counts().long()  # (e, c)
        order = membership.labels.argsort(dim=1, stable=True)  # padding first, then class by class
        first = (membership.labels < 0).sum(1, keepdim=True) + counts.cumsum(1) - counts
        number = torch.arange(m, device=draws.device)
        position = first.unsqueeze(-1) + number % counts.clamp_min(1).unsqueeze(-1)  # (e, c, m)
        origin = order.gather(1, position.flatten(1).clamp_max(order.shape[1] - 1))  # (e, c m)
        episode = torch.arange(e, device=draws.device).unsqueeze(-1)
        x = calibrated[episode, origin]
        rows = number.repeat(c).expand(e, -1)
        for slot in range(self.n_neighbors):
            # A sum of k independent draws over sqrt(k) has the average of their covariances.
            x += draws[near[episode, origin, slot], rows] / math.sqrt(self.n_neighbors)
        targets = one_hot(torch.arange(c, device=draws.device), c).repeat_interleave(m, dim=0)
        present = (counts > 0).repeat_interleave(m, dim=1).unsqueeze(-1)
        return x, (targets * present).to(torch.float32)

    def _base_classes(self, support: Tensor) -> _BaseClasses | None:
        """The base classes' statistics where the support is, remembered while the parameters stay the same ones."""
        if (self.base is None) != (self.base_labels is None):
            missing, given = ("base_labels", "base") if self.base_labels is None else ("base", "base_labels")
            raise ValueError(f"{given} is given without {missing}: give both or neither")
        for name in ("n_neighbors", "n_samples"):
            check_count(name, getattr(self, name))
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be 0 or above, not {self.alpha!r}")
        if self.base is None:
            return None
        settings = (self.power, self.n_neighbors, support.device, support.shape[-1])
        if not self._known or not (
            self._known[0] is self.base and self._known[1] is self.base_labels and self._known[2] == settings
        ):
            self._known = (self.base, self.base_labels, settings, self._statistics(support))
        base: _BaseClasses = self._known[3]
        return base

    def _statistics(self, support: Tensor) -> _BaseClasses:
        try:
            base = check_vectors(np.asarray(self.base), support.shape[-1])
            labels = check_labels(self.base_labels, len(base)).tolist()
        except (TypeError, ValueError) as error:
            raise ValueError(f"base: {error}") from error
        vectors = self.prepare(torch.tensor(base, device=support.device))
        where: dict[Any, list[int]] = {}
        for position, label in enumerate(labels):
            where.setdefault(label, []).append(position)
        if len(where) < self.n_neighbors:
            raise ValueError(f"n_neighbors={self.n_neighbors} base classes are needed, but base holds {len(where)}")
        means, residuals = [], []
        for label, positions in where.items():
            if len(positions) < 2:
                raise ValueError(
                    f"base class {label!r} has one example, which has no covariance; give it another, or leave it out"
                )
            own = vectors[positions]
            means.append(own.mean(dim=0))
            residuals.append((own - means[-1]) / math.sqrt(len(positions) - 1))
        return _BaseClasses(torch.stack(means), tuple(residuals))
