"""None of these: how surely a picture is of no known class, and where to draw the line."""

from __future__ import annotations

from fewshot.unknowns.background import Background, evenly
from fewshot.unknowns.center import Center, shipped_center, write_center
from fewshot.unknowns.scores import DEFAULT, SCORES, Known, UnknownScore
from fewshot.unknowns.threshold import LeftOut, Threshold, leave_out, set_threshold

__all__ = [
    "DEFAULT",
    "SCORES",
    "Background",
    "Center",
    "Known",
    "LeftOut",
    "Threshold",
    "UnknownScore",
    "evenly",
    "leave_out",
    "set_threshold",
    "shipped_center",
    "write_center",
]
