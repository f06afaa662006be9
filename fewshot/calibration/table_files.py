"""Calibration tables: JSON files of each method's parameters, and those that ship with fewshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fewshot.calibration.task_features import FEATURES
from fewshot.calibration.temperature import CalibrationParams
from fewshot.files import replacing

_FORMAT = 6
_LARGEST = 1e3  # no sum of such coefficients overflows
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
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(asdict(params))}" for name, params in table.items())
    head = {"format": _FORMAT, "features": FEATURES, "encoders": list(encoders)}
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
        if tuple(value["features"]) != FEATURES:
            raise ValueError(f"features {value['features']!r} instead of {list(FEATURES)}")
        table = {str(name): _checked(name, entry) for name, entry in value["calibration"].items()}
        return table, tuple(map(str, value["encoders"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is no calibration table ({error}); write one with: fewshot calibrate DATA --out {path}"
        ) from error


def _checked(name: str, entry: dict[str, Any]) -> CalibrationParams:
    coefficients = tuple(map(float, entry["log_inverse_temperature"]))
    if len(coefficients) != len(FEATURES) or not all(abs(value) <= _LARGEST for value in coefficients):
        raise ValueError(f"{name}: {len(FEATURES)} numbers from -{_LARGEST:g} to {_LARGEST:g} are needed")
    mix, shape = float(entry["uniform_mix"]), float(entry["shape"])
    if not (0.0 <= mix <= 1.0 and 0.01 <= shape <= 100.0):
        raise ValueError(f"{name}: uniform_mix {mix:g} and shape {shape:g} must be 0 to 1 and 0.01 to 100")
    return CalibrationParams(coefficients, mix, shape)


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
