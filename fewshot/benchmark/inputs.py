"""Labelled vectors to benchmark on: pictures embedded by an encoder, or a file that holds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.benchmark.methods import Base
from fewshot.datasets import Dataset, load_dataset, training_overlap
from fewshot.encoders import EmbeddingCache, Encoder, load_encoder, usable_device
from fewshot.media import ImageSource, LabelledImages, describe, find_images
from fewshot.vectors import FeatureFile, read_features

_SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Features:
    """Vectors of n examples by one encoder, and what is known of them.

    Attributes
    ----------
    data, encoder : str
        Names for a table.
    vectors : ndarray of shape (n, d), float32
    labels, files : tuple of n str
        ``files`` names the pictures; "0", "1", ... where that is not known.
    groups : tuple of n str, or None
    fingerprint : str
        The encoder's; "" where a file does not say.
    flag : str or None
        Why its figures flatter: the encoder has been trained on these classes.
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
    """Data as it was named: vectors (a ``FeatureFile``) or pictures to embed (a ``Dataset``)."""

    name: str
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    held: Dataset | FeatureFile

    @property
    def pictures(self) -> bool:
        """Whether an encoder is needed."""
        return isinstance(self.held, Dataset)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Files that are no pictures, or lie in no class folder."""
        return self.held.ignored if isinstance(self.held, Dataset) else ()


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder, the name it was asked for by, and a short one for tables."""

    asked: str
    encoder: Encoder

    @property
    def name(self) -> str:
        """The last part of a folder's path, any other name as it is."""
        place = self.asked.removeprefix("local-dir:")
        return Path(place).name if place != self.asked or os.path.isdir(place) else self.asked


def open_source(name: str, *, split: str) -> Source:
    """Find labelled data by the path of a folder, zip or feature file, or by a data set's name.

    Raises
    ------
    FileNotFoundError, ValueError : if there is none, or it has no labels.
    """
    if Path(name).suffix in _SUFFIXES:
        held = read_features(Path(name))
        if held.labels is None:
            raise ValueError(f"{name} holds no labels; a benchmark needs one for each vector")
        if "" in held.labels:
            where = f"vector {held.labels.index('')} of {len(held.labels)}"
            raise ValueError(f"{name}: {where} has no label; a benchmark needs one for each vector")
        groups = None if held.groups is None else tuple(held.groups)
        return Source(Path(name).stem, tuple(held.labels), groups, held)
    dataset = load_dataset(name, split=split)
    called = dataset.name if dataset.split is None else f"{dataset.name} {dataset.split}"
    return Source(called, dataset.labels, dataset.groups, dataset)


def load_encoders(names: Sequence[str], *, device: str | None, cache: str) -> list[NamedEncoder]:
    """Load encoders by name, which remember their vectors in the file ``cache``.

    Raises
    ------
    EncoderNotFound : for a name that cannot be loaded.
    """
    return [NamedEncoder(name, EmbeddingCache(load_encoder(name, device=device), cache)) for name in names]


def embedded(source: Source, named: NamedEncoder | None) -> Features:
    """Return the vectors of a source; its pictures are embedded, a file's vectors are as they are.

    Raises
    ------
    ImageError : naming the first picture that cannot be read.
    """
    held = source.held
    if isinstance(held, FeatureFile):
        files = tuple(held.sources or map(str, range(len(held.vectors))))
        made_by, fingerprint, flag = _made_by(held), held.fingerprint or "", None
        return Features(source.name, made_by, held.vectors, source.labels, files, source.groups, fingerprint, flag)
    assert named is not None
    vectors, files = named.encoder.encode(held.images), tuple(map(describe, held.images))
    fingerprint, flag = named.encoder.fingerprint, training_overlap(named.asked, held)
    return Features(source.name, named.name, vectors, source.labels, files, source.groups, fingerprint, flag)


@dataclass(frozen=True)
class BaseSource:
    """Base data as it was named: vectors, or pictures to embed; each with its label ("" where unknown), or None."""

    name: str
    labels: tuple[str, ...] | None
    held: FeatureFile | Sequence[ImageSource]


def open_base(name: str) -> BaseSource:
    """Find base data: vectors in a file; or the train split where there are splits; else all pictures there are.

    Raises
    ------
    FileNotFoundError, ValueError : if there are none.
    """
    held: FeatureFile | Sequence[ImageSource]
    if Path(name).suffix in _SUFFIXES:
        held = read_features(Path(name))
        labels, n = held.labels, len(held.vectors)
    else:
        found = _base_images(name)
        held, labels, n = found.images, list(found.labels), len(found.images)
    if not n:
        raise ValueError(f"the base {name} is empty")
    return BaseSource(name, tuple(labels) if labels and any(labels) else None, held)


def embedded_base(base: BaseSource, features: Features, named: NamedEncoder | None) -> Base:
    """Return base data by the encoder that made ``features``.

    Raises
    ------
    ValueError : if the base is pictures but ``features`` come from a file, or is vectors of another encoder.
    """
    held = base.held
    if isinstance(held, FeatureFile):
        known = {held.fingerprint or "", features.fingerprint} - {""}
        if held.vectors.shape[1] != features.vectors.shape[1] or len(known) > 1:
            theirs = f"{_made_by(held)} (d={held.vectors.shape[1]}, {held.fingerprint or 'unknown'})"
            ours = f"{features.encoder} (d={features.vectors.shape[1]}, {features.fingerprint or 'unknown'})"
            raise ValueError(
                f"the base {base.name} holds vectors of {theirs}, but {features.data} those of {ours}; "
                "give a base by the same encoder"
            )
        vectors = held.vectors
    elif named is None:
        raise ValueError(
            f"{features.data} is a feature file, so its base must be one too, by the same encoder; "
            f"{base.name} holds pictures"
        )
    else:
        vectors = named.encoder.encode(held)
    return Base(vectors, None if base.labels is None else np.array(base.labels, str))


@dataclass(frozen=True)
class Inputs:
    """What a benchmark is about, opened before anything is embedded.

    Attributes
    ----------
    sources : tuple of Source
    base : BaseSource or None
    encoders : tuple of str
        Names of those that embed pictures.
    device : str or None
        Where they compute, as it was asked for.
    place : str
        Where all else does: the device asked for, or the best.
    """

    sources: tuple[Source, ...]
    base: BaseSource | None
    encoders: tuple[str, ...]
    device: str | None
    place: str

    @classmethod
    def open(
        cls, data: Sequence[str], *, encoders: Sequence[str], base: str | None, split: str, device: str | None
    ) -> Inputs:
        """Open each of the data once; two of one name are told apart by what was given.

        Raises
        ------
        FileNotFoundError, ValueError : for a device, data or a base that are not there, or pictures without an encoder.
        """
        place = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        given = list(dict.fromkeys(data))
        found = [open_source(name, split=split) for name in given]
        names = [source.name for source in found]
        sources = tuple(
            replace(source, name=name) if names.count(source.name) > 1 else source
            for name, source in zip(given, found, strict=True)
        )
        for source in sources:
            if source.pictures and not encoders:
                raise ValueError(
                    f"{source.name} holds pictures, and no encoder is named that could embed them; "
                    "give one, such as --encoder pocket (the others: fewshot encoders)"
                )
        return cls(sources, None if base is None else open_base(base), tuple(dict.fromkeys(encoders)), device, place)

    def remarks(self, base: str, danger: str) -> Iterator[str]:
        """Say in a sentence each what may surprise; ``base`` is the base's name, ``danger`` that of a class in both."""
        for source in self.sources:
            if ignored := source.ignored:
                yield f"{source.name}: passed over, no picture of a class: {len(ignored)}, as {ignored[0]}"
            both = set() if self.base is None else set(self.base.labels or ()) & set(source.labels)
            if both:
                yield f"{source.name} and the {base} both name a class {min(both)!r}: if it is the same, {danger}"
        if self.encoders and not any(source.pictures for source in self.sources):
            yield "the data are vectors already, so no encoder is used"

    def embedded(self, *, cache: str, with_base: bool) -> Iterator[tuple[Features, Base | None]]:
        """Yield each of the data by each encoder, and the base by the same where it is asked for.

        Parameters
        ----------
        cache : path
            Where pictures' vectors are kept.
        with_base : bool
        """
        needed = self.encoders if any(source.pictures for source in self.sources) else ()
        loaded = load_encoders(needed, device=self.device, cache=cache)
        for source in self.sources:
            for named in loaded if source.pictures else [None]:
                features = embedded(source, named)
                base = embedded_base(self.base, features, named) if with_base and self.base is not None else None
                yield features, base


def _base_images(name: str) -> Dataset | LabelledImages:
    """The train split where there are splits; else all pictures, also those in no class folder."""
    try:
        return load_dataset(name, split="train")
    except ValueError:
        if not os.path.exists(name):
            raise
    return find_images(name) if os.path.isdir(name) else load_dataset(name)


def _made_by(held: FeatureFile) -> str:
    spec: Any = json.loads(held.encoder or "{}")
    return str(spec.get("name", "features")) if isinstance(spec, dict) else "features"
