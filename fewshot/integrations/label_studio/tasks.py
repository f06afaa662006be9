"""From Label Studio's tasks to pictures and regions to classify, and back to its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.integrations.label_studio.suggestions import Answer

_MOST_REGIONS = 500
_SHAPES = {
    "rectanglelabels": ("rectanglelabels", "rectangle"),
    "brushlabels": ("brushlabels", "brush"),
}
_KEPT = ("id", "original_width", "original_height", "image_rotation")


@dataclass(frozen=True)
class Question:
    """A picture, or a region of one, that a control asks about.

    Attributes
    ----------
    control : Control
    image : str
        Where the picture lies.
    region : mapping or None
        What outlines the region, as a result does; None for the whole picture.
    """

    control: Control
    image: str
    region: Mapping[str, Any] | None = None


def questions(task: Mapping[str, Any], controls: Sequence[Control], context: object = None) -> Iterator[Question]:
    """Yield what a task asks.

    The regions are those of its drafts, annotations and predictions, each once, 500 at most; or, where an annotator has
    drawn one this moment, the one in the request's ``context``. One that JSON cannot hold, as it has an endless number,
    is passed over.
    """
    data = task.get("data")
    for control in controls:
        image = data.get(control.image) if isinstance(data, Mapping) else None
        if not isinstance(image, str):
            continue
        if control.kind == "choices":
            yield Question(control, image)
        else:
            for region in _regions(task, control, context):
                yield Question(control, image, region)


def _regions(task: Mapping[str, Any], control: Control, context: object) -> list[Mapping[str, Any]]:
    drawn = _results([context])
    results = drawn or [r for key in ("drafts", "annotations", "predictions") for r in _results(task.get(key))]
    found: dict[bytes, Mapping[str, Any]] = {}
    for result in results:
        value = result.get("value")
        fits = result.get("type") in _SHAPES[control.kind] and result.get("to_name") == control.to_name
        if not fits or not isinstance(value, Mapping):
            continue
        outline = {key: part for key, part in value.items() if key == "rle" or not isinstance(part, (list, dict))}
        kept = {key: result[key] for key in _KEPT if key in result and not isinstance(result[key], (list, dict))}
        try:
            _strict_json(kept)
            same = _strict_json([outline, result.get("image_rotation") or 0])
        except (ValueError, RecursionError):
            continue  # no answer could tell of it
        found.setdefault(same, {**kept, "value": outline})
    return list(found.values())[:_MOST_REGIONS]


def _strict_json(value: object) -> bytes:
    """Write what any reader of JSON can read: no endless number, and no half of a letter."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def _results(holders: object) -> list[Mapping[str, Any]]:
    found = []
    for holder in holders if isinstance(holders, list) else ():
        results = holder.get("result") if isinstance(holder, Mapping) else None
        found += [r for r in results if isinstance(r, Mapping)] if isinstance(results, list) else []
    return found


def result_of(question: Question, answer: Answer) -> dict[str, Any] | None:
    """Put an answer as a result of a prediction; None where there is nothing to suggest."""
    if not answer.labels:
        return None
    control, score = question.control, round(answer.score, 4)
    named = {"from_name": control.name, "to_name": control.to_name, "type": control.kind, "score": score}
    labels = {control.kind: list(answer.labels)}
    if question.region is None:
        return {**named, "value": labels}
    return {**question.region, **named, "value": {**question.region["value"], **labels}}


def prediction_of(answers: Sequence[tuple[Question, Answer]], version: str, least: float = 0.0) -> dict[str, Any]:
    """Put the answers to a task's questions as its prediction; those with a score under ``least`` are kept back.

    Its score is that of the least sure answer, so that a list sorted by it begins with what is worth looking at; 0
    where nothing was asked, or nothing known.
    """
    found = [result_of(question, answer) for question, answer in answers if answer.score >= least]
    return {
        "model_version": version,
        "score": round(min((answer.score for _, answer in answers), default=0.0), 4),
        "result": [result for result in found if result is not None],
    }
