from __future__ import annotations

import pytest
from fakes import BLUE, GREEN, RED, png
from service_client import PARTS, files, problem

from fewshot import ClassRegistry


@pytest.fixture
def taught(empty):
    reds = [png(RED), png((200, 60, 30)), png((220, 30, 60)), png((250, 80, 90)), png((20, 240, 20))]
    greens = [png(GREEN), png((60, 200, 10)), png((30, 220, 70)), png((90, 240, 40))]
    blues = [png(BLUE), png((40, 20, 230)), png((60, 90, 250)), png((90, 10, 200))]
    for label, images in (("red", reds), ("green", greens), ("blue", blues)):
        assert empty.post(f"{PARTS}/examples", data={"label": label}, files=files(*images)).status_code == 200
    return empty


def test_a_wrong_label_is_told_with_the_class_it_belongs_to(taught):
    found = taught.get(f"{PARTS}/diagnosis").json()
    suspect = found["suspects"][0]
    assert (suspect["example"]["label"], suspect["closest"], suspect["mislabelled"]) == ("red", "green", True)
    assert found["mislabelled"] == 1
    assert 0 < found["left_out"]["value"] < found["accuracy"]["value"] <= 1
    assert found["accuracy"]["low"] < found["accuracy"]["value"]
    assert found["add"]
    assert found["advice"]


def test_it_is_made_again_after_a_change_and_only_then(taught, monkeypatch):
    made = []
    diagnose = ClassRegistry.diagnose
    monkeypatch.setattr(ClassRegistry, "diagnose", lambda self: made.append(self) or diagnose(self))
    first = taught.get(f"{PARTS}/diagnosis").json()
    assert taught.get(f"{PARTS}/diagnosis").json() == first
    assert len(made) == 1
    suspect = first["suspects"][0]
    taught.patch(f"{PARTS}/examples/{suspect['example']['id']}", json={"label": suspect["closest"]})
    second = taught.get(f"{PARTS}/diagnosis").json()
    assert len(made) == 2
    assert second["revision"] > first["revision"]
    assert second["mislabelled"] == 0


def test_each_list_has_up_to_the_limit(taught):
    assert len(taught.get(f"{PARTS}/diagnosis?limit=1").json()["add"]) == 1
    assert "limit" in problem(taught.get(f"{PARTS}/diagnosis?limit=0"), 422)


def test_an_empty_registry_conflicts_and_an_unknown_one_is_not_found(empty):
    assert "holds no examples" in problem(empty.get(f"{PARTS}/diagnosis"), 409)
    assert empty.get("/v1/registries/nothing/diagnosis").status_code == 404


def test_while_another_is_made_the_client_is_asked_to_retry(taught, monkeypatch):
    monkeypatch.setattr("fewshot.service.routes.diagnosis_routes._WAIT_SECONDS", 0.01)
    lock = taught.app.state.diagnoses._lock
    with lock:
        answer = taught.get(f"{PARTS}/diagnosis")
    assert "another diagnosis is being made" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
