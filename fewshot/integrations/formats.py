"""Answers about pictures in the words of other tools: CSV, JSON Lines, Label Studio, COCO and FiftyOne."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fewshot.registry import Failure, Prediction

Answers: TypeAlias = Sequence[tuple[str, Prediction | Failure]]
"""Paths as they were given, each with what was recognised in the picture or why it could not be read."""

CSV_COLUMNS = ("path", "label", "closest", "score", "unknown_score", "failed")

# A cell that begins so is computed by a spreadsheet, and may call programs: OWASP, "CSV Injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class LabelStudioNames:
    """What a project's labelling configuration calls its Choices, its Image, and the image's place in a task's data.

    The defaults are those of Label Studio's own template for image classification.
    """

    choices: str = "choice"
    image: str = "image"
    data: str = "image"

    def config(self, classes: Sequence[str]) -> str:
        """Return a labelling configuration of these names, with a choice for each class."""
        choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in classes)
        return (
            f'<View><Image name="{self.image}" value="${self.data}"/>'
            f'<Choices name="{self.choices}" toName="{self.image}">{choices}</Choices></View>'
        )


def as_json(value: Any) -> str:
    r"""Return JSON in one line, in Unicode; a file name that is no text keeps its bytes as ``\udc..`` escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _is_text(text) else json.dumps(value)


def row(path: str, answer: Prediction | Failure) -> dict[str, Any]:
    """Return what ``fewshot predict`` says of one picture."""
    if isinstance(answer, Failure):
        return {"path": path, "failed": answer.reason}
    said: dict[str, Any] = {
        "path": path,
        "label": answer.label,
        "score": _rounded(answer.score),
        "probability": _rounded(answer.probability),
        "unknown_score": _rounded(answer.unknown_score),
        "top": [[label, _rounded(score)] for label, score in answer.top],
    }
    if answer.nearest:
        said["nearest"] = [
            {"example": n.example, "label": n.label, "source": n.source, "score": _rounded(n.score)}
            for n in answer.nearest
        ]
    return said


def to_jsonl(answers: Answers) -> str:
    """Write a JSON object a line, one for each picture in the order given; failures too."""
    return "".join(f"{as_json(row(path, answer))}\n" for path, answer in answers)


def to_csv(answers: Answers) -> str:
    """Write a table with the columns of ``CSV_COLUMNS``, one row for each picture in the order given; failures too.

    ``label`` is empty for none of these, whose closest class is still named. ``csv_cell`` says what is changed.
    """
    rows: list[tuple[Any, ...]] = [CSV_COLUMNS]
    for path, answer in answers:
        if isinstance(answer, Failure):
            rows.append((path, "", "", "", "", answer.reason))
        else:
            scores = (_rounded(answer.score), _rounded(answer.unknown_score))
            rows.append((path, answer.label or "", answer.top[0][0], *scores, ""))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells] for cells in rows)
    return out.getvalue()


def csv_cell(text: str) -> str:
    """Return text that a spreadsheet shows instead of computing it: after a ' where it begins like a formula.

    A byte of a file name that is no text is written as an escape, for a table that is not UTF-8 is not read at all.
    """
    shown = text.encode("utf-8", "backslashreplace").decode()
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def to_label_studio(
    answers: Answers, *, prefix: str, model_version: str, names: LabelStudioNames | None = None
) -> list[dict[str, Any]]:
    """Return tasks with predictions, as a Label Studio project imports them.

    Parameters
    ----------
    answers : Answers
        A picture given twice is one task, a failed one is none; one of no known class comes without prediction.
    prefix : str
        Put before each path, which must then be relative to what it stands for; "" leaves paths as they are. In a URL,
        paths are percent-encoded.
    model_version : str
        What the project is to call the predictions' origin.
    names : LabelStudioNames, optional

    Raises
    ------
    ValueError : if a path does not lie in what ``prefix`` stands for.

    Notes
    -----
    Label Studio refuses scores outside [0, 1]; they are left out.
    """
    names = names or LabelStudioNames()
    tasks = []
    for path, answer in _read_once(answers):
        predictions = []
        if answer.label is not None:
            chosen: dict[str, Any] = {"from_name": names.choices, "to_name": names.image, "type": "choices"}
            chosen["value"] = {"choices": [answer.label]}
            prediction: dict[str, Any] = {"model_version": model_version, "result": [chosen]}
            if 0 <= answer.score <= 1:
                prediction["score"] = _rounded(answer.score)
            predictions.append(prediction)
        tasks.append({"data": {names.data: _address(path, prefix)}, "predictions": predictions})
    return tasks


def to_coco(answers: Answers, *, sizes: Mapping[str, tuple[int, int]], classes: Sequence[str]) -> dict[str, Any]:
    """Return a COCO data set: an annotation is the whole picture as a box, with the score.

    Parameters
    ----------
    answers : Answers
        A picture given twice stands once, a failed one not at all; one of no known class has no annotation.
    sizes : mapping of path to (width, height), in pixels
    classes : sequence of str
        All labels; categories are numbered from 1 in their order.
    """
    category = {label: number for number, label in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, answer) in enumerate(_read_once(answers), start=1):
        width, height = sizes[path]
        images.append({"id": number, "file_name": PurePath(path).as_posix(), "width": width, "height": height})
        if answer.label is not None:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category[answer.label],
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": _rounded(answer.score),
                }
            )
    categories = [{"id": number, "name": label} for label, number in category.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def to_fiftyone(answers: Answers, *, classes: Sequence[str]) -> dict[str, Any]:
    """Return the labels file of FiftyOne's ``FiftyOneImageClassificationDataset``; its confidence is our score.

    Parameters
    ----------
    answers : Answers
        A failed picture is left out; one of no known class is there without a label.
    classes : sequence of str
        All labels.
    """
    labels = {
        # An absolute path finds its picture wherever the file is read, and keeps its suffix: a.jpg and a.png differ.
        os.path.abspath(path): None
        if answer.label is None
        else {"label": answer.label, "confidence": _rounded(answer.score)}
        for path, answer in _read_once(answers)
    }
    return {"classes": list(classes), "labels": labels}


def _read_once(answers: Answers) -> list[tuple[str, Prediction]]:
    return [(path, answer) for path, answer in dict(answers).items() if isinstance(answer, Prediction)]


def _address(path: str, prefix: str) -> str:
    if not prefix:
        return path
    pure = PurePath(os.path.normpath(path))
    if pure.is_absolute() or pure.drive or ".." in pure.parts:
        raise ValueError(
            f"{path} does not lie in the folder that the prefix {prefix} stands for: run this in that folder, and give "
            "paths relative to it"
        )
    is_url = prefix.startswith(("/", "http://", "https://"))
    return prefix + (quote(os.fsencode(pure.as_posix())) if is_url else pure.as_posix())


def _rounded(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 4)  # JSON has no NaN


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
