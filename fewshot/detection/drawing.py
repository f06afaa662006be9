"""A picture with boxes drawn on it."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from fewshot.detection.detections import ImageDetections

# Dark enough for white letters; the first are told apart with any colour vision (Okabe and Ito).
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#00795c",
    "#a3497f",
    "#7a6a00",
    "#5b3fa0",
    "#b00020",
    "#33691e",
    "#37474f",
    "#6d4c41",
)


def draw_detections(image: Image.Image, found: ImageDetections) -> Image.Image:
    """Draw the boxes with their classes and confidences on a copy of the upright image.

    Raises
    ------
    ValueError : if the image is of another size than the one that was searched.
    """
    if image.size != (found.width, found.height):
        raise ValueError(
            f"{found.source} was {found.width} x {found.height} pixels, this is {image.width} x {image.height}"
        )
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    longest = max(drawn.size)
    line = max(1, round(longest / 320))
    font = ImageFont.load_default(size=max(10, longest / 55))
    colours = {label: _COLOURS[n % len(_COLOURS)] for n, label in enumerate(found.classes)}
    for one in reversed(found.detections):  # the most confident on top
        left, top, right, bottom = one.box.xyxy
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colours[one.label], width=line)
        text = f"{one.label} {one.confidence:.2f}"
        _, _, wide, high = pen.textbbox((0, 0), text, font=font)
        x = max(0, min(left, drawn.width - wide - 4))
        y = top - high - 2 if top >= high + 2 else top
        pen.rectangle((x, y, x + wide + 3, y + high + 2), fill=colours[one.label])
        pen.text((x + 2, y), text, fill="white", font=font)
    return drawn
