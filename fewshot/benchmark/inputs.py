"""Data to benchmark on: images, texts or sounds embedded by an encoder, or a file of embeddings."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.benchmark.methods import BaseData
from fewshot.datasets import Dataset, load_dataset, training_overlap
from fewshot.encoders import EmbeddingCache, Encoder, load_encoder, modality_of, usable_device
from fewshot.media import LabelledImages, Modality, find_images, is_folder, is_place, medium_of
from fewshot.media import Source as ExampleSource
from fewshot.registry import ClassRegistry
from fewshot.vectors import FeatureFile, read_features

_SUFFIXES = (".npz", ".parquet")
_SQLITE = b"SQLite format 3\0"
_WARM, _TIMED = 32, 64  # images embedded before the time is taken, and meanwhile


@dataclass(frozen=True)
class Features:
    """Embeddings of n labelled examples by one encoder.

    Attributes
    ----------
    data, encoder : str
        Names for a table.
    vectors : ndarray of shape (n, d), float32
    labels, files : tuple of n str
        ``files`` names the images; "0", "1", ... where that is not known.
    groups : tuple of n str, or None
    fingerprint : str
        The encoder's; "" where a file does not say.
    flag : str or None
        Why figures are optimistic: the encoder was trained on these classes.
    """

    data: str
    encoder: str
    vectors: NDArray[np.float32]
    labels: tuple[str, ...]
    files: tuple[str, ...]
    groups: tuple[str, ...] | None
    fingerprint: str
    flag: str | None

    @cached_property
    def content(self) -> str:
        """A hash of vectors, labels and groups."""
        digest = hashlib.sha256(f"{self.vectors.shape}".encode())
        digest.update(np.ascontiguousarray(self.vectors, "<f4").data)
        digest.update(json.dumps([self.labels, self.groups]).encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Source:
    """Data before they are embedded: a ``Dataset``, or a ``FeatureFile``, which needs no encoder."""

    name: str
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    content: Dataset | FeatureFile

    @property
    def needs_encoder(self) -> bool:
        """Whether these are not embeddings yet."""
        return isinstance(self.content, Dataset)

    @property
    def nouns(self) -> str:
        """What they are: "images", "texts" or "sounds"; "vectors" of a file."""
        return f"{medium_of(self.content.modality).noun}s" if isinstance(self.content, Dataset) else "vectors"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Files of another kind, or that lie in no class folder."""
        return self.content.ignored if isinstance(self.content, Dataset) else ()


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder and the name that it was loaded by."""

    loaded_as: str
    encoder: Encoder

    @property
    def name(self) -> str:
        """For tables: the last part of a folder's path, any other name as it is."""
        place = self.loaded_as.removeprefix("local-dir:")
        return Path(place).name if place != self.loaded_as or os.path.isdir(place) else self.loaded_as


def check_reads(encoder: Encoder, name: str, modality: Modality, place: str) -> None:
    """Raise ValueError where data are not what an encoder reads, with the remedy."""
    held, reads = medium_of(modality).noun, medium_of(modality_of(encoder)).noun
    if held != reads:
        raise ValueError(
            f"{place} holds {held}s, and {name} reads {reads}s: give an encoder, or data, of the other kind"
        )


def open_source(name: str | Dataset, *, split: str) -> Source:
    """Open labelled data: a folder, zip, feature file or registry by its path, a data set by its name, or as it is.

    Raises
    ------
    FileNotFoundError, ValueError : if there is none, or it has no labels.
    """
    if isinstance(name, Dataset):
        return Source(name.name, name.labels, name.groups, name)
    if (file := _vectors_of(name)) is not None:
        if file.labels is None:
            raise ValueError(f"{name} holds no labels; a benchmark needs one for each vector")
        if "" in file.labels:
            where = f"vector {file.labels.index('')} of {len(file.labels)}"
            raise ValueError(f"{name}: {where} has no label; a benchmark needs one for each vector")
        groups = None if file.groups is None else tuple(file.groups)
        return Source(Path(name).stem, tuple(file.labels), groups, file)
    dataset = load_dataset(name, split=split)
    title = dataset.name if dataset.split is None else f"{dataset.name} {dataset.split}"
    return Source(title, dataset.labels, dataset.groups, dataset)


def load_encoders(names: Sequence[str], *, device: str | None, cache: str) -> list[NamedEncoder]:
    """Load encoders by name, whose embeddings are cached in the file ``cache``.

    Raises
    ------
    EncoderNotFound : for a name that cannot be loaded.
    """
    return [NamedEncoder(name, EmbeddingCache(load_encoder(name, device=device), cache)) for name in names]


def note_minutes(note: Callable[[str], None], what: str, seconds: float, advice: str) -> None:
    """Say how long something will take if that is a minute or more."""
    if seconds >= 60:
        note(f"{what}: about {round(seconds / 60)} min; {advice}")


def _encoded(
    encoder: Encoder, images: Sequence[ExampleSource], name: str, note: Callable[[str], None]
) -> NDArray[np.float32]:
    """Embed images, and say how long it will take if it is minutes; the encoder's cache holds what was timed."""
    if len(images) > 10 * _TIMED and isinstance(encoder, EmbeddingCache):
        encoder.encode(images[-_WARM:])  # of a resumed run the last ones are still to be embedded
        start = time.perf_counter()
        encoder.encode(images[-_WARM - _TIMED : -_WARM])
        seconds = (time.perf_counter() - start) / _TIMED * len(images)
        count = medium_of(modality_of(encoder)).counted(len(images))
        note_minutes(note, f"embedding {count} of {name}", seconds, "a smaller --encoder takes less")
    return encoder.encode(images)


def embed_source(source: Source, named: NamedEncoder | None, note: Callable[[str], None] = lambda _: None) -> Features:
    """Embed the examples of a source; a file's vectors are taken as they are.

    Raises
    ------
    ExampleError : naming the first that cannot be read.
    ValueError : for an encoder of another modality.
    """
    content = source.content
    if isinstance(content, FeatureFile):
        vectors, files = content.vectors, tuple(content.sources or map(str, range(len(content.vectors))))
        encoder, fingerprint, flag = _encoder_of(content), content.fingerprint or "", None
    else:
        assert named is not None
        check_reads(named.encoder, named.name, content.modality, source.name)
        vectors = _encoded(named.encoder, content.images, source.name, note)
        files = tuple(map(medium_of(content.modality).describe, content.images))
        encoder, fingerprint = named.name, named.encoder.fingerprint
        flag = training_overlap(named.loaded_as, content)
    return Features(source.name, encoder, vectors, source.labels, files, source.groups, fingerprint, flag)


@dataclass(frozen=True)
class BaseSource:
    """Base data before they are embedded; ``labels`` are None, or "" where unknown."""

    name: str
    labels: tuple[str, ...] | None
    content: FeatureFile | Sequence[ExampleSource]
    modality: Modality = "image"

    def check_encoder(self, data: str, encoder: str, fingerprint: str, dim: int) -> None:
        """Refuse embeddings that cannot be compared with those of ``data``; images can be embedded alike.

        Raises
        ------
        ValueError : for embeddings of another size or fingerprint, naming both encoders.
        """
        if not isinstance(self.content, FeatureFile):
            return
        known = {self.content.fingerprint or "", fingerprint} - {""}
        own_dim = self.content.vectors.shape[1]
        if own_dim != dim or len(known) > 1:
            own = f"{_encoder_of(self.content)} (d={own_dim}, {self.content.fingerprint or 'unknown'})"
            raise ValueError(
                f"the base {self.name} holds vectors of {own}, but {data} those of {encoder} (d={dim}, "
                f"{fingerprint or 'unknown'}); give a base by the same encoder"
            )


def open_base(name: str) -> BaseSource:
    """Open base data: a feature file; or the train split of data with splits; else all images, labelled or not.

    Raises
    ------
    FileNotFoundError, ValueError : if there are none.
    """
    content: FeatureFile | Sequence[ExampleSource]
    modality: Modality = "image"
    if (file := _vectors_of(name)) is not None:
        content, labels, n = file, file.labels, len(file.vectors)
    else:
        found = _base_images(name)
        content, labels, n, modality = found.images, list(found.labels), len(found.images), found.modality
    if not n:
        raise ValueError(f"the base {name} is empty")
    return BaseSource(name, tuple(labels) if labels and any(labels) else None, content, modality)


def check_base(base: BaseSource, source: Source, named: NamedEncoder | None) -> None:
    """Refuse a base that cannot be compared with data, before anything is embedded.

    Raises
    ------
    ValueError : if the base is images but the data are embeddings, or is embeddings of another encoder.
    """
    data = source.content
    if named is not None:
        base.check_encoder(source.name, named.name, named.encoder.fingerprint, named.encoder.dim)
    elif isinstance(data, FeatureFile):
        if not isinstance(base.content, FeatureFile):
            raise ValueError(
                f"{source.name} is a feature file, so its base must be one too, by the same encoder; "
                f"{base.name} holds {medium_of(base.modality).noun}s"
            )
        base.check_encoder(source.name, _encoder_of(data), data.fingerprint or "", data.vectors.shape[1])


def embed_base(base: BaseSource, named: NamedEncoder | None, note: Callable[[str], None] = lambda _: None) -> BaseData:
    """Return base data, by the encoder if they are images."""
    if isinstance(base.content, FeatureFile):
        vectors = base.content.vectors
    else:
        assert named is not None
        check_reads(named.encoder, named.name, base.modality, f"the base {base.name}")
        vectors = _encoded(named.encoder, base.content, base.name, note)
    return BaseData(vectors, None if base.labels is None else np.array(base.labels, str))


@dataclass(frozen=True)
class Inputs:
    """A suite's data, opened before anything is embedded.

    Attributes
    ----------
    sources : tuple of Source
    base : BaseSource or None
    encoders : tuple of str
        Names of those that embed images.
    device : str or None
        The encoders', as it was given.
    method_device : str
        The methods': the given device, or the best.
    """

    sources: tuple[Source, ...]
    base: BaseSource | None
    encoders: tuple[str, ...]
    device: str | None
    method_device: str

    @classmethod
    def open(
        cls, data: Sequence[str | Dataset], *, encoders: Sequence[str], base: str | None, split: str, device: str | None
    ) -> Inputs:
        """Open each of the data once; two of one name are distinguished by the names that were given.

        Raises
        ------
        FileNotFoundError, ValueError : for a device, data or a base that are not there, or images without an encoder.
        """
        method_device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        given = [one for n, one in enumerate(data) if one not in data[:n]]
        opened = [open_source(name, split=split) for name in given]
        names = [source.name for source in opened]
        sources = tuple(
            replace(source, name=name) if names.count(source.name) > 1 and isinstance(name, str) else source
            for name, source in zip(given, opened, strict=True)
        )
        for source in sources:
            if source.needs_encoder and not encoders:
                raise ValueError(
                    f"{source.name} holds {source.nouns}, which need an encoder: give one, such as --encoder pocket "
                    "(the others: fewshot encoders)"
                )
        base_source = None if base is None else open_base(base)
        return cls(sources, base_source, tuple(dict.fromkeys(encoders)), device, method_device)

    def warnings(self, base: str, consequence: str) -> Iterator[str]:
        """Yield a sentence on each ignored file and each class that is in the base too.

        Parameters
        ----------
        base : str
            What the base is called.
        consequence : str
            Of the same class being in both.
        """
        for source in self.sources:
            if ignored := source.ignored:
                yield f"{source.name}: ignored, no {source.nouns[:-1]} of a class: {len(ignored)}, as {ignored[0]}"
            both = set() if self.base is None else set(self.base.labels or ()) & set(source.labels)
            if both:
                yield f"{source.name} and the {base} both name a class {min(both)!r}: if it is the same, {consequence}"
        if self.encoders and not any(source.needs_encoder for source in self.sources):
            yield "the data are embeddings already, so no encoder is used"

    def embed(
        self, *, cache: str, with_base: bool, note: Callable[[str], None] = lambda _: None
    ) -> Iterator[tuple[Features, BaseData | None]]:
        """Yield each of the data by each encoder, with the base by the same encoder if there is one.

        Parameters
        ----------
        cache : path
            File of the images' embeddings.
        with_base : bool
            Whether the base is used at all.
        note : callable
            Called with a line for what takes minutes.

        Raises
        ------
        ValueError : for a base that cannot be compared with the data, before anything is embedded.
        """
        needed = self.encoders if any(source.needs_encoder for source in self.sources) else ()
        loaded = load_encoders(needed, device=self.device, cache=cache)
        pairs = [(source, named) for source in self.sources for named in (loaded if source.needs_encoder else [None])]
        given = self.base if with_base else None
        if given is not None:
            for source, named in pairs:
                check_base(given, source, named)
        for source, named in pairs:
            if named is not None and isinstance(source.content, Dataset):
                check_reads(named.encoder, named.name, source.content.modality, source.name)
        for source, named in pairs:
            features = embed_source(source, named, note)
            yield features, None if given is None else embed_base(given, named, note)


def _vectors_of(name: str) -> FeatureFile | None:
    """The embeddings in a feature file or a registry; None for anything else."""
    if Path(name).suffix in _SUFFIXES:
        return read_features(Path(name))
    if not os.path.isfile(name):
        return None
    with open(name, "rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return None
    with ClassRegistry(name, create=False) as registry, tempfile.TemporaryDirectory() as folder:
        if registry.is_empty:
            raise ValueError(f"{name} holds no examples yet; add some with: fewshot add {name} LABEL FILE...")
        export = Path(folder) / "vectors.npz"
        registry.export(export)
        return read_features(export)


def _base_images(name: str) -> Dataset | LabelledImages:
    """The train split where there are splits; else all images, also those in no class folder."""
    try:
        return load_dataset(name, split="train")
    except ValueError:
        if not is_place(name):
            raise
    return find_images(name, None) if is_folder(name) else load_dataset(name)


def _encoder_of(file: FeatureFile) -> str:
    spec: Any = json.loads(file.encoder or "{}")
    return str(spec.get("name", "features")) if isinstance(spec, dict) else "features"
