"""The classifier of a registry in memory, in step with the snapshot that is asked about."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.classifier_choice import classifier_of, take_parts
from fewshot.registry.encoder_identity import check_settings
from fewshot.registry.results import ONE_CLASS, Neighbor, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_count

if TYPE_CHECKING:
    from fewshot.classifiers import Beside, FewShotClassifier
    from fewshot.encoders import Encoder

# Scores of examples held at once.
_MOST_SCORES = 2**24


class RegistryPredictor:
    """Ranks the classes and the examples of a registry.

    After a change only the classes that changed are learned, as far as the classifier can. What it learns from all
    examples together is renewed in a thread, where it takes longer than a request may, and until then stays as it was.

    Parameters
    ----------
    store : RegistryStore
    template : FewShotClassifier, optional
        Cloned and fitted to the snapshot, whose class positions are its labels; by default the registry's.
    """

    def __init__(self, store: RegistryStore, template: FewShotClassifier | None) -> None:
        self._store, self._template = store, template
        self._lock = threading.RLock()
        self._classifier: FewShotClassifier | None = None
        self._fitted: Snapshot | None = None
        self._renewal: threading.Thread | None = None
        self._renewed: tuple[FewShotClassifier, Snapshot] | None = None

    def finish_renewal(self) -> None:
        """Wait for the thread that renews the classifier, if one does."""
        if self._renewal is not None:
            self._renewal.join()

    def predict(
        self,
        snapshot: Snapshot,
        vectors: NDArray[np.float32],
        encoder: Encoder,
        *,
        top: int,
        nearest: int,
        beside: Beside | None = None,
    ) -> list[Prediction]:
        """Rank the classes of each vector (q, d), made by ``encoder``; ``beside`` is ``FewShotClassifier.rank``'s."""
        from fewshot.calibration import shipped_calibration

        check_count("top", top)
        check_count("nearest", nearest, minimum=0)
        if not len(vectors):
            return []
        with self._lock:
            classifier = self._up_to_date_classifier(snapshot, encoder)
            ranking = classifier.rank(vectors, max(top, nearest), shipped_calibration(encoder.fingerprint), beside)
            near = self._neighbors(classifier, snapshot, vectors, ranking.classes, nearest)
        alone = len(snapshot.labels) == 1
        predictions = []
        for codes, scores, probability, closest in zip(
            ranking.classes[:, :top].tolist(),
            ranking.scores[:, :top].tolist(),
            ranking.probability.tolist(),
            near,
            strict=True,
        ):
            best = tuple((snapshot.labels[code], score) for code, score in zip(codes, scores, strict=True))
            one = Prediction(*best[0], best, closest)
            predictions.append(replace(one, note=ONE_CLASS) if alone else replace(one, probability=probability))
        return predictions

    def _up_to_date_classifier(self, snapshot: Snapshot, encoder: Encoder) -> FewShotClassifier:
        from sklearn.base import clone

        renewed, self._renewed = self._renewed, None
        classifier, fitted = renewed or (self._classifier, self._fitted)
        if fitted is not None and _made_of(fitted) != _made_of(snapshot):
            classifier = fitted = None
        self._classifier = self._fitted = None  # if this is interrupted, the next one begins anew
        if classifier is not None and fitted is not None and snapshot.same_examples(fitted):
            pass
        elif classifier is not None and fitted is not None and snapshot.continues(fitted):
            n = len(fitted)
            classifier.partial_fit(snapshot.vectors[n:], snapshot.codes[n:], copy=False)
        elif classifier is not None and fitted is not None and snapshot.vectors.shape[1] == fitted.vectors.shape[1]:
            classifier.exchange(snapshot.vectors, snapshot.codes, snapshot.classes_in(fitted), copy=False)
        else:
            check_settings(self._store, snapshot.settings)
            classifier = classifier_of(snapshot.settings) if self._template is None else clone(self._template)
            take_parts(classifier, encoder)
            classifier.defer_renewal = True
            classifier.fit(snapshot.vectors, snapshot.codes, copy=False)
        self._classifier, self._fitted = classifier, snapshot
        if classifier.renewal_due and (self._renewal is None or not self._renewal.is_alive()):
            self._renewal = threading.Thread(target=self._renew, args=(clone(classifier), snapshot))
            self._renewal.start()
        return classifier

    def _renew(self, classifier: FewShotClassifier, snapshot: Snapshot) -> None:
        """Fit a classifier, outside the lock, for the next question."""
        classifier.defer_renewal = True
        self._renewed = (classifier.fit(snapshot.vectors, snapshot.codes, copy=False), snapshot)

    def _neighbors(
        self,
        classifier: FewShotClassifier,
        snapshot: Snapshot,
        vectors: NDArray[np.float32],
        ranked: NDArray[np.int64],
        k: int,
    ) -> list[tuple[Neighbor, ...]]:
        """Of the closest class the examples closest by the classifier, then of the next (q, r), k in all."""
        from fewshot.vectors import top_k

        found: list[list[tuple[int, float]]] = [[] for _ in vectors]
        for codes in ranked.T[:k]:
            for code in np.unique(codes):
                asking = [q for q in np.flatnonzero(codes == code).tolist() if len(found[q]) < k]
                rows = snapshot.examples_of(np.array([code])) if asking else np.empty(0, np.int64)
                size = max(1, _MOST_SCORES // max(1, len(rows)))
                for some in (asking[at : at + size] for at in range(0, len(asking), size)):
                    where, scores = top_k(classifier.example_scores(vectors[some], snapshot.vectors[rows]), k)
                    for q, *closest in zip(some, rows[where].tolist(), scores.tolist(), strict=True):
                        found[q] = [*found[q], *zip(*closest, strict=True)][:k]
        ids = {position: int(snapshot.ids[position]) for one in found for position, _ in one}
        sources = self._store.sources(sorted(ids.values()))  # without those that were removed meanwhile
        return [
            tuple(
                Neighbor(ids[position], snapshot.label_of(position), sources[ids[position]], score)
                for position, score in one
                if ids[position] in sources
            )
            for one in found
        ]


def _made_of(snapshot: Snapshot) -> tuple[object, object]:
    """What a fitted classifier stays of use for: the classifier chosen, and the encoder of the vectors."""
    return snapshot.settings.get("classifier"), snapshot.settings.get("fingerprint")
