"""What a file of boxes says: of each image the boxes with their labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fewshot.detection.boxes import Box


@dataclass(frozen=True)
class LabelledBox:
    """A box with its class.

    Attributes
    ----------
    label : str
    box : Box
        In pixels; in ``normalised`` annotations in shares of the image's width and height.
    crowd : bool
        COCO's ``iscrowd``: one box around many objects.
    difficult : bool
        VOC's ``difficult``: objects that a detector is not judged by.
    """

    label: str
    box: Box
    crowd: bool = False
    difficult: bool = False


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image.

    Attributes
    ----------
    name : str
        The image's path as the file gives it, with "/"; of YOLO without a suffix.
    boxes : tuple of LabelledBox
    size : tuple of (width, height) or None
        In pixels, where the file says it.
    """

    name: str
    boxes: tuple[LabelledBox, ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class BoxAnnotations:
    """A file or folder of boxes.

    Attributes
    ----------
    place : str
        Where it was read.
    images : tuple of ImageBoxes
        Each name once; those without boxes, too.
    normalised : bool
        Whether boxes are in shares of the image's width and height (YOLO), not pixels.
    repeated : tuple of str
        Names of images that the file lists more than once; their boxes are put together.
    """

    place: str
    images: tuple[ImageBoxes, ...]
    normalised: bool = False
    repeated: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """How many boxes there are of each class."""
        found = Counter(one.label for image in self.images for one in image.boxes)
        return {label: found[label] for label in sorted(found)}

    def in_pixels(self, image: ImageBoxes, width: int, height: int) -> tuple[LabelledBox, ...]:
        """Return an image's boxes in pixels, given the size of the upright image.

        Raises
        ------
        ValueError : if the file was made for an image of another size.
        """
        if image.size is not None and image.size != (width, height):
            given = f"{image.size[0]} x {image.size[1]}"
            turned = image.size == (height, width)
            raise ValueError(
                f"{self.place} has boxes for an image of {given} pixels, but this one is {width} x {height}"
                + (" when upright: they are of the image without its EXIF rotation; save it upright" if turned else "")
            )
        if not self.normalised:
            return image.boxes
        return tuple(
            LabelledBox(
                one.label,
                Box(one.box.left * width, one.box.top * height, one.box.right * width, one.box.bottom * height),
                one.crowd,
                one.difficult,
            )
            for one in image.boxes
        )


def collected(place: str, rows: list[ImageBoxes], *, normalised: bool = False) -> BoxAnnotations:
    """Put images together, each name once."""
    found: dict[str, ImageBoxes] = {}
    repeated: dict[str, None] = {}
    for row in rows:
        held = found.get(row.name)
        if held is not None:
            repeated[row.name] = None
            if held.size is not None and row.size is not None and held.size != row.size:
                raise ValueError(f"{place} lists {row.name} twice, as of {held.size} and of {row.size} pixels")
            row = ImageBoxes(row.name, held.boxes + row.boxes, row.size or held.size)
        found[row.name] = row
    return BoxAnnotations(place, tuple(found.values()), normalised, tuple(repeated))
