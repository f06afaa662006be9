"""A registry as an auto-annotation function of CVAT: tags for whole images, or classes for a detector's shapes.

``cvat-cli task auto-annotate 42 --function-module fewshot.integrations.cvat -p registry=str:parts.fewshot`` tags the
images of a task; with ``-p detector=str:MODULE``, shapes that another function finds get the classes of the registry.
Those that annotators drew get them from ``classify_shapes``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import weakref
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fewshot.errors import MissingExtra, RegistryError
from fewshot.integrations.cvat_shapes import REGIONS, ShapeReport, classify_shapes, cut_out, shape_type
from fewshot.registry import ClassRegistry

if TYPE_CHECKING:
    import cvat_sdk.auto_annotation as cvataa
    from PIL.Image import Image

    from fewshot.registry import Prediction

__all__ = ["RegistryFunction", "ShapeReport", "classify_shapes", "create"]

_log = logging.getLogger(__name__)


class RegistryFunction:
    """An auto-annotation function (``cvat_sdk.auto_annotation.DetectionFunction``) that classifies by a registry.

    An image that the registry rejects gets no tag, a detector's shape that it rejects is left out.

    Parameters
    ----------
    registry : ClassRegistry
    detector : auto-annotation function, optional
        Finds the shapes; its own labels and attributes are not kept.
    max_false_accept : float, optional
        As for ``ClassRegistry.predict``; by default the one set in the registry.

    Attributes
    ----------
    spec : cvat_sdk.auto_annotation.DetectionFunctionSpec
        The classes of the registry when the function was made. A label's id is a hash of its name, so it stays the same
        when other classes are added or removed.

    Raises
    ------
    RegistryError : if no class is registered.
    ValueError : for a ``max_false_accept`` that the registry has no threshold for; for a detector of points, lines or
        tags, which have no inside to classify.
    MissingExtra : if the SDK is not installed.
    """

    def __init__(
        self, registry: ClassRegistry, *, detector: Any | None = None, max_false_accept: float | None = None
    ) -> None:
        sdk = _sdk()
        if detector is not None:
            registry.require_single_label("class of a shape")
            _check_declared(detector)
        self._registry, self._detector, self._max_false_accept = registry, detector, max_false_accept
        labels = list(registry.classes())
        if not labels:
            raise RegistryError(
                f"{registry.path} holds no classes yet; register some with: fewshot add {registry.path} LABEL IMAGE..."
            )
        if max_false_accept != 1:
            self._check_threshold()
        self._ids = _ids(labels)
        kind = "tag" if detector is None else _kind(detector)
        self.spec = sdk.DetectionFunctionSpec(
            labels=[sdk.label_spec(label, number, type=kind) for label, number in self._ids.items()]
        )
        self._unlisted: set[str] = set()

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image) -> list[cvataa.DetectionAnnotation]:
        """Classify an image, or the shapes that the detector finds in it.

        Parameters
        ----------
        context : DetectionFunctionContext
            ``conf_threshold`` is compared with ``Prediction.probability``, which a registry of one class has not: then
            nothing is left out. A detector gets it too, for its own scores.
        image : PIL.Image.Image

        Raises
        ------
        ValueError : for a detector's tag or line, which has no inside.
        """
        if self._detector is None:
            return [_sdk().tag(label) for label in self._label_ids([image], context)[0]]
        shapes, crops = [], []
        for number, shape in enumerate(self._detector.detect(context, image), start=1):
            _check_encloses(shape)
            try:
                crops.append(cut_out(image, shape, self._registry.crop_padding))
            except (ArithmeticError, IndexError, OSError, TypeError, ValueError) as error:
                _log.warning("%s: shape %d was left out: %s", context.frame_name, number, error)
            else:
                shapes.append(shape)
        found = zip(shapes, self._label_ids(crops, context), strict=True)
        return [_classed(shape, label) for shape, labels in found for label in labels]

    def _check_threshold(self) -> None:
        """Check the rejection threshold now rather than at the first image of a task."""
        try:
            threshold = self._registry.rejection.threshold(self._max_false_accept)
        except ValueError as error:
            if self._max_false_accept is not None:
                raise
            _log.warning("no picture is refused: %s", error)
        else:
            if threshold is not None and not threshold.met:
                _log.warning("%s", threshold.describe())

    def _label_ids(self, images: Sequence[Image], context: cvataa.DetectionFunctionContext) -> list[list[int]]:
        """Return the label ids of each image: one, of a multi-label registry all; none where it is rejected."""
        if not images:
            return []
        report = self._registry.predict_valid(images, top=1, nearest=0, max_false_accept=self._max_false_accept)
        if report.failed and len(images) > 1:  # one at a time shows which
            return [labels for image in images for labels in self._label_ids([image], context)]
        if report.failed:  # the others are annotated
            _log.warning("%s: not recognised: %s", context.frame_name, report.failed[0].reason)
            return [[]]
        lowest = 0.0 if context.conf_threshold is None else context.conf_threshold
        return [
            [
                id_
                for label, probability in _labels(one)
                if (1.0 if probability is None else probability) >= lowest and (id_ := self._id(label)) is not None
            ]
            for one in report.predictions
        ]

    def _id(self, label: str) -> int | None:
        if label not in self._ids and label not in self._unlisted:
            self._unlisted.add(label)
            _log.warning("class %r was registered after this function was made and is left out", label)
        return self._ids.get(label)


def _labels(answer: Prediction) -> Sequence[tuple[str, float | None]]:
    """The labels of an answer with their probabilities: one, several of a multi-label registry, or none."""
    if answer.labels is not None:
        return answer.labels
    return [] if answer.label is None else [(answer.label, answer.probability)]


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
        The largest share of images of no class to annotate, in (0, 1); by default the one that ``fewshot threshold``
        has set in the registry, if any; 1 rejects none.
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
    found = _load_detector(detector, detector_parameters) if detector is not None else None
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


def _load_detector(detector: Any, parameters: dict[str, Any]) -> Any:
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


def _check_declared(detector: Any) -> None:
    """Check the types of shape that a detector declares; of "any", what comes is checked."""
    for label in detector.spec.labels:
        kind = str(getattr(label, "type", "any"))
        if kind not in (*REGIONS, "any"):
            raise ValueError(
                f"the detector's label {label.name!r} is a {kind}, which has no inside to classify; give a detector of "
                f"{', '.join(REGIONS)}"
            )


def _check_encloses(shape: Any) -> None:
    kind = shape_type(shape)
    if kind not in REGIONS:
        raise ValueError(f"the detector gave a {kind}; only {', '.join(REGIONS)} can be cut out of a picture")


def _classed(shape: Any, label: int) -> Any:
    """Give a detector's shape a label of the registry, without the attributes and elements of its own label."""
    geometry = {name: getattr(shape, name) for name in ("rotation", "occluded", "z_order") if hasattr(shape, name)}
    return _sdk().shape(label, type=shape.type, points=list(shape.points), **geometry)
