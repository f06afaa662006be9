"""Calibration tables: JSON files of each method's parameters, and those that ship with fewshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from fewshot.calibration.task_features import FEATURES, MIX_SHAPE_FEATURES
from fewshot.calibration.temperature import CalibrationParams
from fewshot.files import replacing

_FORMAT = 5
_LARGEST = 1e3  # no sum of such coefficients overflows
_PARTS = {
    "log_inverse_temperature": FEATURES,
    "uniform_mix": MIX_SHAPE_FEATURES,
    "shape": MIX_SHAPE_FEATURES,
}
_SHIPPED = Path(__file__).with_name("tables")

CalibrationTable = Mapping[str, CalibrationParams]


def write_calibration(table: CalibrationTable, path: str | Path, *, encoders: Iterable[str] = ()) -> None:
    """Write a table as JSON.

    Parameters
    ----------
    table : mapping of a method's ``calibration_name`` to CalibrationParams
    path : path
    encoders : iterable of str
        Fingerprints of the encoders that it was fitted to.
    """
    numbers = {name: {part: list(getattr(params, part)) for part in _PARTS} for name, params in table.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items())
    head = {
        "format": _FORMAT,
        "features": FEATURES,
        "mix_shape_features": MIX_SHAPE_FEATURES,
        "encoders": list(encoders),
    }
    text = json.dumps(head)[:-1] + f', "calibration": {{\n{lines}\n}}}}\n'
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_calibration(path: str | Path) -> dict[str, CalibrationParams]:
    """Read what ``write_calibration`` wrote.

    Raises
    ------
    ValueError : for another file, naming it.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, CalibrationParams], tuple[str, ...]]:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r} instead of {_FORMAT}")
        for name, known in (("features", FEATURES), ("mix_shape_features", MIX_SHAPE_FEATURES)):
            if tuple(value[name]) != known:
                raise ValueError(f"{name} {value[name]!r} instead of {list(known)}")
        entries = value["calibration"].items()
        table = {str(name): _checked(name, *(one[part] for part in _PARTS)) for name, one in entries}
        return table, tuple(map(str, value["encoders"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is no calibration table ({error}); write one with: fewshot calibrate DATA --out {path}"
        ) from error


def _checked(name: str, *given: list[float]) -> CalibrationParams:
    found = [tuple(map(float, part)) for part in given]
    sizes, wanted = (tuple(map(len, parts)) for parts in (found, _PARTS.values()))
    if sizes != wanted or not all(abs(value) <= _LARGEST for part in found for value in part):
        raise ValueError(f"{name}: {sizes} numbers, where {wanted} from -{_LARGEST:g} to {_LARGEST:g} are needed")
    return CalibrationParams(*found)


@cache
def shipped_calibration(fingerprint: str | None = None) -> CalibrationTable:
    """Return the table that ships with fewshot for an encoder.

    Parameters
    ----------
    fingerprint : str, optional
        The encoder's. The bundled encoder has a table of its own; all others, and None, have that fitted to networks
        trained on ImageNet.

    Notes
    -----
    Written by ``python benchmarks/calibration.py --fit``.
    """
    for path in sorted(_SHIPPED.glob("*.json")):
        table, encoders = _read(path)
        if fingerprint is not None and fingerprint in encoders:
            return table
    return read_calibration(_SHIPPED / "imagenet.json")
