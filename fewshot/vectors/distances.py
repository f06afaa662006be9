"""Closeness of vectors: the only place where a sign or a norm is chosen. Higher is closer, for every metric."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.validation import METRICS, Metric, check_choice

# What a shorter vector's length is taken to be: it is zero, or nearly.
_TINY = 1e-12


def prepared_keys(keys: Tensor, metric: Metric) -> Tensor:
    """Return what ``closeness`` makes of keys alone: under "cosine" their directions, else themselves.

    Parameters
    ----------
    keys : Tensor of shape (..., k, d)
    metric : {"cosine", "sqeuclidean", "inner_product"}
    """
    check_choice("metric", metric, METRICS)
    return normalize(keys, dim=-1, eps=_TINY) if metric == "cosine" else keys


def closeness(query: Tensor, keys: Tensor, metric: Metric, *, prepared: bool = False) -> Tensor:
    """Closeness of each query to each key.

    Parameters
    ----------
    query : Tensor of shape (..., q, d)
    keys : Tensor of shape (..., k, d)
    metric : {"cosine", "sqeuclidean", "inner_product"}
    prepared : bool, default False
        Whether the keys have been through ``prepared_keys``: once for all queries, where there are many keys.

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
    keys = keys if prepared else prepared_keys(keys, metric)
    if metric == "cosine":
        # Dividing the products by the queries' lengths writes no normalised copy of the queries.
        lengths: Tensor = torch.linalg.vector_norm(query, dim=-1, keepdim=True).clamp_min(_TINY)
        return (query @ keys.mT).div_(lengths).clamp_(-1.0, 1.0)
    if metric == "inner_product":
        return query @ keys.mT
    centre = keys.mean(dim=-2, keepdim=True)
    query, keys = query - centre, keys - centre
    # vector_norm passes over the vectors once; square().sum() would write their squares first.
    lengths, others = torch.linalg.vector_norm(query, dim=-1), torch.linalg.vector_norm(keys, dim=-1)
    squares = lengths.square().unsqueeze(-1) + others.square().unsqueeze(-2)
    return torch.clamp_max(2.0 * (query @ keys.mT) - squares, 0.0)
