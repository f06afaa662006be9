"""The search for the closest examples: all are compared, or past a million an index beside the registry is asked."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.snapshot import Snapshot

if TYPE_CHECKING:
    from fewshot.vectors import VectorIndex

# The index is written again once this share of its vectors came or went since: until then the next process adds them.
_UNSAVED_SHARE = 0.01


class ExampleIndex:
    """Finds the examples closest to a query.

    Up to a million examples every one is compared. Beyond, an approximate index in memory follows
    the snapshot; it is written to a file when 1 % of its vectors came or went since, and made anew where that file is
    missing, damaged or holds other vectors than the registry.

    Parameters
    ----------
    path : path
        The index's file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._index: VectorIndex | None = None
        self._snapshot: Snapshot | None = None  # that the index is of
        self._unsaved = 0

    def search(
        self, snapshot: Snapshot, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return positions and closeness of the k closest examples to vectors (q, d), closest first: (q, min(k, n))."""
        from fewshot.vectors import VectorIndex

        if VectorIndex.is_exact_for(len(snapshot)):
            self._index = self._snapshot = None
            return snapshot.nearest(query, k)
        scores, ids = self._up_to_date_index(snapshot).search(query, k)
        return np.searchsorted(snapshot.ids, ids), scores

    def _up_to_date_index(self, snapshot: Snapshot) -> VectorIndex:
        from fewshot.vectors import VectorIndex

        index, before = self._index, self._snapshot
        if index is not None and snapshot is before:
            return index
        self._index = self._snapshot = None  # if this is interrupted, the next one begins anew
        if index is None or before is None:
            index, self._unsaved = self._loaded(snapshot), 0
            known = np.zeros(len(snapshot), bool) if index is None else np.isin(snapshot.ids, index.ids)
        else:
            known = np.isin(snapshot.row_keys, before.row_keys)
            gone = before.ids[np.isin(before.row_keys, snapshot.row_keys, invert=True)]
            if 2 * len(gone) > len(before):
                index, known = None, np.zeros(len(snapshot), bool)
            else:
                index.remove(gone.tolist())
                self._unsaved += len(gone)
        if index is None:
            index = VectorIndex(snapshot.vectors.shape[1], metric=snapshot.metric)
        if not known.all():
            index.add(snapshot.vectors[~known], snapshot.ids[~known].tolist())
            self._unsaved += int((~known).sum())
        self._index, self._snapshot = index, snapshot
        if self._unsaved > _UNSAVED_SHARE * len(index):
            self._save(index, snapshot)
        return index

    def _save(self, index: VectorIndex, snapshot: Snapshot) -> None:
        index.note = str(snapshot.row_keys.sum())
        with suppress(OSError):  # a folder that cannot be written to: the index is made anew next time
            index.save(self._path)
            self._unsaved = 0

    def _loaded(self, snapshot: Snapshot) -> VectorIndex | None:
        """Return the index of the file, where every vector of it is one of the snapshot's."""
        from fewshot.vectors import VectorIndex

        if not self._path.exists():
            return None
        try:
            index = VectorIndex.load(self._path)
            noted, ids = int(index.note), index.ids.astype(np.int64)
        except (ValueError, OSError):
            return None
        mine = np.isin(snapshot.ids, ids)
        same = (index.dim, index.metric) == (snapshot.vectors.shape[1], snapshot.metric)
        return index if same and mine.sum() == len(ids) and snapshot.row_keys[mine].sum() == noted else None
