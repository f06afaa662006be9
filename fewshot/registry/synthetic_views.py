"""Examples embedded as they are, or with synthetic views of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ImageError
from fewshot.media import catalogue_views
from fewshot.validation import check_choice

if TYPE_CHECKING:
    from fewshot.encoders import Encoded, Encoder

Augment = Literal["catalogue"]
AUGMENTS: tuple[Augment, ...] = ("catalogue",)


def check_augment(augment: object, encoder: Encoder) -> None:
    """Raise ValueError unless ``augment`` is None or, with an encoder of images, one of ``AUGMENTS``."""
    from fewshot.encoders import modality_of

    check_choice("augment", augment, (None, *AUGMENTS))
    if augment is not None and modality_of(encoder) != "image":
        raise ValueError(f"augment={augment!r} is for images, and this encoder reads {modality_of(encoder)}")


def encode_examples(encoder: Encoder, contents: Sequence[bytes], augments: Sequence[str | None]) -> Encoded:
    """Embed examples; with "catalogue" as the mean direction, and length, of an image and its ``catalogue_views``.

    Images that should be catalogue pictures and are none are among those that failed.
    """
    from fewshot.encoders import Encoded, encode_valid

    encoded = encode_valid(encoder, contents)
    if not any(augments):
        return encoded
    vectors: list[NDArray[np.float32]] = []
    kept, failed = [], list(encoded.failed)
    for position, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True):
        if augments[position] is not None:
            try:
                views = catalogue_views(contents[position])
            except ImageError as error:
                failed.append((position, error))
                continue
            vector = _mean_direction(np.vstack([vector, encoder.encode(views)]))
        vectors.append(vector)
        kept.append(position)
    stacked = np.stack(vectors) if vectors else encoded.vectors[:0]
    return Encoded(stacked, np.array(kept, np.int64), tuple(sorted(failed, key=lambda one: one[0])))


def _mean_direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the directions of vectors (n, d), as long as they are on average: (d,)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    summed = (vectors / lengths.clip(1e-12)).sum(0)
    return np.asarray(summed / np.linalg.norm(summed).clip(1e-12) * lengths.mean(), np.float32)
