"""Texts and sounds over HTTP: in a form, in JSON, or as the body itself with its media type."""

from __future__ import annotations

import json

import pytest
from fakes import FakeEncoder, png
from media_examples import FILMS, HIGH, LOW, SOUPS, sound_encoder, text_encoder, tone_file
from service_client import PARTS, client, files, in_base64, problem, ready

from fewshot import ClassRegistry


@pytest.fixture
def texts(tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=text_encoder()) as registry:
        registry.add("film", FILMS)
        registry.add("soup", SOUPS)
    with client(tmp_path, encoder=text_encoder()) as http:
        ready(http)
        yield http


@pytest.fixture
def sounds(tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=sound_encoder()) as registry:
        registry.add("low", [tone_file(hertz) for hertz in LOW])
        registry.add("high", [tone_file(hertz) for hertz in HIGH])
    with client(tmp_path, encoder=sound_encoder()) as http:
        ready(http)
        yield http


@pytest.fixture
def images(tmp_path):
    with client(tmp_path / "parts.fewshot", encoder=FakeEncoder(name="colours")) as http:
        assert http.post(f"{PARTS}/examples", json={"images": in_base64(png()), "label": "red"}).status_code == 200
        yield http


def predicted(answer):
    assert answer.status_code == 200, answer.text
    return [(one["source"], one["label"]) for one in answer.json()["predictions"]]


def text_body(text, **query):
    sent = {"content": text.encode(), "headers": {"Content-Type": "text/plain; charset=utf-8"}}
    return sent | ({"params": query} if query else {})


def test_texts_are_predicted_from_json_a_form_base64_and_the_body_itself(texts):
    assert predicted(texts.post(f"{PARTS}/predict", json={"texts": ["a fine old film", "boil it, boil"]})) == [
        ('"a fine old film"', "film"),
        ('"boil it, boil"', "soup"),
    ]
    form = files(b"a fine old film\n", names=["1.txt"])
    assert predicted(texts.post(f"{PARTS}/predict", files=form)) == [("1.txt", "film")]
    assert predicted(texts.post(f"{PARTS}/predict", json={"images": in_base64(b"boil onions")})) == [("file 1", "soup")]
    assert predicted(texts.post(f"{PARTS}/predict?top=1", **text_body("a fine old film"))) == [
        ('"a fine old film"', "film")
    ]


def test_a_text_that_cannot_be_read_is_reported_in_its_place(texts):
    answer = texts.post(f"{PARTS}/predict", json={"texts": ["", "a fine film"]})
    assert [one.get("error") for one in answer.json()["predictions"]] == ["the text is empty", None]
    answer = texts.post(f"{PARTS}/predict", content=b"caf\xe9", headers={"Content-Type": "text/plain"})
    assert answer.json()["predictions"][0]["error"].startswith("is not UTF-8")


def test_texts_are_added_listed_and_read_again(texts):
    added = texts.post(
        f"{PARTS}/examples", json={"texts": [" caf\u00e9 ", "cafe\u0301", "a fine film"], "label": "place"}
    )
    body = added.json()
    assert (body["added"], body["duplicates"], len(body["new_ids"])) == (1, 1, 1)
    assert body["conflicts"][0]["held_by"] == ["film"]
    assert body["conflicts"][0]["example_ids"] == [1]
    (id_,) = body["new_ids"]
    found = texts.get(f"{PARTS}/examples", params={"label": "place"}).json()["examples"]
    assert found == [{"id": id_, "label": "place", "source": '"caf\u00e9"'}]
    stored = texts.get(f"{PARTS}/examples/{id_}/image")
    assert (stored.headers["content-type"], stored.text) == ("text/plain; charset=utf-8", "caf\u00e9")
    detail = problem(texts.get(f"{PARTS}/examples/{id_}/thumbnail"), 409)
    assert detail == "this registry holds texts, which have no thumbnails"
    assert texts.get(PARTS).json()["modality"] == "text"


def test_one_text_as_the_body_is_added_with_its_label_in_the_query(texts):
    answer = texts.post(f"{PARTS}/examples", **text_body("stir well", label="soup", allow_conflict="true"))
    assert answer.json()["added"] == 1
    assert problem(texts.post(f"{PARTS}/examples", **text_body("stir well")), 422) == "label: Field required"
    answer = texts.post(f"{PARTS}/negatives", **text_body("zzz"))
    assert (answer.json()["added"], len(answer.json()["new_ids"])) == (1, 1)


def test_sounds_are_predicted_and_added_from_a_form_and_as_the_body_itself(sounds):
    low = tone_file(305, seed=9)
    assert predicted(sounds.post(f"{PARTS}/predict", files=files(low, names=["new.wav"]))) == [("new.wav", "low")]
    as_body = {"content": low, "headers": {"Content-Type": "audio/wav"}}
    assert predicted(sounds.post(f"{PARTS}/predict", **as_body)) == [("sound", "low")]
    added = sounds.post(f"{PARTS}/examples?label=low", **as_body).json()
    assert (added["added"], added["classes"]) == (1, 2)
    stored = sounds.get(f"{PARTS}/examples/{added['new_ids'][0]}/image")
    assert (stored.headers["content-type"], stored.content) == ("audio/wav", low)
    assert sounds.get(PARTS).json()["modality"] == "audio"


def test_a_file_of_another_kind_is_listed_with_where_it_goes(sounds):
    answer = sounds.post(f"{PARTS}/predict", files=files(png()))
    assert "It is an image: images go into a registry of their own" in answer.json()["predictions"][0]["error"]


def test_texts_and_sounds_for_a_registry_of_images_are_refused(images):
    for path in ("predict", "examples?label=x", "negatives"):
        for request, noun in (
            (text_body("a fine film"), "texts"),
            ({"content": tone_file(300), "headers": {"Content-Type": "audio/wav"}}, "sounds"),
        ):
            detail = problem(images.post(f"{PARTS}/{path}", **request), 409)
            assert detail == f"this registry holds images, not {noun}; {noun} go into a registry of their own"
    assert images.get(PARTS).json()["modality"] == "image"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            {"texts": ["a"], "images": ["AA=="]},
            "give either 'images' (files) or 'texts': a registry holds one kind",
        ),
        ({}, "the request holds no example; send each as a file in the field 'images', or texts as JSON in 'texts'"),
        ({"texts": "a"}, "texts: Input should be a valid array"),
    ],
)
def test_a_body_without_one_kind_of_example_is_refused(texts, body, detail):
    assert problem(texts.post(f"{PARTS}/predict", json=body), 422).startswith(detail)


def test_a_new_registry_is_of_the_kind_that_the_encoder_reads(tmp_path):
    with client(tmp_path, encoder=text_encoder()) as http:
        ready(http)
        http.post("/v1/registries", json={"name": "new"})
        assert http.get("/v1/registries/new").json()["modality"] == "text"
        added = http.post("/v1/registries/new/examples", json={"texts": ["a", "b"], "label": "x"})
        assert json.loads(added.text)["added"] == 2
