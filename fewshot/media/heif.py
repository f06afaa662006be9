"""HEIC and AVIF: what phones and the web store photographs in, decoded where Pillow or pillow-heif can."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from PIL import Image

from fewshot.errors import ImageError

SUFFIXES = (".avif", ".heic", ".heif", ".hif")
# Brands of ISO/IEC 23008-12: HEVC-coded images and sequences; and the brand of either codec.
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AV1 = {b"avif", b"avis"}
_EITHER = {b"mif1", b"msf1"}


def avif_is_decoded() -> bool:
    """Whether this Pillow decodes AVIF."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # before Pillow 11.3
        return False
    return bool(AvifImagePlugin.SUPPORTED)


class Sized(Protocol):
    """What has a width and a height in pixels."""

    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102


def decoded(data: bytes, name: str, check_size: Callable[[Sized], None]) -> Image.Image | None:
    """Return the image of a HEIC file, upright; None for what is none, and for an AVIF that Pillow decodes.

    ``check_size`` is called before anything is decoded.

    Raises
    ------
    ImageError : if it is HEIC or AVIF and nothing here decodes it, with what to install; if it is damaged.
    """
    if data[4:8] != b"ftyp":
        return None
    brands = {data[i : i + 4] for i in range(8, min(int.from_bytes(data[:4], "big"), 64), 4)}
    if data[8:12] in _AV1 or (data[8:12] in _EITHER and brands & _AV1):
        if avif_is_decoded():
            return None
        raise ImageError(name, "is an AVIF image, which this Pillow does not decode: pip install -U 'pillow>=11.3'")
    if data[8:12] not in _HEVC | _EITHER:
        return None
    if find_spec("pillow_heif") is None:
        raise ImageError(name, "is a HEIC image, which needs pillow_heif: pip install 'fewshot[heic]'")
    import pillow_heif

    # Not as a plug-in of Pillow's, which every user of Pillow in the process would have.
    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    check_size(file)
    image: Image.Image = file.to_pillow()
    return image
