"""Label Studio's tasks read into images and regions to classify, and suggestions written as its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.integrations.label_studio.storage_address import storage_address
from fewshot.integrations.label_studio.suggestions import Suggestion

_MAX_REGIONS = 500
_SHAPES = {
    "rectanglelabels": ("rectanglelabels", "rectangle"),
    "brushlabels": ("brushlabels", "brush"),
}
_GEOMETRY = ("id", "original_width", "original_height", "image_rotation")


@dataclass(frozen=True)
class QueryImage:
    """An image, text or sound, or a region of an image, to be classified for a control.

    Attributes
    ----------
    control : Control
    image : str
        Its address.
    region : mapping or None
        What outlines the region, as a result does; None for the whole.
    """

    control: Control
    image: str
    region: Mapping[str, Any] | None = None


def query_images(task: Mapping[str, Any], controls: Sequence[Control], context: object = None) -> Iterator[QueryImage]:
    """Yield the images, texts, sounds and regions of a task that its controls ask to classify.

    The regions are those of its drafts, annotations and predictions, each once, 500 at most; or, where an annotator has
    just drawn one, the one in the request's ``context``. A region that JSON cannot hold, with an infinite number, is
    left out.
    """
    data = task.get("data")
    for control in controls:
        image = control.address(data) if isinstance(data, Mapping) else None
        if image is None:
            continue
        id_ = task.get("id")
        image = storage_address(image, id_ if isinstance(id_, int) else None)
        if control.kind == "choices":
            yield QueryImage(control, image)
        else:
            for region in _regions(task, control, context):
                yield QueryImage(control, image, region)


def _regions(task: Mapping[str, Any], control: Control, context: object) -> list[Mapping[str, Any]]:
    drawn = _results([context])
    results = drawn or [r for key in ("drafts", "annotations", "predictions") for r in _results(task.get(key))]
    found: dict[bytes, Mapping[str, Any]] = {}
    for result in results:
        value = result.get("value")
        fits = result.get("type") in _SHAPES[control.kind] and result.get("to_name") == control.to_name
        if not fits or not isinstance(value, Mapping):
            continue
        outline = {key: part for key, part in value.items() if key == "rle" or not _is_nested(part)}
        geometry = {key: result[key] for key in _GEOMETRY if key in result and not _is_nested(result[key])}
        try:
            _strict_json(geometry)
            same = _strict_json([outline, result.get("image_rotation") or 0])
        except (ValueError, RecursionError):
            continue  # no prediction could hold it
        found.setdefault(same, {**geometry, "value": outline})
    return list(found.values())[:_MAX_REGIONS]


def _is_nested(value: object) -> bool:
    return isinstance(value, (list, dict))


def _strict_json(value: object) -> bytes:
    """Write what any reader of JSON can read: no infinite number, no lone surrogate."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def _results(holders: object) -> list[Mapping[str, Any]]:
    found = []
    for holder in holders if isinstance(holders, list) else ():
        results = holder.get("result") if isinstance(holder, Mapping) else None
        found += [r for r in results if isinstance(r, Mapping)] if isinstance(results, list) else []
    return found


def _result(query: QueryImage, suggestion: Suggestion) -> dict[str, Any] | None:
    """Write a suggestion as a result of a prediction; None where there is no label."""
    if not suggestion.labels:
        return None
    control = query.control
    named: dict[str, Any] = {"from_name": control.name, "to_name": control.to_name, "type": control.kind}
    if suggestion.score is not None:
        named["score"] = round(suggestion.score, 4)
    labels = {control.kind: list(suggestion.labels)}
    if query.region is None:
        return {**named, "value": labels}
    return {**query.region, **named, "value": {**query.region["value"], **labels}}


def prediction_of(
    suggested: Sequence[tuple[QueryImage, Suggestion]], version: str, min_score: float = 0.0
) -> dict[str, Any]:
    """Write the suggestions for a task as its prediction, without those under ``min_score`` or their control's.

    Its score is the lowest of all suggestions, so that a list sorted by it begins with the least confident; 0 where
    there is nothing to classify, or no class yet, and None where none of them has a score.
    """
    scores = [suggestion.score for _, suggestion in suggested if suggestion.score is not None]
    results = [
        _result(query, suggestion)
        for query, suggestion in suggested
        if (suggestion.score or 0.0) >= max(min_score, query.control.min_score)
    ]
    return {
        "model_version": version,
        "score": round(min(scores, default=0.0), 4) if scores or not suggested else None,
        "result": [result for result in results if result is not None],
    }
