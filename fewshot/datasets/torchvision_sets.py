"""Any classification set of torchvision's, by its class name; torchvision downloads it."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fewshot.datasets.dataset import Dataset, data_folder
from fewshot.datasets.lazy_images import LazySource
from fewshot.datasets.overlap import IMAGENET
from fewshot.media import image_bytes

_TRAINED_ON = {"ImageNet": (IMAGENET,), "Imagenette": (IMAGENET,)}
_NO_SETS = {"ImageFolder", "DatasetFolder", "VisionDataset"}  # they need a folder, which load_dataset reads itself


@dataclass(frozen=True)
class TorchvisionImage(LazySource):
    """An image of a torchvision data set."""

    set_name: str
    index: int
    data: Any = field(repr=False)

    @property
    def name(self) -> str:
        """The set's name and the image's number in it."""
        return f"{self.set_name}/{self.index}"

    def __str__(self) -> str:
        return self.name

    def read(self, size: int = -1) -> bytes:
        """Return the image as PNG, whole, whatever ``size`` says."""
        return image_bytes(self.data[self.index][0])


def torchvision_names() -> list[str]:
    """Return the class names of torchvision's data sets."""
    import torchvision.datasets as sets

    kinds = {name: getattr(sets, name) for name in sets.__all__ if name not in _NO_SETS}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, sets.VisionDataset)]


def torchvision_dataset(name: str, split: str, root: str | os.PathLike[str] | None) -> Dataset:
    """Make a torchvision data set, as its own class does, and list its images.

    torchvision downloads what it can (it may be many gigabytes) into ``torchvision`` in the data folder, unless it is
    there already, and checks it as that class does. ``split`` is passed on as the class's own
    ``split`` or, for "train" and "test", as its ``train``; a class that has neither is read whole. All other arguments
    are that class's defaults. Labels are its class names where it has them, else numbers. They are taken from the
    lists it keeps; where it keeps none, every image is decoded once to learn them.

    Raises
    ------
    ValueError : for a split the set does not have, or a set whose targets are not classes.
    FileNotFoundError : if torchvision can neither find nor fetch it, with its reason.
    """
    import torchvision.datasets as sets

    kind = getattr(sets, name)
    part = _arguments(name, kind, split)
    data = _made(name, kind, part, root)
    labels = _named(_targets(name, data), _class_names(data))
    images = tuple(TorchvisionImage(name, i, data).as_image() for i in range(len(labels)))
    return Dataset(name, images, labels, split=split if part else None, contained_in=_TRAINED_ON.get(name, ()))


def _arguments(name: str, kind: type, split: str) -> dict[str, Any]:
    """How the class is asked for a split; nothing if it has none."""
    parameters = inspect.signature(kind).parameters
    if "split" in parameters:
        return {"split": split}
    has = "train and test" if "train" in parameters else "no splits: leave split out for the whole set"
    if split != "test" and not ("train" in parameters and split == "train"):
        raise ValueError(f"torchvision's {name} has no split {split!r}; it has {has}")
    return {"train": split == "train"} if "train" in parameters else {}


def _made(name: str, kind: type, part: dict[str, Any], root: str | os.PathLike[str] | None) -> Any:
    """The data set: from the data folder where that holds it, else downloaded."""
    folder = data_folder(root) / "torchvision"
    try:
        with suppress(RuntimeError, OSError):  # it is not, or not all, there
            return kind(folder, **part)
        folder.mkdir(parents=True, exist_ok=True)
        return kind(folder, **part, download=True) if _downloads(kind) else kind(folder, **part)
    except TypeError as error:
        raise ValueError(f"torchvision's {name} needs arguments of its own ({error}); make it yourself") from error
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"torchvision found no {name} and could not fetch it ({error}). Where there is a network: "
            f"torchvision.datasets.{name}({str(folder)!r}, download=True); or put its files there by hand, as "
            f"https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.{name}.html says"
        ) from error


def _downloads(kind: type) -> bool:
    return any("download" in inspect.signature(base).parameters for base in kind.__mro__[:-1])


def _targets(name: str, data: Any) -> list[int]:
    """The class number of each image, from a list the set keeps, if that agrees with its items."""
    try:
        n = len(data)
        some = {i: operator.index(data[i][1]) for i in {0, n // 2, n - 1}}
        image_bytes(data[0][0])
        for kept in _kept_lists(data):
            if len(kept) == n and all(operator.index(kept[i]) == target for i, target in some.items()):
                return [operator.index(target) for target in kept]
        return [operator.index(data[i][1]) for i in range(n)]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"torchvision's {name} does not hold images of classes ({error})") from error


def _kept_lists(data: Any) -> Iterator[Sequence[Any]]:
    for attribute in ("targets", "labels", "_labels", "y"):
        kept = getattr(data, attribute, None)
        if isinstance(kept, Sequence) or hasattr(kept, "__array__"):
            yield kept  # type: ignore[misc]
    pairs = getattr(data, "_samples", None)
    if isinstance(pairs, Sequence):
        yield [pair[1] for pair in pairs]


def _class_names(data: Any) -> list[str]:
    names = getattr(data, "classes", None) or getattr(data, "categories", None) or []
    texts = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in names]
    return texts if len(set(texts)) == len(texts) else [f"{text} ({i})" for i, text in enumerate(texts)]


def _named(targets: list[int], names: list[str]) -> tuple[str, ...]:
    """Class names where there is one for each number, else the numbers with leading zeros."""
    if max(targets, default=-1) < len(names) and min(targets, default=0) >= 0:
        return tuple(names[target] for target in targets)
    width = len(str(max(targets, default=0)))
    return tuple(f"{target:0{width}}" for target in targets)
