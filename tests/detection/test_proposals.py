from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.detection import Box, FunctionProposer, Proposal

IMAGE = Image.new("RGB", (100, 80))
ROWS = [[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 70.0, 80.0]]
PLAIN = [Proposal(Box(*row)) for row in ROWS]
SCORED = [Proposal(Box(*row), score) for row, score in zip(ROWS, (0.5, 0.25), strict=True)]
xyxy = torch.tensor(ROWS)
scores = torch.tensor([0.5, 0.25])


@pytest.mark.parametrize(
    ("given", "proposals"),
    [
        (ROWS, PLAIN),
        (np.array(ROWS), PLAIN),
        (ROWS[:1], PLAIN[:1]),
        ([tuple(ROWS[0])], PLAIN[:1]),
        ([np.array(ROWS[0])], PLAIN[:1]),
        ([[*ROWS[0], 0.5], [*ROWS[1], 0.25]], SCORED),
        ({"boxes": xyxy, "scores": scores}, SCORED),
        ([{"boxes": xyxy, "scores": scores}], SCORED),
        ({"boxes": xyxy}, PLAIN),
        (SimpleNamespace(xyxy=np.array(ROWS), confidence=np.array([0.5, 0.25])), SCORED),
        (SimpleNamespace(xyxy=np.array(ROWS), confidence=None), PLAIN),
        ([SimpleNamespace(boxes=SimpleNamespace(xyxy=xyxy, conf=scores))], SCORED),
        ([], []),
        (np.empty((0, 4)), []),
        ({"boxes": torch.empty(0, 4), "scores": torch.empty(0)}, []),
    ],
)
def test_what_detectors_return_is_understood(given, proposals):
    assert FunctionProposer(lambda image: given).propose(IMAGE, "a.png") == proposals


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([[0.1, 0.2, 0.3, 0.4]], "boxes do not reach beyond 1 pixel.*give them in pixels of 100 x 80"),
        ([[1, 2, 3]], r"boxes of shape \(n, 4\), or \(n, 5\) with a score, not \(1, 3\)"),
        ("boxes", "boxes of shape .* in pixels, not str"),
        (None, r"boxes of shape"),
        ([[0, 0, np.nan, 4]], "a box's right is a finite number"),
    ],
)
def test_what_are_no_boxes_is_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        FunctionProposer(lambda image: given).propose(IMAGE, "a.png")
