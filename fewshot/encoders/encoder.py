"""The encoder protocol, and embedding a batch in which some examples cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fewshot.errors import ExampleError, SoundError, TextError
from fewshot.media import Modality, Source, map_ahead, medium_of
from fewshot.validation import check_vectors

_CHUNK = 256
T = TypeVar("T")


@runtime_checkable
class Encoder(Protocol):
    """Anything that embeds images, texts or sounds.

    Attributes
    ----------
    dim : int
        d, the embedding size.
    fingerprint : str
        Changes whenever the vectors would: two encoders with one fingerprint give comparable vectors.
    modality : {"image", "text", "audio"}, optional
        What it embeds; without this attribute images.
    encode_texts : callable, optional
        Embeds n texts (n, d) in the space of the images, for ``ClassRegistry.describe``.

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

    def encode(self, images: Iterable[Any]) -> NDArray[np.float32]:
        """Embed n images, texts or sounds: (n, d) float32, in the order given."""
        ...


@dataclass(frozen=True)
class Encoded:
    """The embeddings of the examples that could be read, and the errors of the others.

    Attributes
    ----------
    vectors : ndarray of shape (m, d), float32
    kept : ndarray of shape (m,)
        The position of each vector's example among those given, increasing.
    failed : tuple of (position, ExampleError)
    """

    vectors: NDArray[np.float32]
    kept: NDArray[np.int64]
    failed: tuple[tuple[int, ExampleError], ...]


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


def modality_of(encoder: object) -> Modality:
    """Return what an encoder embeds, "image" where it does not say.

    Raises
    ------
    ValueError : where it says another word than "image", "text" and "audio".
    """
    return medium_of(getattr(encoder, "modality", "image")).modality


def encode_valid(encoder: Encoder, examples: Iterable[Source]) -> Encoded:
    """Embed the examples that can be read; the others are listed, each with its reason.

    Calls the encoder's own ``encode_valid`` if it has one, else its ``encode`` on what ``Medium.open`` gives of them.
    """
    encoder = check_is_encoder(encoder)
    own = getattr(encoder, "encode_valid", None)
    if own is not None:
        encoded = own(examples)
        assert isinstance(encoded, Encoded)
        return encoded
    return encode_opened(encoder.encode, examples, encoder.dim, _CHUNK, modality_of(encoder))


def encode_opened(
    function: Callable[[list[Any]], ArrayLike],
    examples: Iterable[Source],
    dim: int,
    size: int,
    modality: Modality = "image",
) -> Encoded:
    """Embed the examples that can be read with a function from at most ``size`` opened ones to vectors (m, dim).

    Raises
    ------
    ValueError : for vectors of another shape, or with NaN or infinity.
    """
    medium = medium_of(modality)
    opened = map_ahead(medium.open, check_image_batch(examples, modality), ahead=size)

    def batches() -> Iterator[tuple[Sequence[object], NDArray[np.float32]]]:
        while chunk := list(islice(opened, size)):
            good = [example for example in chunk if not isinstance(example, ExampleError)]
            vectors = check_vectors(function(good), dim) if good else np.empty((0, dim), np.float32)
            if len(vectors) != len(good):
                raise ValueError(f"expected one vector for each of {medium.counted(len(good))}, got {len(vectors)}")
            yield chunk, vectors

    return gathered(batches(), dim)


def gathered(
    batches: Iterable[tuple[Sequence[object], NDArray[np.float32]]],
    dim: int,
    done: Callable[[int], None] | None = None,
) -> Encoded:
    """Concatenate batches: an outcome for each example, an ExampleError where it failed, and the others' vectors.

    ``done`` is called with the number of examples of each batch.
    """
    vectors: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failed: list[tuple[int, ExampleError]] = []
    for outcomes, embedded in batches:
        for position, outcome in enumerate(outcomes, start=len(kept) + len(failed)):
            if isinstance(outcome, ExampleError):
                failed.append((position, outcome))
            else:
                kept.append(position)
        vectors.append(embedded)
        if done is not None:
            done(len(outcomes))
    stacked = np.concatenate(vectors) if vectors else np.empty((0, dim), np.float32)
    return Encoded(stacked, np.array(kept, np.int64), tuple(failed))


def all_or_raise(encoded: Encoded) -> NDArray[np.float32]:
    """Return the vectors, or raise for the examples that failed.

    Raises
    ------
    ExampleError : naming the first that failed and how many did.
    """
    if not encoded.failed:
        return encoded.vectors
    position, first = encoded.failed[0]
    total = len(encoded.kept) + len(encoded.failed)
    others = f"; {len(encoded.failed) - 1} more of the {total} failed too" if len(encoded.failed) > 1 else ""
    noun = {TextError: "text", SoundError: "sound"}.get(type(first), "image")
    raise type(first)(first.source, f"{first.reason} ({noun} {position} of {total}{others})")


def check_image_batch(images: Iterable[T], modality: Modality = "image") -> Iterable[T]:
    """Return a sequence of images, texts or sounds; of a data frame or table of one column, that column.

    Raises
    ------
    TypeError : for a single one: to Python, a path is a sequence of letters.
    ValueError : for a table of several columns.
    """
    noun = medium_of(modality).noun
    if isinstance(images, (str, bytes, Image.Image)) or hasattr(images, "__fspath__"):
        raise TypeError(f"encode takes a sequence of {noun}s; for one, give [{noun}], not {type(images).__name__}")
    if isinstance(images, np.ndarray) and images.dtype.kind in "OSUT" and images.ndim == 2:
        columns: list[Any] = [*range(images.shape[1])]
        column: Any = images[:, :1].ravel()
    elif hasattr(images, "columns") and getattr(images, "ndim", 2) == 2:
        columns = list(images.columns)
        column = images[columns[0]] if columns else ()  # type: ignore[index]
    else:
        return images
    if len(columns) != 1:
        raise ValueError(f"expected one column of {noun}s, got {len(columns)}: {', '.join(map(str, columns[:5]))}")
    return cast("Iterable[T]", column)


def counted(examples: Iterable[T]) -> tuple[Iterator[T], int | None]:
    """Return an iterator over the examples and their number, where it is known."""
    return iter(examples), len(examples) if isinstance(examples, Sized) else None
