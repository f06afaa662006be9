"""What the description of a bundle must say: each part that is read later, so that none fails in the middle of work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fewshot.validation import check_label

_MOST_EXAMPLES = 2**53  # what a JSON number holds exactly


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _above_zero(value: Any) -> bool:
    return _number(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_EXAMPLES


def _range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value)) and value[0] <= value[1]


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


_Checks = Mapping[str, Callable[[Any], bool]]
_CALIBRATION: _Checks = {
    **dict.fromkeys(("intercept", "log_ways", "similarity", "log_margin", "uniform_mix", "others"), _number),
    **dict.fromkeys(("ways_range", "similarity_range", "margin_range"), _range),
    **dict.fromkeys(("unit", "shape"), _above_zero),
}
_REJECTION: _Checks = dict.fromkeys(("value", "max_false_accept", "false_accept_bound"), _number)
_PARTS: Mapping[str, _Checks] = {
    "encoder": {"dim": _whole, "name": _text, "precision": _text},
    "head": {"kind": _text, "parts": _whole_numbers, "means": _flag},
    "unknown": {"background": _flag, "center_classes": _whole, "scale": _above_zero},
    "self_test": {"least_cosine": _number},
}


def parsed_description(data: bytes) -> Any:
    """Parse JSON in UTF-8, without NaN and infinity, which JSON does not have.

    Raises
    ------
    ValueError : for anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}, which is no number of JSON")

    return json.loads(data.decode("utf-8"), parse_constant=refuse)


def check_description(about: Mapping[str, Any]) -> None:
    """Check what the description of a bundle says.

    Raises
    ------
    KeyError : naming what is missing.
    ValueError : naming what is wrong.
    """
    labels, counts = about["labels"], about["counts"]
    fine = isinstance(labels, list) and isinstance(counts, list) and len(labels) == len(counts) > 0
    if not fine or not all(map(_text, labels)) or len(set(labels)) < len(labels):
        raise ValueError("its labels are not a list of different names, each with a count")
    for label in labels:
        if check_label(label) != label:
            raise ValueError(f"its label {label!r} is not as labels are stored: {check_label(label)!r}")
    if not _whole_numbers(counts) or min(counts) == 0:
        raise ValueError("its counts of examples are not whole numbers above 0")
    if not _text(about["modality"]):
        raise ValueError(f"its modality is {about['modality']!r}")
    for part, checks in _PARTS.items():
        _check_part(part, about[part], checks)
    if about["calibration"] != {}:  # of one class there is none
        _check_part("calibration", about["calibration"], _CALIBRATION)
    if about["rejection"] is not None:
        _check_part("rejection", about["rejection"], _REJECTION)


def _check_part(part: str, held: Any, checks: _Checks) -> None:
    if not isinstance(held, dict):
        raise ValueError(f"its {part} is {_short(held)}, which says nothing of {', '.join(checks)}")
    for name, is_fine in checks.items():
        if name not in held:
            raise KeyError(f"{part}.{name}")
        if not is_fine(held[name]):
            raise ValueError(f"its {part}.{name} is {_short(held[name])}, which it cannot be")


def _short(value: Any) -> str:
    return repr(value)[:60]
