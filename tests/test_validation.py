"""The checks at the door: what is refused says why, what passes is not changed."""

from __future__ import annotations

import enum
from decimal import Decimal

import numpy as np
import pandas
import pytest
import torch

from fewshot.validation import (
    check_choice,
    check_count,
    check_label,
    check_labels,
    check_vectors,
    label_array,
    sorted_labels,
)


class Colour(str, enum.Enum):
    RED = "red"


def test_a_choice_outside_the_list_is_refused_naming_it_and_the_list():
    check_choice("metric", "cosine", ("cosine", "dot"))
    with pytest.raises(ValueError, match=r"^metric must be one of 'cosine', 'dot', not 'l2'$"):
        check_choice("metric", "l2", ("cosine", "dot"))


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_a_count_that_is_no_positive_whole_number_is_refused_with_its_value(value):
    with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, not {value!r}"):
        check_count("k", value)


def test_a_count_of_any_integer_type_becomes_an_int():
    assert type(check_count("k", np.int32(3))) is int
    assert check_count("k", 0, minimum=0) == 0


def test_vectors_come_back_as_float32_in_rows_with_their_values():
    array = check_vectors([[1, 2], [3, 4.5]], 2)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    assert check_vectors(np.asfortranarray(np.eye(3)), 3).flags.c_contiguous


@pytest.mark.parametrize(
    ("vectors", "shape"), [([1, 2], "(2,)"), ([[1, 2, 3]], "(1, 3)"), (np.zeros((1, 1, 2)), "1, 1")]
)
def test_vectors_of_another_shape_are_refused_naming_both_shapes(vectors, shape):
    with pytest.raises(ValueError, match=r"expected vectors of shape \(n, 2\), got ") as error:
        check_vectors(vectors, 2)
    assert shape in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_the_first_vector_that_is_not_finite_is_named(bad):
    with pytest.raises(ValueError, match=r"^vector 1 of 3 holds NaN or infinity$"):
        check_vectors([[0, 0], [bad, 0], [0, bad]], 2)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "bbb"], "U"),
        ([1, -7], "i"),
        ([True, False], "b"),
        ([1, "a"], "O"),
        ([(1, 2), (3, 4)], "O"),
        ([(1,), (3, 4)], "O"),
        ([frozenset({1}), 2], "O"),
        (["a\0", "a"], "O"),
        ([2**63, -1], "O"),
        ([2**70], "O"),
        ([Colour.RED], "O"),
        ([b"a\0"], "O"),
    ],
)
def test_putting_labels_into_an_array_changes_none_of_them(labels, kind):
    array = label_array(labels)
    assert array.shape == (len(labels),)
    assert array.dtype.kind == kind
    assert array.tolist() == labels
    assert [type(label) for label in array.tolist()] == [type(label) for label in labels]


def test_numpy_alone_would_change_labels():
    assert np.asarray([1, "a"]).tolist() != [1, "a"]
    assert np.asarray([(1, 2), (3, 4)]).shape == (2, 2)
    assert np.asarray(["a\0"]).tolist() != ["a\0"]


@pytest.mark.parametrize(
    ("y", "n", "message"),
    [
        (None, 2, "y is None"),
        ("cat", 3, "not be the single string 'cat'"),
        (["a"], 2, "found 2 vectors but 1 labels"),
        (["a", None], 2, "label 1 of 2 is None; every vector needs a label"),
        ([float("nan"), "a"], 2, "label 0 of 2 is nan"),
        ([float("nan"), 1.0], 2, "label 0 of 2 is nan"),
        (np.array([0.5, 1.5]), 2, "continuous"),
        ([0.5, 1.5], 2, "continuous"),
    ],
)
def test_labels_that_cannot_name_classes_are_refused_saying_why(y, n, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y, n)


@pytest.mark.parametrize(
    "y",
    [
        [torch.tensor(3), torch.tensor(1), torch.tensor(3)],
        [np.array(3), np.array(1), np.array(3)],
        [torch.tensor(3), 1, np.int64(3)],
        pandas.Series([torch.tensor(3), torch.tensor(1), torch.tensor(3)], dtype=object),
        torch.tensor([3, 1, 3]),
        torch.tensor([[3], [1], [3]])[:, 0],
    ],
    ids=["tensors", "arrays", "a mixture", "in a series", "a tensor", "a column"],
)
def test_labels_without_axes_are_the_values_they_hold(y):
    found = check_labels(y, 3)
    assert found.tolist() == [3, 1, 3]
    assert len(set(found.tolist())) == 2
    nested = check_labels([("a", torch.tensor(1)), ("a", torch.tensor(1))], 2)
    assert nested.tolist() == [("a", 1), ("a", 1)]


MISSING = [None, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT, np.datetime64("NaT"), Decimal("NaN"),
           torch.tensor(float("nan")), ("a", None)]  # fmt: skip


@pytest.mark.parametrize("missing", MISSING, ids=[f"{type(value).__name__} {value}" for value in MISSING])
@pytest.mark.parametrize("rest", ["a", 1, (1, 2)])
def test_a_missing_label_of_any_kind_is_refused_by_position_in_one_message(missing, rest):
    for y in ([rest, missing, rest], pandas.Series([rest, missing, rest], dtype=object)):
        with pytest.raises(ValueError, match=r"^label 1 of 3 is .*; every vector needs a label$"):
            check_labels(y, 3)


@pytest.mark.parametrize(
    "y",
    [
        np.array([1.0, np.nan, 2.0]),
        np.array(["2020-01-01", "NaT", "2021-01-01"], "datetime64[D]"),
        np.ma.masked_array(["a", "b", "c"], mask=[False, True, False]),
        pandas.Series([1, None, 2], dtype="Int64"),
        pandas.Series(["a", None, "b"], dtype="string"),
        pandas.Series(["a", None, "b"], dtype="category"),
        pandas.Series(["a", None, "b"]),
        torch.tensor([1.0, float("nan"), 2.0]),
    ],
    ids=["floats", "times", "masked", "Int64", "string", "category", "series", "tensor"],
)
def test_a_missing_label_within_an_array_is_refused_by_position_in_the_same_message(y):
    with pytest.raises(ValueError, match=r"^label 1 of 3 is (nan|NaT|masked|<NA>|None); every vector needs a label$"):
        check_labels(y, 3)


def test_several_missing_labels_are_listed_together():
    with pytest.raises(ValueError, match=r"^labels 1, 2 of 4 are None, nan; every vector needs a label$"):
        check_labels(["a", None, float("nan"), "b"], 4)
    with pytest.raises(ValueError, match=r"^labels 0, 1, 2, 3, 4 and 2 more of 7 are None, .* \.\.\.; every vector"):
        check_labels([None] * 7, 7)


def test_a_tensor_with_axes_is_no_label():
    with pytest.raises(TypeError, match=r"label 0 of 2, tensor\(\[1\]\), is a Tensor, which cannot be compared"):
        check_labels([torch.tensor([1]), torch.tensor([1])], 2)


def test_an_unhashable_label_is_refused_naming_it_its_type_and_the_remedy():
    with pytest.raises(TypeError, match=r"label 1 of 2, \[1\], is a list, .*use a string, a number or a tuple"):
        check_labels(["a", [1]], 2)


def test_labels_pass_from_any_iterable():
    assert check_labels((c for c in "ab"), 2).tolist() == ["a", "b"]
    assert check_labels(np.array([3, 1]), 2).tolist() == [3, 1]


def test_labels_are_sorted_where_they_compare_and_else_keep_their_order():
    assert sorted_labels(["b", "a", "b"]) == ["a", "b"]
    assert sorted_labels(["b", 1, "b", (2,)]) == ["b", 1, (2,)]


def test_a_registry_label_is_a_string_one_can_read():
    check_label("Émeu 3")
    with pytest.raises(TypeError, match=r"labels are strings, not int \(3\)"):
        check_label(3)
    for label in ("", "  ", "a\nb", "\x1b[2J"):
        with pytest.raises(ValueError, match="no control characters") as error:
            check_label(label)
        assert repr(label) in str(error.value)


@pytest.mark.parametrize(
    "label",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a zero-width non-joiner
        "\u0915\u094d\u200d\u0937",  # Hindi, with a zero-width joiner
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "10\u00a0mm",
        "\u6a5f\u68b0\u3000\u90e8\u54c1",
        "\U0001fae9",  # Unicode 16
        "\U0001faf9\U0001fbff",  # not assigned yet
    ],
)
def test_labels_of_ordinary_scripts_pass_unchanged(label):
    assert check_label(label) == label


@pytest.mark.parametrize("label", ["a\x00b", "a\x7fb", "a\x85b", "a\nb", "\ud800", "\u200d", "\u3000\u00a0"])
def test_control_characters_lone_surrogates_and_what_cannot_be_seen_are_refused(label):
    with pytest.raises(ValueError, match="something to read and no control characters"):
        check_label(label)


def test_a_label_is_composed_and_stripped():
    assert check_label("Cafe\u0301") == "Caf\u00e9"
    assert check_label("\u3000 Lemon\u00a0") == "Lemon"
