"""A picture of coloured squares, and files that say where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fakes import BLUE, GREEN, RED
from PIL import Image

from fewshot.detection import Box

SQUARES = (("red", RED, Box(10, 20, 30, 40)), ("blue", BLUE, Box(60, 50, 90, 80)), ("green", GREEN, Box(0, 0, 8, 8)))
"""Label, colour and box of each, on white, in a picture of 100 x 90 pixels."""


def picture() -> Image.Image:
    pixels = np.full((90, 100, 3), 255, np.uint8)
    for _, colour, box in SQUARES:
        left, top, right, bottom = map(int, box.xyxy)
        pixels[top:bottom, left:right] = colour
    return Image.fromarray(pixels)


def coco(path: Path, boxes=None, **entry) -> Path:
    """A COCO file of "a.png" whose category ids have holes; ``boxes`` as (label, left, top, width, height)."""
    if boxes is None:
        boxes = [(label, box.left, box.top, box.width, box.height) for label, _, box in SQUARES]
    ids = {"red": 3, "blue": 17, "green": 90}
    data = {
        "images": [{"id": 5, "file_name": "a.png", "width": 100, "height": 90}],
        "categories": [{"id": number, "name": label} for label, number in ids.items()],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": ids[label], "bbox": box, **entry}
            for n, (label, *box) in enumerate(boxes)
        ],
    }
    path.write_text(json.dumps(data))
    return path


def voc(path: Path, boxes=None, *, size=(100, 90), difficult=0) -> Path:
    """A VOC file of "a.png"; ``boxes`` as (label, left, top, right, bottom)."""
    if boxes is None:
        boxes = [(label, *map(int, box.xyxy)) for label, _, box in SQUARES]
    objects = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, left, top, right, bottom in boxes
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path.write_text(f"<annotation><filename>a.png</filename>{sides}{objects}</annotation>")
    return path


def yolo(folder: Path) -> Path:
    """A folder of YOLO labels of "a", with data.yaml."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number, (_, _, box) in enumerate(SQUARES):
        x, y = (box.left + box.right) / 200, (box.top + box.bottom) / 180
        lines.append(f"{number} {x} {y} {box.width / 100} {box.height / 90}")
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("names: [red, blue, green]\n")
    return folder
