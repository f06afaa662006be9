"""Images held by tensors, without the library that made them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ImageError

_CHANNELS = (1, 3, 4)


class ImageTensor(Protocol):
    """A tensor of PyTorch: (c, h, w) or (h, w); uint8, or floats in [0, 1]."""

    @property
    def shape(self) -> Any:
        """The size of each axis."""

    def detach(self) -> Any:
        """Return it without its gradient."""

    def cpu(self) -> Any:
        """Return it in main memory."""


def is_tensor(source: object) -> bool:
    """Whether it is a tensor."""
    return hasattr(source, "detach") and hasattr(source, "cpu")


def is_one_image(source: NDArray[Any] | ImageTensor) -> bool:
    """Whether an array or tensor is one image, rather than a sequence of images or of their paths."""
    shape = tuple(source.shape)
    if is_tensor(source):
        return len(shape) == 2 or (len(shape) == 3 and shape[0] in _CHANNELS)
    numbers = isinstance(source, np.ndarray) and source.dtype.kind in "biuf"
    return numbers and (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS))


def channels_last(tensor: ImageTensor, name: str) -> NDArray[Any]:
    """Return a tensor (c, h, w) or (h, w) as an array, channels last.

    Raises
    ------
    ImageError : for another shape.
    """
    if not is_one_image(tensor):
        raise ImageError(name, "an image tensor has shape (h, w), (1, h, w), (3, h, w) or (4, h, w), channels first")
    held = tensor.detach().cpu()
    array = np.asarray(held.float() if held.is_floating_point() else held)  # NumPy has no bfloat16
    return array if array.ndim == 2 else np.moveaxis(array, 0, 2)
