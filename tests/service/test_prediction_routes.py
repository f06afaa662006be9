"""The route that predicts."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_allclose
from service_client import PARTS, Gated, client, files, in_base64, problem, queued, scope

from fewshot import ClassRegistry, WhitenedPrototypeClassifier
from fewshot.service.app import create_app


def test_a_class_is_known_to_the_next_request(empty):
    added = empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
    assert added.json() == {
        "label": "red", "added": 2, "example_ids": [1, 2], "new_ids": [1, 2], "duplicates": 0, "conflicts": [],
        "failed": [], "classes": 1,
    }  # fmt: skip
    ask = lambda: empty.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]  # noqa: E731
    assert ask()["label"] == "red"
    empty.post(f"{PARTS}/examples", json={"label": "blue", "images": in_base64(png(BLUE, 7))})
    assert ask()["label"] == "blue"


def test_predictions_come_in_the_order_of_the_images_and_an_unreadable_one_is_reported_in_its_place(filled):
    images = files(png((204, 0, 153)), b"", png(BLUE), b"junk", names=["a.png"] * 4)
    answer = filled.post(f"{PARTS}/predict?top=2&nearest=1", files=images).json()
    first, second, third, fourth = answer["predictions"]
    by_hand = WhitenedPrototypeClassifier().fit([[1, 0, 0], [1, 0, 0], [0, 0, 1]], ["red", "red", "blue"])
    blue, red = by_hand.scores([[0.8, 0, 0.6]])[0]
    assert [(one["label"], one["score"]) for one in first["top"]] == [
        ("red", pytest.approx(red, abs=1e-5)),
        ("blue", pytest.approx(blue, abs=1e-5)),
    ]
    assert (first["source"], first["label"], first["score"]) == ("a.png", "red", first["top"][0]["score"])
    assert first["nearest"] == [{"id": 1, "label": "red", "source": "0.png", "score": pytest.approx(red, abs=1e-5)}]
    assert second == {"source": "a.png", "error": "the file is empty (0 bytes)"}
    assert third["label"] == "blue"
    assert fourth == {
        "source": "a.png",
        "error": "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read",
    }
    assert answer["revision"] == filled.get(PARTS).json()["revision"]


def test_images_in_json_are_predicted_as_files_are(filled):
    images = [png(RED, 9), png((0, 100, 200))]
    asked = [*in_base64(*images), "data:image/png;base64,AAAA"]
    *in_json, bad = filled.post(f"{PARTS}/predict", json={"images": asked}).json()["predictions"]
    as_files = filled.post(f"{PARTS}/predict", files=files(*images)).json()["predictions"]
    assert [one.pop("source") for one in in_json] == ["file 1", "file 2"]
    assert [one.pop("source") for one in as_files] == ["0.png", "1.png"]
    assert in_json == as_files
    assert bad["source"] == "file 3"
    assert "not base64" in bad["error"]


def test_the_service_stores_and_predicts_as_the_library_does(filled, tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"red": 2, "blue": 1}
        registry.add("green", [png(GREEN)])
        answer = filled.post(f"{PARTS}/predict", files=files(png(GREEN))).json()["predictions"][0]
        assert answer["label"] == "green"
        (same,) = registry.predict([png((10, 200, 90))])
    answer = filled.post(f"{PARTS}/predict", files=files(png((10, 200, 90)))).json()["predictions"][0]
    assert_allclose([one["score"] for one in answer["top"]], [score for _, score in same.top], atol=1e-6)
    assert answer["unknown_score"] == pytest.approx(same.unknown_score, abs=1e-6)
    assert answer["top"][0]["probability"] == pytest.approx(same.probability, abs=1e-4)
    assert [one["probability"] for one in answer["top"][1:]] == [None, None]
    assert answer["false_accept_bound"] is None


def test_a_label_rolls_up_to_the_level_that_is_sure_and_has_its_probability(empty):
    for label, colour in (("warm/red", RED), ("warm/dark", (235, 0, 20)), ("cold", (0, 0, 255))):
        empty.post(f"{PARTS}/examples", data={"label": label}, files=files(png(colour)))
    asked = files(png((245, 0, 10)))

    plain = empty.post(f"{PARTS}/predict", files=asked).json()["predictions"][0]
    rolled = empty.post(f"{PARTS}/predict?roll_up=0.9", files=asked).json()["predictions"][0]

    assert plain["probability"] == plain["top"][0]["probability"] < 0.9
    assert (rolled["label"], rolled["top"][0]["label"]) == ("warm", plain["label"])
    assert rolled["probability"] >= 0.9
    assert rolled["top"][0]["probability"] is None  # it is not that class's
    assert empty.post(f"{PARTS}/predict?roll_up=0.4", files=asked).status_code == 422


def test_of_one_class_the_service_gives_no_probability_and_says_why(empty):
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
    answer = empty.post(f"{PARTS}/predict", files=files(png(GREEN))).json()["predictions"][0]
    assert (answer["label"], answer["top"][0]["probability"]) == ("red", None)
    assert "with one class there is nothing to compare it with" in answer["note"]
    empty.post(f"{PARTS}/examples", data={"label": "green"}, files=files(png(GREEN)))
    answer = empty.post(f"{PARTS}/predict", files=files(png(GREEN))).json()["predictions"][0]
    assert (answer["top"][0]["probability"] > 0.5, answer["note"]) == (True, None)
    assert [near["label"] for near in answer["nearest"]] == ["green", "red"]


def test_before_the_first_class_nothing_can_be_predicted(empty):
    refused = empty.post(f"{PARTS}/predict", files=files(png(RED)))
    assert "no class yet; add images of some first" in problem(refused, 409)


def test_predictions_for_a_client_that_has_disconnected_are_not_computed(tmp_path):
    encoder, gone = Gated(), threading.Event()
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
    app = create_app(tmp_path / "parts.fewshot", encoder=encoder)
    body = json.dumps({"images": in_base64(png(BLUE))}).encode()
    came, statuses = iter([{"type": "http.request", "body": body}]), []

    async def receive():
        for message in came:
            return message
        while not gone.is_set():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    (shared,) = app.state.registries.encoders
    with ThreadPoolExecutor() as threads:
        blocker = threads.submit(shared.encode, [png(GREEN)])
        assert encoder.started.wait(20)
        asking = threads.submit(asyncio.run, app(scope("POST", f"{PARTS}/predict"), receive, send))
        queued(shared, 1)
        gone.set()
        while shared.queued:
            time.sleep(0.001)
        encoder.gate.set()
        blocker.result(), asking.result()
    assert statuses[0] == 400  # for the log
    assert encoder.batches == [1]
    assert "fewshot_requests_disconnected_total 1.0" in app.state.metrics.text().decode()
    app.state.registries.close()


def test_a_multi_label_registry_answers_all_labels_with_their_probabilities(tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder(), multi_label=True) as registry:
        for colour, labels in ((RED, ["red"]), (BLUE, ["blue"]), ((255, 0, 255), ["red", "blue"])):
            registry.add(labels, [png([max(0, part - 9 * n) for part in colour]) for n in range(3)])
        registry.rejection.add_negatives([png((0, 9, 0)), png((9, 0, 9))])
    with client(tmp_path / "parts.fewshot") as http:
        assert http.get(PARTS).json()["multi_label"] is True
        one, refused = (
            http.post(f"{PARTS}/predict", params=asked, files=files(png((250, 0, 250))))
            for asked in ({}, {"max_false_accept": 0.1})
        )
        (found,) = one.json()["predictions"]
        assert {label["label"] for label in found["labels"]} == {"red", "blue"}
        assert found["labels"][0] == {"label": found["label"], "probability": found["top"][0]["probability"]}
        assert "there is no limit on false accepts" in problem(refused, 422)
        added = http.post(f"{PARTS}/examples", data={"label": "blue"}, files=files(png(RED)))
        assert (added.json()["added"], added.json()["conflicts"]) == (1, [])
        limit = http.put(f"{PARTS}/rejection", json={"max_false_accept": 0.1})
        assert "there is no limit on false accepts" in limit.json()["detail"]
