"""Opening one image, from a file, bytes, an array, a PIL image or a zip, as upright RGB."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fewshot.errors import ImageError
from fewshot.media.zips import MAX_BYTES, ZippedImage, oversize

if TYPE_CHECKING:
    from typing import TypeAlias

# Only these decoders are tried: others (EPS, for one) would start programs on hostile input.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

MAX_PIXELS = 89_478_485
"""Images of more pixels are refused as decompression bombs (Pillow's own limit: 256 MiB of RGB)."""

ImageSource: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image, NDArray[Any], ZippedImage
]


def describe(source: ImageSource) -> str:
    """Name an image for a message: its path where it has one."""
    if isinstance(source, (str, ZippedImage)):
        return str(source)
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array of shape {source.shape}>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image of {source.width} x {source.height}>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Open an image, upright and in RGB.

    The camera's EXIF rotation is applied; transparency is laid on white; of an animation the first frame is taken;
    16 bits a channel are scaled to 8.

    Parameters
    ----------
    source : path, bytes, binary file object, PIL image, array or ZippedImage
        Files: JPEG, PNG, WebP, BMP, GIF or TIFF. Arrays: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); bool, uint8,
        uint16, or floats in [0, 1].
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
    ImageError : naming the source, if it cannot be read.
    """
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
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(name, f"it is over the limit of {max_pixels:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        raise ImageError(name, "not an image; JPEG, PNG, WebP, BMP, GIF and TIFF can be read") from None
    except Exception as error:
        raise ImageError(name, f"damaged image header ({error})") from error
    _check_size(opened, name, max_pixels)
    if at_least is not None:
        opened.draft(None, (at_least, at_least))
    return _upright_rgb(opened, name)


def image_bytes(source: ImageSource) -> bytes:
    """Return the image's file, byte for byte; for a PIL image or array, a lossless PNG of its pixels.

    Raises
    ------
    ImageError : naming the source, if it cannot be read.
    """
    if not isinstance(source, (np.ndarray, Image.Image)):
        return _read(source)
    out = io.BytesIO()
    open_image(source).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def image_hash(source: ImageSource) -> str:
    """Return the SHA-256 of ``image_bytes``, in hexadecimal: equal files have equal hashes."""
    return hashlib.sha256(image_bytes(source)).hexdigest()


def _read(source: Any) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    name = describe(source)
    try:
        if isinstance(source, ZippedImage):
            return source.read()
        if isinstance(source, (str, os.PathLike)):
            return _read_file(Path(source))
        if hasattr(source, "read"):
            return _read_stream(source)
    except FileNotFoundError:
        raise ImageError(name, "no such file") from None
    except IsADirectoryError:
        raise ImageError(name, "is a folder, not an image file") from None
    except ImageError:
        raise
    except Exception as error:  # whatever zipfile, zlib or a closed or foreign file object comes up with
        raise ImageError(name, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    raise TypeError(
        f"an image must be a path, bytes, a binary file object, a PIL image or an array, not {type(source).__name__}"
    )


def _read_file(path: Path) -> bytes:
    about = path.stat()
    if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
        raise ImageError(str(path), "is a device, not an image file")
    if about.st_size > MAX_BYTES:
        raise ImageError(str(path), oversize(about.st_size))
    if stat.S_ISFIFO(about.st_mode):  # as of a shell's <(...); its size is not known beforehand
        with open(path, "rb") as pipe:
            return _read_stream(pipe)
    return path.read_bytes()


def _read_stream(stream: IO[bytes]) -> bytes:
    """Read a file object to its end and, where it can seek, put it back to where it stood."""
    start = stream.tell() if stream.seekable() else None
    data = stream.read(MAX_BYTES + 1)
    if start is not None:
        stream.seek(start)
    if not isinstance(data, bytes):
        raise ImageError(describe(stream), "the file object gives text; open the file in binary mode ('rb')")
    if len(data) > MAX_BYTES:
        raise ImageError(describe(stream), oversize(len(data)))
    return data


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(name, f"{width} x {height} is over the limit of {max_pixels:,} pixels; scale it down")
    if width == 0 or height == 0:
        raise ImageError(name, f"{width} x {height} pixels hold no image")


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(name, f"the file is truncated or damaged ({error})") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        if grey.dtype.kind == "i" and grey.min() >= 0 and grey.max() <= 65535:  # how Pillow may hold 16 bits
            grey = grey.astype(np.uint16)
        return _from_array(grey, name=name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: NDArray[Any], name: str | None = None) -> Image.Image:
    name = name or describe(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(name, "an image array has shape (h, w), (h, w, 3) or (h, w, 4), channels last")
    return _to_rgb(Image.fromarray(_to_uint8(array, name)), name)


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return cast("NDArray[np.uint8]", array.astype(np.uint8) * np.uint8(255))
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return cast("NDArray[np.uint8]", (array // 257).astype(np.uint8))
    if array.dtype.kind not in "iuf":
        raise ImageError(name, f"an array of {array.dtype} is no image: give uint8, uint16, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        return cast("NDArray[np.uint8]", np.rint(array * 255.0).astype(np.uint8))
    raise ImageError(
        name,
        f"{array.dtype} values from {low} to {high}: give uint8, uint16, or floats in [0, 1]",
    )
