from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from fewshot.diagnosis import Share
from fewshot.registry import ClassDiagnosis, DiagnosedExample, Diagnosis, Suspect, proposed_commands
from fewshot.registry.diagnosis_results import AdditionPlan, HarmfulExample, NearDuplicate

SHARE = Share(0.5, 0.1, 0.9, 4)


def example(id_, label="a"):
    return DiagnosedExample(id_, label, f"{label}/{id_}.jpg")


def diagnosis(**found):
    empty = Diagnosis(
        classes=2,
        examples=8,
        diagnosed=2,
        modality="image",
        classifier="whitened",
        revision=1,
        left_out=SHARE,
        accuracy=SHARE,
        curve=None,
        suspects=(),
        harmful=(),
        duplicates=(),
        duplicate_limit=0.9,
        confused=(),
        per_class=tuple(ClassDiagnosis(label, 4, 4, SHARE, 0.01, 1, False) for label in "ab"),
        plan=None,
        notes=(),
    )
    return replace(empty, **found)


def suspect(id_, closest, *, label="a", mislabelled=True):
    return Suspect(example(id_, label), closest, 0.1, 0.8, mislabelled)


def test_what_is_likely_mislabelled_is_to_be_moved_and_copies_and_what_hurts_to_be_removed():
    found = diagnosis(
        suspects=(suspect(1, "b"), suspect(9, "b", mislabelled=False)),
        duplicates=(NearDuplicate(example(2), example(3), 0.99), NearDuplicate(example(4), example(5, "b"), 0.99)),
        harmful=(HarmfulExample(example(6, "b"), 3, 0), HarmfulExample(example(1), 2, 0)),
    )
    commands = proposed_commands(found, "parts.fewshot")
    assert [one.command for one in commands] == [
        "fewshot move parts.fewshot --example 1 b",
        "fewshot remove parts.fewshot --example 3",
        "fewshot remove parts.fewshot --example 6",
    ]  # which of two in two classes is wrong is not known, and no example is in two commands
    assert commands[0].why == "a/1.jpg is registered as 'a' and is closest to 'b'"


@pytest.mark.parametrize(
    ("path", "label"), [("my parts.fewshot", "a; rm -rf $HOME"), ("-x.fewshot", "-lemon"), ("é", "'")]
)
def test_names_are_quoted_for_a_shell(path, label):
    (one,) = proposed_commands(diagnosis(suspects=(suspect(1, label),)), path)
    words = shlex.split(one.command)
    assert words[:2] == ["fewshot", "move"]
    assert words[2].removeprefix("./") == path
    assert words[-1] == label
    assert not words[2].startswith("-")
    assert ("--" in words) == label.startswith("-")


def test_a_reason_is_one_line_whatever_a_file_is_called():
    bad = DiagnosedExample(1, "a", "x\nrm -rf ~")
    (one,) = proposed_commands(diagnosis(suspects=(replace(suspect(1, "b"), example=bad),)), "r")
    assert "\n" not in one.why


def test_no_class_is_emptied():
    pairs = tuple(NearDuplicate(example(n), example(n + 1), 0.99) for n in range(1, 8))
    assert len(proposed_commands(diagnosis(duplicates=pairs), "r")) == 3  # of four


@pytest.mark.parametrize(
    ("classes", "gain", "rest", "doubled", "sentence"),
    [
        ({"a": 8, "b": 4}, 0.031, 0.0, 0.2, "12 more examples of both classes: about +3.1 points"),
        ({"a": 12}, 0.031, 0.001, 0.2, "12 more examples of this class: about +3.1 points; the rest is settled"),
        (
            {"a": 1},
            0.01,
            0.02,
            0.2,
            "1 more example of this class: about +1 point; one more of the other class",
        ),
        ({"a": 1}, 0.001, 0.0, 0.004, "enough: twice as many examples of every class would bring less than half a "),
    ],
)
def test_the_advice_is_a_sentence(classes, gain, rest, doubled, sentence):
    plan = AdditionPlan(tuple(classes.items()), gain, rest, doubled)
    assert diagnosis(plan=plan).advice.startswith(sentence)
