"""Open-set recognition in a registry: negatives, and a limit on false accepts whose threshold follows the examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import NoClasses, RegistryError
from fewshot.media import Source, Sources, medium_of
from fewshot.registry import negative_examples
from fewshot.registry.class_descriptions import TextReader
from fewshot.registry.encoder_identity import described, remember_encoder
from fewshot.registry.ingest import add_in_chunks
from fewshot.registry.multi_label import require_single_label
from fewshot.registry.results import AddReport, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore
from fewshot.registry.stored_threshold import Basis, Keys, delete_threshold, read_threshold, texts_key, write_threshold
from fewshot.registry.unknown_scorers import UnknownScorer, nearer_negatives, scorer_of
from fewshot.validation import check_vectors

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.openset import Background, KnownClasses, LeaveOneOutScores, PendingScores, Threshold

_LIMIT = "max_false_accept"


class _Changed(Exception):
    """The registry is not as it was read: rolls a transaction back."""


@dataclass
class _Model:
    """What is computed of a snapshot and of what the registry holds of no class."""

    snapshot: Snapshot
    scorer: UnknownScorer
    others: _Others
    basis: Basis
    leave_one_out: LeaveOneOutScores | None = None
    of_negatives: LeaveOneOutScores | None = None
    thresholds: dict[float, Threshold] = field(default_factory=dict)


@dataclass(frozen=True)
class _Others:
    """Negatives and background, with what changes when they do."""

    key: tuple[object, ...]
    negatives: NDArray[np.float32]  # directions (n, d)
    background: Background | None
    shared: int  # images of the background that are registered, so that they are not of unknown classes
    stale: str | None  # why no threshold can be estimated before something is done
    keys: Keys


class Rejection:
    """Open-set recognition in a registry; ``ClassRegistry.rejection``.

    Each image's unknown score is ``fewshot.openset.DEFAULT``'s, around the mean of the background if one was given,
    else with the centre that ships for the encoder, if one does, plus how much closer by cosine it is to the closest
    negative than to the closest class, where it is. Beside more than ``fewshot.openset.SAMPLE_CLASSES`` classes it is
    ``fewshot.openset.ManyClasses``'. Descriptions move the classes as in predictions, but beside so many.

    A threshold is estimated from the background or else from the classes, each left out in turn. Where these are too
    few for the limit, or there is one class, and the negatives give a smaller bound, it is estimated from them.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import ClassRegistry
    >>> red, blue, cyan = (np.full((32, 32, 3), c, np.uint8) for c in ((250, 20, 20), (20, 20, 250), (20, 90, 250)))
    >>> with ClassRegistry("red.fewshot") as registry:
    ...     added = registry.add("red", red) + registry.rejection.add_negatives(blue)
    ...     print(registry.rejection.set(max_false_accept=0.5).describe())
    ...     print([answer.label for answer in registry.predict([red, cyan])])
    at most 0.5 of unknown images are accepted, estimated from 1 negative
    ['red', None]
    """

    def __init__(
        self, store: RegistryStore, snapshots: SnapshotCache, texts: TextReader, encoder: Callable[[], Encoder]
    ) -> None:
        self._store, self._snapshots, self._texts, self._encoder = store, snapshots, texts, encoder
        self._lock = threading.RLock()
        self._model: _Model | None = None

    def add_negatives(self, images: Sources, *, all_or_none: bool = False) -> AddReport:
        """Register images, texts or sounds that are of none of the classes, whatever they are of.

        Parameters
        ----------
        images : iterable of sources, or one
            As of ``ClassRegistry.add``.
        all_or_none : bool, default False
            As of ``ClassRegistry.add``.

        Returns
        -------
        AddReport
            Its conflicts are those that a class holds.

        Raises
        ------
        PartlyAdded : if an error stops it after some were added; its ``report`` says what became of them.
        """
        from fewshot.encoders import check_image_batch, modality_of

        encoder = self._encoder()
        remember_encoder(self._store, encoder)
        keep = bool(self._store.meta()["keep_images"])

        def add(chunk: list[Source]) -> AddReport:
            return negative_examples.add_negatives(self._store, encoder, chunk, keep_images=keep)

        modality = modality_of(encoder)
        sources = check_image_batch(medium_of(modality).sources(images), modality)
        return add_in_chunks(self._store, sources, add, all_or_none=all_or_none)

    def renewed(self) -> list[str]:
        """After a reindex, embed negatives anew; say in a sentence each what cannot be used any more."""
        found = [
            negative_examples.load(self._store, self._encoder(), kind).stale
            for kind in get_args(negative_examples.Kind)
        ]
        return [why for why in found if why is not None]

    def forget_negatives(self) -> int:
        """Remove all negatives; returns how many there were."""
        return negative_examples.remove_negatives(self._store)

    @property
    def n_negatives(self) -> int:
        """How many negatives there are."""
        return negative_examples.count(self._store, "negative")

    @property
    def n_shared(self) -> int:
        """How many images of the background a class holds, too, so that they are left out of it."""
        return self._current(self._texts.current(self._snapshots)).others.shared

    @property
    def max_false_accept(self) -> float | None:
        """The stored limit on the share of unknown images that are accepted; None without one."""
        stored = self._store.meta().get(_LIMIT)
        return None if stored is None else float(stored)

    def set(
        self,
        max_false_accept: float | None,
        *,
        background: NDArray[np.float32] | None = None,
        labels: Iterable[str] | None = None,
    ) -> Threshold | None:
        """Store a limit on false accepts, by which ``predict`` then rejects, or with None delete it and the background.

        Parameters
        ----------
        max_false_accept : float or None
            In (0, 1).
        background : ndarray of shape (n, d), optional
            Vectors of other classes by the registry's encoder; by default the stored one stays.
        labels : iterable of n str, optional
            Their classes; without, each is one of its own. Those that are registered examples are stored, but not
            used (``n_shared``).

        Returns
        -------
        Threshold or None
            Of the present examples; it is estimated again when they change.

        Raises
        ------
        RegistryError : for a registry without examples.
        ValueError : for a limit outside (0, 1), vectors of another size than the registry's, or one class and neither
            background nor negatives; nothing is stored then.
        """
        from fewshot.openset import Background

        require_single_label(self._store, "limit on false accepts")
        encoder = self._encoder()
        dim = int(described(self._store)["dim"])
        given = None
        if background is not None:
            check_vectors(np.asarray(background), dim)
            names = [str(n) for n in range(len(background))] if labels is None else list(labels)
            Background.of(background, names)
            given = negative_examples.OpenSetVectors(background, names)
        while True:
            # Outside the transaction, for it takes a while; begun again if the registry changes meanwhile.
            threshold = model = None
            if max_false_accept is not None:
                snapshot = self._texts.current(self._snapshots)
                model = self._current(snapshot) if given is None else self._made(snapshot, given)
                threshold = self._estimate(model, float(max_false_accept))
            with suppress(_Changed), self._store.write(append=True) as connection:
                if model is not None and model.snapshot.state != self._store.state():
                    raise _Changed
                delete_threshold(connection)
                connection.execute("DELETE FROM meta WHERE key = ?", (_LIMIT,))
                if model is None or threshold is None:
                    connection.execute("DELETE FROM outsiders WHERE kind = 'background'")
                else:
                    if given is not None:
                        negative_examples.set_background(self._store, encoder, given.vectors, given.labels)
                    connection.execute("INSERT INTO meta VALUES (?, ?)", (_LIMIT, threshold.max_false_accept))
                    keys = self._keys()
                    basis = Basis.of(model.snapshot, keys, model.basis.texts, self._store.state()[0])
                    write_threshold(connection, threshold, basis)
                return threshold

    def threshold(self, max_false_accept: float | None = None) -> Threshold | None:
        """Return the threshold of a limit, by default the stored one; None without one.

        Raises
        ------
        ValueError : for a limit outside (0, 1), or one class and neither background nor negatives.
        """
        limit = self.max_false_accept if max_false_accept is None else max_false_accept
        return None if limit is None else self._threshold(self._current(self._texts.current(self._snapshots)), limit)

    def known_classes(self) -> tuple[KnownClasses, NDArray[np.float32]]:
        """Return what the unknown score compares with, and the directions (n, d) of negatives.

        Raises
        ------
        ValueError : beside so many classes that only a sample of them is compared with.
        """
        model = self._current(self._texts.current(self._snapshots))
        known = getattr(model.scorer, "known", None)
        if known is None:
            raise ValueError(f"{self._store.path} holds {len(model.snapshot.labels):,} classes, too many for this")
        return known, model.others.negatives

    def pending(self, snapshot: Snapshot, vectors: NDArray[np.float32]) -> PendingScores | None:
        """Return the unknown scores of vectors (q, d) that are made of products with all prototypes, if they are."""
        return self._current(snapshot).scorer.pending(vectors) if len(vectors) and len(snapshot) else None

    def judge(
        self,
        snapshot: Snapshot,
        vectors: NDArray[np.float32],
        predictions: list[Prediction],
        max_false_accept: float | None,
        pending: PendingScores | None,
    ) -> list[Prediction]:
        """Give each prediction its unknown score, and no label from the threshold on.

        Parameters
        ----------
        snapshot : Snapshot
            That the predictions are of.
        vectors : ndarray of shape (q, d)
        predictions : list of q Prediction
        max_false_accept : float or None
            By default the stored limit, if any; 1 rejects nothing. Nor does a stored limit that no threshold can be
            estimated for any more, as when one class is left: ``threshold`` says why, and ``false_accept_bound`` is
            None.
        pending : PendingScores or None
            The ``pending`` unknown scores of these vectors, if others have made them.
        """
        if not predictions or (not len(snapshot) and max_false_accept in (None, 1.0)):
            return predictions
        model, threshold = self._current(snapshot), self.applied_threshold(snapshot, max_false_accept)
        scores = model.scorer.scores(vectors) if pending is None else pending.scores(snapshot.class_products)
        if len(model.others.negatives):
            scores = scores + nearer_negatives(model.scorer, model.others.negatives, vectors)
        return [
            replace(
                p,
                unknown_score=u,
                label=p.label if threshold is None or u < threshold.value else None,
                false_accept_bound=None if threshold is None else threshold.false_accept_bound,
            )
            for p, u in zip(predictions, scores.tolist(), strict=True)
        ]

    def applied_threshold(self, snapshot: Snapshot, max_false_accept: float | None) -> Threshold | None:
        """Return the threshold that ``judge`` rejects by; None where every one gets a label."""
        limit = snapshot.settings.get(_LIMIT) if max_false_accept is None else max_false_accept
        if limit is None or limit == 1.0 or not len(snapshot):
            return None
        try:
            return self._threshold(self._current(snapshot), float(limit))
        except ValueError:
            if max_false_accept is not None:
                raise
            return None

    def mean_unknown_score(self, snapshot: Snapshot, threshold: Threshold) -> float:
        """Return the mean score of the unknown ones that a threshold is estimated from, each class as one."""
        model = self._current(snapshot)
        if threshold.source == "negatives":
            if model.of_negatives is None:
                model.of_negatives = model.scorer.negative_scores(model.others.negatives)
            found = model.of_negatives
        else:
            found = model.leave_one_out = model.leave_one_out or model.scorer.leave_one_out_scores()
        return threshold.value if found is None else found.mean_unknown

    def _current(self, snapshot: Snapshot) -> _Model:
        with self._lock:
            if self._model is not None and self._model.snapshot.erased != snapshot.erased:
                self._model = None  # nothing that was computed of what was erased stays
            if self._model is None or self._model.snapshot is not snapshot:
                self._model = self._made(snapshot, None)
            return self._model

    def _made(self, snapshot: Snapshot, given: negative_examples.OpenSetVectors | None) -> _Model:
        """Compute a model with the background given, or else the stored one."""
        from fewshot.openset import shipped_center

        encoder, before = self._encoder(), self._model
        if not len(snapshot):
            raise NoClasses(f"{self._store.path} holds no classes with examples; add some first")
        others = self._others(encoder, snapshot, given)
        center = shipped_center(encoder.fingerprint)
        texts = self._texts.vectors(snapshot)
        scorer = scorer_of(snapshot, texts, others.background, center, None if before is None else before.scorer)
        basis = Basis.of(snapshot, others.keys, texts_key(texts), snapshot.state[0])
        model = _Model(snapshot, scorer, others, basis)
        if before is not None and before.others is others and before.basis.holds(basis):
            # Also of the basis: else small changes would add up unseen.
            model.basis, model.thresholds = before.basis, before.thresholds
            model.leave_one_out, model.of_negatives = before.leave_one_out, before.of_negatives
        return model

    def _others(self, encoder: Encoder, snapshot: Snapshot, given: negative_examples.OpenSetVectors | None) -> _Others:
        """Read negatives and background, or return those of before, if nothing about them has changed."""
        from fewshot.openset import Background

        keys = self._keys()
        key = (encoder.fingerprint, *keys)
        before = None if self._model is None else self._model.others
        if given is None and before is not None and before.key == key and before.background is None:
            return before
        negatives = negative_examples.load(self._store, encoder, "negative")
        others = given or negative_examples.load(self._store, encoder, "background")
        fresh = negative_examples.not_among(others, snapshot)
        shared = len(others.labels) - len(fresh.labels)
        if given is None and before is not None and before.key == key and before.shared == shared == 0:
            return before
        lengths = np.linalg.norm(negatives.vectors, axis=1, keepdims=True).clip(1e-12)
        background = Background.of(fresh.vectors, fresh.labels) if fresh.labels else None
        stale = negatives.stale or others.stale
        return _Others(key, negatives.vectors / lengths, background, shared, stale, keys)

    def _keys(self) -> Keys:
        return negative_examples.key_of(self._store, "negative"), negative_examples.key_of(self._store, "background")

    def _threshold(self, model: _Model, limit: float) -> Threshold:
        """Return the threshold of a limit; that of the stored limit is in the file, for it takes long to estimate."""
        if limit not in model.thresholds:
            found = None
            if model.leave_one_out is None and model.others.stale is None:
                now = replace(model.basis, revision=model.snapshot.state[0])
                found = read_threshold(self._store.meta(), now, limit)
            if found is None:
                found = self._estimate(model, limit)
                if limit == model.snapshot.settings.get(_LIMIT):
                    self._store_threshold(model, found)
            model.thresholds[limit] = found
        return model.thresholds[limit]

    def _store_threshold(self, model: _Model, threshold: Threshold) -> None:
        # The file may be read-only. Answers do not depend on who estimates the threshold.
        with suppress(RegistryError, _Changed), self._store.write(silent=True) as connection:
            if self._store.state() != model.snapshot.state:
                raise _Changed
            write_threshold(connection, threshold, model.basis)

    def _estimate(self, model: _Model, limit: float) -> Threshold:
        if model.others.stale is not None:
            raise RegistryError(model.others.stale)
        negatives, found = model.others.negatives, None
        if not len(negatives) or len(model.snapshot.labels) > 1 or model.others.background is not None:
            if model.leave_one_out is None:
                model.leave_one_out = model.scorer.leave_one_out_scores()
            found = model.leave_one_out.threshold(limit)
            if found.met or not len(negatives):
                return found
        if model.of_negatives is None:
            model.of_negatives = model.scorer.negative_scores(negatives)
        instead = None if model.of_negatives is None else model.of_negatives.threshold(limit)
        return min((one for one in (found, instead) if one is not None), key=lambda one: one.false_accept_bound)
