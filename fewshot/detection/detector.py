"""Object detection with a registry: boxes of a proposer, classes learned from a few crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from fewshot.detection.boxes import DEFAULT_PADDING, check_padding, crop_box
from fewshot.detection.detections import Detection, ImageDetections
from fewshot.detection.proposals import Proposal, Proposer
from fewshot.detection.proposers import load_proposer
from fewshot.errors import ImageError, NoClasses
from fewshot.media import ImageSource, describe, one_or_several, open_image
from fewshot.registry import ClassRegistry, Failure, Prediction

_CROPS_AT_ONCE = 64


class Detector:
    """Finds objects of a registry's classes in images.

    A proposer gives boxes; what lies in each is recognised by the registry, cut out with the padding that the
    registered crops have (``add_boxes``). Boxes of none of the classes are left out, as are those that overlap a more
    confident one of the same class (non-maximum suppression).

    Parameters
    ----------
    registry : ClassRegistry
        Of images.
    proposer : str, callable or Proposer, default "regions"
        As of ``load_proposer``: "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "module:function", a file of
        boxes, a function of an image. "regions" needs no weights and suits objects that stand out of a background.
    padding : float, optional
        Share of a box's longer side that is added on each side; by default that of the registered crops, else 0.1.
    max_overlap : float, default 0.5
        The largest intersection over union, in [0, 1], of two boxes that are both kept.
    across_classes : bool, default False
        Whether a box also suppresses those of other classes: an object then has one class.
    max_false_accept : float, optional
        As of ``ClassRegistry.predict``: the largest share of boxes of no class that get one.
    min_confidence : float, optional
        Boxes of less ``Detection.confidence`` are left out, too; they count as of none of the classes.

    Raises
    ------
    ValueError : for a proposer that is none, a registry of texts or sounds, or a number out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import ClassRegistry, Detector
    >>> red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ((250, 20, 20), (20, 20, 250)))
    >>> image = np.full((60, 90, 3), 255, np.uint8)
    >>> image[10:30, 20:40], image[35:55, 60:80] = (250, 20, 20), (20, 20, 250)
    >>> with ClassRegistry("colours.fewshot") as registry:
    ...     added = registry.add("red", red) + registry.add("blue", blue)
    ...     (found,) = Detector(registry, lambda image: [(20, 10, 40, 30), (60, 35, 80, 55)], padding=0).detect(image)
    ...     print(found.counts)
    {'red': 1, 'blue': 1}
    """

    def __init__(
        self,
        registry: ClassRegistry,
        proposer: str | Callable[[Image.Image], Any] | Proposer = "regions",
        *,
        padding: float | None = None,
        max_overlap: float = 0.5,
        across_classes: bool = False,
        max_false_accept: float | None = None,
        min_confidence: float | None = None,
    ) -> None:
        for name, share in (("max_overlap", max_overlap), ("min_confidence", min_confidence)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {share!r}")
        if registry.modality != "image":
            raise ValueError(f"objects are found in images, and {registry.path} holds {registry.modality}s")
        registry.require_single_label("detector")
        remembered = DEFAULT_PADDING if registry.crop_padding is None else registry.crop_padding
        self.registry, self.proposer = registry, load_proposer(proposer)
        self.padding = check_padding(remembered if padding is None else padding)
        self.max_overlap, self.across_classes = max_overlap, across_classes
        self.max_false_accept, self.min_confidence = max_false_accept, min_confidence

    def detect(self, images: ImageSource | Iterable[ImageSource]) -> list[ImageDetections]:
        """Find objects in images, or in one.

        Parameters
        ----------
        images : iterable of sources, or one
            As of ``ClassRegistry.predict``.

        Raises
        ------
        ImageError : naming the first that cannot be read, or has no boxes in a file of them; ``detect_valid`` goes on.
        NoClasses : if no class is registered.
        """
        found = []
        for one in self.detect_valid(images):
            if isinstance(one, Failure):
                raise ImageError(one.source, one.reason)
            found.append(one)
        return found

    def detect_valid(self, images: ImageSource | Iterable[ImageSource]) -> Iterator[ImageDetections | Failure]:
        """Find objects in one image after the other, in the order given; a Failure for what cannot be read."""
        classes = tuple(self.registry.classes())
        if self.registry.is_empty:
            raise NoClasses(
                f"{self.registry.path} holds no classes yet; register some with: fewshot add {self.registry.path} "
                "--from-boxes FILE IMAGES"
            )
        for source in one_or_several(images):
            name = describe(source)
            try:
                image = open_image(source)
                proposals = self.proposer.propose(image, name)
            except ImageError as error:
                yield Failure(name, error.reason)
            except ValueError as error:
                yield Failure(name, str(error))
            else:
                yield self._found(image, name, proposals, classes)

    def _found(
        self, image: Image.Image, name: str, proposals: Sequence[Proposal], classes: tuple[str, ...]
    ) -> ImageDetections:
        usable = [
            Proposal(one.box.clipped(*image.size), one.score)
            for one in proposals
            if one.box.why_unusable(*image.size) is None
        ]
        answers = self._recognised(image, usable)
        named = [
            Detection(one.box, answer.label, answer.score, answer.probability, one.score, answer.unknown_score)
            for one, answer in zip(usable, answers, strict=True)
            if answer.label is not None
        ]
        if (least := self.min_confidence) is not None:
            named = [one for one in named if one.confidence >= least]
        kept = self._suppressed(named)
        return ImageDetections(
            name,
            *image.size,
            kept,
            tuple(dict.fromkeys([*classes, *(one.label for one in kept)])),  # some have a description only
            len(proposals),
            len(proposals) - len(usable),
            len(usable) - len(named),
        )

    def _recognised(self, image: Image.Image, proposals: Sequence[Proposal]) -> list[Prediction]:
        """The registry's answer for each box, of so many crops at once that memory stays bounded."""
        size = len(proposals) if self.registry.classifier.transductive else _CROPS_AT_ONCE
        answers: list[Prediction] = []
        for start in range(0, len(proposals), max(1, size)):
            crops = [crop_box(image, one.box, self.padding) for one in proposals[start : start + size]]
            answers += self.registry.predict(crops, top=1, nearest=0, max_false_accept=self.max_false_accept)
        return answers

    def _suppressed(self, found: list[Detection]) -> tuple[Detection, ...]:
        if not found:
            return ()
        from torchvision.ops import batched_nms

        numbers = {
            label: 0 if self.across_classes else n for n, label in enumerate(dict.fromkeys(f.label for f in found))
        }
        kept = batched_nms(
            torch.tensor([one.box.xyxy for one in found], dtype=torch.float32),
            torch.tensor([one.confidence for one in found], dtype=torch.float32),
            torch.tensor([numbers[one.label] for one in found]),
            self.max_overlap,
        )
        return tuple(found[n] for n in kept.tolist())
