"""Classes registered from a handful of examples, kept in one file, and new ones recognised by them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fewshot.errors import RegistryError
from fewshot.media import LabelledImages, Modality, Source, Sources, labelled_images
from fewshot.registry import encoder_identity
from fewshot.registry.annotations.annotation_records import AnnotationSnapshot
from fewshot.registry.annotations.applied_annotations import read_annotations
from fewshot.registry.backup import BackupAndCheck
from fewshot.registry.class_descriptions import ClassDescriptions, TextReader
from fewshot.registry.classifier_choice import check_size, remember, remembered_and_own
from fewshot.registry.crop_settings import CropSettings
from fewshot.registry.erasure import Erasure
from fewshot.registry.evaluation import evaluate
from fewshot.registry.evaluation_results import Evaluation
from fewshot.registry.example_files import export_examples, import_examples
from fewshot.registry.group_recognition import GroupRecognition
from fewshot.registry.ingest import add_images, add_in_chunks
from fewshot.registry.multi_label import MultiLabelPredictor, settle_multi_label
from fewshot.registry.predictor import RegistryPredictor
from fewshot.registry.registry_diagnosis import RegistryDiagnosis
from fewshot.registry.reindex import reindex
from fewshot.registry.rejection import Rejection
from fewshot.registry.results import AddReport
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore
from fewshot.registry.synthetic_views import Augment, check_augment
from fewshot.validation import Metric

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder


class ClassRegistry(GroupRecognition, RegistryDiagnosis, ClassDescriptions, CropSettings, BackupAndCheck, Erasure):
    """A growing set of classes of images, texts or sounds in one SQLite file.

    Parameters
    ----------
    path : path
        The file; made with the first ``add`` if absent.
    encoder : Encoder or str, optional
        Turns images, texts or sounds into vectors; its ``modality`` is the registry's. By default the one the registry
        was made with, loaded when first needed; for a new registry "pocket", which reads images.
    classifier : str or FewShotClassifier, optional
        Remembered, see ``set_classifier``; at first "whitened", and for up to 2,000 texts "logistic" with C=10. One
        that the file cannot hold serves this object alone.
    metric : {"cosine", "sqeuclidean", "inner_product"}, optional
        Fixed when the registry is made; by default the classifier's, else "cosine".
    keep_images : bool, optional
        Whether the original bytes of examples are kept in the file, else only their paths. By default as when the
        registry was made, at first True.
    multi_label : bool, optional
        Whether an example may be of several classes, each then predicted by a yes or no of its own
        (``MultiLabelClassifier``); fixed with the first example, by default as when the registry was made, at first
        False. Examples that are negatives are of none.
    create : bool, default True
        Whether a missing file is made; False refuses instead.
    busy_seconds : float, optional
        How long another process that writes is waited for, by default 120.
    on_wait : callable, optional
        Called with the seconds of each such wait.

    Attributes
    ----------
    rejection : Rejection
        Open-set recognition: negatives, and the limit on false accepts.

    Raises
    ------
    RegistryError : for a foreign or newer file, or a missing one that is not to be made.
    RegistryBusy : by any method, if another process writes for longer than ``busy_seconds``.
    EncoderMismatch : if the encoder or metric given is not the registry's, with the remedy.

    Notes
    -----
    Safe to share between threads and processes: every change is one transaction, and predictions follow changes made
    elsewhere. An example that cannot be read never stops the others; reports list it. Duplicates are equal bytes; of
    texts, equal after Unicode's composition (NFC) and without blanks at their ends.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import ClassRegistry
    >>> red, blue, dark_red = (np.full((32, 32, 3), c, np.uint8) for c in ((250, 20, 20), (20, 20, 250), (190, 30, 40)))
    >>> with ClassRegistry("colours.fewshot") as registry:
    ...     added = registry.add("red", red) + registry.add("blue", [blue])
    ...     print(added.added, len(registry), registry.predict(dark_red)[0].label)
    2 2 red
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: Encoder | str | None = None,
        classifier: str | FewShotClassifier | None = None,
        metric: Metric | None = None,
        keep_images: bool | None = None,
        multi_label: bool | None = None,
        create: bool = True,
        busy_seconds: float | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        chosen, own = remembered_and_own(classifier)
        self._store = RegistryStore(path, create=create, busy_seconds=busy_seconds, on_wait=on_wait)
        self._snapshots = SnapshotCache(self._store)
        self._own_classifier, self._predictor = own, RegistryPredictor(self._store, own)
        self._labels_predictor = MultiLabelPredictor(self._store)
        self._texts = TextReader(self._store, lambda: self.encoder)
        self.rejection = Rejection(self._store, self._snapshots, self._texts, lambda: self.encoder)
        self._lock = threading.RLock()
        self._encoder: Encoder | None = None
        try:
            encoder_identity.settle(self._store, getattr(classifier, "metric", None), metric, keep_images)
            settle_multi_label(self._store, multi_label)
            if classifier is not None:
                self.require_single_label("choice of a classifier")
            remember(self._store, chosen)
            if encoder is not None:
                encoder = encoder_identity.loaded_encoder(encoder)
                encoder_identity.check_encoder(self._store, encoder)
                self._encoder = encoder
        except BaseException:
            self._store.close(unmake=True)
            raise

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded if it was not.

        Raises
        ------
        EncoderMismatch : if what loads under the remembered name is not what made the vectors.
        """
        with self._lock:
            if self._encoder is None:
                from fewshot.encoders import load_encoder

                spec = json.loads(self._store.meta().get("encoder", '{"name": "pocket"}'))
                if "name" not in spec:
                    raise RegistryError(f"{self.path} was made with an encoder of your own: give it as encoder=")
                encoder = load_encoder(**encoder_identity.found_beside(self.path, spec))
                encoder_identity.check_encoder(self._store, encoder)
                self._encoder = encoder
            return self._encoder

    @property
    def modality(self) -> Modality:
        """What its examples are: "image", "text" or "audio", as its encoder's.

        Of a new registry without an encoder images.
        """
        from fewshot.encoders import modality_of

        with self._lock:
            new = "modality" not in self._store.meta() and self._encoder is not None
            return modality_of(self._encoder) if new else self._store.modality

    def add(
        self,
        label: str | Sequence[str],
        images: Sources,
        *,
        allow_conflict: bool = False,
        all_or_none: bool = False,
        augment: Augment | None = None,
    ) -> AddReport:
        """Register images, texts or sounds as examples of a class, new or known.

        Parameters
        ----------
        label : str, or list or tuple of str
            Several only in a multi-label registry: each example is of all of them.
        images : iterable of sources, or one
            Images: paths, bytes, file objects, PIL images, arrays or tensors. Texts: ``str``, and the ``pathlib.Path``
            of a text file. Sounds: paths, bytes, or pairs (samples, sampling_rate).
        allow_conflict : bool, default False
            Accept an example that another class holds already.
        all_or_none : bool, default False
            Embed all before they are added in one transaction, so that an error leaves none; by default each 64.
        augment : {"catalogue"}, optional
            The images show an object before a plain background, while photographs are asked about: a vector is the
            mean direction of the image and six synthetic views of the object, again at each ``reindex``. Images without
            a plain background are listed as failed.

        Returns
        -------
        AddReport
            How many were added; the duplicates, conflicts and unreadable ones, which were not.
        """
        labels = self.check_labels(label)
        pairs = ((source, one) for source in self._sources(images)[1] for one in labels)
        return self.add_labelled(pairs, allow_conflict=allow_conflict, all_or_none=all_or_none, augment=augment)

    def add_labelled(
        self,
        pairs: Iterable[tuple[Source, str]],
        *,
        allow_conflict: bool = False,
        all_or_none: bool = False,
        augment: Augment | None = None,
    ) -> AddReport:
        """Register (example, label) pairs as ``add`` does.

        Raises
        ------
        PartlyAdded : if an error stops it after some were added; its ``report`` says what became of them.
        """
        encoder = self.encoder
        check_augment(augment, encoder)
        encoder_identity.remember_encoder(self._store, encoder)
        keep = bool(self._store.meta()["keep_images"])
        add = partial(
            add_images, self._store, encoder, allow_conflict=allow_conflict, keep_images=keep, augment=augment
        )
        return add_in_chunks(self._store, pairs, add, all_or_none=all_or_none)

    def add_folder(
        self,
        place: str | os.PathLike[str] | LabelledImages,
        *,
        allow_conflict: bool = False,
        all_or_none: bool = False,
        augment: Augment | None = None,
    ) -> AddReport:
        """Register a folder or zip with one subfolder a class, as ``add`` does; the report names what was ignored.

        Parameters
        ----------
        place : path or LabelledImages
            ``photos/cat/1.jpg`` is an example of "cat"; what surrounds all class folders is no class. Texts are .txt
            files, sounds .wav, .flac, .ogg and .mp3. ``labelled_images(place, nested=True)`` makes paths of folders
            the labels.
        allow_conflict, all_or_none, augment
            As of ``add``.

        Raises
        ------
        FileNotFoundError : if there is no such folder or zip.
        AmbiguousFolders : if it is not clear which folders are the classes, as where there are splits.
        """
        found = place if isinstance(place, LabelledImages) else labelled_images(place, self.modality)
        pairs = list(zip(found.images, found.labels, strict=True))
        report = self.add_labelled(pairs, allow_conflict=allow_conflict, all_or_none=all_or_none, augment=augment)
        return replace(report, ignored=found.ignored)

    @property
    def settled(self) -> bool:
        """Whether nothing is being made that later predictions profit from: an index of many classes, the whitening."""
        return self._predictor.settled

    def annotations(self) -> AnnotationSnapshot:
        """Return examples and negatives with the annotations that give them, in one state of the registry."""
        return read_annotations(self._store, self._snapshots, self.encoder)

    def evaluate(
        self,
        images: Sources | LabelledImages,
        labels: Iterable[str] | None = None,
        *,
        roll_up: float | None = None,
        nearest: int = 0,
    ) -> Evaluation:
        """Recognise examples whose classes are known, and count.

        A stored limit on false accepts rejects as in ``predict``; ``accuracy`` is without it, ``accepted_accuracy`` and
        ``rejected`` are with it. Examples of classes that are not registered count as wrong, and are named; so is how
        many are registered themselves, which flatter the accuracy.

        Parameters
        ----------
        images : path, LabelledImages, or examples as of ``predict``
            Without labels a folder or zip with one subfolder a class, as of ``add_folder``.
        labels : iterable of str, optional
            The class of each.
        roll_up : float, optional
            As of ``predict``; ``Evaluation.levels`` says how deep it answered.
        nearest : int, default 0
            How many nearest examples are named of each.

        Raises
        ------
        ValueError : for another number of labels than examples; for a multi-label registry, see ``evaluate_labels``.
        """
        self.require_single_label("accuracy; evaluate_labels gives F1 and average precision")
        return evaluate(self._store, self, images, labels, roll_up=roll_up, nearest=nearest)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write ids, labels, vectors, hashes, sources, texts and the fingerprint to .npz or .parquet; returns how many.

        Images and sounds are not part of it: ``backup`` copies these, too.
        """
        return export_examples(self._store, self._snapshots, path)

    def import_examples(self, path: str | os.PathLike[str], *, allow_conflict: bool = False) -> AddReport:
        """Add the examples of a file written by ``export``, made with the same encoder; all or none.

        Raises
        ------
        EncoderMismatch : if the file's vectors come from another encoder.
        """
        return import_examples(self._store, path, self._encoder, allow_conflict=allow_conflict)

    def reindex(self, encoder: Encoder | str) -> int:
        """Embed every example again, with another encoder; all or, if one cannot be found, none; returns how many.

        Raises
        ------
        RegistryError : naming those that cannot be found; for an encoder of another modality, or of a wrong size.
        """
        encoder = encoder_identity.loaded_encoder(encoder)
        encoder_identity.described(self._store)
        check_size(self._store, encoder.dim)
        count = reindex(self._store, encoder)
        self._encoder = encoder
        return count

    def close(self, *, patience: float | None = None) -> None:
        """Close the file; the object is of no use afterwards.

        Parameters
        ----------
        patience : float, optional
            Other threads that read or write are waited for; after so many seconds they are interrupted, and raise
            RegistryError as all do that come later.
        """
        self._predictor.close()
        self._store.close(patience=patience)

    def __enter__(self) -> ClassRegistry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._predictor.close()
        self._store.close(unmake=error is not None)  # so that a first `add` that fails leaves no empty file

    def __repr__(self) -> str:
        return f"ClassRegistry({self.path!r})"
