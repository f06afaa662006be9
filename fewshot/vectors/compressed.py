"""Unit vectors in 4 bits for three numbers, all of which are compared with a query in little time."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from fewshot.validation import check_count

# Numbers that share 4 bits, and the least that a vector is spread over: shorter ones take more bits a number.
_TOGETHER, _LEAST = 3, 192
_TRAINED_ON = 2_000
_ROWS_AT_ONCE = 2**12


class CompressedVectors:
    """Finds candidates for the largest inner products with a query, to be compared exactly.

    All vectors are compared, by a product quantiser in the processor's registers: what is found depends on no clusters
    among the vectors. They are rotated at random first, which makes all parts alike, so that one codebook serves all.

    Parameters
    ----------
    dim : int
        d.

    References
    ----------
    Jégou, Douze & Schmid 2011, doi:10.1109/TPAMI.2010.57 (product quantisation); André, Kermarrec & Le Scouarnec 2015,
    VLDB 9(4), section 4 (lookup in registers). One codebook after a random rotation: Gao & Long 2024, arXiv:2405.12497,
    section 3.1.
    """

    def __init__(self, dim: int) -> None:
        self.dim = check_count("dim", dim)
        width = max(_LEAST, -(-dim // _TOGETHER) * _TOGETHER)
        random = np.random.default_rng(0).standard_normal((width, dim))
        self._turn: NDArray[np.float32] = np.linalg.qr(random)[0].T.astype(np.float32)  # (d, width), orthonormal rows
        self._faiss = faiss.IndexPQFastScan(width, width // _TOGETHER, 4, faiss.METRIC_INNER_PRODUCT)

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Append unit vectors (n, d); the first ones give the codebook, and should be thousands."""
        if len(vectors) and not self._faiss.is_trained:
            self._train(vectors[:: -(-len(vectors) // _TRAINED_ON)] @ self._turn)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            self._faiss.add(vectors[start : start + _ROWS_AT_ONCE] @ self._turn)

    def search(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the positions, in the order of ``add``, of about the k largest inner products: (q, min(k, n))."""
        found = self._faiss.search(query @ self._turn, min(check_count("k", k), len(self)))[1]
        return np.asarray(found, np.int64)

    def _train(self, turned: NDArray[np.float32]) -> None:
        parts = turned.reshape(-1, _TOGETHER)
        means = faiss.Kmeans(_TOGETHER, 16, niter=15, seed=0, max_points_per_centroid=2**12)
        means.train(parts)
        codebooks = np.tile(means.centroids.reshape(-1), self._faiss.pq.M).astype(np.float32)
        faiss.copy_array_to_vector(codebooks, self._faiss.pq.centroids)
        self._faiss.is_trained = True
