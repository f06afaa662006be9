"""Class weights fitted to the support's labels and to the entropies of the queries' predictions: TIM and relatives."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.classifiers.transductive import (
    PRIORS,
    Prior,
    Task,
    TransductiveClassifier,
    cosine_logits,
    proportions,
    safe_log,
)
from fewshot.validation import check_choice, check_count


class _InformationClassifier(TransductiveClassifier):
    """Minimise a CE(support) - b H(mean prediction) + g mean H(prediction) over class weights, by Adam.

    Logits are scaled cosines; the gradients are written out. Adam treats each axis alone, so this is done in the
    embedding's own axes.
    """

    scale: float
    steps: int
    learning_rate: float

    def _weights(self) -> tuple[float, float, float]:
        """(a, b, g)."""
        raise NotImplementedError

    def _marginal_slope(self, mean: Tensor, prior: Tensor) -> Tensor:
        """Derivative of H(mean prediction) by the mean prediction (e, c, 1), up to a constant."""
        return safe_log(prior) - safe_log(mean)

    def _conditional_slope(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Derivative of H(prediction) by the prediction (e, c, q), up to a constant of each query."""
        return -logits

    def _prior(self, task: Task, query: Tensor) -> Tensor:
        return proportions(task, query, "uniform")

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        check_count("steps", self.steps, minimum=0)
        weight, prior = task.means, self._prior(task, query).mT
        real = task.one_hot.sum(-1).unsqueeze(1)
        real = real / real.sum(-1, keepdim=True)
        # Classes before examples: a softmax over an axis of five is slow where that axis is the last, and so is a
        # product whose result has only five columns.
        targets = task.one_hot.mT.contiguous()
        vectors = torch.cat([task.support, query], dim=1)
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for step in range(1, self.steps + 1):
            length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).clamp_min_(1e-12)
            cosine = (weight @ vectors.mT).div_(length)  # (e, c, s + q)
            slope = self._slope(self.scale * cosine, targets, real, prior)
            # d cos(w, x) / dw = (x - cos(w, x) w/|w|) / |w|
            along = (slope * cosine).sum(-1, keepdim=True) / length
            gradient = (slope @ vectors).addcmul_(along, weight, value=-1.0).mul_(self.scale / length)
            # Kingma & Ba 2015, algorithm 1, with its defaults
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            away = (second / (1.0 - 0.999**step)).sqrt_().add_(1e-8)
            weight.addcdiv_(first, away, value=-self.learning_rate / (1.0 - 0.9**step))
        return cosine_logits(query, weight, self.scale)

    def _slope(self, logits: Tensor, targets: Tensor, real: Tensor, prior: Tensor) -> Tensor:
        """Derivative of the loss by the logits of support and queries (e, c, s + q)."""
        a, b, g = self._weights()
        s = targets.shape[2]
        probabilities = logits.softmax(dim=1)
        support, query = probabilities[..., :s], probabilities[..., s:]
        slope = g * self._conditional_slope(logits[..., s:], query)
        if b:
            slope -= b * self._marginal_slope(query.mean(dim=-1, keepdim=True), prior)
        of_query = (slope - (query * slope).sum(dim=1, keepdim=True)).mul_(query).div_(query.shape[2])
        return torch.cat([a * (support - targets) * real, of_query], dim=2)


class TIMClassifier(_InformationClassifier):
    """Classify by weights that maximise the mutual information of queries and predictions (TIM-GD); transductive.

    Parameters
    ----------
    scale : float, default 10.0
        What cosines are multiplied by before the softmax.
    steps : int, default 100
        Of Adam.
    learning_rate : float, default 1e-3
    support_weight, marginal_weight, conditional_weight : float, default 1.0, 1.0, 0.75
        Of the support's cross-entropy, of the entropy of the mean prediction (maximised), and of the mean entropy of
        the predictions (minimised).
    prior : {"estimated", "uniform"}, default "estimated"
        Towards which class proportions the mean prediction is drawn. The paper's entropy draws it to equal ones
        ("uniform"), which harms on imbalanced queries.

    Notes
    -----
    ``scores`` are scaled cosines. Departs from the paper in the cosine logits, in fewer and larger steps, in the
    conditional weight (the authors' code has 1), and in the estimated prior.

    References
    ----------
    Boudiaf et al. 2020, arXiv:2008.11297, eq. 1-4.

    Examples
    --------
    >>> from fewshot import TIMClassifier
    >>> classifier = TIMClassifier(steps=20).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(
        self,
        *,
        scale: float = 10.0,
        steps: int = 100,
        learning_rate: float = 1e-3,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 0.75,
        prior: Prior = "estimated",
    ) -> None:
        self.scale = scale
        self.steps = steps
        self.learning_rate = learning_rate
        self.support_weight = support_weight
        self.marginal_weight = marginal_weight
        self.conditional_weight = conditional_weight
        self.prior = prior

    def _weights(self) -> tuple[float, float, float]:
        return self.support_weight, self.marginal_weight, self.conditional_weight

    def _prior(self, task: Task, query: Tensor) -> Tensor:
        check_choice("prior", self.prior, PRIORS)
        return proportions(task, query, self.prior)


class AlphaTIMClassifier(_InformationClassifier):
    """Classify as ``TIMClassifier``, with alpha-entropies, which penalise imbalance less; transductive.

    Parameters
    ----------
    alpha : float, default 2.0
        Above 1; as it nears 1, the entropies become TIM's.
    scale, steps, learning_rate, support_weight, marginal_weight, conditional_weight
        As in ``TIMClassifier``.

    Notes
    -----
    ``scores`` are scaled cosines. The support's cross-entropy stays Shannon's.

    References
    ----------
    Veilleux et al. 2021, arXiv:2204.11181, eq. 5-8.

    Examples
    --------
    >>> from fewshot import AlphaTIMClassifier
    >>> classifier = AlphaTIMClassifier(steps=20).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        scale: float = 10.0,
        steps: int = 50,
        learning_rate: float = 1e-3,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 1.0,
    ) -> None:
        self.alpha = alpha
        self.scale = scale
        self.steps = steps
        self.learning_rate = learning_rate
        self.support_weight = support_weight
        self.marginal_weight = marginal_weight
        self.conditional_weight = conditional_weight

    def _weights(self) -> tuple[float, float, float]:
        if not self.alpha > 1:
            raise ValueError(f"alpha must be above 1, not {self.alpha!r}; for 1 take TIMClassifier")
        return self.support_weight, self.marginal_weight, self.conditional_weight

    def _marginal_slope(self, mean: Tensor, prior: Tensor) -> Tensor:
        return self._conditional_slope(mean, mean)

    def _conditional_slope(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        return -self.alpha / (self.alpha - 1.0) * probabilities.clamp_min(1e-12) ** (self.alpha - 1.0)


class TransductiveFineTuningClassifier(_InformationClassifier):
    """Classify by weights that minimise the support's cross-entropy and the queries' entropy; transductive.

    Parameters
    ----------
    scale : float, default 1.0
        What cosines are multiplied by before the softmax. With 10, as other methods have it, accuracy at 1 shot falls
        below that of prototypes.
    steps : int, default 25
        Of Adam.
    learning_rate : float, default 5e-5
        The paper's. With larger steps accuracy at 1 shot falls below that of prototypes.

    Notes
    -----
    Makes no assumption on the class proportions. ``scores`` are scaled cosines. Departs from the paper in that only the
    class weights are fitted, on frozen embeddings, with cosine logits.

    References
    ----------
    Dhillon et al. 2020, arXiv:1909.02729, eq. 8.

    Examples
    --------
    >>> from fewshot import TransductiveFineTuningClassifier
    >>> classifier = TransductiveFineTuningClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(self, *, scale: float = 1.0, steps: int = 25, learning_rate: float = 5e-5) -> None:
        self.scale = scale
        self.steps = steps
        self.learning_rate = learning_rate

    def _weights(self) -> tuple[float, float, float]:
        return 1.0, 0.0, 1.0
