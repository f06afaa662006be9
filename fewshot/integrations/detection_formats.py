"""Objects found in images in the formats of other tools: CSV, Label Studio, COCO, CVAT and YOLO."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias
from xml.sax.saxutils import escape, quoteattr

import yaml

from fewshot.detection import Detection, ImageDetections
from fewshot.files import replacing
from fewshot.integrations.formats import csv_cell, task_address
from fewshot.registry import Failure

FoundObjects: TypeAlias = Sequence[ImageDetections | Failure]
"""What was found in each image, or why it could not be read."""

BOX_COLUMNS = ("path", "label", "confidence", "probability", "score", "left", "top", "right", "bottom", "error")


def detection_row(found: ImageDetections | Failure) -> dict[str, Any]:
    """Return what was found in one image as ``fewshot detect`` prints it; a box is left, top, right, bottom."""
    if isinstance(found, Failure):
        return {"path": found.source, "error": found.reason}
    boxes = [
        {
            "label": one.label,
            "box": _pixels(one),
            "confidence": round(one.confidence, 4),
            "probability": None if one.probability is None else round(one.probability, 4),
            "score": round(one.score, 4),
        }
        for one in found.detections
    ]
    sizes = {"width": found.width, "height": found.height}
    counted = {"proposed": found.proposed, "unusable": found.unusable, "none_of_these": found.rejected}
    return {"path": found.source, **sizes, "counts": found.counts, **counted, "boxes": boxes}


def detections_to_csv(found: FoundObjects) -> str:
    """Write a table with the columns of ``BOX_COLUMNS``, a row for each box and each failure."""
    rows: list[tuple[Any, ...]] = [BOX_COLUMNS]
    for one in found:
        if isinstance(one, Failure):
            rows.append((one.source, *[""] * (len(BOX_COLUMNS) - 2), one.reason))
            continue
        for box in detection_row(one)["boxes"]:
            rows.append((one.source, *(box[key] for key in BOX_COLUMNS[1:5]), *box["box"], ""))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells] for cells in rows)
    return out.getvalue()


def detections_to_coco(found: FoundObjects, *, classes: Sequence[str]) -> dict[str, Any]:
    """Return a COCO data set whose annotations have scores; an image given twice is there once, a failed one not.

    ``classes`` are numbered from 1 in their order.
    """
    category = {label: number for number, label in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(_read_once(found), start=1):
        name = PurePath(one.source).as_posix()
        images.append({"id": number, "file_name": name, "width": one.width, "height": one.height})
        for object_ in one.detections:
            left, top, right, bottom = _pixels(object_)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category[object_.label],
                    "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                    "area": round((right - left) * (bottom - top), 2),
                    "iscrowd": 0,
                    "score": round(object_.confidence, 4),
                }
            )
    categories = [{"id": number, "name": label} for label, number in category.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections_to_label_studio(found: FoundObjects, *, prefix: str, model_version: str) -> list[dict[str, Any]]:
    """Return tasks with predicted rectangles, as a project of Label Studio's template for boxes imports them.

    Its names are those of ``box_config``; ``prefix`` is as of ``to_label_studio``.

    Raises
    ------
    ValueError : if a path does not lie in the folder of ``prefix``.
    """
    tasks = []
    for one in _read_once(found):
        sizes = {"original_width": one.width, "original_height": one.height, "image_rotation": 0}
        results = [
            {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "score": round(o.confidence, 4)}
            | sizes
            | {"value": {**_percent(o, one), "rotation": 0, "rectanglelabels": [o.label]}}
            for o in one.detections
        ]
        prediction: dict[str, Any] = {"model_version": model_version, "result": results}
        if one.detections:
            prediction["score"] = round(sum(o.confidence for o in one.detections) / len(one.detections), 4)
        tasks.append({"data": {"image": task_address(one.source, prefix)}, "predictions": [prediction]})
    return tasks


def box_config(classes: Sequence[str]) -> str:
    """Return a labelling configuration of Label Studio's template for boxes, with a label for each class."""
    labels = "".join(f"<Label value={quoteattr(label)}/>" for label in classes)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels></View>'
    )


def detections_to_cvat(found: FoundObjects, *, classes: Sequence[str]) -> str:
    """Return CVAT's XML for images, version 1.1."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    labels = "".join(f"<label><name>{escape(label)}</name></label>" for label in classes)
    lines.append(f"  <meta><task><labels>{labels}</labels></task></meta>")
    for number, one in enumerate(_read_once(found)):
        name = quoteattr(PurePath(one.source).as_posix())
        lines.append(f'  <image id="{number}" name={name} width="{one.width}" height="{one.height}">')
        for object_ in one.detections:
            corners = zip(("xtl", "ytl", "xbr", "ybr"), _pixels(object_), strict=True)
            placed = " ".join(f'{key}="{value:.2f}"' for key, value in corners)
            lines.append(
                f'    <box label={quoteattr(object_.label)} source="auto" occluded="0" {placed} z_order="0"></box>'
            )
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>", ""])


def write_yolo(found: FoundObjects, folder: str | os.PathLike[str], *, classes: Sequence[str]) -> int:
    """Write ``labels/NAME.txt`` for each image, and ``data.yaml`` with the names of the classes; returns how many.

    Lines are class, centre and size in shares of the image; scores have no place in them.

    Raises
    ------
    ValueError : if two images have the same name but for their folder or suffix.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    texts: dict[str, tuple[str, str]] = {}
    for one in _read_once(found):
        stem = PurePath(one.source).stem
        if stem in texts:
            raise ValueError(f"{texts[stem][0]} and {one.source} would both be labels/{stem}.txt: rename one")
        lines = []
        for object_ in one.detections:
            box = object_.box
            middle = (box.left + box.right) / 2 / one.width, (box.top + box.bottom) / 2 / one.height
            shares = (*middle, box.width / one.width, box.height / one.height)
            lines.append(f"{numbers[object_.label]} {' '.join(f'{share:.6f}' for share in shares)}\n")
        texts[stem] = (one.source, "".join(lines))
    labels = Path(folder) / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    for stem, (_, text) in texts.items():
        _write(labels / f"{stem}.txt", text)
    _write(Path(folder) / "data.yaml", yaml.safe_dump({"names": dict(enumerate(classes))}, allow_unicode=True))
    return len(texts)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_once(found: FoundObjects) -> list[ImageDetections]:
    return list({one.source: one for one in found if isinstance(one, ImageDetections)}.values())


def _pixels(found: Detection) -> list[float]:
    return [round(value, 2) for value in found.box.xyxy]


def _percent(found: Detection, image: ImageDetections) -> dict[str, float]:
    box = found.box
    across, down = 100 / image.width, 100 / image.height
    return {"x": box.left * across, "y": box.top * down, "width": box.width * across, "height": box.height * down}
