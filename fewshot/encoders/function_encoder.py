"""A function of one's own as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import ArrayLike

from fewshot.encoders.encoder import Encoded, encode_opened, modality_of
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.media import Modality, Source
from fewshot.validation import check_count


class FunctionEncoder(ImageTransformer):
    """A function from images, texts or sounds to vectors as an encoder.

    Parameters
    ----------
    function : callable
        From a list of m PIL images, RGB, to vectors (m, d); of "text" from a list of str; of "audio" from a list of
        ``fewshot.media.Sound``, with ``samples(sampling_rate)`` and ``windows(seconds, sampling_rate)``. The vector of
        one must not depend on the others.
    dim : int
        The embedding size d.
    fingerprint : str
        Give another whenever the vectors of the function change: registries and caches compare it.
    batch_size : int, default 64
        The most images in one call.
    modality : {"image", "text", "audio"}, default "image"
        What the function takes.

    Raises
    ------
    ValueError : at ``encode``, where the function gives vectors of another shape, or with NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import FunctionEncoder
    >>> encoder = FunctionEncoder(
    ...     lambda images: [np.asarray(image).mean(axis=(0, 1)) for image in images], dim=3, fingerprint="mean colour 1"
    ... )
    >>> encoder.encode([np.full((8, 8, 3), (255, 128, 0), np.uint8)])
    array([[255., 128.,   0.]], dtype=float32)
    """

    def __init__(
        self,
        function: Callable[[list[Any]], ArrayLike],
        dim: int,
        fingerprint: str,
        *,
        batch_size: int = 64,
        modality: Modality = "image",
    ) -> None:
        self.function = function
        self.dim = dim
        self.fingerprint = fingerprint
        self.batch_size = batch_size
        self.modality = modality

    def encode_valid(self, images: Iterable[Source]) -> Encoded:
        """Embed the images, texts or sounds that can be read, and list the others."""
        size = check_count("batch_size", self.batch_size)
        return encode_opened(self.function, images, check_count("dim", self.dim), size, modality_of(self))
