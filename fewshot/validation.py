"""The checks at the door: vectors, labels, names of metrics, optional dependencies."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.errors import MissingExtra

Metric = Literal["cosine", "sqeuclidean", "inner_product"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_LARGEST = 1e15


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``, naming both."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def check_extra(extra: str, what: str, *modules: str) -> None:
    """Raise MissingExtra unless the modules of an optional dependency are installed, without importing them.

    Parameters
    ----------
    extra : str
        Its name in ``pip install 'fewshot[extra]'``.
    what : str
        The beginning of the message: "parquet files need".
    *modules : str
        Names as for ``import``.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(f"{what} {module}: pip install 'fewshot[{extra}]'")


def check_count(name: str, value: object, *, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``; a bool or a fraction is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, not {value!r}")
    return int(value)


def check_vectors(vectors: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Return vectors as a C-contiguous float32 array of shape (n, dim), all finite.

    Raises
    ------
    ValueError : for another shape, or NaN or infinity, naming the first bad row.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, refused below
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"expected vectors of shape (n, {dim}), got {array.shape}")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ValueError(f"vector {int(bad.argmax())} of {len(array)} holds NaN or infinity")
    return array


def check_range(vectors: NDArray[np.float32], *, smallest: float = 0.0) -> None:
    """Raise ValueError where float32 does not hold the products of such vectors.

    That is, unless the largest absolute value is at most 1e15, and 0 or at least ``smallest``.
    """
    largest = float(max(vectors.max(initial=0.0), -vectors.min(initial=0.0)))
    if largest > _LARGEST or 0.0 < largest < smallest:
        raise ValueError(
            f"the largest number among the vectors is {largest:.1e}, and float32 does not hold products of such: "
            "divide all by the same number, so that the largest is about 1"
        )


def label_array(labels: Iterable[Hashable]) -> NDArray[Any]:
    """Put labels into a 1-d array: strings and numbers keep their kind, a mixture becomes object.

    numpy alone would turn ``[1, "a"]`` into two strings and a list of tuples into a matrix. Arrays and tensors without
    axes become the values they hold: two tensors of one value are unequal keys of a dict.
    """
    values = [_value(label) for label in labels]
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and issubclass(next(iter(kinds)), np.generic):
        return np.asarray(values)
    if len(kinds) == 1 and kinds <= {str, bool, int, float}:
        plain = np.asarray(values)
        # Not so where numpy strips a string's null at its end, or turns whole numbers over 64 bits into floats.
        if all(type(kept) is type(value) and kept == value for kept, value in zip(plain.tolist(), values, strict=True)):
            return plain
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def check_labels(y: Any, n: int) -> NDArray[Any]:
    """Return ``y`` as a 1-d array of ``n`` hashable labels; arrays and tensors without axes count as their values.

    Raises
    ------
    ValueError : for a wrong length, a missing label (None, NaN, NaT, pandas.NA, masked), naming its position, or
        numbers that are not whole (as scikit-learn does).
    TypeError : for a label that is not hashable, or that Python cannot compare.
    """
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    if isinstance(y, (str, bytes)):
        raise ValueError(f"y must hold one label for each of the {n} vectors, not be the single string {y!r}")
    if hasattr(y, "__array__"):
        from sklearn.utils import column_or_1d

        masked = np.ma.getmaskarray(y).ravel() if isinstance(y, np.ma.MaskedArray) else None
        array = column_or_1d(np.asarray(y), warn=True)
        if array.dtype.kind == "O":
            values = [_value(label) for label in array.tolist()]
            if any(value is not label for value, label in zip(values, array.tolist(), strict=True)):
                array = label_array(values)
    else:
        masked, array = None, label_array(y)
    if len(array) != n:
        raise ValueError(f"found {n} vectors but {len(array)} labels; each vector needs one")
    _check_present(array, masked)
    if array.dtype.kind in "fc":
        from sklearn.utils.multiclass import check_classification_targets

        check_classification_targets(array)
    elif array.dtype.kind == "O":
        _check_objects(array)
    return cast("NDArray[Any]", array)


def _value(label: Any) -> Any:
    """Return the value of an array or tensor without axes, also within a tuple; any other label as it is."""
    if type(label) is tuple:
        values = tuple(map(_value, label))
        return label if all(value is part for value, part in zip(values, label, strict=True)) else values
    if isinstance(label, (str, np.generic)) or getattr(label, "ndim", None) != 0 or not hasattr(label, "item"):
        return label
    return label.item()


def _check_present(array: NDArray[Any], masked: NDArray[np.bool_] | None) -> None:
    """Refuse missing labels of any kind."""
    if array.dtype.kind in "fcmM":
        missing = np.isnan(array) if array.dtype.kind in "fc" else np.isnat(array)
    elif array.dtype.kind in "OT":
        missing = np.fromiter(map(_is_missing, array.tolist()), bool, len(array))
    else:
        missing = np.zeros(len(array), bool)
    if masked is not None:
        missing = missing | masked
    if not missing.any():
        return
    where = np.flatnonzero(missing)
    shown = ["masked" if masked is not None and masked[position] else str(array[position]) for position in where[:5]]
    more = f" and {len(where) - 5} more" if len(where) > 5 else ""
    which = f"label {where[0]}" if len(where) == 1 else f"labels {', '.join(map(str, where[:5]))}{more}"
    verb = "is" if len(where) == 1 else "are"
    raise ValueError(f"{which} of {len(array)} {verb} {', '.join(shown)}{more and ' ...'}; every vector needs a label")


def _is_missing(label: Any) -> bool:
    """Whether a label is None, unequal to itself (NaN, NaT), or pandas.NA, whose comparisons are itself."""
    if label is None:
        return True
    if type(label) is tuple:
        return any(map(_is_missing, label))
    equal = label == label
    return not equal if isinstance(equal, (bool, np.bool_)) else equal is label


def _check_objects(array: NDArray[Any]) -> None:
    for position, label in enumerate(array):
        try:
            hash(label)
            fault = "" if isinstance(label == label, (bool, np.bool_)) else "cannot be compared with others"
        except TypeError:
            fault = "is not hashable"
        if fault:
            raise TypeError(
                f"label {position} of {len(array)}, {label!r}, is a {type(label).__name__}, which {fault}; "
                "use a string, a number or a tuple"
            )


def sorted_labels(labels: Iterable[Hashable]) -> list[Hashable]:
    """Return the distinct labels, sorted where they can be compared, else in order of appearance."""
    distinct = list(dict.fromkeys(labels))
    try:
        return sorted(distinct)  # type: ignore[type-var]
    except TypeError:
        return distinct


def check_label(label: object) -> str:
    """Return a class's label as it is stored, see ``normalised_label``.

    Raises
    ------
    TypeError : unless it is a string.
    ValueError : if nothing of it can be read, or it holds control characters (Unicode category Cc) or lone surrogates.
    """
    if not isinstance(label, str):
        raise TypeError(f"a registry's labels are strings, not {type(label).__name__} ({label!r})")
    normalised = normalised_label(label)
    kinds = {unicodedata.category(character) for character in normalised}
    # Format characters (Cf) join letters in Persian, Hindi and emoji; characters newer than this Python are Cn.
    if kinds <= {"Cf", "Zs"} or kinds & {"Cc", "Cs"}:
        raise ValueError(f"a label must hold something to read and no control characters, not {label!r}")
    return normalised


def normalised_label(label: str) -> str:
    """Return a label in Unicode's composed form (NFC), without blanks at its ends: "Café" is one string everywhere."""
    return unicodedata.normalize("NFC", label).strip()
