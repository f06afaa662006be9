"""Default unknown scores of examples that are left out, alone or with their class.

That changes prototypes, centre and whitening. None is made anew: the products that a score is made of are corrected
(``Whitening.without``), so that it takes about as long as scoring the images does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.openset.background import Background
from fewshot.openset.unknown_scores import (
    DEFAULT,
    SCORES,
    KnownClasses,
    contrast,
    energy_of,
    evenly_spaced,
    nearer_negative,
)
from fewshot.vectors import closeness

# Products held at once.
_AT_ONCE = 2**23
_TINY = 1e-12

Positions = NDArray[np.int64]


def without_class(known: KnownClasses, codes: Positions, asked: Positions) -> Tensor:
    """Score examples as if their class were not known: (n,).

    Parameters
    ----------
    known : KnownClasses
        One episode of two classes or more, without a background.
    codes : ndarray of shape (s,)
        The class of each of its examples.
    asked : ndarray of shape (n,)
        Positions of the examples.
    """
    z, p = _examples(known), known.moved[0]
    used = evenly_spaced(len(z)).numpy() if known.whitening is not None else np.empty(0, np.int64)
    c = len(p)
    # Beside the prototypes their sum and the centre: without class j, T is the sum less p_j and so often the centre.
    beside = torch.cat([p, p.sum(dim=0, keepdim=True), known.moved_center[0]])
    weights = torch.zeros(c) if known.center is None else known.center.weights_without(known.prototypes[0])
    to_sum, to_center, squares = beside @ beside[c], beside @ beside[c + 1], p.square().sum(dim=1)
    scores = torch.empty(len(asked))
    for block in _blocks(codes[asked], c):
        parts = [(int(j), asked[at], _parting(known, z[used[codes[used] == j]])) for j, at in block]
        products = _products([torch.cat([part, p[j : j + 1], z[some]]) for j, some, part in parts], beside)
        for (j, at), (_, some, part), product in zip(block, parts, products, strict=True):
            others, weight = torch.arange(c) != j, weights[j]

            def of_total(rows: Tensor, j: int = j, weight: Tensor = weight) -> Tensor:
                return rows[..., c] - rows[..., j] + weight * rows[..., c + 1]

            if c == 2 and known.center is None:
                cosines = closeness(known.support[0, some], known.prototypes[0, others], "cosine")
            else:
                parted, gram, own = product[: len(part)], product[len(part)], product[len(part) + 1 :]
                query = z[some] @ part.mT
                own = own + query @ parted
                across = to_sum - gram + weight * to_center + of_total(parted) @ parted
                cosines = contrast(
                    own[:, :c][:, others],
                    of_total(own).unsqueeze(1),
                    z[some].square().sum(dim=1, keepdim=True) + query.square().sum(dim=1, keepdim=True),
                    across[None, :c][:, others],
                    of_total(across),
                    (squares + parted[:, :c].square().sum(dim=0))[None, others],
                    c - 1.0 + weight,
                )
            scores[torch.from_numpy(at)] = energy_of(cosines)
    return scores


def without_example(known: KnownClasses, codes: Positions, asked: Positions) -> Tensor:
    """Score examples as if their classes knew only the others: (n,). A centre counts as often as with all.

    Parameters
    ----------
    known, codes
        As in ``without_class``.
    asked : ndarray of shape (n,)
        Positions of examples of classes that have two or more.
    """
    if known.moved.shape[1] == 1 and known.center is None:  # compared around zero, before the whitening
        return energy_of(_cosines_without(known.support[0], known.prototypes[0], codes, asked))
    z, p, number = _examples(known), known.moved[0], known.total[1]
    total, squares, counts = known.total[0][0, 0], p.square().sum(dim=1), np.bincount(codes)
    scores = [torch.empty(0)]
    for part in _parts(len(asked), len(p)):
        some, own = asked[part], torch.from_numpy(codes[asked[part]])
        rows, fewer = torch.arange(len(some)), torch.from_numpy(counts[codes[some]] - 1.0).float()
        q = z[some]
        length, to_own, gram = q.square().sum(dim=1), q @ p.mT, p[own] @ p.mT
        # q has added to the whitening by one row: each product of x and y grows by (q x)(q y) grown.
        grown = _grown(known, length, some, len(z))
        to_total = q @ total
        gram = gram + (grown * to_own[rows, own]).unsqueeze(1) * to_own
        near = squares + grown.unsqueeze(1) * to_own.square()
        across = p @ total + (grown * to_total).unsqueeze(1) * to_own
        whole = total @ total + grown * to_total.square()
        by = 1.0 + grown * length
        length, to_own, to_total = by * length, by.unsqueeze(1) * to_own, by * to_total
        # The prototype moves by (p - q) / (n - 1).
        move = (gram - to_own) / fewer.unsqueeze(1)  # of each p, with that
        there = (to_own[rows, own] - length) / fewer
        far = (near[rows, own] - 2.0 * to_own[rows, own] + length) / fewer.square()
        to_whole = (across[rows, own] - to_total) / fewer
        to_own[rows, own] += there
        near[rows, own] += 2.0 * move[rows, own] + far
        across = across + move
        across[rows, own] += to_whole + far
        whole = whole + 2.0 * to_whole + far
        cosines = contrast(
            to_own.unsqueeze(1),
            (to_total + there)[:, None, None],
            length[:, None, None],
            across.unsqueeze(1),
            whole[:, None, None],
            near.unsqueeze(1),
            number,
        )
        scores.append(energy_of(cosines)[:, 0])
    return torch.cat(scores)


def without_group(known: KnownClasses, background: Background, asked: Positions) -> Tensor:
    """Score vectors of a background, at these positions, as if the background had none of their class: (n,)."""
    z, p = known.whitening(background.vectors) if known.whitening is not None else background.vectors, known.moved[0]
    squares, n = p.square().sum(dim=1), len(z)
    scores = torch.empty(len(asked))
    for block in _blocks(background.groups[asked], len(p)):
        parts = []
        for j, at in block:
            rows = z[np.flatnonzero(background.groups == j)]
            # Around the mean of the others everything lies this much further out.
            shift = rows.sum(dim=0, keepdim=True) / max(n - len(rows), 1)
            parts.append((_parting(known, rows if len(rows) < n else rows[:0]), shift, z[asked[at]] + shift))
        products = _products([torch.cat(part) for part in parts], p)
        for (_, at), (part, shift, q), product in zip(block, parts, products, strict=True):
            g = len(part)
            if background.n_classes == 1:  # nothing is left
                cosines = known.cosines(background.vectors[asked[at]][None])[0]
            else:
                query, parted = q @ part.mT, product[:g] + part @ shift.mT
                along = product[g + 1 :] + q @ shift.mT + query @ parted
                ours = q.square().sum(dim=1, keepdim=True) + query.square().sum(dim=1, keepdim=True)
                theirs = squares + 2.0 * product[g] + shift.square().sum() + parted.square().sum(dim=0)
                cosines = along / (ours * theirs).clamp_min(_TINY).sqrt()
            scores[torch.from_numpy(at)] = energy_of(cosines)
    return scores


def without_example_around(known: KnownClasses, codes: Positions, asked: Positions) -> Tensor:
    """Do what ``without_example`` does where there is a background, which examples have not added to."""
    z, p = _examples(known), known.moved[0]
    parts = _parts(len(asked), len(p))
    return torch.cat([torch.empty(0), *(energy_of(_cosines_without(z, p, codes, asked[part])) for part in parts)])


def without_negative(known: KnownClasses, negatives: Tensor, asked: Positions) -> Tensor:
    """Score negatives, unit vectors (m, d), at these positions, each as if only the others were known: (n,)."""
    scores = [torch.empty(0)]
    for part in _parts(len(asked), len(negatives)):
        query = negatives[asked[part]]
        closest = query @ negatives.mT
        closest[torch.arange(len(query)), torch.from_numpy(asked[part])] = -torch.inf
        further = nearer_negative(closest, known.cosines(query[None])[0])
        scores.append(SCORES[DEFAULT](known, query[None])[0] + further)
    return torch.cat(scores)


def nearer_negative_without(known: KnownClasses, codes: Positions, asked: Positions, negatives: Tensor) -> Tensor:
    """Return ``nearer_negative`` of examples at these positions as if their classes knew only the others: (n,)."""
    found = [torch.empty(0)]
    for part in _parts(len(asked), len(negatives) + known.prototypes.shape[1]):
        own = _cosines_without(known.support[0], known.prototypes[0], codes, asked[part])
        found.append(nearer_negative(known.support[0, asked[part]] @ negatives.mT, own))
    return torch.cat(found)


def _cosines_without(z: Tensor, p: Tensor, codes: Positions, asked: Positions) -> Tensor:
    """Cosines (n, c) of some of the examples z (s, d) to the class means p (c, d), that of their own without them."""
    query, own = z[asked], torch.from_numpy(codes[asked])
    n = torch.from_numpy(np.bincount(codes)[codes[asked]]).unsqueeze(1)
    cosines = closeness(query, p, "cosine")
    cosines[torch.arange(len(query)), own] = torch.cosine_similarity(query, (n * p[own] - query) / (n - 1))
    return cosines


def _examples(known: KnownClasses) -> Tensor:
    """The support, whitened: (s, d)."""
    return known.support[0] if known.whitening is None else known.whitening(known.support)[0]


def _parting(known: KnownClasses, rows: Tensor) -> Tensor:
    """What these whitened vectors (g, d) have made of the whitening: (g, d), or (0, d) where there is none."""
    return rows[:0] if known.whitening is None or not len(rows) else known.whitening.without(rows)


def _grown(known: KnownClasses, length: Tensor, asked: Positions, s: int) -> Tensor:
    """What ``_parting`` of each image alone comes to: u with U = sqrt(u) q; 0 where it is not in the whitening."""
    if known.whitening is None:
        return torch.zeros(len(length))
    k, n = known.whitening.strength.reshape(()), known.whitening.n.reshape(())
    inside = torch.from_numpy(np.isin(asked, evenly_spaced(s).numpy()))
    return torch.where(inside, 1.0 / ((1.0 - 1.0 / n) / k - length).clamp_min(_TINY), 0.0)


def _products(parts: list[Tensor], p: Tensor) -> tuple[Tensor, ...]:
    """Multiply all of the rows at once with the prototypes (c, d)."""
    return torch.split(torch.cat(parts) @ p.mT, [len(part) for part in parts])


def _parts(n: int, c: int) -> Iterator[slice]:
    size = max(1, _AT_ONCE // c)
    return (slice(at, min(at + size, n)) for at in range(0, n, size))


def _blocks(groups: Positions, c: int) -> Iterator[list[tuple[int, Positions]]]:
    """Yield (group, its positions), some groups at once."""
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    members = list(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
    size, block = 0, []
    for name, some in members:
        block.append((name, some))
        size += 3 * len(some) + 1
        if size * c >= _AT_ONCE:
            yield block
            size, block = 0, []
    if block:
        yield block
