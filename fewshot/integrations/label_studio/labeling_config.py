"""The controls of a Label Studio labelling configuration that a classifier can predict."""

from __future__ import annotations

import base64
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast
from xml.parsers import expat

if TYPE_CHECKING:
    from fewshot.media import Modality

log = logging.getLogger("fewshot.integrations.label_studio.labeling_config")

Kind = Literal["choices", "rectanglelabels", "brushlabels"]

_KINDS: dict[str, Kind] = {
    "Choices": "choices",
    "RectangleLabels": "rectanglelabels",
    "BrushLabels": "brushlabels",
}
_OBJECTS: dict[str, Modality] = {"Image": "image", "Text": "text", "Audio": "audio", "AudioPlus": "audio"}
_TEXT_URI = "data:text/plain;charset=utf-8;base64,"
_OPTION = {"Choices": "Choice", "RectangleLabels": "Label", "BrushLabels": "Label"}
_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 100


@dataclass(frozen=True)
class Control:
    """A tag that asks for the class of an image, text or sound, or of regions of an image.

    Attributes
    ----------
    name, to_name : str
        Of the control, and of the object it is for.
    kind : str
        "choices" is for the object as a whole, the others for each region; it is also the type of its results, and the
        key of the labels in them.
    labels : tuple of str
        The classes; empty where each task brings its own.
    multiple : bool
        Whether several labels may be chosen together, or none (multi-label classification).
    image : str
        The key of the image, text or sound in a task's data.
    min_score : float
        Suggestions of a lower score are left out.
    modality : {"image", "text", "audio"}
    inline : bool
        Whether a task's data hold the text itself, not its address.
    """

    name: str
    to_name: str
    kind: Kind
    labels: tuple[str, ...]
    multiple: bool
    image: str
    min_score: float = 0.0
    modality: Modality = "image"
    inline: bool = False

    def address(self, data: Mapping[str, Any]) -> str | None:
        """Return where the object of a task is, by the task's data; a text itself becomes a data: URI."""
        found = data.get(self.image)
        if not isinstance(found, str) or not self.inline:
            return found if isinstance(found, str) else None
        return _TEXT_URI + base64.b64encode(found.encode("utf-8", "replace")).decode()


def inline_text(address: str) -> str | None:
    """Return the text that an address holds, if it was made by ``Control.address``."""
    found = address.startswith(_TEXT_URI)
    return base64.b64decode(address.removeprefix(_TEXT_URI)).decode() if found else None


@dataclass(frozen=True)
class _Tag:
    name: str
    attributes: dict[str, str]
    parents: tuple[int, ...]


def parse_config(xml: str) -> tuple[Control, ...]:
    """Read the controls that ask for the class of an image, text, sound or region; others are left out.

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
    objects = {
        tag.attributes["name"]: (tag, key)
        for tag in tags
        if tag.name in _OBJECTS and "name" in tag.attributes and (key := _variable(tag.attributes.get("value", "")))
    }
    found = []
    for number, tag in enumerate(tags):
        kind = _KINDS.get(tag.name)
        shown = [name for name in tag.attributes.get("toName", "").split(",") if name in objects]
        if kind is None or not shown or "name" not in tag.attributes or _is_left_out(tag):
            continue
        about, key = objects[shown[0]]
        modality = _OBJECTS[about.name]
        if modality != "image" and kind != "choices":
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
                image=key,
                min_score=_min_score(tag.attributes),
                modality=modality,
                inline=modality == "text" and about.attributes.get("valueType", "text") != "url",
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
