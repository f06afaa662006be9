"""The demonstration: classes of handwritten digits, registered from a few scans each, and their accuracy."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewshot.classifiers import PrototypeClassifier
from fewshot.files import replacing
from fewshot.registry import ClassRegistry, Prediction

_CELL, _CAPTION, _COLUMNS, _SHOWN = 96, 22, 10, 60
_RIGHT, _WRONG = "#1a7f37", "#c62828"


def run_demo(*, shots: int = 5, seed: int = 0, picture: str | None = None) -> dict[str, Any]:
    """Register scikit-learn's ten digits (8 x 8 scans) with the bundled encoder, and predict all other scans.

    Parameters
    ----------
    shots : int
        Examples of each digit.
    seed : int
        Of their choice.
    picture : path, optional
        Where to draw a contact sheet: 60 of the queries, drawn at random.

    Returns
    -------
    dict
        classes, shots, images (queries), accuracy, baseline_accuracy (prototypes of the raw pixels, same examples)
        and seconds.
    """
    from sklearn.datasets import load_digits

    start = time.perf_counter()
    drawn_as = None if picture is None else _format(picture)
    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(digits == digit))[:shots] for digit in range(10)])
    others = np.setdiff1d(np.arange(len(digits)), chosen)
    scans = [_scan(row) for row in pixels]
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder) / "digits.fewshot") as registry:
        registry.add_labelled([(scans[i], str(digits[i])) for i in chosen], allow_conflict=True)
        answers = registry.predict([scans[i] for i in others], top=1, nearest=0)
    truth = digits[others].astype(str)
    right = np.array([answer.label for answer in answers]) == truth
    baseline = PrototypeClassifier(metric="sqeuclidean").fit(pixels[chosen], digits[chosen])
    result: dict[str, Any] = {
        "classes": 10,
        "shots": shots,
        "images": len(others),
        "accuracy": round(float(right.mean()), 4),
        "baseline_accuracy": round(float(baseline.score(pixels[others], digits[others])), 4),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if picture is not None:
        # A random draw, so that the sheet shows wrong answers in their true share.
        shown = rng.permutation(len(others))[:_SHOWN]
        sheet = contact_sheet([scans[others[i]] for i in shown], [answers[i] for i in shown], truth[shown].tolist())
        with replacing(picture) as temporary:
            sheet.save(temporary, format=drawn_as)
        result["picture"] = os.fspath(picture)
    return result


def _format(picture: str) -> str:
    """The image format of a file's suffix."""
    suffix = Path(picture).suffix.lower()
    if suffix not in Image.registered_extensions():
        raise ValueError(f"cannot draw {picture}: no image format ends in {suffix!r}; give a file such as demo.png")
    return Image.registered_extensions()[suffix]


def contact_sheet(images: list[Image.Image], answers: list[Prediction], truth: list[str]) -> Image.Image:
    """Draw images in rows of ten with their predicted labels and scores; wrong ones in red, with the true label."""
    rows = -(-len(images) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, rows * (_CELL + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for position, (image, answer, label) in enumerate(zip(images, answers, truth, strict=True)):
        x, y = position % _COLUMNS * _CELL, position // _COLUMNS * (_CELL + _CAPTION)
        correct = answer.label == label
        colour = _RIGHT if correct else _WRONG
        sheet.paste(image.convert("RGB").resize((_CELL - 8, _CELL - 8), Image.Resampling.NEAREST), (x + 4, y + 4))
        if not correct:
            draw.rectangle((x + 1, y + 1, x + _CELL - 2, y + _CELL + _CAPTION - 2), outline=_WRONG, width=3)
        place = (x + _CELL / 2, y + _CELL + _CAPTION / 2 - 2)
        draw.text(place, _caption(answer, label), fill=colour, font=font, anchor="mm")
    return sheet


def _caption(answer: Prediction, truth: str) -> str:
    scored = f"{answer.label}  {answer.score:.2f}"
    return scored if answer.label == truth else f"{scored}, not {truth}"


def _scan(row: NDArray[np.float64]) -> Image.Image:
    """Ink on paper: scikit-learn's 0 (paper) to 16 (ink) as white to black."""
    return Image.fromarray((255 - row.reshape(8, 8) * (255 / 16)).round().astype(np.uint8))
