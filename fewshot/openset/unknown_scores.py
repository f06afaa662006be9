"""Unknown scores: the higher, the less likely is a query of one of the known classes.

Every vector v is first divided by its length, p_k is the mean of the support vectors of class k, n_k how many they are,
cos_k the cosine of the query q and p_k, and c the number of classes. A score carries a leading episode axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers import Membership
from fewshot.openset.background import Background
from fewshot.openset.center import Center
from fewshot.openset.whitening import ENOUGH, STRENGTH, Whitening
from fewshot.vectors import closeness

# A fair scale for the softmax of cosines: Hu et al. 2022 (P>M>F) learn one near 10.
_SCALE = 10.0
# Of centred cosines: at 5 ways, on Tiny ImageNet's validation classes, 20 and more are alike; with less, many classes
# that are all somewhat close add up to one that is very close.
CENTERED_SCALE = 40.0
# What a shorter vector's squared length is taken to be: it is zero, but for rounding.
_TINY = 1e-12
# Of more examples a whitening is made of as many, at equal distances: they tell enough, and cost less.
_MOST_EXAMPLES = 256


@dataclass(frozen=True)
class KnownClasses:
    """The known classes of each of e episodes.

    Attributes
    ----------
    prototypes : Tensor of shape (e, c, d), float32
        The classes' means of unit vectors.
    support : Tensor of shape (e, s, d), float32
        The unit vectors themselves; zero where padded.
    background : Background or None
    whitening : Whitening or None
        Of the background, or else of the support, where that is of 64 examples or more.
    center : Center or None
        Where all images lie, for ``centered`` without a background.
    """

    prototypes: Tensor
    support: Tensor
    background: Background | None = None
    whitening: Whitening | None = None
    center: Center | None = None

    @classmethod
    def of(
        cls,
        support: Tensor,
        membership: Membership,
        background: Background | None = None,
        center: Center | None = None,
    ) -> KnownClasses:
        """Learn from support vectors (e, s, d) of any length; each class has at least one.

        A background knows more than a ``center``, which then says nothing.

        Raises
        ------
        ValueError : for a centre of another size than the vectors.
        """
        if center is not None and len(center.vector) != support.shape[-1]:
            raise ValueError(
                f"the centre has {len(center.vector)} numbers, but the vectors {support.shape[-1]}: give the centre of "
                "the encoder that made them"
            )
        real = membership.labels >= 0
        unit = torch.where(real.unsqueeze(-1), normalize(support, dim=-1), 0.0)
        prototypes = membership.sums(unit) / membership.counts().unsqueeze(-1)
        whitening = own_whitening(unit, real) if background is None else background.whitening.to(unit)
        return cls(prototypes, unit, background, whitening, center if background is None else None)

    @cached_property
    def moved(self) -> Tensor:
        """The prototypes (e, c, d), whitened."""
        return self.prototypes if self.whitening is None else self.whitening(self.prototypes)

    @cached_property
    def total(self) -> tuple[Tensor, Tensor]:
        """The sum T of the whitened p_k, and of the centre as often as it counts; and N, how many are summed.

        (e, 1, d) and (e, 1, 1); without a centre N is c.
        """
        total = self.moved.sum(dim=1, keepdim=True)
        number = torch.full_like(total[..., :1], self.moved.shape[1])
        if self.center is None:
            return total, number
        weight = self.center.weight(self.prototypes)
        return total + weight * self.moved_center, number + weight

    @cached_property
    def moved_center(self) -> Tensor:
        """The centre (e, 1, d), whitened; zeros without one."""
        if self.center is None:
            return torch.zeros_like(self.moved[:, :1])
        at = self.center.vector.to(self.moved).expand_as(self.moved[:, :1])
        return at if self.whitening is None else self.whitening(at)

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """|T|^2 (e, 1, 1), p_k T and |p_k|^2, each (e, 1, c)."""
        total, _ = self.total
        return total @ total.mT, total @ self.moved.mT, self.moved.square().sum(dim=-1).unsqueeze(1)

    def cosines(self, query: Tensor) -> Tensor:
        """Return cos_k (e, q, c)."""
        return closeness(query, self.prototypes, "cosine")


def softmax(known: KnownClasses, query: Tensor) -> Tensor:
    """1 - max_k softmax_k(10 cos): the usual baseline, in [0, 1 - 1/c].

    References
    ----------
    Hendrycks & Gimpel 2017, arXiv:1610.02136, section 3.
    """
    return 1.0 - (_SCALE * known.cosines(query)).softmax(dim=-1).amax(dim=-1)


def cosine(known: KnownClasses, query: Tensor) -> Tensor:
    """-max_k cos_k: minus the raw closeness of the nearest prototype, in [-1, 1]."""
    return -known.cosines(query).amax(dim=-1)


def margin(known: KnownClasses, query: Tensor) -> Tensor:
    """The second largest cos_k less the largest, in [-2, 0]; with one class, -cos_1."""
    cosines = known.cosines(query)
    if cosines.shape[-1] == 1:
        return -cosines[..., 0]
    best = cosines.topk(2, dim=-1).values
    return best[..., 1] - best[..., 0]


def energy(known: KnownClasses, query: Tensor) -> Tensor:
    """-(1/10) log sum_k exp(10 cos_k): a soft ``cosine``, to which every class adds.

    References
    ----------
    Liu et al. 2020, arXiv:2010.03759, eq. 4, with the logits 10 cos and divided by 10.
    """
    return -(_SCALE * known.cosines(query)).logsumexp(dim=-1) / _SCALE


def implicit(known: KnownClasses, query: Tensor) -> Tensor:
    """The share of an implicit unknown class, of the logit -mean_k(10 cos_k), in a softmax with the others; in [0, 1].

    References
    ----------
    Boudiaf et al., OSTIM (github.com/ebennequin/few-shot-open-set, ``ostim.py``): the logits' mean, its sign turned.
    """
    logits = _SCALE * known.cosines(query)
    return torch.cat([logits, -logits.mean(dim=-1, keepdim=True)], dim=-1).softmax(dim=-1)[..., -1]


def nearest(known: KnownClasses, query: Tensor) -> Tensor:
    """-max_i cos(q, x_i): minus the closeness of the nearest support vector, in [-1, 1].

    References
    ----------
    Sun et al. 2022, arXiv:2204.06507, section 3, with k = 1: few examples have no 50th neighbour.
    """
    cosines = closeness(query, known.support, "cosine")
    padded = (known.support == 0).all(dim=-1).unsqueeze(1)
    return -cosines.masked_fill(padded, -1.0).amax(dim=-1)


def mahalanobis(known: KnownClasses, query: Tensor) -> Tensor:
    """min_k MD_k(q) - MD_0(q): the tied-covariance Mahalanobis distance less that to the background's Gaussian.

    MD_k(q) = (q - p_k)' W (q - p_k) with W the precision within the background's classes, and MD_0 the same with the
    background's mean and overall precision; both covariances are shrunk by half.

    References
    ----------
    Ren et al. 2021, arXiv:2106.09022, eq. 2-3; W from the background, for the support has next to no residuals.
    """
    background = _needed(known.background, "mahalanobis")
    unit, at = normalize(query, dim=-1), background.center.to(query)
    within, overall = background.within.to(query), background.overall.to(query)
    to_classes = closeness((unit - at) @ within, (known.prototypes - at) @ within, "sqeuclidean").amax(dim=-1)
    return -to_classes - ((unit - at) @ overall).square().sum(dim=-1)


def centered(known: KnownClasses, query: Tensor) -> Tensor:
    """-(1/40) log sum_k exp(40 cos(q - m_k, p_k - m_k)): the energy of cosines around a centre, after whitening.

    With a background m_k is its mean; without, the mean of the other classes' prototypes stands in for it, and of the
    encoder's ``Center``, where it has one, as often as that counts (with one class and none, nothing). Cosines around
    zero tell mostly that q is an image; around what all images share they tell how far it goes p_k's way. Whitening,
    by the covariance of the background or else of the examples, where there are 64 vectors or more, keeps the
    directions in which images vary most from drowning the others.

    References
    ----------
    Liu et al. 2020, arXiv:2010.03759, eq. 4; Wang et al. 2019, arXiv:1911.04623, section 3 (centring); Hariharan,
    Malik & Ramanan 2012, doi:10.1007/978-3-642-33765-9_33, section 2 (whitening by a covariance of all classes).
    """
    unit = normalize(query, dim=-1)
    moved = unit if known.whitening is None else known.whitening(unit)
    if known.background is not None:
        return energy_of(closeness(moved, known.moved, "cosine"))
    alone = known.moved.shape[1] == 1 and known.center is None
    return energy_of(known.cosines(unit) if alone else _contrasted(known, moved))


def energy_of(cosines: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return -(1/40) log sum_k w_k exp(40 cos_k) of cosines (..., c) and their weights, by default 1: (...)."""
    logits = CENTERED_SCALE * cosines
    return -(logits if weights is None else logits + weights.log()).logsumexp(dim=-1) / CENTERED_SCALE


def nearer_negative(to_negatives: Tensor, to_classes: Tensor) -> Tensor:
    """How much closer a query is to its closest negative than to its closest class; 0 where it is not.

    Added to a score, from cosines to m negatives (..., m) and to c prototypes (..., c): (...).
    """
    return (to_negatives.amax(dim=-1) - to_classes.amax(dim=-1)).clamp_min(0.0)


def own_whitening(support: Tensor, real: Tensor) -> Whitening | None:
    """Return that of the unit vectors (e, s, d) that are ``real`` (e, s); None where they are too few to tell."""
    enough = real.sum(dim=1) >= ENOUGH
    if not bool(enough.any()):
        return None
    some = evenly_spaced(support.shape[1]).to(support.device)
    return Whitening.of(support[:, some], STRENGTH * enough[:, None, None], real=real[:, some])


def evenly_spaced(s: int) -> Tensor:
    """Return the positions of the examples of s that a whitening is made of: all, or as many at equal distances."""
    return torch.linspace(0, s - 1, min(s, _MOST_EXAMPLES), dtype=torch.float64).round().long()


def _contrasted(known: KnownClasses, query: Tensor) -> Tensor:
    """Return cos(q - m_k, p_k - m_k) with m_k the mean of all in T but p_k: (e, q, c)."""
    total, number = known.total
    whole, across, squares = known.sums
    own, length = query @ known.moved.mT, query.square().sum(-1, keepdim=True)
    return contrast(own, query @ total.mT, length, across, whole, squares, number)


def contrast(
    own: Tensor, to_total: Tensor, length: Tensor, across: Tensor, whole: Tensor, squares: Tensor, number: Tensor
) -> Tensor:
    """Return cos(q - m_k, p_k - m_k) with m_k the mean of all but p_k: (..., q, c), from products alone.

    With T the sum of all, which count as N, and n = N - 1: m_k = (T - p_k) / n and p_k - m_k = (N p_k - T) / n.

    Parameters
    ----------
    own, to_total, length : Tensor of shape (..., q, c), (..., q, 1), (..., q, 1)
        q p_k, q T and |q|^2.
    across, whole, squares : Tensor of shape (..., 1, c), (..., 1, 1), (..., 1, c)
        p_k T, |T|^2 and |p_k|^2.
    number : Tensor of shape (..., 1, 1)
        N.
    """
    n = number - 1.0
    along = (number * own - to_total) / n - (number * across - whole - number * squares + across) / n**2
    ours = length - 2.0 * (to_total - own) / n + (whole - 2.0 * across + squares) / n**2
    theirs = (number**2 * squares - 2.0 * number * across + whole) / n**2
    return (along / (ours.clamp_min(_TINY) * theirs.clamp_min(_TINY)).sqrt()).clamp(-1.0, 1.0)


def _needed(background: Background | None, name: str) -> Background:
    if background is None:
        raise ValueError(f"the unknown score {name!r} compares with a background: give vectors of other classes")
    return background


@dataclass(frozen=True)
class UnknownScore:
    """A score by name, as a table or a command line has it.

    Attributes
    ----------
    name : str
    formula : callable
        From ``KnownClasses`` and queries (e, q, d) of any length to (e, q), higher is more surely unknown.
    needs_background, takes_background : bool
        Whether there is no such score without a background, and whether one changes it.

    Examples
    --------
    >>> import torch
    >>> from fewshot.classifiers import Membership
    >>> from fewshot.openset import SCORES, KnownClasses
    >>> known = KnownClasses.of(torch.eye(3)[None, :2], Membership(torch.tensor([[0, 1]]), 2))
    >>> SCORES["margin"](known, torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])).tolist()
    [[-1.0, 0.0]]
    """

    name: str
    formula: Callable[[KnownClasses, Tensor], Tensor]
    needs_background: bool = False
    takes_background: bool = False

    def __call__(self, known: KnownClasses, query: Tensor) -> Tensor:
        """Score queries (e, q, d): (e, q)."""
        with torch.inference_mode():
            return self.formula(known, query)


SCORES: dict[str, UnknownScore] = {
    score.name: score
    for score in (
        UnknownScore("softmax", softmax),
        UnknownScore("cosine", cosine),
        UnknownScore("margin", margin),
        UnknownScore("energy", energy),
        UnknownScore("nearest", nearest),
        UnknownScore("implicit", implicit),
        UnknownScore("mahalanobis", mahalanobis, needs_background=True, takes_background=True),
        UnknownScore("centered", centered, takes_background=True),
    )
}
DEFAULT = "centered"
"""The best of these at 1 and 5 shots on Tiny ImageNet's validation classes."""
