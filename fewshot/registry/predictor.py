"""The classifier of a registry in memory, in step with the snapshot that is asked about."""

from __future__ import annotations

import contextlib
import threading
import warnings
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.media import medium_of
from fewshot.registry.class_descriptions import ClassTexts
from fewshot.registry.classifier_choice import classifier_of, default_classifier, take_parts
from fewshot.registry.encoder_identity import check_settings
from fewshot.registry.results import NO_EXAMPLE, ONE_CLASS, Neighbor, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from fewshot.classifiers import Beside, ClassIndex, FewShotClassifier
    from fewshot.encoders import Encoder

INDEX_FROM = 20_000
"""Beside more classes than these an index finds candidates for the closest ones."""
# Scores of examples, and probabilities, held at once; classes put into an index.
_MOST_SCORES, _MOST_PROBABILITIES, _CLASSES_AT_ONCE = 2**24, 2**22, 2**11


@dataclass(frozen=True)
class _Made:
    """What was made of a snapshot while questions were answered: an index, or a classifier, perhaps with one."""

    snapshot: Snapshot
    index: ClassIndex | None
    classifier: FewShotClassifier | None = None


class RegistryPredictor:
    """Ranks the classes and the examples of a registry.

    After a change only the classes that changed are learned, as far as the classifier can. What it learns from all
    examples together is renewed in a thread, where it takes longer than a request may, and until then stays as it was.
    Beside more than ``index_from`` classes the thread makes an index of them, from the second question on; until it is
    there, all classes are compared.

    Parameters
    ----------
    store : RegistryStore
    template : FewShotClassifier, optional
        Cloned and fitted to the snapshot, whose class positions are its labels; by default the registry's.
    index_from : int, default 20,000
        Up to so many classes all are compared.
    executor : Executor, optional
        Runs what no question waits for; by default a thread of its own.
    """

    def __init__(
        self,
        store: RegistryStore,
        template: FewShotClassifier | None,
        *,
        index_from: int = INDEX_FROM,
        executor: Executor | None = None,
    ) -> None:
        self._store, self._template, self._index_from = store, template, index_from
        self._executor = ThreadPoolExecutor(1, "fewshot-renewal") if executor is None else executor
        self._lock = threading.RLock()
        self._classifier: FewShotClassifier | None = None
        self._fitted: Snapshot | None = None
        self._with_texts: tuple[ClassTexts, FewShotClassifier] | None = None
        self._task: Future[_Made] | None = None
        self._closed = False

    @property
    def settled(self) -> bool:
        """Whether nothing is being made for later questions."""
        task = self._task
        return task is None or task.done()

    def close(self) -> None:
        """Give up what is being made for later questions; does not wait."""
        self._closed = True
        self._executor.shutdown(wait=False)

    def predict(
        self,
        snapshot: Snapshot,
        vectors: NDArray[np.float32],
        encoder: Encoder,
        *,
        top: int,
        nearest: int,
        beside: Beside | None = None,
        texts: ClassTexts | None = None,
    ) -> list[Prediction]:
        """Rank the classes of each vector (q, d), made by ``encoder``; ``beside`` is ``FewShotClassifier.rank``'s.

        With ``texts`` the classes are theirs.
        """
        from fewshot.calibration import shipped_calibration

        check_count("top", top)
        check_count("nearest", nearest, minimum=0)
        if not len(vectors):
            return []
        labels = snapshot.labels if texts is None else texts.labels
        with self._lock:
            if texts is None:
                classifier = self._up_to_date_classifier(snapshot, encoder)
            else:
                classifier, beside = self._classifier_with_texts(snapshot, encoder, texts), None  # its means are others
            ranking = classifier.rank(vectors, max(top, nearest), shipped_calibration(encoder.fingerprint), beside)
            near = self._neighbors(classifier, snapshot, vectors, ranking.classes, nearest)
        note = None if len(snapshot) else NO_EXAMPLE
        if len(labels) == 1:
            note = ONE_CLASS.replace("image", medium_of(snapshot.settings.get("modality", "image")).noun)
        predictions = []
        for codes, scores, probability, closest in zip(
            ranking.classes[:, :top].tolist(),
            ranking.scores[:, :top].tolist(),
            ranking.probability.tolist(),
            near,
            strict=True,
        ):
            best = tuple((labels[code], score) for code, score in zip(codes, scores, strict=True))
            one = Prediction(*best[0], best, closest)
            predictions.append(replace(one, note=note) if note else replace(one, probability=probability))
        return predictions

    def each_probability(
        self,
        snapshot: Snapshot,
        vectors: NDArray[np.float32],
        encoder: Encoder,
        take: Callable[[NDArray[np.float32]], None],
        *,
        texts: ClassTexts | None = None,
    ) -> None:
        """Give ``take`` the calibrated probabilities of all classes for vectors (q, d), some at once: (n, c)."""
        from fewshot.calibration import shipped_calibration

        table = shipped_calibration(encoder.fingerprint)
        with self._lock:
            if texts is None:
                classifier = self._up_to_date_classifier(snapshot, encoder)
            else:
                classifier = self._classifier_with_texts(snapshot, encoder, texts)
            size = max(1, len(vectors) if classifier.transductive else _MOST_PROBABILITIES // len(classifier.classes_))
            for start in range(0, len(vectors), size):
                take(classifier.predict_proba(vectors[start : start + size], table))

    def _up_to_date_classifier(self, snapshot: Snapshot, encoder: Encoder) -> FewShotClassifier:
        from sklearn.base import clone

        classifier, fitted, made = self._classifier, self._fitted, self._take_made()
        if made is not None and made.classifier is not None:
            classifier, fitted = made.classifier, made.snapshot
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
            classifier = (
                classifier_of(snapshot.settings, len(snapshot)) if self._template is None else clone(self._template)
            )
            take_parts(classifier, encoder)
            classifier.defer_renewal = True
            classifier.fit(snapshot.vectors, snapshot.codes, copy=False)
        if len(snapshot.labels) <= self._index_from:
            classifier.class_index = None
        elif made is not None and classifier.class_index is not None and classifier.class_index is made.index:
            classifier.use_class_index(snapshot.classes_in(made.snapshot))
        self._classifier, self._fitted = classifier, snapshot
        self._start_renewal(classifier, snapshot, asked_before=fitted is not None)
        return classifier

    def _classifier_with_texts(self, snapshot: Snapshot, encoder: Encoder, texts: ClassTexts) -> FewShotClassifier:
        """Return a classifier of examples that were moved towards texts; without any, prototypes that are the texts."""
        from sklearn.base import clone

        from fewshot.classifiers import PrototypeClassifier, towards_texts

        held = self._with_texts
        if held is None or held[0] is not texts:  # which are of one snapshot
            self._classifier = self._fitted = self._with_texts = None
            check_settings(self._store, snapshot.settings)
            if not len(snapshot):
                classifier: FewShotClassifier = PrototypeClassifier()
            else:
                classifier = (
                    classifier_of(snapshot.settings, len(snapshot)) if self._template is None else clone(self._template)
                )
            take_parts(classifier, encoder)
            classifier.fit(*towards_texts(snapshot.vectors, snapshot.codes, texts.vectors), copy=False)
            held = self._with_texts = texts, classifier
        return held[1]

    def _start_renewal(self, classifier: FewShotClassifier, snapshot: Snapshot, *, asked_before: bool) -> None:
        from sklearn.base import clone

        if self._task is not None or self._closed:
            return
        if classifier.renewal_due:
            self._submit(self._renew, clone(classifier), snapshot)
        elif asked_before and classifier.class_index is None and len(snapshot.labels) > self._index_from:
            index = classifier.class_index = classifier.new_class_index()
            if index is not None:
                self._submit(self._fill, index, snapshot)

    def _submit(self, task: Callable[..., _Made], *given: object) -> None:
        with contextlib.suppress(RuntimeError):  # closed by another thread meanwhile
            self._task = self._executor.submit(task, *given)

    def _renew(self, classifier: FewShotClassifier, snapshot: Snapshot) -> _Made:
        """Fit a classifier, outside the lock, for the next question."""
        classifier.defer_renewal = True
        classifier.fit(snapshot.vectors, snapshot.codes, copy=False)
        if len(snapshot.labels) > self._index_from:
            classifier.class_index = classifier.new_class_index()
        index = classifier.class_index
        return _Made(snapshot, None if index is None else self._fill(index, snapshot).index, classifier)

    def _fill(self, index: ClassIndex, snapshot: Snapshot) -> _Made:
        """Put all classes into an index, outside the lock."""
        for start in range(0, len(snapshot.labels), _CLASSES_AT_ONCE):
            if self._closed:
                raise CancelledError
            index.append(snapshot.prototypes(np.arange(start, min(start + _CLASSES_AT_ONCE, len(snapshot.labels)))))
        return _Made(snapshot, index)

    def _take_made(self) -> _Made | None:
        if self._task is None or not self._task.done():
            return None
        task, self._task = self._task, None
        error = task.exception()
        if error is None:
            return task.result()
        self._closed = True
        warnings.warn(
            f"what later questions to {self._store.path} would profit from could not be made: {error!r}. Answers stay "
            "right, but all classes are compared; open the registry again to try again",
            stacklevel=4,
        )
        return None

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
                if not asking or code >= len(snapshot.labels):  # which has no examples, but a description
                    continue
                rows = snapshot.examples_of(np.array([code]))
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


def _made_of(snapshot: Snapshot) -> tuple[object, ...]:
    """What a fitted classifier stays of use for: the registry's classifier, the encoder, and the last erasure."""
    settings = snapshot.settings
    return (
        settings.get("classifier", default_classifier(settings, len(snapshot))),
        settings.get("fingerprint"),
        snapshot.erased,
    )
