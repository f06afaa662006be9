"""What a registry recognises: the classes of images, texts and sounds, or of their vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import NoClasses
from fewshot.media import Medium, Modality, Source, Sources, medium_of
from fewshot.registry import encoder_identity
from fewshot.registry.class_descriptions import TextReader
from fewshot.registry.label_paths import LabelTree, check_roll_up
from fewshot.registry.multi_label import MultiLabel, MultiLabelPredictor, is_multi_label
from fewshot.registry.predictor import RegistryPredictor
from fewshot.registry.queries import RegistryQueries
from fewshot.registry.rejection import Rejection
from fewshot.registry.results import NOT_SURE, Failure, Prediction, Predictions
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_vectors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fewshot.encoders import Encoded, Encoder
    from fewshot.registry.class_descriptions import ClassTexts
    from fewshot.registry.snapshot import Snapshot


class Recognition(RegistryQueries, MultiLabel):
    """The part of ``ClassRegistry`` that predicts."""

    rejection: Rejection
    _store: RegistryStore
    _snapshots: SnapshotCache
    _predictor: RegistryPredictor
    _labels_predictor: MultiLabelPredictor
    _texts: TextReader

    @property
    def encoder(self) -> Encoder:
        """See ``ClassRegistry``."""
        raise NotImplementedError

    @property
    def modality(self) -> Modality:
        """See ``ClassRegistry``."""
        raise NotImplementedError

    @property
    def _medium(self) -> Medium:
        return medium_of(self.modality)

    def _sources(self, given: Sources) -> tuple[Medium, Iterable[Source]]:
        """The medium, and sources as they are, one alone as a list, of a table of one column that."""
        from fewshot.encoders import check_image_batch

        medium = self._medium
        return medium, check_image_batch(medium.sources(given), medium.modality)

    def predict(
        self,
        images: Sources,
        *,
        top: int = 5,
        nearest: int = 3,
        max_false_accept: float | None = None,
        roll_up: float | None = None,
    ) -> list[Prediction]:
        """Recognise images, texts or sounds.

        Parameters
        ----------
        images : iterable of sources, or one
            As of ``add``.
        top : int, default 5
            How many classes to rank.
        nearest : int, default 3
            How many examples to name that the answer rests on, those of its class first; 0 for none.
        max_false_accept : float, optional
            The largest share of unknown ones to give a label, in (0, 1); by default ``rejection.set``'s, if any;
            1 gives all a label. ``rejection.threshold`` gives the bound.
        roll_up : float, optional
            A probability in [0.5, 1]: labels are paths, as "drink/canned/coke", and the answer is the deepest level
            whose classes have it together, as "drink/canned"; None where not even a first level has.

        Returns
        -------
        list of Prediction, in the order given; of one alone, too.

        Raises
        ------
        ExampleError : ImageError, TextError or SoundError, naming the first that cannot be read; ``predict_valid`` goes
            on instead.
        RegistryError : if no class is registered.
        """
        answered = self.predict_valid(
            images, top=top, nearest=nearest, max_false_accept=max_false_accept, roll_up=roll_up
        )
        if answered.failed:
            first = answered.failed[0]
            raise self._medium.error(first.source, first.reason)
        return list(answered.predictions)

    def predict_valid(
        self,
        images: Sources,
        *,
        top: int = 5,
        nearest: int = 3,
        max_false_accept: float | None = None,
        roll_up: float | None = None,
    ) -> Predictions:
        """Recognise the examples that can be read, and list the others."""
        if max_false_accept not in (None, 1):
            self.require_single_label("limit on false accepts")
        if roll_up is not None:
            self.require_single_label("roll-up")
        names, encoded, failed = self._embedded(images)
        kept = encoded.kept.tolist()
        predictions = self.predict_vectors(
            encoded.vectors, top=top, nearest=nearest, max_false_accept=max_false_accept, roll_up=roll_up
        )
        return Predictions(tuple(names[n] for n in kept), tuple(predictions), tuple(failed.values()), tuple(kept))

    def predict_vectors(
        self,
        vectors: ArrayLike,
        *,
        top: int = 5,
        nearest: int = 3,
        max_false_accept: float | None = None,
        roll_up: float | None = None,
    ) -> list[Prediction]:
        """Recognise examples by the vectors, of shape (q, d), that ``encoder`` has made of them; as ``predict``."""
        check_roll_up(roll_up)
        query = check_vectors(vectors, self.encoder.dim)
        snapshot, texts = self._state()
        found = self._judged(snapshot, texts, query, top, nearest, max_false_accept)
        return found if roll_up is None else self._rolled_up(snapshot, texts, query, found, roll_up)

    def _embedded(self, images: Sources) -> tuple[list[str], Encoded, dict[int, Failure]]:
        """The names of examples, the vectors of those that can be read, and by position why the others cannot."""
        from fewshot.encoders import encode_valid

        if self._store.is_empty():
            raise NoClasses(f"{self.path} holds no classes yet; register some with: fewshot add {self.path} ...")
        encoder_identity.check_encoder(self._store, self.encoder)
        medium, given = self._sources(images)
        sources = list(given)
        encoded = encode_valid(self.encoder, sources)
        names = list(map(medium.describe, sources))
        failed = {n: Failure(names[n], medium.explained(sources[n], error.reason)) for n, error in encoded.failed}
        return names, encoded, failed

    def _state(self) -> tuple[Snapshot, ClassTexts | None]:
        """The snapshot of the file as it is, and the texts of its classes."""
        encoder = self.encoder
        with self.reading():
            snapshot = self._snapshots.current()
            encoder_identity.check_encoder(self._store, encoder, snapshot.settings)  # another may have reindexed
            described = self._texts.described(snapshot)
        texts = self._texts.of(snapshot, described)
        if not len(snapshot) and texts is None:
            raise NoClasses(f"{self.path} holds no classes any more; another process removed them")
        return snapshot, texts

    def _judged(
        self,
        snapshot: Snapshot,
        texts: ClassTexts | None,
        query: NDArray[np.float32],
        top: int,
        nearest: int,
        max_false_accept: float | None,
    ) -> list[Prediction]:
        if is_multi_label(snapshot.settings) and len(snapshot):
            return self._labels_predictor.predict(snapshot, query, self.encoder, top=top, nearest=nearest)
        pending = self.rejection.pending(snapshot, query)
        answers = self._predictor.predict(
            snapshot, query, self.encoder, top=top, nearest=nearest, beside=pending, texts=texts
        )
        return self.rejection.judge(snapshot, query, answers, max_false_accept, pending)

    def _rolled_up(
        self,
        snapshot: Snapshot,
        texts: ClassTexts | None,
        query: NDArray[np.float32],
        predictions: list[Prediction],
        share: float,
    ) -> list[Prediction]:
        """Give each prediction that has a label the deepest level that is sure."""
        if not predictions or predictions[0].probability is None:  # of one class, or of none with examples
            return predictions
        tree = tree_of(snapshot, texts)
        answers: list[tuple[str, float] | None] = []
        self._predictor.each_probability(
            snapshot, query, self.encoder, lambda some: answers.extend(tree.roll_up(some, share)), texts=texts
        )
        return [
            one
            if one.label is None
            else replace(one, label=None, note=NOT_SURE)
            if answer is None
            else replace(one, label=answer[0], probability=answer[1])
            for one, answer in zip(predictions, answers, strict=True)
        ]


def tree_of(snapshot: Snapshot, texts: ClassTexts | None) -> LabelTree:
    """Return the levels of the classes that are told apart."""
    return snapshot.label_tree if texts is None else LabelTree(texts.labels)
