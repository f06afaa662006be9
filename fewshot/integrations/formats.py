"""Predictions in the formats of other tools: CSV, JSON Lines, Label Studio, COCO and FiftyOne."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fewshot.registry import Failure, GroupPrediction, Prediction

if TYPE_CHECKING:
    from fewshot.media import Modality

ImagePredictions: TypeAlias = Sequence[tuple[str, Prediction | Failure]]
"""Paths as they were given, or texts, each with its prediction, or why it could not be read."""

CSV_COLUMNS = (
    "path", "label", "probability", "score", "top_label", "runner_up", "runner_up_score", "unknown_score", "error",
)  # fmt: skip

LABEL_SEPARATOR = ";"
"""Between the labels of a multi-label prediction in a cell."""

# A spreadsheet takes a cell that begins so for a formula, which may call programs: OWASP, "CSV Injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class LabelStudioNames:
    """The names of a project's Choices and object in its labelling configuration, and the object's key in task data.

    The defaults are those of Label Studio's own template for image classification.
    """

    choices: str = "choice"
    image: str = "image"
    data: str = "image"
    tag: str = "Image"

    @classmethod
    def of(cls, modality: Modality) -> LabelStudioNames:
        """Return those of Label Studio's templates for images, texts or sounds."""
        return {
            "image": cls(),
            "text": cls("sentiment", "text", "text", "Text"),
            "audio": cls("choice", "audio", "audio", "Audio"),
        }[modality]

    def config(self, classes: Sequence[str], *, multiple: bool = False) -> str:
        """Return a labelling configuration of these names, with a choice for each class, one or ``multiple``."""
        several = ' choice="multiple"' if multiple else ""
        choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in classes)
        return (
            f'<View><{self.tag} name="{self.image}" value="${self.data}"/>'
            f'<Choices name="{self.choices}" toName="{self.image}"{several}>{choices}</Choices></View>'
        )


def as_json(value: Any) -> str:
    r"""Return JSON in one line, in Unicode; a file name that is not Unicode keeps its bytes as ``\udc..`` escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _is_text(text) else json.dumps(value)


def row(name: str, prediction: Prediction | Failure, key: str = "path") -> dict[str, Any]:
    """Return the prediction for one path, or text under the key "text", as ``fewshot predict`` prints it."""
    if isinstance(prediction, Failure):
        return {key: name, "error": prediction.reason}
    found: dict[str, Any] = {
        key: name,
        "label": prediction.label,
        "score": _rounded(prediction.score),
        "probability": _rounded(prediction.probability),
        "unknown_score": _rounded(prediction.unknown_score),
        "top": [[label, _rounded(score)] for label, score in prediction.top],
    }
    if prediction.labels is not None:
        found["labels"] = [[label, _rounded(probability)] for label, probability in prediction.labels]
    if prediction.note is not None:
        found["note"] = prediction.note
    if prediction.nearest:
        found["nearest"] = [
            {"example": n.example, "label": n.label, "source": n.source, "score": _rounded(n.score)}
            for n in prediction.nearest
        ]
    return found


def group_row(group: GroupPrediction, key: str = "path") -> dict[str, Any]:
    """Return the prediction for a group, as ``fewshot predict --group`` prints it; ``key`` as of ``row``."""
    members = [_member(name, one, key) for name, one in group.members]
    if not group.top:
        return {"group": group.group, "error": "none of its members can be read", "members": members}
    found: dict[str, Any] = {
        "group": group.group,
        "label": group.label,
        "probability": _rounded(group.probability),
        "unknown_score": _rounded(group.unknown_score),
        "false_accept_bound": group.false_accept_bound,
        "agreement": _rounded(group.agreement),
        "effective_size": _rounded(group.effective_size),
        "top": [[label, _rounded(probability)] for label, probability in group.top],
    }
    return found | ({} if group.note is None else {"note": group.note}) | {"members": members}


def _member(name: str, one: Prediction | Failure, key: str) -> dict[str, Any]:
    if isinstance(one, Failure):
        return {key: name, "error": one.reason}
    unknown, probability = _rounded(one.unknown_score), _rounded(one.probability)
    return {key: name, "label": one.top[0][0], "probability": probability, "unknown_score": unknown}


def to_jsonl(predictions: ImagePredictions, key: str = "path") -> str:
    """Write one JSON object a line for each, in the order given; failures too."""
    return "".join(f"{as_json(row(name, prediction, key))}\n" for name, prediction in predictions)


def to_csv(predictions: ImagePredictions, key: str = "path") -> str:
    """Write a table with the columns of ``CSV_COLUMNS``, one row for each in the order given; failures too.

    ``label`` is empty for a rejected image, and holds the labels of a multi-label prediction, separated by
    ``LABEL_SEPARATOR``; ``top_label`` is its closest class all the same; ``runner_up`` is the
    second closest, empty for a prediction of one class. Text is escaped by ``csv_cell``.
    """
    rows: list[tuple[Any, ...]] = [(key, *CSV_COLUMNS[1:])]
    for path, one in predictions:
        if isinstance(one, Failure):
            rows.append((path, *[""] * (len(CSV_COLUMNS) - 2), one.reason))
        else:
            runner_up, runner_up_score = one.top[1] if len(one.top) > 1 else ("", math.nan)
            scores = _rounded(one.probability), _rounded(one.score)
            second = runner_up, _rounded(runner_up_score)
            rows.append(
                (
                    path,
                    LABEL_SEPARATOR.join(one.all_labels),
                    *scores,
                    one.top[0][0],
                    *second,
                    _rounded(one.unknown_score),
                    "",
                )
            )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells] for cells in rows)
    return out.getvalue()


def csv_cell(text: str) -> str:
    """Return text that a spreadsheet shows instead of evaluating it: after a ' where it begins like a formula.

    A byte of a file name that is not Unicode is written as an escape: a table that is not UTF-8 cannot be read at all.
    """
    shown = text.encode("utf-8", "backslashreplace").decode()
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def to_label_studio(
    predictions: ImagePredictions, *, prefix: str, model_version: str, names: LabelStudioNames | None = None
) -> list[dict[str, Any]]:
    """Return tasks with predictions, as a Label Studio project imports them.

    Parameters
    ----------
    predictions : ImagePredictions
        An image given twice is one task, a failed one is none; a rejected one is a task without prediction.
    prefix : str
        Put before each path, which must then be relative to the prefix's folder; "" leaves paths as they are. In a URL,
        paths are percent-encoded. What is a URL itself, as "s3://bucket/a.jpg", stays as it is.
    model_version : str
        The predictions' model version in the project.
    names : LabelStudioNames, optional

    Raises
    ------
    ValueError : if a path does not lie in the folder of ``prefix``.

    Notes
    -----
    A prediction's score is the probability, of several labels the least one's, and is left out where there is none;
    our score is in the result's ``meta``.
    """
    names = names or LabelStudioNames()
    tasks = []
    for path, one in _read_once(predictions):
        suggested = []
        if each := _one_each(one):
            least = each[-1]
            chosen: dict[str, Any] = {"from_name": names.choices, "to_name": names.image, "type": "choices"}
            chosen |= {"value": {"choices": list(one.all_labels)}, "meta": {"score": _rounded(least.score)}}
            suggested.append({"model_version": model_version, "result": [chosen], **_confidence("score", least)})
        tasks.append({"data": {names.data: task_address(path, prefix)}, "predictions": suggested})
    return tasks


def to_coco(
    predictions: ImagePredictions, *, sizes: Mapping[str, tuple[int, int]], classes: Sequence[str]
) -> dict[str, Any]:
    """Return a COCO data set: each annotation is a box around a whole image.

    Its score is the probability, and is left out where there is none; our score is among its ``attributes``.

    Parameters
    ----------
    predictions : ImagePredictions
        An image given twice is there once, a failed one not at all; a rejected one has no annotation.
    sizes : mapping of path to (width, height), in pixels
    classes : sequence of str
        All labels; categories are numbered from 1 in their order.
    """
    category = {label: number for number, label in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, one) in enumerate(_read_once(predictions), start=1):
        width, height = sizes[path]
        images.append({"id": number, "file_name": PurePath(path).as_posix(), "width": width, "height": height})
        for each in _one_each(one):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category[each.all_labels[0]],
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    **_confidence("score", each),
                    "attributes": {"score": _rounded(each.score)},
                }
            )
    categories = [{"id": number, "name": label} for label, number in category.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def to_fiftyone(predictions: ImagePredictions, *, classes: Sequence[str]) -> dict[str, Any]:
    """Return the labels file of FiftyOne's ``FiftyOneImageClassificationDataset``.

    The confidence is the probability, and is left out where there is none; our score is among the ``attributes``.

    Parameters
    ----------
    predictions : ImagePredictions
        A failed image is left out; a rejected one is there without a label.
    classes : sequence of str
        All labels.
    """
    labels = {
        # An absolute path finds its image wherever the file is read, and keeps its suffix: a.jpg and a.png differ.
        os.path.abspath(path): None
        if one.label is None
        else {"label": one.label, **_confidence("confidence", one), "attributes": {"score": _rounded(one.score)}}
        for path, one in _read_once(predictions)
    }
    return {"classes": list(classes), "labels": labels}


def _one_each(prediction: Prediction) -> list[Prediction]:
    """Return a prediction for each answered class: one or none, of a multi-label registry any number."""
    if prediction.labels is None:
        return [] if prediction.label is None else [prediction]
    return [
        replace(prediction, label=label, score=p, probability=p, labels=((label, p),)) for label, p in prediction.labels
    ]


def _confidence(key: str, prediction: Prediction) -> dict[str, float]:
    """Return the probability by a format's name for it; nothing where there is none, for no reader expects null."""
    probability = _rounded(prediction.probability)
    return {} if probability is None else {key: probability}


def _read_once(predictions: ImagePredictions) -> list[tuple[str, Prediction]]:
    return [(path, one) for path, one in dict(predictions).items() if isinstance(one, Prediction)]


def task_address(path: str, prefix: str) -> str:
    """Return where a task finds its image: the prefix, then the path, which must be relative to the prefix's folder.

    A URL is where it is.
    """
    from fewshot.media import is_url

    if not prefix or is_url(path):
        return path
    pure = PurePath(os.path.normpath(path))
    if pure.is_absolute() or pure.drive or ".." in pure.parts:
        raise ValueError(
            f"{path} does not lie in the folder of the prefix {prefix}: run this in that folder, and give paths "
            "relative to it"
        )
    is_quoted = prefix.startswith(("/", "http://", "https://"))
    return prefix + (quote(os.fsencode(pure.as_posix())) if is_quoted else pure.as_posix())


def _rounded(score: float | None) -> float | None:
    return None if score is None or math.isnan(score) else round(score, 4)  # JSON has no NaN


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
