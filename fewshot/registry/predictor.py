"""What a registry has learned, held in memory and in step with its file: the classifier and the FAISS index."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.registry.encoder_identity import check_encoder
from fewshot.registry.results import Neighbor, Prediction
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_count

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder
    from fewshot.vectors import VectorIndex


class RegistryPredictor:
    """The classifier and index of a registry.

    Both follow the file, whoever changes it: examples appended since the last question are learned on top, any other
    change makes them anew. A new index costs little unless it is approximate; such a one is also kept beside the
    registry, as ``<registry>.index``, and made again when it is missing or out of date.
    """

    def __init__(self, store: RegistryStore, template: FewShotClassifier | None) -> None:
        self._store = store
        self._template = template
        self._lock = threading.RLock()
        self._classifier: FewShotClassifier | None = None
        self._index: VectorIndex | None = None
        self._learned = self._indexed = (-1, -1, 0)  # revision, rewrites, largest example id

    def predict(self, vectors: NDArray[np.float32], encoder: Encoder, *, top: int, nearest: int) -> list[Prediction]:
        """Rank the classes of each vector (q, d), made by ``encoder``."""
        from fewshot.calibration import shipped_calibration

        check_count("top", top)
        check_count("nearest", nearest, minimum=0)
        if not len(vectors):
            return []
        with self._lock:
            classifier = self._up_to_date_classifier(encoder)
            scores, shares = classifier.scores_and_probabilities(vectors, shipped_calibration(encoder.fingerprint))
            labels = classifier.classes_
            near = self._neighbors(vectors, encoder, nearest) if nearest else [()] * len(vectors)
        ranked = []
        for row in scores:
            best = _largest(row, top)
            ranked.append(tuple((str(labels[c]), float(row[c])) for c in best))
        return [
            Prediction(*best[0], best, beside, probability=float(likeliest))
            for best, beside, likeliest in zip(ranked, near, shares.max(axis=1), strict=True)
        ]

    def _up_to_date_classifier(self, encoder: Encoder) -> FewShotClassifier:
        from sklearn.base import clone

        from fewshot.classifiers import PrototypeClassifier

        with self._store.read():
            check_encoder(self._store, encoder)  # another process may have reindexed
            meta = self._store.meta()
            revision, rewrites = self._store.state()
            if self._classifier is not None and revision == self._learned[0]:
                return self._classifier
            appended = self._classifier is not None and rewrites == self._learned[1]
            last = self._learned[2] if appended else 0
            rows = self._store.rows(int(meta["dim"]), after=last)
        if last == 0 and not len(rows.ids):
            raise RegistryError(f"{self._store.path} holds no classes any more; another process removed them")
        classifier, self._classifier = self._classifier, None  # if this is interrupted, the next one begins anew
        if classifier is None or not appended:
            classifier = clone(self._template or PrototypeClassifier(metric=meta["metric"]))
        if len(rows.ids):
            classifier.partial_fit(rows.vectors, rows.labels)
            last = int(rows.ids[-1])
        self._classifier, self._learned = classifier, (revision, rewrites, last)
        return classifier

    def _neighbors(self, vectors: NDArray[np.float32], encoder: Encoder, k: int) -> list[tuple[Neighbor, ...]]:
        found, ids = self._up_to_date_index(encoder).search(vectors, k)
        known = self._store.described(np.unique(ids).tolist())
        return [
            tuple(Neighbor(i, *known[i], s) for i, s in zip(row, close, strict=True) if i in known)
            for row, close in zip(ids.tolist(), found.tolist(), strict=True)
        ]

    def _up_to_date_index(self, encoder: Encoder) -> VectorIndex:
        from fewshot.vectors import VectorIndex

        with self._store.read():
            check_encoder(self._store, encoder)
            meta = self._store.meta()
            revision, rewrites = self._store.state()
            if self._index is None:
                self._load_index(rewrites)
            if self._index is not None and revision == self._indexed[0]:
                return self._index
            appended = self._index is not None and rewrites == self._indexed[1]
            last = self._indexed[2] if appended else 0
            rows = self._store.rows(int(meta["dim"]), after=last)
        index, self._index = self._index, None
        if index is None or not appended:
            index = VectorIndex(int(meta["dim"]), metric=meta["metric"])
        if len(rows.ids):
            index.add(rows.vectors, rows.ids.tolist())
            last = int(rows.ids[-1])
        self._index, self._indexed = index, (revision, rewrites, last)
        if index.approximate:
            self._save_index(index)
        return index

    @property
    def _index_path(self) -> Path:
        return Path(f"{self._store.file}.index")

    def _save_index(self, index: VectorIndex) -> None:
        newest = self._store.hash_of(self._indexed[2])
        if newest is not None:
            index.note = " ".join([*map(str, self._indexed), newest.hex()])
            with suppress(OSError):  # a folder that cannot be written to: the index is made anew next time
                index.save(self._index_path)

    def _load_index(self, rewrites: int) -> None:
        from fewshot.vectors import VectorIndex

        if not self._index_path.exists():
            return
        try:
            index = VectorIndex.load(self._index_path)
            *numbers, newest = index.note.split()
            noted, of_rewrite, last = map(int, numbers)
        except (ValueError, OSError):
            return  # damaged or another's: made anew
        known = self._store.hash_of(last)  # another, if the registry was put back from a copy and went on differently
        if of_rewrite == rewrites and known is not None and known.hex() == newest:
            self._index, self._indexed = index, (noted, of_rewrite, last)


def _largest(row: NDArray[np.float32], k: int) -> list[int]:
    """Return the places of the k largest scores, largest first; a draw goes to the first, as in ``argmax``."""
    if k < len(row) // 8:
        floor = np.partition(row, -k)[-k]
        places = np.flatnonzero(row >= floor)
    else:
        places = np.arange(len(row))
    found: list[int] = places[np.argsort(-row[places], kind="stable")][:k].tolist()
    return found
