"""Annotations on their way into a registry: as recorded, with their images, and as applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.snapshot import Snapshot


@dataclass(frozen=True)
class ImageLabels:
    """The labels that an annotation gives one image, or one region of it, by the image's address.

    Attributes
    ----------
    control : str
        The control of the labelling configuration that they answer.
    image : str
        The image's address.
    region_id : str
        "" for the whole image; unique within the annotation and control.
    labels : tuple of str
        Empty: none of the classes.
    region : mapping or None
        The region's outline, in JSON; None for the whole image.
    """

    control: str
    image: str
    region_id: str
    labels: tuple[str, ...]
    region: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class AnnotationRecord:
    """One version of an annotation.

    Attributes
    ----------
    annotation, task : int
        Their ids, unique within the registry.
    updated : int
        When the annotation was last changed, in microseconds since 1970; its latest record counts.
    labels : tuple of ImageLabels
        Empty for a skipped task.
    """

    annotation: int
    task: int
    updated: int
    labels: tuple[ImageLabels, ...] = ()

    @classmethod
    def from_json(cls, annotation: int, task: int, updated: int, text: str) -> AnnotationRecord:
        """Read a record whose labels were written by ``labels_json``."""
        labels = (
            ImageLabels(one["control"], one["image"], one["id"], tuple(one["labels"]), one.get("region"))
            for one in json.loads(text)
        )
        return cls(annotation, task, updated, tuple(labels))

    @cached_property
    def labels_json(self) -> str:
        """The labels as the registry's file stores them.

        Raises
        ------
        RecursionError : if a region is nested too deep.
        """
        labels = [
            {"control": one.control, "image": one.image, "id": one.region_id, "labels": one.labels}
            | ({} if one.region is None else {"region": one.region})
            for one in self.labels
        ]
        return json.dumps(labels, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """The SHA-256 of ``labels_json``, in hexadecimal: what is stored of an applied annotation."""
        return hashlib.sha256(self.labels_json.encode()).hexdigest()


@dataclass(frozen=True)
class LabelledImage:
    """An image, or a region cut out of one, with the labels that an annotation gives it.

    Attributes
    ----------
    control, region_id, labels
        As in ``ImageLabels``.
    image : bytes
        The file.
    source : str
        Where it came from, for people.
    """

    control: str
    region_id: str
    labels: tuple[str, ...]
    image: bytes
    source: str

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.image).digest()


@dataclass(frozen=True)
class FetchedAnnotation:
    """An annotation with its images, and why others of them cannot be had, a sentence each.

    One with many images comes in parts, so that not all need be in memory at once: the first part replaces what was
    applied of the annotation before, after the last the annotation is no longer pending.
    """

    record: AnnotationRecord
    images: tuple[LabelledImage, ...] = ()
    problems: tuple[str, ...] = ()
    is_first: bool = True
    is_last: bool = True


@dataclass(frozen=True)
class ResyncRequest:
    """A request to read all annotations of a project again.

    Attributes
    ----------
    requested_at : int
        In nanoseconds since 1970.
    config : str
        The labelling configuration to read them by.
    """

    requested_at: int
    config: str


@dataclass(frozen=True)
class AppliedLabel:
    """A label, or "" for none of the classes, that an annotation gives an example or a negative, by its id."""

    annotation: int
    control: str
    region_id: str
    label: str
    example: int | None
    negative: int | None


@dataclass(frozen=True)
class AnnotationSnapshot:
    """What the annotations of a registry amount to, in one state of it.

    Attributes
    ----------
    examples : Snapshot
    applied : list of AppliedLabel
    negatives : mapping of int to ndarray of shape (d,)
        The vectors of those that annotations give, by id.
    """

    examples: Snapshot
    applied: list[AppliedLabel]
    negatives: Mapping[int, NDArray[np.float32]]
