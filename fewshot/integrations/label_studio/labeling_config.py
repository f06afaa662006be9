"""The controls of a Label Studio labelling configuration that a classifier can predict."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Literal, cast
from xml.parsers import expat

log = logging.getLogger("fewshot.integrations.label_studio.labeling_config")

Kind = Literal["choices", "rectanglelabels", "brushlabels"]

_KINDS: dict[str, Kind] = {
    "Choices": "choices",
    "RectangleLabels": "rectanglelabels",
    "BrushLabels": "brushlabels",
}
_OPTION = {"Choices": "Choice", "RectangleLabels": "Label", "BrushLabels": "Label"}
_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 100


@dataclass(frozen=True)
class Control:
    """A tag that asks for the class of an image, or of regions of it.

    Attributes
    ----------
    name, to_name : str
        Of the control, and of the image it is for.
    kind : str
        "choices" is for the image as a whole, the others for each region; it is also the type of its results, and the
        key of the labels in them.
    labels : tuple of str
        The classes; empty where each task brings its own.
    multiple : bool
        Whether several labels may be chosen together, or none (multi-label classification).
    image : str
        The key of the image in a task's data.
    min_score : float
        Suggestions of a lower score are left out.
    """

    name: str
    to_name: str
    kind: Kind
    labels: tuple[str, ...]
    multiple: bool
    image: str
    min_score: float = 0.0


@dataclass(frozen=True)
class _Tag:
    name: str
    attributes: dict[str, str]
    parents: tuple[int, ...]


def parse_config(xml: str) -> tuple[Control, ...]:
    """Read the controls that ask for the class of an image, or of a region of one; others are left out.

    As in Label Studio's own backends, ``model_skip="true"`` leaves out a control, too, and ``model_score_threshold`` is
    the lowest score of its suggestions.

    Parameters
    ----------
    xml : str
        A labelling configuration; it may come from anyone.

    Raises
    ------
    ValueError : if it is no XML, over a million characters, more than 100 tags deep, or declares entities, which
        could fill the memory.
    """
    tags = _tags(xml)
    images = {
        tag.attributes["name"]: key
        for tag in tags
        if tag.name == "Image" and "name" in tag.attributes and (key := _variable(tag.attributes.get("value", "")))
    }
    found = []
    for number, tag in enumerate(tags):
        kind = _KINDS.get(tag.name)
        shown = [name for name in tag.attributes.get("toName", "").split(",") if name in images]
        if kind is None or not shown or "name" not in tag.attributes or _is_left_out(tag):
            continue
        inside = (t for t in tags if number in t.parents and t.name == _OPTION[tag.name])
        labels = [t.attributes.get("alias") or t.attributes.get("value", "") for t in inside]
        found.append(
            Control(
                name=tag.attributes["name"],
                to_name=shown[0],
                kind=kind,
                labels=tuple(dict.fromkeys(label for label in labels if label)),
                multiple=kind == "choices" and tag.attributes.get("choice") == "multiple",
                image=images[shown[0]],
                min_score=_min_score(tag.attributes),
            )
        )
    return tuple(found)


def _is_left_out(tag: _Tag) -> bool:
    """Whether models are to skip it, or Choices are of each region, or a tree: their results say no class."""
    if tag.attributes.get("model_skip", "").lower() in ("1", "true", "yes"):
        return True
    return tag.name == "Choices" and "true" in (
        tag.attributes.get("perRegion", "").lower(),
        tag.attributes.get("perItem", "").lower(),
        tag.attributes.get("allowNested", "").lower(),
    )


def _min_score(attributes: dict[str, str]) -> float:
    value = attributes.get("model_score_threshold") or attributes.get("score_threshold") or "0"
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if math.isfinite(found):
        return found
    # Refused, an annotation would be lost over it.
    log.warning("model_score_threshold=%r of %r is no number, and is left out", value, attributes["name"])
    return 0.0


def _variable(value: str) -> str | None:
    found = re.fullmatch(r"\$([\w.-]+)", value)
    return found[1] if found else None


def _tags(xml: str) -> list[_Tag]:
    if len(xml) > _MAX_CHARACTERS:
        raise ValueError(f"the labelling configuration has {len(xml):,} characters, over the limit of 1,000,000")
    tags: list[_Tag] = []
    open_: list[int] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(open_) >= _MAX_DEPTH:
            raise ValueError(f"the labelling configuration is more than {_MAX_DEPTH} tags deep")
        tags.append(_Tag(name, attributes, tuple(open_)))
        open_.append(len(tags) - 1)

    def refuse(*_: object) -> None:
        raise ValueError("the labelling configuration declares a document type or entities, which are not accepted")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: cast("None", open_.pop())
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise ValueError(f"the labelling configuration is not XML ({error})") from error
    return tags
