"""Closeness of vectors, higher is closer for every metric: the only place where a sign or a norm is chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.validation import METRICS, Metric, check_choice

_TINY = 1e-12  # the least length that vectors are divided by


def key_lengths(keys: Tensor) -> Tensor:
    """Return the lengths (..., k) of keys (..., k, d), as ``closeness`` takes them."""
    lengths: Tensor = torch.linalg.vector_norm(keys, dim=-1)
    return lengths.clamp_min(_TINY)


def closeness(query: Tensor, keys: Tensor, metric: Metric, *, lengths: Tensor | None = None) -> Tensor:
    """Closeness of each query to each key.

    Parameters
    ----------
    query : Tensor of shape (..., q, d)
    keys : Tensor of shape (..., k, d)
    metric : {"cosine", "sqeuclidean", "inner_product"}
    lengths : Tensor of shape (..., k), optional
        ``key_lengths`` of the keys, which "cosine" divides by: once for all queries, where there are many keys.

    Returns
    -------
    Tensor of shape (..., q, k)
        "cosine": in [-1, 1], 0 where either vector is zero. "sqeuclidean": minus the squared distance, <= 0.
        "inner_product": unbounded.

    Notes
    -----
    Squared distances come from the Gram matrix, after both sides are shifted by the mean key: the distance does not
    change, while float32 would otherwise lose it where vectors lie far from the origin.
    """
    check_choice("metric", metric, METRICS)
    if metric == "cosine":
        # Dividing the products by the lengths writes no normalised copy of either.
        others = key_lengths(keys) if lengths is None else lengths
        products = (query @ keys.mT).div_(key_lengths(query).unsqueeze(-1))
        return products.div_(others.unsqueeze(-2)).clamp_(-1.0, 1.0)
    if metric == "inner_product":
        return query @ keys.mT
    centre = keys.mean(dim=-2, keepdim=True)
    query, keys = query - centre, keys - centre
    # vector_norm passes over the vectors once; square().sum() would write their squares first.
    own, others = torch.linalg.vector_norm(query, dim=-1), torch.linalg.vector_norm(keys, dim=-1)
    squares = own.square().unsqueeze(-1) + others.square().unsqueeze(-2)
    return torch.clamp_max(2.0 * (query @ keys.mT) - squares, 0.0)
