"""Registering the boxes of annotated images: crops as examples, the background as none of the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fewshot.detection.annotated_images import images_of
from fewshot.detection.background_sampling import background_boxes
from fewshot.detection.box_annotations import BoxAnnotations, ImageBoxes, LabelledBox
from fewshot.detection.box_files import read_boxes
from fewshot.detection.boxes import DEFAULT_PADDING, Box, check_padding, crop_name, named_crop
from fewshot.errors import ImageError
from fewshot.media import ImageSource, describe, open_image
from fewshot.registry import AddReport, ClassRegistry, Failure
from fewshot.validation import check_count

_ROUNDS = 3  # in which images with room give what those without could not


@dataclass(frozen=True)
class BoxReport:
    """What became of a file's boxes.

    Attributes
    ----------
    examples : AddReport
        Of the boxes. Its failures also name images that cannot be read or are not there; ignored are COCO's crowds and
        VOC's difficult objects.
    negatives : AddReport
        Of the boxes of the background.
    images : int
        Images that boxes were cut out of.
    repeated : tuple of str
        Images that the file lists more than once; their boxes were put together.
    padding : float
        Share of a box's longer side that was added on each side.
    """

    examples: AddReport
    negatives: AddReport
    images: int
    repeated: tuple[str, ...]
    padding: float


def add_boxes(
    registry: ClassRegistry,
    annotations: str | os.PathLike[str] | BoxAnnotations,
    images: str | os.PathLike[str],
    *,
    padding: float | None = None,
    negatives: int = 0,
    allow_conflict: bool = False,
    random_state: int = 0,
) -> BoxReport:
    """Register what lies in the boxes of a file, each as an example of its class.

    Parameters
    ----------
    registry : ClassRegistry
        Of images; it keeps the crops, and remembers their padding for ``Detector``.
    annotations : path or BoxAnnotations
        As of ``read_boxes``: COCO, Pascal VOC or YOLO.
    images : path
        The folder or zip that the images lie in.
    padding : float, optional
        Share of a box's longer side added on each side of the square that is cut out; by default the registry's, at
        first 0.1.
    negatives : int, default 0
        So many boxes of the background, of sizes of the file's boxes and at random places that overlap none of them,
        are registered as none of the classes.
    allow_conflict : bool, default False
        As of ``ClassRegistry.add``.
    random_state : int, default 0
        Of the background's boxes.

    Returns
    -------
    BoxReport
        The same box added twice is a duplicate. Boxes partly outside their image are cut off there; boxes without area
        or wholly outside are failures.

    Raises
    ------
    ValueError : for a damaged file, another padding than the registry's, or a registry that keeps no images.
    """
    if registry.modality != "image":
        raise ValueError(f"boxes are cut out of images, and {registry.path} holds {registry.modality}s")
    check_count("negatives", negatives, minimum=0)
    read = annotations if isinstance(annotations, BoxAnnotations) else read_boxes(annotations)
    found = images_of(read, images)
    if padding is None:
        padding = DEFAULT_PADDING if registry.crop_padding is None else registry.crop_padding
    padding = check_padding(padding)
    registry.set_crop_padding(padding)
    cut = _Cutter(read, found, padding)
    examples = registry.add_labelled(cut.examples(), allow_conflict=allow_conflict)
    examples += AddReport(failed=tuple(cut.failed), ignored=tuple(cut.ignored))
    of_background = AddReport()
    if negatives:
        of_background = registry.rejection.add_negatives(cut.background(negatives, np.random.default_rng(random_state)))
    return BoxReport(examples, of_background, cut.n_images, read.repeated, padding)


class _Cutter:
    """Cuts boxes out of images, one image in memory at a time."""

    def __init__(
        self, read: BoxAnnotations, images: dict[str, ImageSource | ValueError | None], padding: float
    ) -> None:
        self._read, self._images, self._padding = read, images, padding
        self.failed: list[Failure] = []
        self.ignored: list[str] = []
        self.n_images = 0
        self._good: list[ImageBoxes] = []  # images that can be read

    def examples(self) -> Iterator[tuple[Image.Image, str]]:
        """The crops with their labels."""
        for entry in self._read.images:
            try:
                name, image, boxes = self._opened(entry)
            except (ImageError, ValueError) as error:
                count = f" (its boxes: {len(entry.boxes)})"
                self.failed.append(
                    Failure(entry.name, (error.reason if isinstance(error, ImageError) else str(error)) + count)
                )
                continue
            self._good.append(entry)
            cut = 0
            for one in boxes:
                if (crop := self._crop(name, image, one)) is not None:
                    cut += 1
                    yield crop, one.label
            self.n_images += cut > 0

    def background(self, count: int, rng: np.random.Generator) -> Iterator[Image.Image]:
        """The crops of so many boxes of the background; fewer where there is no room."""
        sizes: list[tuple[float, float]] = []
        taken: dict[str, list[Box]] = {}
        for _ in range(_ROUNDS):
            order = [self._good[n] for n in rng.permutation(len(self._good))]
            for waiting, entry in zip(range(len(order), 0, -1), order, strict=True):
                if not count:
                    return
                name, image, boxes = self._opened(entry)
                sizes = (
                    [(one.box.width, one.box.height) for one in boxes] or sizes or [(image.width / 4, image.height / 4)]
                )
                held = taken.setdefault(entry.name, [])
                found = background_boxes(
                    rng,
                    [one.box for one in boxes] + held,
                    sizes,
                    image.size,
                    count=-(-count // waiting),
                    padding=self._padding,
                )
                count -= len(found)
                held += found
                yield from (named_crop(image, name, box, self._padding) for box in found)

    def _opened(self, entry: ImageBoxes) -> tuple[str, Image.Image, Sequence[LabelledBox]]:
        """Return an image's path, itself and its boxes in pixels."""
        source = self._images[entry.name]
        if isinstance(source, ValueError):
            raise source
        if source is None:
            raise ValueError("there is no such image")
        image = open_image(source)
        return describe(source), image, self._read.in_pixels(entry, *image.size)

    def _crop(self, name: str, image: Image.Image, one: LabelledBox) -> Image.Image | None:
        """Cut a box out, unless it is of many objects, or of nothing."""
        where = crop_name(name, one.box)
        reason = one.box.why_unusable(*image.size)
        if one.crowd or one.difficult:
            self.ignored.append(f"{where} ({'a crowd' if one.crowd else 'difficult'})")
        elif reason is not None:
            self.failed.append(Failure(where, reason))
        else:
            return named_crop(image, name, one.box, self._padding)
        return None
