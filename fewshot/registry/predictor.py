"""The classifier of a registry in memory, in step with the snapshot that is asked about."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.example_index import ExampleIndex
from fewshot.registry.results import Neighbor, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_count

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder


class RegistryPredictor:
    """Ranks the classes and the examples of a registry.

    Examples appended since the last question are learned on top, as far as the classifier can; after any other change
    it is fitted again.

    Parameters
    ----------
    store : RegistryStore
    template : FewShotClassifier, optional
        Cloned and fitted to the snapshot, whose class positions are its labels; by default ``PrototypeClassifier`` with
        the registry's metric.
    """

    def __init__(self, store: RegistryStore, template: FewShotClassifier | None) -> None:
        self._store, self._template = store, template
        self._index = ExampleIndex(f"{store.file}.index")
        self._lock = threading.RLock()
        self._classifier: FewShotClassifier | None = None
        self._fitted: Snapshot | None = None

    def predict(
        self, snapshot: Snapshot, vectors: NDArray[np.float32], encoder: Encoder, *, top: int, nearest: int
    ) -> list[Prediction]:
        """Rank the classes of each vector (q, d), made by ``encoder``."""
        from fewshot.calibration import shipped_calibration

        check_count("top", top)
        check_count("nearest", nearest, minimum=0)
        if not len(vectors):
            return []
        with self._lock:
            classifier = self._up_to_date_classifier(snapshot)
            ranking = classifier.rank(vectors, top, shipped_calibration(encoder.fingerprint))
            near = self._neighbors(snapshot, vectors, nearest) if nearest else [()] * len(vectors)
        predictions = []
        for codes, scores, probability, beside in zip(
            ranking.classes.tolist(), ranking.scores.tolist(), ranking.probability.tolist(), near, strict=True
        ):
            best = tuple((snapshot.labels[code], score) for code, score in zip(codes, scores, strict=True))
            predictions.append(Prediction(*best[0], best, beside, probability=probability))
        return predictions

    def _up_to_date_classifier(self, snapshot: Snapshot) -> FewShotClassifier:
        from sklearn.base import clone

        from fewshot.classifiers import PrototypeClassifier

        classifier, fitted = self._classifier, self._fitted
        if classifier is not None and fitted is not None and snapshot.same_examples(fitted):
            self._fitted = snapshot
            return classifier
        self._classifier = self._fitted = None  # if this is interrupted, the next one begins anew
        if classifier is not None and fitted is not None and snapshot.continues(fitted):
            n = len(fitted)
            classifier.partial_fit(snapshot.vectors[n:], snapshot.codes[n:], copy=False)
        else:
            classifier = clone(self._template or PrototypeClassifier(metric=snapshot.metric))
            classifier.fit(snapshot.vectors, snapshot.codes, copy=False)
        self._classifier, self._fitted = classifier, snapshot
        return classifier

    def _neighbors(self, snapshot: Snapshot, vectors: NDArray[np.float32], k: int) -> list[tuple[Neighbor, ...]]:
        positions, scores = self._index.search(snapshot, vectors, k)
        ids = snapshot.ids[positions]
        sources = self._store.sources(np.unique(ids).tolist())  # without those that were removed meanwhile
        return [
            tuple(
                Neighbor(id_, snapshot.label_of(position), sources[id_], score)
                for id_, position, score in zip(*row, strict=True)
                if id_ in sources
            )
            for row in zip(ids.tolist(), positions.tolist(), scores.tolist(), strict=True)
        ]
