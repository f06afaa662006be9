"""Fine-tuning a registry's encoder on the registry's own examples."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fewshot.encoders import SentenceTransformerEncoder, TimmEncoder, load_encoder
from fewshot.errors import ExampleError, RegistryError
from fewshot.files import unwritable
from fewshot.finetuning.classifier import FineTuneClassifier
from fewshot.media import medium_of
from fewshot.progress import Progress
from fewshot.registry import unavailable

if TYPE_CHECKING:
    from fewshot.finetuning.search import Choice
    from fewshot.media import ImageSource
    from fewshot.registry import ClassRegistry


_PART = ".part"
_PREFIXES = {TimmEncoder: "local-dir:", SentenceTransformerEncoder: "st:"}
# Writing an encoder takes seconds: a folder half written for so long was left by a process that was killed.
_LEFT_SECONDS = 3600.0


@dataclass(frozen=True)
class TuneReport:
    """The outcome of ``tune_registry``.

    Attributes
    ----------
    encoder, was : dict
        Parameters of the registry's encoder now and before; the same where no fine-tuned encoder was better.
    choice : Choice
        Steps and learning rate, and what they were evaluated on.
    examples : int
        How many were embedded again.
    """

    encoder: dict[str, Any]
    was: dict[str, Any]
    choice: Choice
    examples: int


def tune_registry(
    registry: ClassRegistry, *, folder: str | os.PathLike[str] | None = None, **settings: Any
) -> TuneReport:
    """Fine-tune a copy of a registry's encoder on the registry's examples, and embed these again with it.

    The new encoder is written to a folder; the one before stays where it is, and ``ClassRegistry.reindex`` with it
    undoes the change. Where no fine-tuned encoder is better on held-out examples, as the registry's own classifier
    answers on them, nothing is changed. Examples that
    other processes remove meanwhile are left out. Folders that a killed call left half written are removed after an
    hour by the next call.

    Parameters
    ----------
    registry : ClassRegistry
    folder : path, optional
        For the encoder; must not exist. By default beside the registry, named after it and the encoder's fingerprint.
    **settings
        Parameters of ``FineTuneClassifier``, but for the encoder.

    Returns
    -------
    TuneReport

    Raises
    ------
    RegistryError : naming the examples whose images are neither stored nor where they were; nothing is changed.
    FileExistsError : if the folder exists and is not empty.
    ValueError : for an encoder that cannot be fine-tuned, or fewer than two classes.
    """
    registry.require_single_label("fine-tuning")
    encoder = registry.encoder
    if not isinstance(encoder, (TimmEncoder, SentenceTransformerEncoder)):
        raise ValueError(
            f"{registry.path} was made with {type(encoder).__name__}: only timm networks and models of "
            "sentence-transformers can be fine-tuned"
        )
    if folder is not None and os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise FileExistsError(f"{os.fspath(folder)} exists: give another folder for the encoder")
    if folder is not None and not Path(folder).absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {os.fspath(folder)}: there is no folder {Path(folder).parent}")
    if settings.get("trainable") == "head":
        raise ValueError(
            "trainable='head' trains no part of an encoder, and a registry's classifier is learned anew at each "
            "prediction. Train blocks"
        )
    of_images = isinstance(encoder, TimmEncoder)
    if of_images and (encoder.layer is not None or encoder.layers is not None or encoder.tta):
        read = f"after layer {encoder.layer!r}" if encoder.layer is not None else "with layers or tta"
        raise ValueError(
            f"{registry.path} takes its features {read}, but fine-tuning reads the network's "
            f"own embedding: first run fewshot reindex {shlex.quote(registry.path)} --encoder {encoder.name}"
        )
    settings = {"head": registry.classifier, "tta": False, **settings}  # as a registry predicts
    classifier = FineTuneClassifier(encoder, **settings)
    classifier.check_parameters()  # before the images are read, which may take long
    _remove_half_written(_beside(registry.path, "") if folder is None else Path(f"{os.path.abspath(folder)}-"))
    was = registry.info().encoder
    _fit(classifier, registry)
    if not classifier.choice_.steps:
        return TuneReport(was, was, classifier.choice_, 0)
    tuned = classifier.encoder_
    place = Path(folder) if folder is not None else _beside(registry.path, tuned.fingerprint)
    _save(classifier.save_encoder, place)
    count = registry.reindex(load_encoder(**{**was, "name": f"{_PREFIXES[type(encoder)]}{place.absolute()}"}))
    return TuneReport(registry.info().encoder, was, classifier.choice_, count)


class _Example:
    """An example's image as a file object, read when used, so that few are in memory at a time."""

    def __init__(self, registry: ClassRegistry, id_: int) -> None:
        self._registry, self._id = registry, id_
        self.name = f"example {id_}"

    def seekable(self) -> bool:
        """Return False: each ``read`` returns the whole image."""
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the whole image."""
        return self._registry.image(self._id)

    def removed(self) -> bool:
        """Whether the example is in the registry no more."""
        try:
            self._registry.image(self._id)
        except KeyError:
            return True
        except ExampleError:
            pass
        return False


def _fit(classifier: FineTuneClassifier, registry: ClassRegistry) -> None:
    """Fit on every example; again on those that are left, where some were removed before they were read."""
    while True:
        examples, labels = _examples(registry)
        try:
            classifier.fit(cast("list[ImageSource]", examples), labels)
            return
        except ExampleError:
            if not any(example.removed() for example in examples):
                raise


def _examples(registry: ClassRegistry) -> tuple[list[_Example], list[str]]:
    """Return every example whose image can be read, and its label.

    Raises
    ------
    RegistryError : naming the others.
    """
    found: list[_Example] = []
    labels: list[str] = []
    missing: list[str] = []
    classes = registry.classes()
    with Progress(sum(classes.values()), "read") as bar:
        for label in classes:
            with suppress(KeyError):  # the class was removed meanwhile
                for id_, _ in registry.examples(label):
                    bar.advance(1)
                    example = _Example(registry, id_)
                    try:
                        example.read()
                    except KeyError:
                        continue  # the example was
                    except ExampleError as error:
                        missing.append(f"example {id_}, {error}")
                        continue
                    found.append(example)
                    labels.append(label)
    if missing:
        noun = medium_of(registry.modality).noun
        raise RegistryError(unavailable(missing, len(found) + len(missing), registry.path, noun))
    return found, labels


def _beside(path: str, fingerprint: str) -> Path:
    return Path(f"{os.path.abspath(path)}.encoder-{fingerprint[:8]}")


def _remove_half_written(start: Path) -> None:
    """Remove folders that killed calls left half written, of those whose paths begin so."""
    for half in start.parent.glob(f".*{_PART}"):
        with suppress(OSError):  # another call may remove it too
            if half.name.startswith(f".{start.name}") and time.time() - half.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(half)


def _save(write: Callable[[Path], object], place: Path) -> None:
    """Write the folder whole or not at all; one that exists already stays: its name holds the same fingerprint."""
    if place.is_dir() and any(place.iterdir()):
        return
    half = None
    try:
        half = Path(tempfile.mkdtemp(prefix=f".{place.name}-", suffix=_PART, dir=place.parent))
        write(half / place.name)
        os.replace(half / place.name, place)
    except OSError as error:
        raise unwritable(place, error) from error
    finally:
        if half is not None:
            shutil.rmtree(half, ignore_errors=True)
