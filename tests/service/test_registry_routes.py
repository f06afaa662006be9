"""The routes of registries, classes and examples."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from PIL import Image
from service_client import PARTS, client, files, problem

from fewshot import ClassRegistry


def test_what_is_not_added_is_listed_with_the_reason(filled):
    images = files(png(RED), png(BLUE), b"junk", png(GREEN))
    answer = filled.post(f"{PARTS}/examples", data={"label": "red"}, files=images).json()
    assert (answer["added"], answer["duplicates"], answer["classes"]) == (1, 1, 2)
    assert (answer["example_ids"], answer["new_ids"]) == ([1, 4], [4])
    assert answer["conflicts"] == [{"source": "1.png", "held_by": ["blue"], "example_ids": [3]}]
    assert [failed["source"] for failed in answer["failed"]] == ["2.png"]
    alike = files(png(GREEN, 7), png(BLUE), png(GREEN, 8), names=["a.png"] * 3)
    answer = filled.post(f"{PARTS}/examples", data={"label": "red"}, files=alike).json()
    assert answer["new_ids"] == [5, 6]
    assert answer["conflicts"] == [{"source": "a.png", "held_by": ["blue"], "example_ids": [3]}]
    allowed = filled.post(
        f"{PARTS}/examples", data={"label": "red", "allow_conflict": "true"}, files=files(png(BLUE))
    ).json()
    assert (allowed["added"], allowed["conflicts"]) == (1, [])


def test_classes_are_listed_renamed_merged_and_removed(filled):
    listed = lambda: filled.get(f"{PARTS}/classes").json()["classes"]  # noqa: E731
    assert listed() == [
        {"label": "red", "examples": 2, "example_ids": [1, 2]},
        {"label": "blue", "examples": 1, "example_ids": [3]},
    ]
    url, odd = f"{PARTS}/classes", "a/../b <i>&"
    renamed = filled.patch(url, params={"label": "red"}, json={"label": odd})
    assert renamed.json() == {"label": odd, "examples": 2}
    assert filled.patch(url, params={"label": odd}, json={"label": odd}).json() == {"label": odd, "examples": 2}
    refused = filled.patch(url, params={"label": "blue"}, json={"label": odd})
    assert "merge: true" in problem(refused, 409)
    joined = filled.patch(url, params={"label": "blue"}, json={"label": odd, "merge": True})
    assert joined.json() == {"label": odd, "examples": 3}
    assert filled.delete(url, params={"label": odd}).json() == {"removed": 3}
    assert listed() == []


def test_examples_are_listed_by_page_moved_and_removed(filled):
    url = f"{PARTS}/examples"
    page = filled.get(url, params={"label": "red", "limit": 1}).json()
    assert page == {"examples": [{"id": 1, "label": "red", "source": "0.png"}], "next": 1}
    page = filled.get(url, params={"label": "red", "limit": 1, "after": page["next"]}).json()
    assert ([one["id"] for one in page["examples"]], page["next"]) == ([2], None)
    assert [one["id"] for one in filled.get(url).json()["examples"]] == [1, 2, 3]
    moved = filled.patch(f"{url}/3", json={"label": "red"}).json()
    assert moved == {"id": 3, "label": "red", "source": "sky.png"}
    assert [one["label"] for one in filled.get(f"{PARTS}/classes").json()["classes"]] == ["red"]
    assert filled.patch(f"{url}/3", json={"label": "new"}).json()["label"] == "new"
    assert filled.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]["label"] == "new"
    assert filled.delete(f"{url}/3").json() == {"removed": 1}
    assert filled.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]["label"] == "red"


def test_an_example_moved_to_a_class_that_holds_its_image_is_there_once(filled):
    filled.post(f"{PARTS}/examples", data={"label": "blue", "allow_conflict": "true"}, files=files(png(RED)))
    moved = filled.patch(f"{PARTS}/examples/1", json={"label": "blue"}).json()
    assert (moved["id"], moved["label"]) == (4, "blue")
    classes = filled.get(f"{PARTS}/classes").json()["classes"]
    assert [(one["label"], one["example_ids"]) for one in classes] == [("red", [2]), ("blue", [3, 4])]


def test_the_image_of_an_example_is_returned_byte_for_byte_and_as_a_thumbnail(filled):
    original = filled.get(f"{PARTS}/examples/1/image")
    assert (original.content, original.headers["content-type"]) == (png(RED), "image/png")
    jpeg = io.BytesIO()
    Image.new("RGB", (400, 100), GREEN).save(jpeg, format="JPEG")
    added = filled.post(f"{PARTS}/examples", data={"label": "green"}, files=files(jpeg.getvalue())).json()
    small = filled.get(f"{PARTS}/examples/{added['new_ids'][0]}/thumbnail?size=64")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (64, 16)
    again = filled.get(
        f"{PARTS}/examples/{added['new_ids'][0]}/thumbnail?size=64", headers={"If-None-Match": small.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_an_image_that_is_not_stored_in_the_registry_is_not_read_from_elsewhere(tmp_path):
    (tmp_path / "red.png").write_bytes(png(RED))
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder(), keep_images=False) as registry:
        registry.add("red", [tmp_path / "red.png"])
    with client(tmp_path / "parts.fewshot") as http:
        for what in ("image", "thumbnail"):
            answer = http.get(f"{PARTS}/examples/1/{what}")
            assert "is not kept in the registry" in problem(answer, 404)


def test_an_export_holds_every_example_with_its_vector(filled):
    answer = filled.get(f"{PARTS}/export")
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"] == 'attachment; filename="parts.jsonl"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["id"], row["label"], row["source"], row["vector"]) for row in rows] == [
        (1, "red", "0.png", [1, 0, 0]), (2, "red", "1.png", [1, 0, 0]), (3, "blue", "sky.png", [0, 0, 1]),
    ]  # fmt: skip
    assert rows[2]["sha256"] == hashlib.sha256(png(BLUE)).hexdigest()
    assert rows[2]["fingerprint"] == FakeEncoder().fingerprint


def test_a_registry_is_described_with_a_revision_that_increases_with_every_change(filled):
    about = filled.get(PARTS).json()
    assert (about["name"], about["encoder"], about["dim"], about["metric"]) == ("parts", "colours", 3, "cosine")
    assert (about["classes"], about["examples"], about["images_kept"], about["negatives"]) == (2, 3, 3, 0)
    before = about["revision"]
    filled.delete(f"{PARTS}/examples/1")
    assert filled.get(PARTS).json()["revision"] == before + 1


class Reading(FakeEncoder):
    """Reads the names of colours, too."""

    def encode_texts(self, texts):
        return np.float32([{"red": RED, "green": GREEN, "blue": BLUE}[text] for text in texts]) / 255


def test_a_class_is_described_listed_recognised_and_forgotten(tmp_path):
    with client(tmp_path / "parts.fewshot", encoder=Reading(name="colours")) as http:
        url = f"{PARTS}/classes/description"
        for label, text in {"leaf": "green", "sky": "blue"}.items():
            answer = http.put(url, params={"label": label}, json={"text": text})
            assert answer.json() == {"label": label, "description": text}
        answer = http.post(f"{PARTS}/predict?max_false_accept=0.1", files=files(png(GREEN)))
        assert "no classes with examples" in problem(answer, 409)
        http.post(f"{PARTS}/examples", data={"label": "tomato"}, files=files(png(RED)))
        http.post(f"{PARTS}/examples", data={"label": "sky"}, files=files(png(BLUE)))
        http.put(url, params={"label": "tomato"}, json={"text": "red"})
        assert http.get(f"{PARTS}/classes").json()["classes"] == [
            {"label": "tomato", "examples": 1, "example_ids": [1], "description": "red"},
            {"label": "sky", "examples": 1, "example_ids": [2], "description": "blue"},
            {"label": "leaf", "examples": 0, "example_ids": [], "description": "green"},
        ]
        found = http.post(f"{PARTS}/predict", files=files(png(GREEN), png(RED))).json()["predictions"]
        assert [one["label"] for one in found] == ["leaf", "tomato"]
        renamed = http.patch(f"{PARTS}/classes", params={"label": "leaf"}, json={"label": "grass"})
        assert renamed.json() == {"label": "grass", "examples": 0}
        assert http.put(url, params={"label": "grass"}, json={"text": None}).json()["description"] is None
        assert "grass" in problem(http.put(url, params={"label": "grass"}, json={"text": None}), 404)


def test_an_encoder_that_reads_no_texts_is_said_so(filled):
    answer = filled.put(f"{PARTS}/classes/description", params={"label": "red"}, json={"text": "red"})
    reason = "the encoder colours reads no texts, and images and texts are needed to describe classes of parts"
    assert reason in problem(answer, 409)


def test_examples_classes_and_negatives_are_forgotten(filled, tmp_path):
    filled.post(f"{PARTS}/negatives", files=files(png(GREEN)))
    filled.get(f"{PARTS}/examples/1/thumbnail")
    answer = filled.delete(f"{PARTS}/examples/1", params={"forget": "true"}).json()
    assert (answer["removed"], answer["remaining"]) == (1, [])
    assert answer["traces"] > 0
    assert filled.delete(f"{PARTS}/classes", params={"label": "blue", "forget": "true"}).json()["removed"] == 1
    assert filled.delete(f"{PARTS}/negatives/1", params={"forget": "true"}).json()["removed"] == 1
    assert "no example 1" in problem(filled.delete(f"{PARTS}/examples/1", params={"forget": "true"}), 404)
    filled.post(f"{PARTS}/examples", data={"label": "green"}, files=files(png(GREEN)))
    with ClassRegistry(tmp_path / "parts.fewshot", create=False) as registry:
        registry.backup(tmp_path / "copy.fewshot")
    (told,) = filled.delete(f"{PARTS}/classes", params={"label": "green", "forget": "true"}).json()["remaining"]
    assert told.startswith("copy.fewshot holds the ")  # not the server's folder
