"""Reading boxes from the files of annotation tools: COCO, Pascal VOC and YOLO."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fewshot.detection.box_annotations import BoxAnnotations, ImageBoxes, LabelledBox, collected
from fewshot.detection.boxes import Box
from fewshot.detection.yolo_names import NAME_LISTS, yolo_names
from fewshot.media import is_url

_MOST_XML_BYTES = 16 * 2**20
_VALUES = ("xmin", "ymin", "xmax", "ymax")


def read_boxes(place: str | os.PathLike[str]) -> BoxAnnotations:
    """Read a file or folder of boxes.

    Parameters
    ----------
    place : path
        A COCO data set (.json); a Pascal VOC file, or a folder of them (.xml); a folder of YOLO labels (.txt) with the
        names of the classes in ``data.yaml``, ``classes.txt`` or ``obj.names``, there or in the folder around.

    Raises
    ------
    FileNotFoundError : if there is no such file or folder.
    ValueError : for another kind of file, a URL, or a damaged one, naming the place in it.

    Notes
    -----
    COCO's boxes are left, top, width and height in pixels; VOC's are taken as LabelImg writes them, from 0 to the width
    of the image; YOLO's are centre and size in shares of the image, of outlines (segments) the box around.
    """
    if is_url(place):
        raise ValueError(f"{place} is a URL: boxes are read from a file or folder of this machine")
    path = Path(place)
    if path.is_dir():
        kinds = {suffix: sorted(path.rglob(f"*{suffix}")) for suffix in (".xml", ".txt")}
        labels = [file for file in kinds[".txt"] if file.name not in NAME_LISTS]
        if kinds[".xml"] and labels:
            raise ValueError(f"{place} holds both .xml (VOC) and .txt (YOLO) files: give a folder of one kind")
        if kinds[".xml"]:
            return collected(str(place), [_voc(file, path) for file in kinds[".xml"]])
        if labels:
            names = yolo_names(path)
            return collected(str(place), [_yolo(file, path, names) for file in labels], normalised=True)
        raise ValueError(f"{place} holds no boxes: neither .xml (VOC) nor .txt (YOLO) files")
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder of boxes: {place}")
    if path.suffix.lower() == ".json":
        return _coco(path)
    if path.suffix.lower() == ".xml":
        return collected(str(place), [_voc(path, path.parent)])
    raise ValueError(
        f"{place} is no file of boxes; give a COCO .json, a folder of VOC .xml, or a folder of YOLO .txt files"
    )


def _coco(path: Path) -> BoxAnnotations:
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise ValueError(f"{path} is no COCO data set: it needs lists of images, annotations and categories")
    try:
        names = {entry["id"]: str(entry["name"]) for entry in data.get("categories", [])}
        rows: dict[Any, tuple[str, tuple[int, int] | None]] = {}
        for entry in data["images"]:
            size = (int(entry["width"]), int(entry["height"])) if entry.get("width") and entry.get("height") else None
            rows[entry["id"]] = (str(entry["file_name"]).replace("\\", "/"), size)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no COCO data set: an image or category lacks {error}") from error
    boxes: dict[Any, list[LabelledBox]] = {id_: [] for id_ in rows}
    for number, entry in enumerate(data["annotations"]):
        where = f"{path}, annotation {entry.get('id', number) if isinstance(entry, dict) else number}"
        boxes[_known(entry, "image_id", rows, where)].append(_coco_box(entry, names, where))
    found = collected(str(path), [ImageBoxes(name, tuple(boxes[id_]), size) for id_, (name, size) in rows.items()])
    _check_pixels(found)
    return found


def _known(entry: Any, key: str, ids: dict[Any, Any], where: str) -> Any:
    """Return the id that an annotation refers to."""
    value = entry.get(key) if isinstance(entry, dict) else None
    try:
        known = value in ids
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{where}: its {key} {value!r} is none of the file's")
    return value


def _coco_box(entry: dict[str, Any], names: dict[Any, str], where: str) -> LabelledBox:
    label = names[_known(entry, "category_id", names, where)]
    left, top, width, height = _numbers(entry.get("bbox"), where, 4)
    return LabelledBox(label, Box(left, top, left + width, top + height), crowd=bool(entry.get("iscrowd")))


def _check_pixels(found: BoxAnnotations) -> None:
    """Refuse boxes that must be in shares of the image: all of them within the first pixel."""
    values = [value for image in found.images for one in image.boxes for value in one.box.xyxy]
    if values and max(values) <= 1:
        raise ValueError(
            f"{found.place}: no box reaches beyond 1 pixel, so they are shares of the image; COCO's boxes are in pixels"
        )


def _numbers(values: Any, where: str, count: int) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: a box is {count} finite numbers, not {values!r}")
    return numbers


def _voc(path: Path, root: Path) -> ImageBoxes:
    text = path.read_bytes() if path.stat().st_size <= _MOST_XML_BYTES else b"<!DOCTYPE"
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text or b"\0" in text:
        raise ValueError(
            f"{path} is not read: it is over 16 MiB, not in UTF-8, or declares a document type or entities"
        )
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not XML: {error}") from error
    name = (tree.findtext("filename") or "").strip().replace("\\", "/")
    width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    boxes = tuple(_voc_box(entry, f"{path}, object {n}") for n, entry in enumerate(tree.iter("object"), start=1))
    stem = path.relative_to(root).with_suffix("").as_posix()
    return ImageBoxes(name or stem, boxes, (width, height) if width and height else None)


def _voc_box(entry: ElementTree.Element, where: str) -> LabelledBox:
    label = (entry.findtext("name") or "").strip()
    if not label:
        raise ValueError(f"{where}: it has no name, which is its class")
    corners = _numbers([entry.findtext(f"bndbox/{key}") for key in _VALUES], where, 4)
    difficult = (entry.findtext("difficult") or "0").strip() not in ("0", "")
    return LabelledBox(label, Box(*corners), difficult=difficult)


def _yolo(path: Path, root: Path, names: dict[int, str]) -> ImageBoxes:
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if words := line.split():
            boxes.append(_yolo_box(words, names, f"{path}, line {number}"))
    return ImageBoxes(path.relative_to(root).with_suffix("").as_posix(), tuple(boxes))


def _yolo_box(words: list[str], names: dict[int, str], where: str) -> LabelledBox:
    number = int(words[0]) if words[0].isdecimal() else -1
    if number not in names:
        raise ValueError(f"{where}: class {words[0]} has no name; the classes are {sorted(names)}")
    values = _numbers(words[1:], where, len(words) - 1)
    if len(values) in (4, 5):  # the fifth is a detector's confidence
        x, y, width, height = values[:4]
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(values) >= 6 and len(values) % 2 == 0:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    else:
        raise ValueError(f"{where}: {len(words)} numbers are neither class, centre and size nor class and an outline")
    if max(map(abs, values)) > 2:
        raise ValueError(f"{where}: YOLO's boxes are in shares of the image, and {max(values, key=abs):g} is pixels")
    return LabelledBox(names[number], Box(*corners))
