"""Opening one image, from a file, bytes, an array, a PIL image or a zip, as upright RGB."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fewshot.errors import ImageError
from fewshot.media import heif
from fewshot.media.cloud_files import CloudFile, without_secrets
from fewshot.media.file_bytes import file_bytes
from fewshot.media.pixel_range import eight_bits
from fewshot.media.tensors import ImageTensor, channels_last, is_one_image, is_tensor
from fewshot.media.zips import MAX_BYTES, ZippedImage

if TYPE_CHECKING:
    from typing import TypeAlias

# Only these decoders are tried: others (EPS, for one) would start programs on hostile input.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(("AVIF",) if heif.avif_is_decoded() else ()))
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}) | {
    *heif.SUFFIXES
}

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF 6.0
_FEWEST_LEVELS = 16
_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"BM": "image/bmp"}
_KINDS = "a path, a URL, bytes, a binary file object, a PIL image, an array or a tensor"

MAX_PIXELS = 89_478_485
"""Images of more pixels are refused as decompression bombs (Pillow's own limit: 256 MiB of RGB)."""

ImageSource: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    Image.Image,
    NDArray[Any],
    ImageTensor,
    ZippedImage,
    CloudFile,
]
ImageSources: TypeAlias = ImageSource | Iterable[ImageSource]
"""Images, or one."""


def describe(source: ImageSource) -> str:
    """Name an image for a message: its path where it has one, or its URL without secrets."""
    if isinstance(source, (str, ZippedImage, CloudFile)):
        return without_secrets(str(source))
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array of shape {source.shape}>"
    if is_tensor(source):
        return f"<tensor of shape {tuple(source.shape)}>"  # type: ignore[union-attr]
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image of {source.width} x {source.height}>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Open an image, upright and in RGB.

    The camera's EXIF rotation is applied; transparency is laid on white; of an animation the first frame is taken;
    16 bits of grey are scaled to 8 from the range that the file declares, or else from the fewest of 8, 10, 12, 14 and
    16 bits that hold its largest value, as cameras and microscopes store theirs.

    Parameters
    ----------
    source : path, URL, bytes, binary file object, PIL image, array, tensor, ZippedImage or CloudFile
        Files: JPEG, PNG, WebP, BMP, GIF or TIFF; AVIF with Pillow 11.3 or later; HEIC with pillow-heif. Arrays:
        (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); bool, uint8, uint16, or floats in [0, 1]. Tensors of PyTorch: the
        same values, (h, w) or channels first.
    max_pixels : int
        Larger images are refused, before they are decoded.
    at_least : int, optional
        Pixels that suffice for either side: a larger JPEG file may come at 1/2, 1/4 or 1/8 of its size, which is
        several times as fast for photographs of a camera.

    Returns
    -------
    PIL.Image.Image
        Of mode "RGB".

    Raises
    ------
    ImageError : naming the source, if it cannot be read, or 8 bits would leave nothing of it.
    """
    if is_tensor(source):
        return _from_array(channels_last(source, describe(source)), describe(source))  # type: ignore[arg-type]
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        _check_size(source, describe(source), max_pixels)
        return _upright_rgb(source, describe(source))
    data = _read(source)
    name = describe(source)
    if not data:
        raise ImageError(name, "the file is empty (0 bytes)")
    try:
        opened = heif.decoded(data, name, partial(_check_size, name=name, max_pixels=max_pixels))
        opened = opened or Image.open(io.BytesIO(data), formats=FORMATS)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(name, f"it is over the limit of {max_pixels:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        raise ImageError(name, "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read") from None
    except Exception as error:
        raise ImageError(name, f"damaged image header ({error})") from error
    _check_size(opened, name, max_pixels)
    if at_least is not None:
        opened.draft(None, (at_least, at_least))
    return _upright_rgb(opened, name)


def image_bytes(source: ImageSource) -> bytes:
    """Return the image's file, byte for byte; for a PIL image, array or tensor, a lossless PNG of its pixels.

    Raises
    ------
    ImageError : naming the source, if it cannot be read.
    """
    if not isinstance(source, (np.ndarray, Image.Image)) and not is_tensor(source):
        return _read(source)
    out = io.BytesIO()
    open_image(source).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def one_or_several(images: ImageSources) -> Iterable[ImageSource]:
    """Return images as they are, and a single one as a list: to Python, a path is a sequence of letters."""
    held = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, ZippedImage, CloudFile)
    alone = isinstance(images, held) or hasattr(images, "read")
    if alone or ((isinstance(images, np.ndarray) or is_tensor(images)) and is_one_image(images)):  # type: ignore[arg-type]
        return [images]  # type: ignore[list-item]
    return images  # type: ignore[return-value]


def image_type(data: bytes) -> str:
    """Return the media type that an image's first bytes stand for."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "image/tiff"
    if data[4:8] == b"ftyp":
        return "image/avif" if data[8:11] == b"avi" else "image/heic"
    return next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), "application/octet-stream")


def image_hash(source: ImageSource) -> str:
    """Return the SHA-256 of ``image_bytes``, in hexadecimal: equal files have equal hashes."""
    return hashlib.sha256(image_bytes(source)).hexdigest()


def _read(source: Any) -> bytes:
    return file_bytes(source, describe(source), ImageError, what="an image", kinds=_KINDS, max_bytes=MAX_BYTES)


def _check_size(image: heif.Sized, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(name, f"{width} x {height} is over the limit of {max_pixels:,} pixels; scale it down")
    if width == 0 or height == 0:
        raise ImageError(name, f"{width} x {height} pixels hold no image")


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        declared = _declared_maximum(image)
        deep_colours = _has_deep_colours(image)
        upright = _to_rgb(ImageOps.exif_transpose(image), name, declared)
    except ImageError:
        raise
    except MemoryError:
        reason = f"there is not enough memory for its {image.width} x {image.height} pixels; scale it down"
        raise ImageError(name, reason) from None
    except Exception as error:
        raise ImageError(name, f"the file is truncated or damaged ({error})") from error
    # Pillow keeps the upper 8 of 16 bits a colour: of 12 bits in 16 it leaves 16 levels.
    if deep_colours and max(int(high) for _, high in upright.getextrema()) < _FEWEST_LEVELS:  # type: ignore[misc]
        raise ImageError(
            name,
            f"its 16 bits a colour hold values below {256 * _FEWEST_LEVELS:,} of 65,535 only, of which 8 bits would "
            f"leave {_FEWEST_LEVELS} levels or fewer; scale it to the full range, or save it with 8 bits",
        )
    return upright


def _declared_maximum(image: Image.Image) -> int | None:
    """The largest value that a TIFF says its grey may have, where that is less than its storage could hold."""
    tags = getattr(image, "tag_v2", {})
    bits, largest = (np.ravel(tags.get(tag, 0)).max() for tag in (_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE))
    return int(largest) or (2 ** int(bits) - 1 if 8 < bits < 16 else None)


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether the file has 16 bits for each of several channels."""
    return image.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _to_rgb(image: Image.Image, name: str, declared: int | None = None) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        if grey.dtype.kind == "i" and grey.min() >= 0 and grey.max() <= 65535:  # how Pillow may hold 16 bits
            grey = grey.astype(np.uint16)
        return _from_array(grey, name, declared)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: NDArray[Any], name: str | None = None, declared: int | None = None) -> Image.Image:
    name = name or describe(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(name, "an image array has shape (h, w), (h, w, 3) or (h, w, 4), channels last")
    return _to_rgb(Image.fromarray(eight_bits(array, name, declared)), name)
