"""Several images of one object, predicted over HTTP."""

from __future__ import annotations

import pytest
from fakes import BLUE, RED, FakeEncoder, png
from service_client import PARTS, files, in_base64

from fewshot import ClassRegistry

FRAMES = [png((240, 10, 10)), png((235, 40, 10)), png((20, 10, 240))]


def test_a_group_is_answered_as_the_library_does_with_its_members(filled, tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        same = registry.predict_group(FRAMES)

    answer = filled.post(f"{PARTS}/predict-group", files=files(*FRAMES)).json()

    assert answer["label"] == same.label == "red"
    assert answer["probability"] == pytest.approx(same.probability, abs=1e-4)
    assert answer["effective_size"] == pytest.approx(same.effective_size, abs=1e-4)
    assert answer["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert [one["label"] for one in answer["members"]] == ["red", "red", "blue"]
    assert [one["source"] for one in answer["members"]] == ["0.png", "1.png", "2.png"]
    assert [one["label"] for one in answer["top"]] == [label for label, _ in same.top]


def test_too_little_agreement_gives_no_label(filled):
    answer = filled.post(f"{PARTS}/predict-group?min_agreement=0.7", files=files(*FRAMES)).json()
    assert (answer["label"], answer["top"][0]["label"]) == (None, "red")


def test_members_that_cannot_be_read_are_listed_in_their_place_and_a_group_of_them_says_so(filled):
    asked = [*in_base64(FRAMES[0], b"broken"), "not base64!"]
    answer = filled.post(f"{PARTS}/predict-group", json={"images": asked}).json()
    assert answer["label"] == "red"
    assert ["error" in one for one in answer["members"]] == [False, True, True]

    for broken in (asked[1:], asked[2:]):
        answer = filled.post(f"{PARTS}/predict-group", json={"images": broken}).json()
        assert (answer["label"], answer["top"], answer["probability"]) == (None, [], None)
        assert answer["note"] == "none of its members can be read"
        assert len(answer["members"]) == len(broken)


def test_a_group_asked_of_no_class_conflicts_and_nonsense_is_refused(empty):
    assert empty.post(f"{PARTS}/predict-group", files=files(png(RED))).status_code == 409
    empty.post(f"{PARTS}/examples", data={"label": "blue"}, files=files(png(BLUE)))
    for words in ("min_agreement=1.5", "roll_up=0.2", "top=0"):
        assert empty.post(f"{PARTS}/predict-group?{words}", files=files(png(RED))).status_code == 422
