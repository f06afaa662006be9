"""Proposers by name: torchvision's detectors, functions, files of boxes, and regions that stand out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from PIL import Image

from fewshot.detection.annotated_images import PathIndex
from fewshot.detection.box_annotations import BoxAnnotations
from fewshot.detection.box_files import read_boxes
from fewshot.detection.proposals import FunctionProposer, Proposal, Proposer
from fewshot.media import is_url

_FORMS = "regions, torchvision:NAME, MODULE:FUNCTION, or a file or folder of boxes (COCO .json, VOC .xml, YOLO .txt)"


class BoxFileProposer:
    """Proposes the boxes that a file has for an image; their classes there are not looked at, COCO's crowds left out.

    Parameters
    ----------
    annotations : BoxAnnotations
        As of ``read_boxes``.
    """

    def __init__(self, annotations: BoxAnnotations) -> None:
        self._annotations = annotations
        self._index = PathIndex([(image.name, image) for image in annotations.images])

    def propose(self, image: Image.Image, name: str) -> list[Proposal]:
        """Return the boxes of the image of that path.

        Raises
        ------
        ValueError : if the file does not name the image, names several that it may be, or one of another size.
        """
        found = self._index.find(name)
        if found is None:
            raise ValueError(f"{self._annotations.place} has no image of that name")
        return [Proposal(one.box) for one in self._annotations.in_pixels(found, *image.size) if not one.crowd]


def load_proposer(proposer: str | Callable[[Image.Image], Any] | Proposer) -> Proposer:
    """Return a proposer.

    Parameters
    ----------
    proposer : str, callable or Proposer
        "regions" (``RegionProposer``), "torchvision:NAME" (``TorchvisionProposer``), "MODULE:FUNCTION" or a function
        (``FunctionProposer``), a path (``BoxFileProposer``).

    Raises
    ------
    ValueError : for another word.
    FileNotFoundError : for a path where nothing is.
    """
    if isinstance(proposer, Proposer):
        return proposer
    if callable(proposer):
        return FunctionProposer(proposer)
    if not isinstance(proposer, (str, os.PathLike)):
        raise TypeError(f"a proposer is {_FORMS}, a function or a Proposer, not {type(proposer).__name__}")
    name = os.fspath(proposer)
    if name == "regions":
        from fewshot.detection.region_proposer import RegionProposer

        return RegionProposer()
    if name.startswith("torchvision:"):
        from fewshot.detection.torchvision_proposer import TorchvisionProposer

        return TorchvisionProposer(name.removeprefix("torchvision:"))
    if is_url(name) or os.path.exists(name) or os.path.splitext(name)[1].lower() in (".json", ".xml", ".txt"):
        return BoxFileProposer(read_boxes(name))
    module, _, function = name.partition(":")
    if not (module and function):
        raise ValueError(f"{name!r} is no proposer, nor a file: give {_FORMS}")
    return _imported(module, function)


def _imported(module: str, function: str) -> Proposer:
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module {error.name!r} for the proposer {module}:{function}; a module of your own is found "
            "through PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ValueError(f"the module {module} has no {function!r}") from error
    if isinstance(found, type):
        found = found()
    if not isinstance(found, Proposer) and not callable(found):
        raise ValueError(f"{module}:{function} is neither a function of an image nor a proposer")
    return load_proposer(found)
