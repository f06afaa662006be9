"""What a detector finds in an image."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot.detection.boxes import Box
from fewshot.errors import MissingExtra


@dataclass(frozen=True)
class Detection:
    """An object of a registered class.

    Attributes
    ----------
    box : Box
        In pixels of the upright image, inside it.
    label : str
    score : float
        The classifier's closeness, as of ``Prediction``.
    probability : float or None
        Of the class, if it is one of the known ones, as of ``Prediction``.
    proposal_score : float or None
        The proposer's, where it gives one.
    unknown_score : float
        As of ``Prediction``; NaN where it was not asked.
    """

    box: Box
    label: str
    score: float
    probability: float | None = None
    proposal_score: float | None = None
    unknown_score: float = math.nan

    @property
    def confidence(self) -> float:
        """The probability, or without one the closeness, times the proposer's score where it gives one.

        Of boxes that overlap, the one of the highest confidence is kept.
        """
        own = self.score if self.probability is None else self.probability
        return own if self.proposal_score is None else own * self.proposal_score


@dataclass(frozen=True)
class ImageDetections:
    """The objects found in one image.

    Attributes
    ----------
    source : str
        The image's path, where it has one.
    width, height : int
        Of the upright image, in pixels.
    detections : tuple of Detection
        The most confident first.
    classes : tuple of str
        All registered ones.
    proposed, unusable, rejected : int
        Boxes that the proposer gave; of these, boxes that are empty or outside the image, and boxes that are of none of
        the classes.

    Examples
    --------
    >>> from fewshot.detection import Box, Detection, ImageDetections
    >>> ImageDetections("a.jpg", 30, 20, (Detection(Box(0, 0, 9, 9), "cup", 0.8),), ("cup", "pen")).counts
    {'cup': 1, 'pen': 0}
    """

    source: str
    width: int
    height: int
    detections: tuple[Detection, ...]
    classes: tuple[str, ...]
    proposed: int = 0
    unusable: int = 0
    rejected: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many objects there are of each class; of classes that are not there, 0."""
        found = Counter(one.label for one in self.detections)
        return {label: found[label] for label in self.classes}

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``: boxes, confidences, ids in the order of ``classes``, and "class_name".

        Raises
        ------
        MissingExtra : if supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingExtra(f"supervision is needed: pip install supervision ({error})") from error
        ids = {label: number for number, label in enumerate(self.classes)}
        return supervision.Detections(
            xyxy=np.array([one.box.xyxy for one in self.detections], np.float32).reshape(-1, 4),
            confidence=np.array([one.confidence for one in self.detections], np.float32),
            class_id=np.array([ids[one.label] for one in self.detections], int),
            data={"class_name": np.array([one.label for one in self.detections], dtype=str)},
        )
