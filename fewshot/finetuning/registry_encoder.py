"""Adapting a registry's encoder to the classes that the registry holds."""

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

from fewshot.encoders import TimmEncoder, load_encoder
from fewshot.errors import ImageError, RegistryError
from fewshot.files import unwritable
from fewshot.finetuning.classifier import FineTuneClassifier
from fewshot.progress import Progress
from fewshot.registry import unavailable

if TYPE_CHECKING:
    from fewshot.finetuning.choice import Choice
    from fewshot.media import ImageSource
    from fewshot.registry import ClassRegistry


_PART = ".part"
# To write an encoder takes seconds: a folder that is half written for so long was left by a process that was killed.
_LEFT_SECONDS = 3600.0


@dataclass(frozen=True)
class TuneReport:
    """What became of a registry's encoder.

    Attributes
    ----------
    encoder, was : dict
        How the registry's encoder is loaded now, and how it was before; the same where nothing was better.
    choice : Choice
        The steps and the learning rate that were taken, and what they were judged by.
    examples : int
        How many vectors were made anew.
    """

    encoder: dict[str, Any]
    was: dict[str, Any]
    choice: Choice
    examples: int


def tune_registry(
    registry: ClassRegistry, *, folder: str | os.PathLike[str] | None = None, **settings: Any
) -> TuneReport:
    """Fine-tune a copy of a registry's encoder on its own examples, and embed these anew with it.

    The encoder goes to a folder of its own; the one before stays where it is, and ``ClassRegistry.reindex`` with it
    takes everything back. Where no tuning promises to do better, nothing is changed. What a killed call left half
    written beside the registry, or ``folder``, is removed an hour later by the next.

    Parameters
    ----------
    registry : ClassRegistry
    folder : path, optional
        Where the encoder goes; it must not exist. By default beside the registry, named after it and the encoder's
        fingerprint.
    **settings
        Those of ``FineTuneClassifier``, but for the encoder.

    Returns
    -------
    TuneReport

    Raises
    ------
    RegistryError : naming the pictures that are neither kept nor where they were; nothing is changed.
    FileExistsError : if the folder exists and is not empty.
    ValueError : for an encoder that cannot be tuned, or fewer than two classes.
    """
    encoder = registry.encoder
    if not isinstance(encoder, TimmEncoder):
        raise ValueError(f"{registry.path} was made with an encoder of your own: only timm networks can be tuned")
    if folder is not None and os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise FileExistsError(f"{os.fspath(folder)} exists: give another folder for the encoder")
    if folder is not None and not Path(folder).absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {os.fspath(folder)}: there is no folder {Path(folder).parent}")
    if settings.get("trainable") == "head":
        raise ValueError(
            "trainable='head' trains no part of an encoder: a registry's classes are prototypes. Train blocks"
        )
    if encoder.layer is not None:
        raise ValueError(
            f"{registry.path} takes its features after layer {encoder.layer!r}, but fine-tuning reads the network's "
            f"own embedding: first run fewshot reindex {shlex.quote(registry.path)} --encoder {encoder.name}"
        )
    settings = {"head": "prototypes", "mirror": False, **settings}  # as the registry reads vectors
    classifier = FineTuneClassifier(encoder, **settings)
    classifier._check()  # a registry's pictures may take long to read
    _sweep(_beside(registry.path, "") if folder is None else Path(f"{os.path.abspath(folder)}-"))
    was = registry.info().encoder
    classifier.fit(*_examples(registry))
    if not classifier.choice_.steps:
        return TuneReport(was, was, classifier.choice_, 0)
    tuned = classifier.encoder_
    place = Path(folder) if folder is not None else _beside(registry.path, tuned.fingerprint)
    _save(classifier.save_encoder, place)
    count = registry.reindex(load_encoder(**{**was, "name": f"local-dir:{place}"}))
    return TuneReport(registry.info().encoder, was, classifier.choice_, count)


class _Example:
    """A registry's picture as a file object, read anew each time: no more are in memory than are in use."""

    def __init__(self, registry: ClassRegistry, id_: int) -> None:
        self._registry, self._id = registry, id_
        self.name = f"example {id_}"

    def seekable(self) -> bool:
        """Return False: there is no place in it to go back to."""
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the whole picture."""
        return self._registry.picture(self._id)


def _examples(registry: ClassRegistry) -> tuple[list[ImageSource], list[str]]:
    """Every picture, seen to be there, and its label."""
    images: list[ImageSource] = []
    labels: list[str] = []
    missing: list[str] = []
    total = sum(registry.classes().values())
    with Progress(total, "look") as bar:
        for label in registry.classes():
            for id_, _ in registry.examples(label):
                try:
                    registry.picture(id_)
                    images.append(cast("ImageSource", _Example(registry, id_)))
                    labels.append(label)
                except ImageError as error:
                    missing.append(f"example {id_}, {error}")
                bar.advance(1)
    if missing:
        raise RegistryError(unavailable(missing, total, registry.path))
    return images, labels


def _beside(path: str, fingerprint: str) -> Path:
    return Path(f"{os.path.abspath(path)}.encoder-{fingerprint[:8]}")


def _sweep(start: Path) -> None:
    """Remove what was left half written of folders whose paths begin so."""
    for half in start.parent.glob(f".*{_PART}"):
        with suppress(OSError):  # another call may remove it too
            if half.name.startswith(f".{start.name}") and time.time() - half.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(half)


def _save(write: Callable[[Path], object], place: Path) -> None:
    """Write the folder whole or not at all; one that is there already, by name the same encoder, stays."""
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
