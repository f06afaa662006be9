"""The routes of open-set rejection."""

from __future__ import annotations

import numpy as np
from fakes import GREEN, RED, FakeEncoder, png
from service_client import PARTS, files, in_base64, problem

from fewshot import ClassRegistry


def test_an_unknown_image_gets_no_label_once_a_limit_is_stored(empty, tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        for n in range(20):  # 20 colours between green and blue
            colour = (0, round(255 * np.cos(n * np.pi / 38)), round(255 * np.sin(n * np.pi / 38)))
            registry.add(f"colour {n}", [png(colour)])
    before = empty.get(f"{PARTS}/rejection").json()
    assert before == {"max_false_accept": None, "threshold": None, "problem": None, "negatives": 0}
    asked = empty.get(f"{PARTS}/rejection?max_false_accept=0.3").json()
    assert asked["max_false_accept"] is None
    assert (asked["threshold"]["max_false_accept"], asked["threshold"]["met"], asked["threshold"]["n_unknown"]) == (
        0.3,
        True,
        20,
    )
    kept = empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.3}).json()
    assert (kept["max_false_accept"], kept["threshold"]) == (0.3, asked["threshold"])
    ask = lambda **query: empty.post(f"{PARTS}/predict", files=files(png(RED)), params=query).json()["predictions"][0]  # noqa: E731
    assert ask()["label"] is None
    assert ask(max_false_accept=1)["label"] is not None
    assert empty.put(f"{PARTS}/rejection", json={"max_false_accept": None}).json()["max_false_accept"] is None
    assert ask()["label"] is not None


def test_where_there_is_no_threshold_it_says_why(empty):
    assert "no class yet" in empty.get(f"{PARTS}/rejection").json()["problem"]
    assert "no class yet" in problem(empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.1}), 409)
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
    asked = empty.get(f"{PARTS}/rejection?max_false_accept=0.1").json()
    assert asked["threshold"] is None
    assert "background" in asked["problem"]
    assert "background" in problem(empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.1}), 409)
    ask = f"{PARTS}/predict?max_false_accept=0.1"
    assert "add negatives, examples that are not of the class" in problem(empty.post(ask, files=files(png(RED))), 409)


def test_one_class_and_a_negative_bound_false_accepts_at_a_half(empty):
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
    empty.post(f"{PARTS}/negatives", files=files(png(GREEN)))
    kept = empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.5}).json()["threshold"]
    assert (kept["estimated_from"], kept["n_unknown"], kept["met"]) == ("negatives", 1, True)
    asked = empty.get(f"{PARTS}/rejection?max_false_accept=0.1").json()["threshold"]
    assert (asked["met"], asked["false_accept_bound"], asked["required_classes"]) == (False, 0.5, 9)
    found = empty.post(f"{PARTS}/predict", files=files(png(RED, 5), png(GREEN, 5))).json()["predictions"]
    assert [one["label"] for one in found] == ["red", None]


def test_negatives_are_added_listed_and_removed_one_by_one_or_all(filled):
    url = f"{PARTS}/negatives"
    added = filled.post(url, files=files(png(GREEN), png(RED), b"junk", names=["g.png", "r.png", "j.png"])).json()
    assert (added["added"], added["new_ids"], added["negatives"]) == (1, [1], 1)
    assert added["conflicts"] == [{"source": "r.png", "held_by": ["red"], "example_ids": [1]}]
    assert [failed["source"] for failed in added["failed"]] == ["j.png"]
    again = filled.post(url, json={"images": in_base64(png(GREEN), png(GREEN, 5), png(GREEN, 6))}).json()
    assert (again["added"], again["duplicates"], again["new_ids"]) == (2, 1, [2, 3])
    page = filled.get(url, params={"limit": 2}).json()
    assert page == {"negatives": [{"id": 1, "source": "g.png"}, {"id": 2, "source": "file 2"}], "next": 2}
    assert filled.delete(f"{url}/1").json() == {"removed": 1}
    assert "no negative 1 in parts" in problem(filled.delete(f"{url}/1"), 404)
    assert filled.delete(url).json() == {"removed": 2}
    assert filled.get(url).json() == {"negatives": [], "next": None}
