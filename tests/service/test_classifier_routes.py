from __future__ import annotations

from fakes import png
from service_client import PARTS, files, problem

from fewshot import RidgeClassifier


def test_the_classifier_is_shown_and_changed_and_answers_at_once(filled):
    assert filled.get(f"{PARTS}/classifier").json() == {"classifier": "whitened"}
    before = filled.post(f"{PARTS}/predict", files=files(png((204, 0, 153)))).json()["predictions"][0]
    answer = filled.put(f"{PARTS}/classifier", json={"classifier": "ridge"})
    assert (answer.status_code, answer.json()) == (200, {"classifier": "ridge"})
    assert filled.get(PARTS).json()["classifier"] == "ridge"
    after = filled.post(f"{PARTS}/predict", files=files(png((204, 0, 153)))).json()["predictions"][0]
    blue, red = RidgeClassifier().fit([[1, 0, 0], [1, 0, 0], [0, 0, 1]], [1, 1, 0]).scores([[0.8, 0, 0.6]])[0]
    assert [one["score"] for one in after["top"]] == [round(float(red), 6), round(float(blue), 6)]
    assert before["top"] != after["top"]


def test_an_unknown_classifier_is_refused_with_those_there_are(filled):
    refused = filled.put(f"{PARTS}/classifier", json={"classifier": "svm"})
    assert "'whitened', 'prototype', 'nearest', 'ridge', 'logistic' or 'discriminant'" in problem(refused, 422)
