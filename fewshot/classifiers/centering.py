"""Centring on base data and L2 normalisation, the transformation CL2N."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.validation import check_vectors


def centred_directions(vectors: Tensor, center: ArrayLike | None) -> Tensor:
    """Return the unit vectors from a centre (d,), or from the origin, to vectors (..., d).

    Raises
    ------
    ValueError : for a centre of another shape, or with NaN or infinity.

    References
    ----------
    Wang et al. 2019, arXiv:1911.04623, section 2.2 (CL2N).
    """
    if center is None:
        return normalize(vectors, dim=-1)
    array = np.asarray(center)
    if array.shape != (vectors.shape[-1],):
        raise ValueError(f"center has shape {array.shape}, but the embeddings need {(vectors.shape[-1],)}")
    array = check_vectors(array[None], vectors.shape[-1])[0]
    return normalize(vectors - torch.from_numpy(array).to(vectors.device), dim=-1)
