"""The parts of an embedding, as ``TimmEncoder(layers=...)`` appends them, and the weight that a support gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fewshot.classifiers.membership import Membership

# The later parts are shorter than the first, so that features of the task say little of them.
_LENGTH = 0.1
_WEIGHTS = (0.0, 0.3, 0.6, 1.0)
# Cosines are evaluated at the best of these multiples: to be sharper alone is no gain.
_MULTIPLES = (4.0, 8.0, 16.0, 32.0, 64.0)
# By how many standard errors the loss must fall, and over how many examples at least.
_ERRORS, _FEWEST = 2.0, 10
# So many rounds, in each of which one example of every class is left out; of so many examples at most, in all and of
# one class.
_ROUNDS, _MOST, _MOST_OF_ONE = 5, 250, 10
# A part varies where its variance is more than this share of its square.
_VARIES = 1e-5


@dataclass(frozen=True)
class EmbeddingParts:
    """How an embedding is divided.

    Attributes
    ----------
    sizes : tuple of int
        d in all.
    """

    sizes: tuple[int, ...]

    def unit_parts(self, vectors: Tensor) -> Tensor:
        """Return vectors (..., d) whose first part has length 1, and each other 0.1.

        Raises
        ------
        ValueError : if d is not the sum of the sizes.
        """
        if sum(self.sizes) != vectors.shape[-1]:
            raise ValueError(
                f"parts={self.sizes} are {sum(self.sizes)} in all, but the embeddings have {vectors.shape[-1]} "
                "dimensions: give the encoder's own parts"
            )
        units = [normalize(part, dim=-1) for part in torch.split(vectors, list(self.sizes), dim=-1)]
        return torch.cat([units[0], *(_LENGTH * unit for unit in units[1:])], dim=-1)

    def scale(self, support: Tensor, membership: Membership, weight: Tensor) -> Tensor:
        """Return factors (e, 1, d) that bring the later parts, together, to a weight (e,) times the first one's spread.

        The spread is the standard deviation of the support (e, s, d), which has unit parts.
        """
        real = (membership.labels >= 0).to(support.dtype).unsqueeze(1)
        mean = (real @ support).div_(real.sum(2, keepdim=True))
        lengths = [1.0, *([_LENGTH] * (len(self.sizes) - 1))]
        first, *others = (
            (length**2 - own.square().sum(2)).sub(_VARIES * length**2).clamp_min(0.0)
            for length, own in zip(lengths, torch.split(mean, list(self.sizes), dim=2), strict=True)
        )  # variances (e, 1)
        share = weight.unsqueeze(1) / math.sqrt(max(len(others), 1))
        factors = [torch.ones_like(first)]
        factors += [torch.where(other > 0, share * (first / other).sqrt(), 0.0) for other in others]
        every = [factor.expand(-1, size) for factor, size in zip(factors, self.sizes, strict=True)]
        return torch.cat(every, dim=1).unsqueeze(1)

    def weight(self, support: Tensor, membership: Membership, score: Callable[[Tensor, Membership], Tensor]) -> Tensor:
        """Choose the weight (e,) of the later parts, among 0, 0.3, 0.6 and 1, by cross-entropy of left-out examples.

        It is 0 unless the loss falls by more than two standard errors; also where classes have one example each. Of
        over 250 examples only those of every n-th class are used, at most ten of each, the classes ordered by the first
        number of their means: whatever order they came in.

        Parameters
        ----------
        support : Tensor of shape (e, s, d)
            Unit parts.
        membership : Membership
        score : callable
            From a scaled support (e, s, d) and the membership of those to learn from to cosines (e, s, c).
        """
        chosen = support.new_zeros(len(support))
        if len(self.sizes) < 2 or not bool((membership.counts() > 1).any()):
            return chosen
        numbers = _numbers(support, membership.labels)
        if len(support) == 1 and support.shape[1] > _MOST:
            support, membership, numbers = _sampled(support, membership, numbers)
        blocks = [_narrow(part) for part in torch.split(support, list(self.sizes), dim=2)]
        support, narrow = torch.cat(blocks, dim=2), EmbeddingParts(tuple(block.shape[2] for block in blocks))
        labels, counts = membership.labels, membership.counts()
        able = (labels >= 0) & (counts.gather(1, labels.clamp_min(0)) > 1)
        rounds = [out for n in range(_ROUNDS) if bool((out := able & (numbers == n)).any())]
        losses = []
        for weight in _WEIGHTS:
            scaled = support * narrow.scale(support, membership, torch.full_like(chosen, weight))
            losses.append(_left_out_loss(scaled, membership, rounds, score))
        left_out = torch.stack(rounds).any(0)
        n, most = left_out.sum(1), torch.zeros_like(chosen)
        for weight, loss in zip(_WEIGHTS[1:], losses[1:], strict=True):
            gain = (losses[0] - loss) * left_out
            mean = gain.sum(1) / n.clamp_min(1)
            error = (((gain - mean.unsqueeze(1)) * left_out).square().sum(1) / (n * (n - 1)).clamp_min(1)).sqrt()
            better = (n >= _FEWEST) & (mean > _ERRORS * error) & (mean > most)
            chosen, most = torch.where(better, weight, chosen), torch.where(better, mean, most)
        return chosen


def _left_out_loss(
    scaled: Tensor, membership: Membership, rounds: list[Tensor], score: Callable[[Tensor, Membership], Tensor]
) -> Tensor:
    """Cross-entropy (e, s) of the examples that rounds (e, s) leave out; 0 of the others."""
    labels = membership.labels
    found = scaled.new_zeros(len(_MULTIPLES), *labels.shape)
    for out in rounds:
        scores = score(scaled, Membership(labels.masked_fill(out, -1), membership.n_classes)).mT
        for number, multiple in enumerate(_MULTIPLES):
            loss = cross_entropy(multiple * scores, labels.clamp_min(0), reduction="none")
            found[number] = torch.where(out, loss, found[number])
    best = found.sum(2).argmin(0)
    return found[best, torch.arange(len(labels), device=labels.device)]


def _narrow(vectors: Tensor) -> Tensor:
    """Vectors (e, s, s or d) with the same inner products as vectors (e, s, d): all that a metric is made of."""
    return torch.linalg.qr(vectors.mT, mode="r").R.mT if vectors.shape[2] > vectors.shape[1] else vectors


def _numbers(support: Tensor, labels: Tensor) -> Tensor:
    """Rank (e, s) of each example within its class by its first number: whatever order they came in."""
    order = support[..., 0].argsort(dim=1)
    order = order.gather(1, labels.gather(1, order).argsort(dim=1, stable=True))
    grouped = labels.gather(1, order).contiguous()
    ranks = torch.arange(labels.shape[1], device=labels.device) - torch.searchsorted(grouped, grouped)
    return torch.zeros_like(labels).scatter_(1, order, ranks)


def _sampled(support: Tensor, membership: Membership, numbers: Tensor) -> tuple[Tensor, Membership, Tensor]:
    """Support (1, n, d) of some classes, at most ten examples of each, and the numbers of these."""
    counts = membership.counts()
    step = math.ceil(float(counts.clamp_max(_MOST_OF_ONE).sum()) / _MOST)
    first = membership.sums(support[..., :1])[0, :, 0] / counts[0]
    some = first.argsort()[::step]
    position = torch.full_like(first, -1, dtype=torch.int64)
    position[some] = torch.arange(len(some), device=some.device)
    labels = position[membership.labels[0]].masked_fill(numbers[0] >= _MOST_OF_ONE, -1)
    rows = (labels >= 0).nonzero()[:, 0]
    return support[:, rows], Membership(labels[None, rows], len(some)), numbers[:, rows]
