"""What a proposer gives: boxes, in whatever form a detector returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from fewshot.detection.boxes import Box


@dataclass(frozen=True)
class Proposal:
    """A box that may hold an object; with the proposer's score, higher is surer, where it gives one."""

    box: Box
    score: float | None = None


@runtime_checkable
class Proposer(Protocol):
    """Finds boxes in which there may be an object, of whatever class."""

    def propose(self, image: Image.Image, name: str) -> Sequence[Proposal]:
        """Return the boxes of an upright RGB image, in its pixels; ``name`` is its path, where it has one."""
        ...


class FunctionProposer:
    """A function of an image as a proposer.

    Parameters
    ----------
    function : callable
        Takes an upright RGB PIL image. Returns boxes (n, 4), left, top, right and bottom in pixels, or (n, 5) with a
        score; a mapping with "boxes" and perhaps "scores", as torchvision's detectors; or an object with ``xyxy`` and
        perhaps ``confidence`` or ``conf``, as ``supervision.Detections`` and the ``boxes`` of Ultralytics' results.

    Examples
    --------
    >>> from PIL import Image
    >>> from fewshot.detection import FunctionProposer
    >>> whole = FunctionProposer(lambda image: [(0, 0, image.width, image.height)])
    >>> whole.propose(Image.new("RGB", (30, 20)), "")
    [Proposal(box=Box(left=0.0, top=0.0, right=30.0, bottom=20.0), score=None)]
    """

    def __init__(self, function: Any) -> None:
        self._function = function

    def propose(self, image: Image.Image, name: str) -> list[Proposal]:
        """Return what the function gives.

        Raises
        ------
        ValueError : for what are no boxes, for boxes in shares of the image instead of pixels, and, with its cause,
            where the function raises.
        """
        try:
            given = self._function(image)
        except Exception as error:  # of a program of the caller's, which may raise anything
            raise ValueError(f"the proposer raised {type(error).__name__}: {error}") from error
        boxes, scores = _boxes_and_scores(given)
        if len(boxes) and boxes.max() <= 1 and min(image.size) > 1:
            raise ValueError(
                "the proposer's boxes do not reach beyond 1 pixel, so they are shares of the image; give them in "
                f"pixels of {image.width} x {image.height}"
            )
        return [
            Proposal(Box(*map(float, box)), None if scores is None else float(scores[n])) for n, box in enumerate(boxes)
        ]


def _boxes_and_scores(given: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    if isinstance(given, (list, tuple)) and len(given) == 1 and not isinstance(given[0], (list, tuple)):
        if isinstance(given[0], Mapping) or hasattr(given[0], "boxes"):  # the answer for a batch of one
            given = given[0]
    if hasattr(given, "boxes"):
        given = given.boxes
    if isinstance(given, Mapping):
        boxes, scores = given.get("boxes"), given.get("scores")
    elif hasattr(given, "xyxy"):
        scores = getattr(given, "confidence", None)
        boxes, scores = given.xyxy, getattr(given, "conf", None) if scores is None else scores
    else:
        boxes, scores = given, None
    table = _table(boxes)
    if table.size == 0:
        return np.empty((0, 4)), None
    if table.ndim != 2 or table.shape[1] not in (4, 5):
        raise ValueError(f"a proposer returns boxes of shape (n, 4), or (n, 5) with a score, not {table.shape}")
    if table.shape[1] == 5:
        return table[:, :4], table[:, 4]
    return table, None if scores is None else _table(scores).reshape(len(table))


def _table(values: Any) -> np.ndarray[Any, Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"a proposer returns boxes of shape (n, 4) in pixels, not {type(values).__name__}") from None
