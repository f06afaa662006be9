"""A bundle's file: a zip of an ONNX graph, float32 arrays and a description, read with distrust."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.files import replacing
from fewshot.runtime.bundle_description import check_description, parsed_description

FORMAT, VERSION = "fewshot bundle", 1
# The axes of each array: c classes, d numbers of an embedding, 3 self-test images, and others.
_AXES = {
    "head_vectors": "cd",
    "head_scale": "d",
    "head_center": "d",
    "head_axes": "dr",
    "head_factors": "r",
    "head_bias": "c",
    "unknown_prototypes": "cd",
    "unknown_mean": "d",
    "unknown_axes": "dq",
    "unknown_factors": "q",
    "unknown_center": "d",
    "unknown_negatives": "nd",
    "self_test": "3d",
}
# Those that a bundle in int8 holds in 8 bits, with the scale of each column.
_IN_INT8 = {"head_axes": "head_axes_scale", "unknown_axes": "unknown_axes_scale"}
_AXES |= {"head_axes_scale": "r", "unknown_axes_scale": "q"}
INT8 = "int8 weights"
_NEEDED = ("head_vectors", "self_test")
_DESCRIPTION, _GRAPH, _LICENSE = "bundle.json", "encoder.onnx", "LICENSE.txt"
_FILES = (_DESCRIPTION, _GRAPH, _LICENSE)
_LARGEST = 2**32  # bytes
_LONGEST = 2**26  # bytes of the description: some million labels
_MOST = 1e15  # whose squares and sums float32 holds
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows: the same bundle has the same bytes


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    Attributes
    ----------
    about : dict
        The description, ``bundle.json``.
    graph : bytes
        The encoder, ``encoder.onnx``.
    arrays : dict of str to ndarray, float32
    license : str
        What is known of the licence of the encoder's weights.
    """

    about: dict[str, Any]
    graph: bytes
    arrays: dict[str, NDArray[np.float32]]
    license: str


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a zip does, which no registry does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def write_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> int:
    """Write a bundle, whole or not at all; returns its bytes. The same bundle gives the same bytes."""
    entries: dict[str, bytes] = {
        _DESCRIPTION: json.dumps(bundle.about, indent=1, ensure_ascii=False, sort_keys=True).encode(),
        _LICENSE: bundle.license.encode(),
        _GRAPH: bundle.graph,
    }
    int8 = bundle.about["encoder"]["precision"] == INT8
    for name, array in sorted((_in_int8(bundle.arrays) if int8 else bundle.arrays).items()):
        held = io.BytesIO()
        np.lib.format.write_array(held, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        entries[f"{name}.npy"] = held.getvalue()
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for name, data in entries.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), data)
    return os.path.getsize(path)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises
    ------
    FileNotFoundError : if there is no such file.
    ValueError : in one line, for what is none, is damaged, is of a newer version, or holds anything else.
    """
    try:
        with open(path, "rb") as held, zipfile.ZipFile(held) as file:  # once, as another may take its place
            entries = _entries(file, os.fstat(held.fileno()).st_size)
        about = _description(entries.pop(_DESCRIPTION))
        graph, license = entries.pop(_GRAPH), entries.pop(_LICENSE).decode()
        found = {Path(name).stem: _array(name, data) for name, data in entries.items()}
        _check_shapes(found, {"c": len(about["labels"]), "d": int(about["encoder"]["dim"]), "3": 3})
        arrays = _in_float32(found, int8=about["encoder"]["precision"] == INT8)
    except OSError:
        raise
    except KeyError as error:
        raise ValueError(f"{path} is no complete bundle: it lacks {error.args[0]}; {_REMEDY}") from error
    except (zipfile.BadZipFile, ValueError, TypeError, NotImplementedError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{path} is no bundle that can be used: {_line(error)}; {_REMEDY}") from error
    return Bundle(about, graph, arrays, license)


_REMEDY = "write it again with: fewshot export REGISTRY FILE --onnx"


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _entries(file: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """Read the files of a bundle: known names, once each, not compressed, together no larger than the zip."""
    found = file.infolist()
    allowed = {*_FILES, *(f"{name}.npy" for name in _AXES)}
    names = [one.filename for one in found]
    foreign = [name for name in names if name not in allowed]
    if foreign:
        raise ValueError(f"it holds {foreign[0]!r}, which no bundle does")
    if len(set(names)) < len(names):
        raise ValueError("it holds a file twice")
    packed = [one.filename for one in found if one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1]
    if packed:
        raise ValueError(f"its {packed[0]} is compressed or encrypted, as in no bundle, and could swell without end")
    if sum(one.file_size for one in found) > min(size, _LARGEST):
        raise ValueError(f"its files claim to be larger than the {size:,} bytes of the whole")
    missing = [*_FILES, *(f"{name}.npy" for name in _NEEDED)]
    for name in missing:
        file.getinfo(name)
    if file.getinfo(_DESCRIPTION).file_size > _LONGEST:
        raise ValueError(f"its {_DESCRIPTION} is over {_LONGEST:,} bytes long")
    return {name: file.read(name) for name in names}


def _description(data: bytes) -> dict[str, Any]:
    about = parsed_description(data)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"its {_DESCRIPTION} is not that of a {FORMAT}")
    version = about.get("version")
    if type(version) is not int or version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = ": update fewshot" if newer else ""
        raise ValueError(f"it is of version {version!r}, and this fewshot reads version {VERSION}{advice}")
    check_description(about)
    return about


def _array(name: str, data: bytes) -> NDArray[Any]:
    """Read an array of float32 or int8 whose size is what its header says: no more memory is taken than its bytes."""
    held = io.BytesIO(data)
    if np.lib.format.read_magic(held) != (1, 0):
        raise ValueError(f"{name} is no array of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(held)
    rest = data[held.tell() :]
    known = dtype == np.dtype("<f4") or (dtype == np.int8 and Path(name).stem in _IN_INT8)
    size = dtype.itemsize * math.prod(shape)
    if not known or fortran or min(shape, default=0) < 0 or size != len(rest):
        raise ValueError(f"{name} says {dtype} of shape {shape}, which its {len(rest):,} bytes are not")
    found = np.frombuffer(rest, dtype).reshape(shape)
    if not (np.abs(found.astype(np.float32)) < _MOST).all():
        raise ValueError(f"{name} holds NaN, infinity or numbers of {_MOST:g} and more")
    return found


def _in_int8(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Round the columns of axes to 8 bits; those that were read so are given back as they were."""
    found: dict[str, NDArray[Any]] = {name: np.asarray(array, "<f4") for name, array in arrays.items()}
    for name, scale_name in _IN_INT8.items():
        if name in arrays:
            scale = np.maximum(np.abs(arrays[name]).max(axis=0), np.float32(1e-30)) / np.float32(127.0)
            # Up to 12 bits of fraction: 127 times it is exact, so that the same scale is found again.
            scale = ((scale.view(np.uint32) + 0xFFF) & 0xFFFFF000).view(np.float32)
            found[name], found[scale_name] = np.round(arrays[name] / scale).astype(np.int8), scale
    return found


def _in_float32(found: dict[str, NDArray[Any]], *, int8: bool) -> dict[str, NDArray[np.float32]]:
    """Multiply axes in 8 bits by their scales."""
    arrays = {name: array for name, array in found.items() if name not in _IN_INT8.values()}
    for name, scale_name in _IN_INT8.items():
        packed = name in arrays and arrays[name].dtype == np.int8
        if packed != (scale_name in found) or (name in arrays and packed != int8):
            raise ValueError(
                f"its {name}.npy and {scale_name}.npy are not those of a bundle in int8, nor of one without"
            )
        if packed:
            arrays[name] = arrays[name] * found[scale_name]
    return arrays


def _check_shapes(arrays: Mapping[str, NDArray[Any]], sizes: dict[str, int]) -> None:
    for name, array in arrays.items():
        letters: Iterable[str] = _AXES[name]
        wanted = [sizes.setdefault(letter, size) for letter, size in zip(letters, array.shape, strict=False)]
        if array.ndim != len(_AXES[name]) or list(array.shape) != wanted:
            raise ValueError(f"{name}.npy is of shape {array.shape}, not ({', '.join(map(str, wanted))})")
