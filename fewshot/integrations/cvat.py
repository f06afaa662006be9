"""A registry as an auto-annotation function of CVAT: tags for whole pictures, or classes for a detector's shapes.

``cvat-cli task auto-annotate 42 --function-module fewshot.integrations.cvat -p registry=str:parts.fewshot`` tags the
pictures of a task; ``-p detector=str:MODULE`` gives the shapes that another function finds the classes of the registry.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import math
import os
import weakref
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fewshot.errors import MissingExtra, RegistryError
from fewshot.registry import ClassRegistry

if TYPE_CHECKING:
    import cvat_sdk.auto_annotation as cvataa
    from PIL.Image import Image

__all__ = ["RegistryFunction", "create"]

_log = logging.getLogger(__name__)

_REGIONS = ("rectangle", "polygon", "mask")


class RegistryFunction:
    """An auto-annotation function (``cvat_sdk.auto_annotation.DetectionFunction``) that recognises by a registry.

    Nothing is said of a picture, and no shape is made of a detector's, where the registry answers "none of these".

    Parameters
    ----------
    registry : ClassRegistry
    detector : auto-annotation function, optional
        Finds the shapes; its own labels and attributes are not kept.
    max_false_accept : float, optional
        As for ``ClassRegistry.predict``; by default the level kept in the registry.

    Attributes
    ----------
    spec : cvat_sdk.auto_annotation.DetectionFunctionSpec
        The classes the registry had when the function was made. A label's id comes from its name, so it stays the same
        when other classes come and go.

    Raises
    ------
    RegistryError : if no class is registered.
    ValueError : for a limit that the registry cannot set.
    MissingExtra : if the SDK is not installed.
    """

    def __init__(
        self, registry: ClassRegistry, *, detector: Any | None = None, max_false_accept: float | None = None
    ) -> None:
        sdk = _sdk()
        self._registry, self._detector, self._max_false_accept = registry, detector, max_false_accept
        labels = list(registry.classes())
        if not labels:
            raise RegistryError(
                f"{registry.path} holds no classes yet; register some with: fewshot add {registry.path} LABEL IMAGE..."
            )
        if max_false_accept != 1:
            self._check_limit()
        self._ids, self._metric = _ids(labels), registry.info().metric
        kind = "tag" if detector is None else _kind(detector)
        self.spec = sdk.DetectionFunctionSpec(
            labels=[sdk.label_spec(label, number, type=kind) for label, number in self._ids.items()]
        )
        self._newcomers: set[str] = set()

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image) -> list[cvataa.DetectionAnnotation]:
        """Recognise a picture, or the shapes that the detector finds in it.

        Parameters
        ----------
        context : DetectionFunctionContext
            ``conf_threshold`` is compared with ``Prediction.score``, the cosine to the class prototype; a detector
            is given it too, for its own scores.
        image : PIL.Image.Image

        Raises
        ------
        ValueError : for a threshold where the registry's metric is not the cosine; for a detector's tag or line, which
            encloses nothing.
        """
        if context.conf_threshold is not None and self._metric != "cosine":
            raise ValueError(
                f"a confidence threshold of {context.conf_threshold} says nothing about {self._registry.path}, whose "
                f"scores are {self._metric}, not cosines; leave it out and give max_false_accept instead"
            )
        if self._detector is None:
            label = self._recognised([image], context)[0]
            return [] if label is None else [_sdk().tag(label)]
        shapes, crops = [], []
        for number, shape in enumerate(self._detector.detect(context, image), start=1):
            _check_encloses(shape)
            try:
                crops.append(_cut_out(image, shape))
            except (ArithmeticError, IndexError, OSError, TypeError, ValueError) as error:
                _log.warning("%s: shape %d was left out: %s", context.frame_name, number, error)
            else:
                shapes.append(shape)
        found = zip(shapes, self._recognised(crops, context), strict=True)
        return [_classed(shape, label) for shape, label in found if label is not None]

    def _check_limit(self) -> None:
        """Find out whether there is a line to refuse by, rather than at the first picture of a task."""
        try:
            line = self._registry.rejection.threshold(self._max_false_accept)
        except ValueError as error:
            if self._max_false_accept is not None:
                raise
            _log.warning("no picture is refused: %s", error)
        else:
            if line is not None and not line.met:
                _log.warning("%s", line.describe())

    def _recognised(self, pictures: Sequence[Image], context: cvataa.DetectionFunctionContext) -> list[int | None]:
        """Return the label id of each picture, None for none of these."""
        if not pictures:
            return []
        answered = self._registry.predict_valid(pictures, top=1, nearest=0, max_false_accept=self._max_false_accept)
        if answered.failed and len(pictures) > 1:  # which of them it is shows when each is asked alone
            return [label for picture in pictures for label in self._recognised([picture], context)]
        if answered.failed:  # the others are worth more than this one
            _log.warning("%s: not recognised: %s", context.frame_name, answered.failed[0].reason)
            return [None]
        lowest = -math.inf if context.conf_threshold is None else context.conf_threshold
        return [
            self._id(prediction.label) if prediction.label is not None and prediction.score >= lowest else None
            for prediction in answered.predictions
        ]

    def _id(self, label: str) -> int | None:
        if label not in self._ids and label not in self._newcomers:
            self._newcomers.add(label)
            _log.warning("class %r was registered after this function started, which says nothing of it", label)
        return self._ids.get(label)


def create(
    registry: str | os.PathLike[str],
    detector: Any | None = None,
    max_false_accept: float | None = None,
    encoder: str | None = None,
    **detector_parameters: Any,
) -> RegistryFunction:
    """Make the function of a registry; ``cvat-cli`` calls this with the parameters given as ``-p NAME=TYPE:VALUE``.

    Parameters
    ----------
    registry : path
        Made with ``fewshot add``.
    detector : str or auto-annotation function, optional
        A module's name, or a Python file's path, as ``cvat-cli`` takes for a function.
    max_false_accept : float, optional
        The largest share of unknown pictures to annotate, in (0, 1); by default the one that ``fewshot threshold``
        keeps in the registry, if any; 1 refuses none.
    encoder : str, optional
        By default the one the registry was made with.
    **detector_parameters
        For the ``create`` of the detector.

    Raises
    ------
    RegistryError : if there is no such registry, or no class in it.
    TypeError : for parameters that nothing takes.
    """
    _sdk()
    if detector is None and detector_parameters:
        raise TypeError(
            f"unknown parameter: {', '.join(detector_parameters)}; fewshot.integrations.cvat takes registry, detector, "
            "max_false_accept and encoder, and any others for the detector, of which there is none"
        )
    found = _loaded(detector, detector_parameters) if detector is not None else None
    opened = ClassRegistry(registry, encoder=encoder, create=False)
    try:
        function = RegistryFunction(opened, detector=found, max_false_accept=max_false_accept)
    except BaseException:
        opened.close()
        raise
    weakref.finalize(function, opened.close)  # CVAT says nothing when it is done with a function
    return function


def _sdk() -> Any:
    try:
        import cvat_sdk.auto_annotation
    except ImportError as error:
        raise MissingExtra(f"CVAT's SDK is needed: pip install 'fewshot[cvat]' ({error})") from error
    return cvat_sdk.auto_annotation


def _loaded(detector: Any, parameters: dict[str, Any]) -> Any:
    if isinstance(detector, str):
        detector = _module(detector)
    if hasattr(detector, "create"):
        detector = detector.create(**parameters)
    elif parameters:
        raise TypeError(f"unknown parameter: {', '.join(parameters)}; the detector takes none")
    if not hasattr(detector, "spec") or not hasattr(detector, "detect"):
        raise TypeError(f"{detector!r} is no auto-annotation function: it needs spec and detect, or create")
    return detector


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"no such detector: {name}")
    spec = importlib.util.spec_from_file_location("__fewshot_detector__", name)
    assert spec is not None and spec.loader is not None  # noqa: PT018  both follow from the suffix
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ids(labels: Iterable[str]) -> dict[str, int]:
    """Number labels by their names, in 31 bits; of two with the same number, the later takes the next free one."""
    found: dict[str, int] = {}
    taken: set[int] = set()
    for label in labels:
        number = int.from_bytes(hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1
        while number in taken:
            number = (number + 1) % 2**31
        taken.add(number)
        found[label] = number
    return found


def _kind(detector: Any) -> str:
    """Return the one type of shape a detector declares, else "any"."""
    kinds = {str(getattr(label, "type", "any")) for label in detector.spec.labels}
    return kinds.pop() if len(kinds) == 1 else "any"


def _check_encloses(shape: Any) -> None:
    kind = _type(shape)
    if kind not in _REGIONS:
        raise ValueError(f"the detector gave a {kind}; only {', '.join(_REGIONS)} can be cut out of a picture")


def _type(shape: Any) -> str:
    return str(shape.type.value) if hasattr(shape, "type") else "tag"


def _cut_out(image: Image, shape: Any) -> Image:
    """Return the picture inside a shape's box, turned upright with the shape; raise if they share no pixel."""
    points = list(shape.points)
    if _type(shape) == "mask":  # run lengths, then the box with its last pixels
        left, top, right, bottom = points[-4], points[-3], points[-2] + 1, points[-1] + 1
    else:
        left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    turned = float(getattr(shape, "rotation", 0) or 0)  # degrees clockwise, about the middle
    if turned:
        image = image.rotate(turned, center=((left + right) / 2, (top + bottom) / 2))
    box = (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(image.width, math.ceil(right)),
        min(image.height, math.ceil(bottom)),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"it lies outside the picture of {image.width} x {image.height} pixels")
    return image.crop(box)


def _classed(shape: Any, label: int) -> Any:
    """Give a detector's shape a label of ours; attributes and elements were those of its own labels."""
    kept = {name: getattr(shape, name) for name in ("rotation", "occluded", "z_order") if hasattr(shape, name)}
    return _sdk().shape(label, type=shape.type, points=list(shape.points), **kept)
