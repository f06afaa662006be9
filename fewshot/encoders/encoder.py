"""The encoder protocol, and embedding a batch in which some images cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fewshot.errors import ImageError
from fewshot.media import ImageSource, map_ahead, open_image
from fewshot.validation import check_vectors

_CHUNK = 256


@runtime_checkable
class Encoder(Protocol):
    """Anything that embeds images.

    Attributes
    ----------
    dim : int
        d, the embedding size.
    fingerprint : str
        Changes whenever the vectors would: two encoders with one fingerprint give comparable vectors.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import Encoder, open_image
    >>> class Brightness:
    ...     dim, fingerprint = 1, "brightness 1"
    ...     def encode(self, images):
    ...         return np.array([[np.asarray(open_image(image)).mean()] for image in images], np.float32)
    >>> isinstance(Brightness(), Encoder)
    True
    """

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Embed n images: (n, d) float32, in the order given."""
        ...


@dataclass(frozen=True)
class Encoded:
    """The embeddings of the images that could be read, and the errors of the others.

    Attributes
    ----------
    vectors : ndarray of shape (m, d), float32
    kept : ndarray of shape (m,)
        The position of each vector's image among those given, increasing.
    failed : tuple of (position, ImageError)
    """

    vectors: NDArray[np.float32]
    kept: NDArray[np.int64]
    failed: tuple[tuple[int, ImageError], ...]


def check_is_encoder(encoder: object) -> Encoder:
    """Return an encoder as it is.

    Raises
    ------
    TypeError : naming what the object lacks of the protocol, and the classes that make an encoder of it.
    """
    kind = type(encoder)  # has what is a property, which need not be computed
    missing = [name for name in ("dim", "fingerprint", "encode") if not (hasattr(kind, name) or hasattr(encoder, name))]
    if not missing and not isinstance(encoder, type):
        return cast(Encoder, encoder)
    given = f"the class {encoder.__name__}" if isinstance(encoder, type) else f"an object of type {kind.__name__}"
    lack = f" (it has no {', '.join(missing)})" if missing else ""
    raise TypeError(
        f"expected an encoder, not {given}{lack}: give load_encoder(name), TorchEncoder(module, preprocess, name) for "
        "an nn.Module, FunctionEncoder(function, dim, fingerprint) for a function, or any object with dim, fingerprint "
        "and encode(images)"
    )


def encode_valid(encoder: Encoder, images: Iterable[ImageSource]) -> Encoded:
    """Embed the images that can be read; the others are listed, each with its reason.

    Calls the encoder's own ``encode_valid`` if it has one, else its ``encode`` on the opened images.
    """
    encoder = check_is_encoder(encoder)
    own = getattr(encoder, "encode_valid", None)
    if own is not None:
        encoded = own(images)
        assert isinstance(encoded, Encoded)
        return encoded
    return encode_opened(encoder.encode, images, encoder.dim, _CHUNK)


def encode_opened(
    function: Callable[[list[Image.Image]], ArrayLike], images: Iterable[ImageSource], dim: int, size: int
) -> Encoded:
    """Embed the images that can be read with a function from at most ``size`` opened images to vectors (m, dim).

    Raises
    ------
    ValueError : for vectors of another shape, or with NaN or infinity.
    """
    opened = map_ahead(open_image, check_image_batch(images), ahead=size)

    def batches() -> Iterator[tuple[Sequence[object], NDArray[np.float32]]]:
        while chunk := list(islice(opened, size)):
            good = [image for image in chunk if not isinstance(image, ImageError)]
            vectors = check_vectors(function(good), dim) if good else np.empty((0, dim), np.float32)
            if len(vectors) != len(good):
                raise ValueError(f"expected one vector for each of {len(good)} images, got {len(vectors)}")
            yield chunk, vectors

    return gathered(batches(), dim)


def gathered(
    batches: Iterable[tuple[Sequence[object], NDArray[np.float32]]],
    dim: int,
    done: Callable[[int], None] | None = None,
) -> Encoded:
    """Concatenate batches: an outcome for each image, which is an ImageError where it failed, and the others' vectors.

    ``done`` is called with the number of images of each batch.
    """
    vectors: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failed: list[tuple[int, ImageError]] = []
    for outcomes, embedded in batches:
        for position, outcome in enumerate(outcomes, start=len(kept) + len(failed)):
            if isinstance(outcome, ImageError):
                failed.append((position, outcome))
            else:
                kept.append(position)
        vectors.append(embedded)
        if done is not None:
            done(len(outcomes))
    stacked = np.concatenate(vectors) if vectors else np.empty((0, dim), np.float32)
    return Encoded(stacked, np.array(kept, np.int64), tuple(failed))


def all_or_raise(encoded: Encoded) -> NDArray[np.float32]:
    """Return the vectors, or raise for the images that failed.

    Raises
    ------
    ImageError : naming the first that failed and how many did.
    """
    if not encoded.failed:
        return encoded.vectors
    position, first = encoded.failed[0]
    total = len(encoded.kept) + len(encoded.failed)
    others = f"; {len(encoded.failed) - 1} more of the {total} failed too" if len(encoded.failed) > 1 else ""
    raise ImageError(first.source, f"{first.reason} (image {position} of {total}{others})")


def check_image_batch(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """Return a sequence of images; of a data frame or table of one column, that column.

    Raises
    ------
    TypeError : for a single image: to Python, a path is a sequence of letters.
    ValueError : for a table of several columns.
    """
    if isinstance(images, (str, bytes, Image.Image)) or hasattr(images, "__fspath__"):
        raise TypeError(f"encode takes a sequence of images; for one, give [image], not {type(images).__name__}")
    if isinstance(images, np.ndarray) and images.dtype.kind in "OSUT" and images.ndim == 2:
        columns: list[Any] = [*range(images.shape[1])]
        column: Any = images[:, :1].ravel()
    elif hasattr(images, "columns") and getattr(images, "ndim", 2) == 2:
        columns = list(images.columns)
        column = images[columns[0]] if columns else ()  # type: ignore[index]
    else:
        return images
    if len(columns) != 1:
        raise ValueError(f"expected one column of images, got {len(columns)}: {', '.join(map(str, columns[:5]))}")
    return cast("Iterable[ImageSource]", column)


def counted(images: Iterable[ImageSource]) -> tuple[Iterator[ImageSource], int | None]:
    """Return an iterator over the images and their number, where it is known."""
    return iter(images), len(images) if isinstance(images, Sized) else None
