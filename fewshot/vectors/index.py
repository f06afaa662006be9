"""Nearest vectors by FAISS: exact by default, HNSW on request or for very many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.files import replacing
from fewshot.validation import METRICS, Metric, check_choice, check_count, check_vectors, label_array

Id = str | int

EXACT_LIMIT = 1_000_000
"""With ``kind="auto"``, more vectors than this are searched by HNSW (approximate) instead of exactly."""

_HNSW_LINKS = 32  # per node and layer; Malkov & Yashunin 2018 find 12-48 sufficient at these dimensions
_HNSW_BUILD = 200
_HNSW_SEARCH = 128


class VectorIndex:
    """Search for the k closest of many vectors, under ids of the caller's.

    Parameters
    ----------
    dim : int
        d, the length of each vector.
    metric : {"cosine", "sqeuclidean", "inner_product"}
    kind : {"auto", "exact", "hnsw"}, default "auto"
        "exact" compares with every vector. "hnsw" is approximate and sublinear (Malkov & Yashunin 2018,
        arXiv:1603.09320). "auto" is exact up to ``EXACT_LIMIT`` vectors.

    Notes
    -----
    Removed vectors are masked at search and dropped when they outnumber the living: FAISS's own removal is not used.
    Squared distances are computed around the first batch's mean, which changes none and keeps float32 exact enough
    for vectors far from the origin.
    """

    def __init__(self, dim: int, *, metric: Metric = "cosine", kind: Literal["auto", "exact", "hnsw"] = "auto") -> None:
        self.dim = check_count("dim", dim)
        check_choice("metric", metric, METRICS)
        check_choice("kind", kind, ("auto", "exact", "hnsw"))
        self.metric = metric
        self.kind = kind
        self.note = ""  # free text, saved along
        self._centre = np.zeros(dim, np.float32)
        self._clear(hnsw=kind == "hnsw")

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._positions

    @property
    def ids(self) -> NDArray[Any]:
        """The ids of the vectors present, in the order in which they came."""
        return np.asarray(self._names[self._alive])

    @property
    def approximate(self) -> bool:
        """Whether searches go through HNSW."""
        return isinstance(self._faiss, faiss.IndexHNSW)

    def add(self, vectors: ArrayLike, ids: Iterable[Id]) -> None:
        """Add vectors of shape (n, d) under n new ids, all strings or all whole numbers.

        Raises
        ------
        ValueError : for wrong shapes, NaN, an id given twice or already present, or a mixture of id kinds.
        """
        array = check_vectors(vectors, self.dim)
        names = [id_.item() if isinstance(id_, np.generic) else id_ for id_ in ids]
        self._check_ids(names, len(array))
        if not len(array):
            return
        if self._faiss.ntotal == 0 and self.metric == "sqeuclidean":
            self._centre = array.mean(axis=0)
        if self.kind == "auto" and not self.approximate and len(self) + len(array) > EXACT_LIMIT:
            self._rebuild(hnsw=True)
        self._store(self._placed(array), names)

    def remove(self, ids: Iterable[Id]) -> None:
        """Remove vectors by id, all or none.

        Raises
        ------
        KeyError : naming the first id that is not present.
        """
        names = list(dict.fromkeys(ids))
        for name in names:
            if name not in self._positions:
                raise KeyError(f"no vector has the id {name!r}")
        for name in names:
            self._alive[self._positions.pop(name)] = False
        if 2 * len(self) < self._faiss.ntotal:
            self._rebuild(hnsw=self.kind == "hnsw" or (self.kind == "auto" and len(self) > EXACT_LIMIT))

    def search(self, vectors: ArrayLike, k: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Find the k closest vectors of each query.

        Parameters
        ----------
        vectors : array-like of shape (q, d)
        k : int
            Where fewer vectors are present, all of them are returned.

        Returns
        -------
        scores : ndarray of shape (q, min(k, len(self))), float32
            Higher is closer, in falling order; as in ``fewshot.vectors.distances.closeness``.
        ids : ndarray of the same shape
        """
        query = check_vectors(vectors, self.dim)
        k = min(check_count("k", k), len(self))
        if k == 0 or not len(query):
            return np.empty((len(query), k), np.float32), np.empty((len(query), k), self._names.dtype)
        found, where = self._found(self._placed(query), k)
        scores = -found if self.metric == "sqeuclidean" else found
        if self.metric == "cosine":
            scores = scores.clip(-1.0, 1.0)
        return np.asarray(scores, np.float32), np.asarray(self._names[where])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, whole or not at all: a temporary file is moved into place."""
        self._rebuild(hnsw=self.approximate)
        header = {"dim": self.dim, "metric": self.metric, "kind": self.kind, "note": self.note}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                header=np.array(json.dumps(header)),
                faiss=faiss.serialize_index(self._faiss),
                ids=self._names,
                centre=self._centre,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VectorIndex:
        """Read an index written by ``save``.

        Raises
        ------
        FileNotFoundError : if there is none.
        ValueError : if the file is something else, or damaged.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                index = cls(header["dim"], metric=header["metric"], kind=header["kind"])
                index.note = header["note"]
                index._faiss = faiss.deserialize_index(file["faiss"])
                index._centre, names = file["centre"], file["ids"]
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a vector index written by VectorIndex.save ({error})") from error
        index._names = names
        index._alive = np.ones(len(names), bool)
        index._positions = {name: position for position, name in enumerate(names.tolist())}
        return index

    def _check_ids(self, names: list[Any], n: int) -> None:
        if len(names) != n:
            raise ValueError(f"found {n} vectors but {len(names)} ids; each vector needs one")
        seen: set[Any] = set()
        for name in names:
            if not isinstance(name, (str, int)) or isinstance(name, bool):
                raise ValueError(f"an id is a string or a whole number, not {name!r}")
            if isinstance(name, int) and not -(2**63) <= name < 2**63:
                raise ValueError(f"an id must fit 64 bits, not {name}; give it as a string")
            if isinstance(name, str) and name.endswith("\0"):
                raise ValueError(f"an id must not end in a null character, not {name!r}")
            if name in self._positions or name in seen:
                raise ValueError(f"the id {name!r} is already present; remove it first, or give another")
            seen.add(name)
        kinds = {type(name) for name in names} | {type(name) for name in list(self._positions)[:1]}
        if len(kinds) > 1:
            raise ValueError("ids must be all strings or all whole numbers, not both")

    def _placed(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put vectors where FAISS compares them: on the unit sphere, or around the centre."""
        if self.metric == "cosine":
            lengths = np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.float32(1e-12))
            return np.asarray(array / lengths, np.float32)
        return array - self._centre if self.metric == "sqeuclidean" else array

    def _clear(self, *, hnsw: bool) -> None:
        kind = faiss.METRIC_L2 if self.metric == "sqeuclidean" else faiss.METRIC_INNER_PRODUCT
        if hnsw:
            self._faiss = faiss.IndexHNSWFlat(self.dim, _HNSW_LINKS, kind)
            self._faiss.hnsw.efConstruction = _HNSW_BUILD
        else:
            self._faiss = faiss.IndexFlat(self.dim, kind)
        self._positions: dict[Any, int] = {}
        self._names: NDArray[Any] = np.empty(0, np.int64)
        self._alive: NDArray[np.bool_] = np.empty(0, bool)

    def _store(self, placed: NDArray[np.float32], names: list[Any]) -> None:
        start = self._faiss.ntotal
        self._faiss.add(placed)
        added = label_array(names)
        self._names = np.concatenate([self._names, added]) if start else added
        self._alive = np.concatenate([self._alive, np.ones(len(names), bool)])
        self._positions.update({name: start + offset for offset, name in enumerate(names)})

    def _rebuild(self, *, hnsw: bool) -> None:
        """Lay the living vectors out anew; nothing happens where all live and the kind stays."""
        if hnsw == self.approximate and bool(self._alive.all()):
            return
        living = np.flatnonzero(self._alive)
        names = self._names[living].tolist()
        flat = self._faiss.storage if self.approximate else self._faiss
        placed = faiss.rev_swig_ptr(faiss.downcast_index(flat).get_xb(), self._faiss.ntotal * self.dim)
        kept = placed.reshape(-1, self.dim)[living].copy()
        self._clear(hnsw=hnsw)
        if names:
            self._store(kept, names)

    def _found(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search FAISS; a query whose k neighbours the HNSW graph does not reach (-1) is compared with every vector."""
        selector = None if self._alive.all() else faiss.IDSelectorBitmap(np.packbits(self._alive, bitorder="little"))
        exact = faiss.SearchParameters(sel=selector) if selector is not None else None
        if not self.approximate:
            return _search(self._faiss, query, k, exact)
        graph = faiss.SearchParametersHNSW(sel=selector, efSearch=max(_HNSW_SEARCH, 2 * k))
        found, where = _search(self._faiss, query, k, graph)
        short = (where < 0).any(axis=1)
        if short.any():
            flat = faiss.downcast_index(self._faiss.storage)
            found[short], where[short] = _search(flat, query[short], k, exact)
        return found, where


def _search(
    index: Any, query: NDArray[np.float32], k: int, params: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search by FAISS's own method: ``faiss.contrib.torch_utils`` replaces it by one that takes no parameters."""
    search = getattr(index, "search_numpy", index.search)
    return search(query, k, params=params)  # type: ignore[no-any-return]
