"""Registries whose pictures may be of several classes at once: a yes or no of its own for each class."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.media import LabelledImages, Medium, Source, Sources, labelled_images, map_ahead, medium_of
from fewshot.registry import negative_examples
from fewshot.registry.multi_label_results import JudgedLabels, MultiLabelEvaluation
from fewshot.registry.results import ONE_CLASS, Neighbor, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_count, check_label

if TYPE_CHECKING:
    from fewshot.classifiers import MultiLabelClassifier
    from fewshot.encoders import Encoder
    from fewshot.registry.registry import ClassRegistry

_SETTING = "multi_label"


def settle_multi_label(store: RegistryStore, asked: bool | None) -> None:
    """Fix whether a new registry is multi-label; of one that has examples, refuse the other.

    Raises
    ------
    ValueError : with both values, and what to do.
    """
    if asked is None or asked == is_multi_label(store.meta()):
        return
    if not store.is_empty():
        kinds = {True: "multi-label", False: "of one label for each example"}
        raise ValueError(
            f"{store.path} was made {kinds[not asked]}, and cannot be opened as {kinds[asked]}: register its examples "
            "in a new file"
        )
    with store.write():
        store.set_meta(**{_SETTING: int(asked)})


def is_multi_label(settings: Mapping[str, Any]) -> bool:
    """Whether a registry's settings say so."""
    return bool(settings.get(_SETTING, 0))


class MultiLabel:
    """The part of ``ClassRegistry`` that is about several labels of one example."""

    _store: RegistryStore

    def evaluate_labels(
        self, images: Sources | LabelledImages, labels: Iterable[Sequence[str]] | None = None
    ) -> MultiLabelEvaluation:
        """Predict the classes of examples whose classes are known, in a multi-label registry, and compare.

        Parameters
        ----------
        images : path, LabelledImages, or examples as of ``predict``
            Without labels a folder or zip with one subfolder a class; one that lies in several is of several.
        labels : iterable of sequences of str, optional
            The classes of each, possibly none.

        Raises
        ------
        ValueError : for another number of lists than examples, or a registry that is not multi-label.
        """
        return evaluate_labels(self._store, cast("ClassRegistry", self), images, labels)

    @property
    def multi_label(self) -> bool:
        """Whether an example may be of several classes, each predicted by a yes or no of its own."""
        return is_multi_label(self._store.meta())

    def require_single_label(self, what: str) -> None:
        """Raise ValueError for a multi-label registry, which has no ``what``."""
        require_single_label(self._store, what)

    def require_multi_label(self, what: str) -> None:
        """Raise ValueError for a registry of one label for each example, which has no use for ``what``."""
        if not self.multi_label:
            raise ValueError(
                f"{self._store.path} takes one label for each example, and {what} gives several: make a registry with "
                "--multi-label, ClassRegistry(..., multi_label=True)"
            )

    def check_labels(self, given: str | Sequence[str]) -> list[str]:
        """Return labels as they are stored; raise ValueError for several where an example takes one, and for none."""
        labels = list(given) if isinstance(given, (list, tuple)) else [cast(str, given)]
        if not labels:
            raise ValueError("no label given; what is of none of the classes is added as a negative")
        if len(labels) > 1:
            self.require_multi_label(f"the list {', '.join(map(repr, labels))}")
        return list(dict.fromkeys(map(check_label, labels)))


def require_single_label(store: RegistryStore, what: str) -> None:
    """Raise ValueError for a multi-label registry, which has no ``what``."""
    if is_multi_label(store.meta()):
        raise ValueError(
            f"{store.path} is multi-label, where each class is a yes or no of its own: there is no {what} for it"
        )


@dataclass(frozen=True)
class _Model:
    """A classifier of a snapshot's pictures: their first rows (n,), directions (n, d), and classes (n, c)."""

    snapshot: Snapshot
    rows: NDArray[np.int64]
    units: NDArray[np.float32]
    truth: NDArray[np.bool_]
    n_negatives: int
    classifier: MultiLabelClassifier


class MultiLabelPredictor:
    """Predicts the classes of examples, after each change of a registry by a classifier that is fitted anew."""

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._model: _Model | None = None

    def predict(
        self, snapshot: Snapshot, query: NDArray[np.float32], encoder: Encoder, *, top: int, nearest: int
    ) -> list[Prediction]:
        """Return the classes of each vector (q, d), from the most probable one down."""
        check_count("top", top)
        check_count("nearest", nearest, minimum=0)
        if not len(query):
            return []
        model = self._fitted(snapshot, encoder)
        probabilities = model.classifier.predict_proba(query)
        note = None
        if len(snapshot.labels) == 1 and not model.n_negatives:
            note = ONE_CLASS.replace("image", medium_of(snapshot.settings.get("modality", "image")).noun)
        near = self._neighbors(model, query, nearest)
        return [
            self._prediction(snapshot, row, model.classifier.threshold_, top, closest, note)
            for row, closest in zip(probabilities, near, strict=True)
        ]

    def _prediction(
        self,
        snapshot: Snapshot,
        probabilities: NDArray[np.float64],
        threshold: float,
        top: int,
        nearest: tuple[Neighbor, ...],
        note: str | None,
    ) -> Prediction:
        order = np.argsort(-probabilities, kind="stable").tolist()
        ranked = tuple((snapshot.labels[code], float(probabilities[code])) for code in order)
        labels = tuple(one for one in ranked if one[1] >= threshold)
        label, (_, score) = (labels[0][0] if labels else None), ranked[0]
        probability = None if note else score
        return Prediction(label, score, ranked[:top], nearest, probability=probability, note=note, labels=labels)

    def _fitted(self, snapshot: Snapshot, encoder: Encoder) -> _Model:
        from fewshot.classifiers import MultiLabelClassifier

        with self._lock:
            if self._model is None or self._model.snapshot is not snapshot:
                self._model = None
                rows, truth = self._pictures(snapshot)
                negatives = negative_examples.load(self._store, encoder, "negative").vectors
                vectors = np.concatenate([snapshot.vectors[rows], negatives])
                none = np.zeros((len(negatives), truth.shape[1]), np.bool_)
                classifier = MultiLabelClassifier().fit(vectors, np.concatenate([truth, none]))
                units = snapshot.vectors[rows] / snapshot.lengths[rows, None]
                self._model = _Model(snapshot, rows, units, truth, len(negatives), classifier)
            return self._model

    def _pictures(self, snapshot: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The first row of each picture (n,), and which classes it is of (n, c).

        A picture of several classes is stored as an example of each, with the same hash.
        """
        with self._store.read() as connection:
            hashes = dict(connection.execute("SELECT id, sha256 FROM examples").fetchall())
        numbers: dict[object, int] = {}
        # One that was removed since the snapshot was read stands for itself.
        picture = [numbers.setdefault(hashes.get(id_, id_), len(numbers)) for id_ in snapshot.ids.tolist()]
        truth = np.zeros((len(numbers), len(snapshot.labels)), np.bool_)
        truth[picture, snapshot.codes] = True
        return np.unique(picture, return_index=True)[1].astype(np.int64), truth

    def _neighbors(self, model: _Model, query: NDArray[np.float32], k: int) -> list[tuple[Neighbor, ...]]:
        """The k closest examples by cosine, each with all of its labels."""
        from fewshot.vectors import top_k

        snapshot = model.snapshot
        where, scores = top_k(query @ model.units.T / np.linalg.norm(query, axis=1, keepdims=True).clip(1e-12), k)
        ids = snapshot.ids[model.rows]
        sources = self._store.sources(sorted(set(ids[where].ravel().tolist())))
        return [
            tuple(
                Neighbor(
                    id_ := int(ids[n]),
                    ", ".join(snapshot.labels[code] for code in np.flatnonzero(model.truth[n]).tolist()),
                    sources.get(id_, ""),
                    score,
                )
                for n, score in zip(places, closeness, strict=True)
            )
            for places, closeness in zip(where.tolist(), scores.tolist(), strict=True)
        ]


def evaluate_labels(
    store: RegistryStore,
    registry: ClassRegistry,
    examples: Sources | LabelledImages,
    labels: Iterable[Sequence[str]] | None,
) -> MultiLabelEvaluation:
    """Predict the classes of examples whose classes are known; see ``ClassRegistry.evaluate_labels``."""
    medium = medium_of(registry.modality)
    ignored: tuple[str, ...] = ()
    if not is_multi_label(store.meta()):
        raise ValueError(f"{store.path} is not multi-label: evaluate it with evaluate")
    if labels is None or isinstance(examples, LabelledImages):
        place = cast(Any, examples)
        found = place if isinstance(place, LabelledImages) else labelled_images(place, medium.modality)
        given = [(image, [label]) for image, label in zip(found.images, found.labels, strict=True)]
        ignored = found.ignored
    else:
        given = _labelled(list(medium.sources(examples)), labels, medium)
    # What lies in several folders is of several classes.
    merged: dict[object, tuple[Source, set[str]]] = {}
    for n, content in enumerate(map_ahead(medium.content, [source for source, _ in given])):
        key = hashlib.sha256(content).digest() if isinstance(content, bytes) else n
        merged.setdefault(key, (given[n][0], set()))[1].update(given[n][1])
    truths = list(merged.values())
    seen = sum(isinstance(key, bytes) and bool(store.labels_of(key)) for key in merged)
    known = registry.classes()
    answered = registry.predict_valid([source for source, _ in truths], top=max(1, len(known)), nearest=0)
    rows = tuple(
        JudgedLabels(name, frozenset(truths[n][1]), frozenset(label for label, _ in p.labels or ()), dict(p.top))
        for n, name, p in zip(answered.positions, answered.sources, answered.predictions, strict=True)
    )
    unknown = {label for row in rows for label in row.labels} - known.keys()
    return MultiLabelEvaluation(rows, answered.failed, tuple(sorted(unknown)), seen, ignored)


def _labelled(sources: list[Source], labels: Iterable[Sequence[str]], medium: Medium) -> list[tuple[Source, list[str]]]:
    truths = [[one] if isinstance(one, str) else list(one) for one in labels]
    if len(truths) != len(sources):
        raise ValueError(
            f"{medium.counted(len(sources))} but {len(truths)} lists of labels; each {medium.noun} needs one"
        )
    return [(source, list(map(check_label, of))) for source, of in zip(sources, truths, strict=True)]
