"""Registering classes, recognising pictures, and following whoever else changes the file; numbers by hand."""

from __future__ import annotations

import io
import json
import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png, run_python
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

from fewshot import (
    ClassRegistry,
    EncoderMismatch,
    ImageError,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RegistryError,
    SimpleShotClassifier,
)
from fewshot.cli import main
from fewshot.errors import AmbiguousFolders, PartlyAdded
from fewshot.registry import ingest, predictor, reindex
from fewshot.registry.evaluation_results import Judged
from fewshot.registry.results import AddReport, Conflict, Failure

ORANGE = (204, 102, 0)  # its vector: (0.8, 0.4, 0), of length sqrt(0.8)
WHITE = (255, 255, 255)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "r.fewshot"


@pytest.fixture
def registry(path):
    with ClassRegistry(path, encoder=FakeEncoder()) as opened:
        yield opened


def save(folder: Path, name: str, content: bytes) -> Path:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# Adding


def test_pictures_added_are_counted_under_their_class(registry):
    assert registry.add("red", [png(RED), png(RED, 5)]) == AddReport(added=2)
    assert registry.add("blue", [png(BLUE)]) == AddReport(added=1)
    assert registry.add("red", [png(RED, 6)]) == AddReport(added=1)
    assert registry.classes() == {"red": 3, "blue": 1}


def test_classes_come_in_the_order_they_were_added_not_of_the_alphabet(registry):
    for number, label in enumerate(("zebra", "ant", "Mouse")):
        registry.add(label, [png((number, 0, 0))])
    assert list(registry.classes()) == ["zebra", "ant", "Mouse"]


def test_the_same_picture_twice_is_a_reported_duplicate_and_embedded_once(registry):
    assert registry.add("red", [png(RED), png(RED)]) == AddReport(added=1, duplicates=1)
    assert registry.encoder.encoded == 1
    assert registry.add("red", [png(RED), png(RED, 5)]) == AddReport(added=1, duplicates=1)
    assert registry.encoder.encoded == 2
    assert registry.classes() == {"red": 2}


def test_the_same_picture_under_two_labels_is_refused_and_reported(registry, tmp_path):
    registry.add("red", [png(RED)])
    copy = save(tmp_path, "copy.png", png(RED))
    report = registry.add("crimson", [copy, png(RED, 5)])
    assert report == AddReport(added=1, conflicts=(Conflict(str(copy), "crimson", ("red",)),))
    assert registry.classes() == {"red": 1, "crimson": 1}
    assert registry.encoder.encoded == 2


def test_two_labels_for_one_picture_in_one_call_are_a_conflict_and_embedded_once(registry):
    report = registry.add_labelled([(png(), "red"), (png(), "crimson")])
    assert report == AddReport(added=1, conflicts=(Conflict(f"<{len(png())} bytes>", "crimson", ("red",)),))
    assert registry.encoder.encoded == 1


class Failing(FakeEncoder):
    """Of a disk, a memory or a queue that is full from the third batch on."""

    def encode(self, images):
        if self.encoded >= 2 * ingest.CHUNK:
            raise OSError("no room")
        return super().encode(images)


@pytest.mark.parametrize("negative", [False, True])
def test_an_error_midway_says_what_was_added_before_and_adding_again_goes_on(path, negative):
    pictures = [png((n, 0, 0)) for n in range(2 * ingest.CHUNK + 1)]
    with ClassRegistry(path, encoder=Failing()) as registry:
        add = registry.rejection.add_negatives if negative else partial(registry.add, "red")
        with pytest.raises(PartlyAdded, match=r"128 images were added to .* before this stopped the others: no room"):
            add(pictures)
        with pytest.raises(OSError, match=r"^no room$"):
            add([png(BLUE)])
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert (registry.rejection.n_negatives if negative else registry.classes()["red"]) == 128
        add = registry.rejection.add_negatives if negative else partial(registry.add, "red")
        assert add(pictures) == AddReport(added=1, duplicates=128)


def test_what_was_added_before_an_error_is_its_report(path):
    pairs = [(png((n // 2, 0, 0)), "red") for n in range(2 * ingest.CHUNK + 1)]
    with ClassRegistry(path, encoder=Failing()) as registry:
        registry.encoder.encoded = ingest.CHUNK
        with pytest.raises(PartlyAdded) as caught:
            registry.add_labelled(pairs + [(png(BLUE, n), "blue") for n in range(1, ingest.CHUNK)])
    assert caught.value.report == AddReport(added=64, duplicates=64)


def test_allow_conflict_accepts_a_picture_under_two_labels_and_keeps_it_once(registry, path):
    registry.add("red", [png()])
    assert registry.add("crimson", [png()], allow_conflict=True) == AddReport(added=1)
    assert registry.add("crimson", [png()], allow_conflict=True) == AddReport(duplicates=1)
    assert registry.classes() == {"red": 1, "crimson": 1}
    assert count(path, "images") == 1


def test_pictures_that_cannot_be_read_are_reported_and_the_others_added(registry, tmp_path):
    missing, empty = tmp_path / "missing.png", save(tmp_path, "empty.png", b"")
    text, torn = save(tmp_path, "text.png", b"hello"), save(tmp_path, "torn.png", png(RED, 64)[:-40])
    report = registry.add("red", [missing, png(), empty, text, torn, png(RED, 5)])
    assert report.added == 2
    reasons = {Path(failure.source).name: failure.reason for failure in report.failed}
    assert reasons["missing.png"] == "no such file"
    assert reasons["empty.png"] == "the file is empty (0 bytes)"
    assert reasons["text.png"].startswith("not an image")
    assert "truncated" in reasons["torn.png"]
    assert registry.classes() == {"red": 2}


def test_a_class_of_which_no_picture_could_be_read_does_not_exist(registry, tmp_path):
    assert registry.add("red", [tmp_path / "missing.png"]).failed[0].reason == "no such file"
    assert registry.classes() == {}


def test_an_unreadable_picture_given_twice_fails_twice(registry):
    assert (
        registry.add("red", [b"hello", b"hello"]).failed
        == (Failure("<5 bytes>", "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read"),) * 2
    )


def test_arrays_pil_images_and_files_are_pictures_too(registry, tmp_path):
    array = np.full((4, 4, 3), 7, np.uint8)
    with open(save(tmp_path, "a.png", png(GREEN)), "rb") as file:
        assert registry.add("any", [array, file]) == AddReport(added=2)


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "a\0", "\x1b[31m", "\u202e"])
def test_a_label_that_cannot_be_read_is_refused(registry, label):
    with pytest.raises(ValueError, match="a label must hold something to read and no control characters"):
        registry.add(label, [png()])
    registry.add("fine", [png()])
    with pytest.raises(ValueError, match="a label must"):
        registry.rename("fine", label)
    with pytest.raises(ValueError, match="a label must"):
        registry.merge(["fine"], label)


@pytest.mark.parametrize("label", [None, 3, b"cat", {"a", "b"}])
def test_a_label_that_is_no_string_is_refused_naming_its_type(registry, label):
    with pytest.raises(TypeError, match=f"labels are strings, not {type(label).__name__}"):
        registry.add(label, [png()])


def test_labels_of_any_script_and_quotes_come_back_as_given(registry):
    labels = ["naïve 'quoted' \"name\"", "ねこ", "007", "x'; DROP TABLE classes; --", "🦊"]
    for number, label in enumerate(labels):
        registry.add(label, [png((0, number, 0))])
    assert list(registry.classes()) == labels
    assert {registry.predict([png((0, 4, 0))])[0].label} <= set(labels)


def test_a_file_name_that_is_not_utf8_can_be_registered_and_found_again(tmp_path, path):
    name = save(tmp_path, "caf\udce9.png", png())  # how Python spells the bytes caf\xe9.png
    with ClassRegistry(path, encoder=FakeEncoder(), keep_images=False) as registry:
        assert registry.add("red", [name]).added == 1
        ((example, source),) = registry.examples("red")
        assert source.endswith("caf?.png")
        assert registry.image(example) == png()


# Removing, renaming, merging


def test_removing_a_class_takes_its_examples_and_pictures_and_no_others(registry, path):
    registry.add("red", [png(RED), png(RED, 5)])
    registry.add("blue", [png(BLUE)])
    assert registry.remove("red") == 2
    assert registry.classes() == {"blue": 1}
    assert count(path, "images") == 1
    assert registry.add("blue", [png(RED)]) == AddReport(added=1)  # no conflict any more


def test_a_class_vanishes_with_its_last_example(registry, path):
    registry.add("red", [png(RED), png(RED, 5)])
    first, second = (id_ for id_, _ in registry.examples("red"))
    assert registry.remove_example(first) == "red"
    assert registry.classes() == {"red": 1}
    assert registry.remove_example(second) == "red"
    assert registry.classes() == {}
    assert (count(path, "classes"), count(path, "examples"), count(path, "images")) == (0, 0, 0)


def test_a_picture_that_another_class_holds_too_outlives_its_example(registry, path):
    registry.add("red", [png()])
    registry.add("crimson", [png()], allow_conflict=True)
    registry.remove("red")
    ((example, _),) = registry.examples("crimson")
    assert registry.image(example) == png()


def test_an_unknown_class_is_refused_with_close_matches(registry):
    registry.add("wombat", [png()])
    for change in (registry.remove, registry.examples, lambda label: registry.rename(label, "x")):
        with pytest.raises(KeyError, match=r"no class 'wombta' in .*did you mean 'wombat'"):
            change("wombta")
    with pytest.raises(KeyError, match=r"no class 'q' in .*it has 1 others"):
        registry.merge(["q"], "wombat")
    with pytest.raises(KeyError, match="no example 99 in"):
        registry.remove_example(99)
    with pytest.raises(KeyError, match="no example 99 in"):
        registry.image(99)


def test_a_renamed_class_keeps_its_place_and_examples(registry):
    registry.add("blot", [png(RED)])
    registry.add("nut", [png(BLUE)])
    registry.rename("blot", "bolt")
    assert registry.classes() == {"bolt": 1, "nut": 1}
    assert registry.predict([png(RED)])[0].label == "bolt"


def test_a_name_that_is_taken_is_refused_naming_merge(registry):
    registry.add("blot", [png(RED)])
    registry.add("bolt", [png(BLUE)])
    with pytest.raises(ValueError, match="there is a class 'bolt' already; to join the two: merge 'blot' into 'bolt'"):
        registry.rename("blot", "bolt")
    assert registry.classes() == {"blot": 1, "bolt": 1}


def test_merging_keeps_a_shared_picture_once(registry, path):
    registry.add("m6", [png(RED), png(RED, 5)])
    registry.add("m8", [png(RED), png(BLUE)], allow_conflict=True)
    assert registry.merge(["m6", "m8"], "bolt") == 3
    assert registry.classes() == {"bolt": 3}
    assert count(path, "images") == 3


def test_merging_into_one_of_the_classes_leaves_it_and_drops_the_other(registry):
    registry.add("a", [png(RED)])
    registry.add("b", [png(BLUE)])
    assert registry.merge(["a", "b"], "b") == 2
    assert registry.classes() == {"b": 2}


def test_merging_nothing_makes_no_empty_class(registry, path):
    registry.add("a", [png(RED)])
    for labels, into in (([], "new"), (["new"], "new")):
        with pytest.raises(KeyError, match="no class 'new'"):
            registry.merge(labels, into)
    assert registry.merge(["a"], "a") == 1
    assert count(path, "classes") == 1
    with pytest.raises(TypeError, match=r"for one, give \['a'\]"):
        registry.merge("a", "b")


def test_a_merge_with_an_unknown_class_changes_nothing(registry):
    registry.add("a", [png(RED)])
    registry.add("b", [png(BLUE)])
    with pytest.raises(KeyError, match="no class 'c'"):
        registry.merge(["a", "c"], "b")
    assert registry.classes() == {"a": 1, "b": 1}


# Recognising: prototypes red (1, 0, 0) and cold (0, 1/2, 1/2); orange (0.8, 0.4, 0)


@pytest.fixture
def warm_and_cold(registry):
    registry.set_classifier("prototype")  # whose scores are computed by hand
    registry.add("red", [png(RED)])
    registry.add("cold", [png(GREEN), png(BLUE)])
    return registry


def test_a_pictures_vector_is_recognised_as_the_picture_is(warm_and_cold):
    assert warm_and_cold.predict_vectors([[1, 0, 0], [0, 0, 1]], top=1) == warm_and_cold.predict(
        [png(RED), png(BLUE)], top=1
    )
    with pytest.raises(ValueError, match=r"expected vectors of shape \(n, 3\), got \(1, 2\)"):
        warm_and_cold.predict_vectors([[1, 0]])


def test_scores_are_the_cosines_to_the_class_means(warm_and_cold):
    (answer,) = warm_and_cold.predict([png(ORANGE)])
    assert answer.label == "red"
    assert answer.score == pytest.approx(0.8 / math.sqrt(0.8), abs=1e-6)
    assert [label for label, _ in answer.top] == ["red", "cold"]
    assert [s for _, s in answer.top] == pytest.approx([0.8 / math.sqrt(0.8), 0.2 / math.sqrt(0.8 * 0.5)], abs=1e-6)


def test_the_nearest_examples_are_named_with_their_own_cosines(warm_and_cold, tmp_path):
    yellow = save(tmp_path, "yellow.png", png((255, 255, 0)))
    warm_and_cold.add("yellow", [yellow])
    (answer,) = warm_and_cold.predict([png(ORANGE)], nearest=3)
    assert [(n.example, n.label) for n in answer.nearest] == [(4, "yellow"), (1, "red"), (2, "cold")]
    assert answer.nearest[0].source == str(yellow)
    length = math.sqrt(0.8)
    assert [n.score for n in answer.nearest] == pytest.approx(
        [1.2 / length / math.sqrt(2), 0.8 / length, 0.4 / length], abs=1e-6
    )


def test_squared_distances_are_scored_as_minus_themselves(path):
    with ClassRegistry(path, encoder=FakeEncoder(), metric="sqeuclidean") as registry:
        registry.add("red", [png(RED)])
        registry.add("cold", [png(GREEN), png(BLUE)])
        (answer,) = registry.predict([png(ORANGE)], nearest=1)
    assert [s for _, s in answer.top] == pytest.approx([-(0.04 + 0.16), -(0.64 + 0.01 + 0.25)], abs=1e-6)
    assert answer.nearest[0].score == pytest.approx(-0.2, abs=1e-6)


def test_another_classifier_answers_when_given(path):
    with ClassRegistry(path, encoder=FakeEncoder(), classifier=NearestNeighborClassifier()) as registry:
        registry.add("mixed", [png(RED), png(BLUE)])
        registry.add("violet", [png((255, 0, 255))])
        assert registry.predict([png((250, 0, 150))])[0].label == "violet"
        assert registry.predict([png((250, 0, 50))])[0].label == "mixed"  # whose mean is violet


def test_asking_for_more_classes_than_there_are_ranks_all(warm_and_cold):
    assert len(warm_and_cold.predict([png(ORANGE)], top=50, nearest=50)[0].top) == 2
    assert len(warm_and_cold.predict([png(ORANGE)], top=1)[0].top) == 1


def test_of_many_classes_the_top_are_the_closest_in_order(registry):
    angles = np.linspace(0.0, 1.5, 40)
    for number, angle in enumerate(angles):
        registry.add(f"class {number}", [png((round(255 * math.cos(angle)), round(255 * math.sin(angle)), 0))])
    (answer,) = registry.predict([png(RED, 9)], top=4)
    assert [label for label, _ in answer.top] == [f"class {n}" for n in range(4)]


def test_no_neighbours_are_named_when_none_are_asked_for(warm_and_cold):
    assert warm_and_cold.predict([png(ORANGE)], nearest=0)[0].nearest == ()


@pytest.mark.parametrize(("top", "nearest"), [(0, 3), (-1, 3), (True, 3), (5, -1), (1.5, 0)])
def test_counts_that_are_none_are_refused(warm_and_cold, top, nearest):
    with pytest.raises(ValueError, match=r"(top|nearest) must be a whole number of at least [01], not"):
        warm_and_cold.predict([png(ORANGE)], top=top, nearest=nearest)


def test_answers_come_in_the_order_given_and_asking_twice_changes_nothing(warm_and_cold):
    pictures = [png(BLUE, 9), png(RED, 9), png(GREEN, 9), png(RED, 8)]
    first = warm_and_cold.predict(pictures)
    assert [p.label for p in first] == ["cold", "red", "cold", "red"]
    assert warm_and_cold.predict(pictures) == first


def test_predicting_from_no_classes_says_how_to_register_some(registry):
    with pytest.raises(RegistryError, match=r"holds no classes yet; register some with: fewshot add"):
        registry.predict([png()])


def test_predicting_nothing_answers_nothing(warm_and_cold):
    assert warm_and_cold.predict([]) == []


def test_a_picture_that_cannot_be_read_is_named_by_predict_and_listed_by_predict_valid(warm_and_cold, tmp_path):
    missing = str(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        warm_and_cold.predict([png(RED), missing])
    good = str(save(tmp_path, "good.png", png(RED, 9)))
    answered = warm_and_cold.predict_valid([missing, good])
    assert answered.failed == (Failure(missing, "no such file"),)
    assert answered.sources == (good,)
    assert [p.label for p in answered.predictions] == ["red"]


# Following changes, one's own and others'


def test_predictions_follow_what_another_connection_changes(warm_and_cold, path):
    query = [png((250, 0, 250))]
    assert warm_and_cold.predict(query)[0].label == "red"
    with ClassRegistry(path, encoder=FakeEncoder()) as other:
        other.add("violet", [png((255, 0, 255))])
        assert warm_and_cold.predict(query)[0].label == "violet"
        assert warm_and_cold.predict(query)[0].nearest[0].label == "violet"
        other.rename("violet", "purple")
        assert warm_and_cold.predict(query)[0].label == "purple"
        assert warm_and_cold.predict(query)[0].nearest[0].label == "purple"
        other.remove("purple")
        assert warm_and_cold.predict(query)[0].label == "red"
        assert warm_and_cold.predict(query)[0].nearest[0].label != "purple"
        other.add("cold", [png((0, 0, 255), 9)])  # mean (0, 1/3, 2/3)
        cold = dict(warm_and_cold.predict(query)[0].top)["cold"]
        assert cold == pytest.approx((2 / 3) / math.sqrt(2) / math.sqrt(5 / 9), abs=1e-5)
        other.remove("cold")
        other.remove("red")
        with pytest.raises(RegistryError, match="holds no classes"):
            warm_and_cold.predict(query)
        other.add("black", [png((1, 1, 1))])
        assert warm_and_cold.predict(query)[0].label == "black"


class Reads:
    """What SQLite is asked for, as nothing else shows what a registry reads of its file."""

    def __init__(self, registry):
        self.statements = []
        registry._store._connection.set_trace_callback(self.statements.append)

    def count(self, *words):
        return sum(all(word in statement for word in words) for statement in self.statements)

    def vectors(self):
        """Of which rows vectors were read since the last call: "all", or the condition."""
        found = [said for said in self.statements if said.startswith("SELECT") and "vector" in said]
        self.statements.clear()
        return [
            said.partition(" FROM examples ")[2].removesuffix(" ORDER BY id") for said in found if "examples" in said
        ]


def test_one_prediction_reads_the_settings_once_and_the_examples_once(path, tmp_path, monkeypatch):
    with ClassRegistry(path) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
        registry.rejection.set(0.7)
    connect, said = sqlite3.connect, []

    def traced(*given, **options):
        connection = connect(*given, **options)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    result = CliRunner().invoke(main, ["predict", str(path), str(save(tmp_path, "a.png", png(RED, 9)))])
    assert (result.exit_code, json.loads(result.stdout)[0]["top"][0][0]) == (0, "red")
    assert sum("FROM meta" in statement for statement in said) == 1
    assert sum("vector" in statement and "FROM examples" in statement for statement in said) == 1


def test_an_append_is_learned_on_top_without_reading_the_file_again(warm_and_cold):
    reads = Reads(warm_and_cold)
    warm_and_cold.predict([png(ORANGE)])
    assert reads.vectors() == ["ORDER BY id"]
    warm_and_cold.predict([png(ORANGE)])
    assert reads.vectors() == []
    warm_and_cold.add("white", [png(WHITE)])
    assert warm_and_cold.predict([png(WHITE, 9)])[0].label == "white"
    assert reads.vectors() == ["WHERE id > 3"]


def test_of_what_was_removed_renamed_or_merged_no_vector_is_read_again(warm_and_cold):
    warm_and_cold.add("white", [png(WHITE)])
    warm_and_cold.predict([png(ORANGE)])
    reads = Reads(warm_and_cold)
    warm_and_cold.remove("white")
    assert "white" not in dict(warm_and_cold.predict([png(ORANGE)])[0].top)
    warm_and_cold.rename("red", "crimson")
    assert warm_and_cold.predict([png(RED, 9)])[0].label == "crimson"
    warm_and_cold.merge(["cold"], "crimson")
    assert [label for label, _ in warm_and_cold.predict([png(RED, 9)])[0].top] == ["crimson"]
    assert reads.vectors() == []


def test_what_was_embedded_anew_is_read_again(warm_and_cold):
    warm_and_cold.predict([png(ORANGE)])
    reads = Reads(warm_and_cold)
    warm_and_cold.reindex(FakeEncoder(times=2.0))
    reads.vectors()
    (found,) = warm_and_cold.predict([png(RED, 9)])[0].nearest[:1]
    assert (found.label, found.score) == ("red", pytest.approx(1.0))
    assert reads.vectors() == ["ORDER BY id"]


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean", "inner_product"])
@pytest.mark.parametrize("appended", [True, False])
def test_after_any_changes_the_answers_are_those_of_a_registry_opened_anew(tmp_path, metric, appended):
    rng = np.random.default_rng(3)
    colours = [tuple(int(v) for v in rng.integers(1, 255, 3)) for _ in range(40)]
    query = [png(tuple(int(v) for v in rng.integers(1, 255, 3))) for _ in range(5)]
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), metric=metric) as registry:
        for number in range(20):
            registry.add(f"class {number % 7}", [png(colours[number])])
            registry.predict(query)
        if not appended:
            registry.remove("class 3")
            registry.predict(query)
            registry.move_example(registry.examples("class 1")[0][0], "class 5")
            registry.predict(query)
            registry.remove_example(registry.examples("class 2")[0][0])
            registry.merge(["class 0", "class 6"], "class 1")
            registry.predict(query)
        for number in range(20, 40):
            registry.add(f"class {number % 9}", [png(colours[number])])
        mine = registry.predict(query, top=99, nearest=99)
        with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as other:
            theirs = other.predict(query, top=99, nearest=99)
    for one, same in zip(mine, theirs, strict=True):
        assert dict(one.top) == pytest.approx(dict(same.top), abs=1e-5)
        assert [n.example for n in one.nearest] == [n.example for n in same.nearest]
        assert (one.unknown_score, one.probability) == pytest.approx((same.unknown_score, same.probability), abs=1e-5)


def test_an_interrupted_prediction_leaves_the_next_one_right(warm_and_cold, monkeypatch):
    warm_and_cold.predict([png(ORANGE)])
    warm_and_cold.add("white", [png(WHITE)])
    real = PrototypeClassifier.partial_fit

    def interrupted(self, X, y, **options):
        real(self, X, y, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PrototypeClassifier, "partial_fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            warm_and_cold.predict([png(ORANGE)])
    warm_and_cold.add("white", [png(RED, 9)], allow_conflict=True)  # mean (1, 1/2, 1/2), each example counted once
    white = dict(warm_and_cold.predict([png(WHITE, 9)])[0].top)["white"]
    assert white == pytest.approx(2 / math.sqrt(3 * 1.5), abs=1e-6)


def test_a_registry_rebuilt_elsewhere_with_another_encoder_is_not_asked_with_the_old(warm_and_cold, path):
    warm_and_cold.predict([png()])
    with ClassRegistry(path) as other:
        other.reindex(FakeEncoder(times=2.0))  # the same d: nothing else would notice
    with pytest.raises(EncoderMismatch, match="cannot be compared"):
        warm_and_cold.predict([png()])
    with pytest.raises(EncoderMismatch, match="cannot be compared"):
        warm_and_cold.add("new", [png(BLACK)])


def test_an_add_overtaken_by_a_reindex_stores_nothing(path):
    class Slow(FakeEncoder):
        def encode(self, images):
            if path.exists() and self.encoded:
                with ClassRegistry(path) as other:
                    other.reindex(FakeEncoder(times=2.0))
            return super().encode(images)

    with ClassRegistry(path, encoder=Slow()) as registry:
        registry.add("red", [png(RED)])
        with pytest.raises(EncoderMismatch, match="cannot be compared"):
            registry.add("blue", [png(BLUE)])
        assert registry.classes() == {"red": 1}


def test_threads_may_add_to_one_registry_at_once(registry):
    def add(thread: int) -> int:
        return sum(registry.add(f"class {thread}", [png((thread, n, 0))]).added for n in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, range(4))) == [10] * 4
    assert sorted(registry.classes().items()) == [(f"class {n}", 10) for n in range(4)]
    assert registry.info().images_kept == 40


def test_threads_may_add_and_ask_at_once(warm_and_cold):
    def work(thread: int) -> set[str]:
        if thread % 2:
            warm_and_cold.add(f"white {thread}", [png(WHITE, 4 + thread)])
            return {"red"}
        return {p.label for _ in range(5) for p in warm_and_cold.predict([png(RED, 9)])}

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(work, range(8))) == {"red"}
    assert len(warm_and_cold.classes()) == 6


TWO_PROCESSES = """
import json, os, sys
from fakes import FakeEncoder, png
import fewshot.encoders.encoder
from fewshot import ClassRegistry
path, children = sys.argv[1], []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with ClassRegistry(path, encoder=FakeEncoder()) as registry:
                added = [registry.add(f"class {n % 5}", [png((child, n, 0))]).added for n in range(25)]
                shared = registry.add("shared", [png((9, 9, n)) for n in range(5)])
                code = 0 if added == [1] * 25 and shared.added + shared.duplicates == 5 else 2
        finally:
            os._exit(code)
    children.append(pid)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]))
"""


def test_two_processes_that_make_and_fill_a_registry_at_once_both_succeed(path, warm_python):
    done = run_python(TWO_PROCESSES, path, python=warm_python)
    assert json.loads(done.stdout) == [0, 0], done.stderr
    with ClassRegistry(path, create=False) as registry:
        assert dict(sorted(registry.classes().items())) == {**{f"class {n}": 10 for n in range(5)}, "shared": 5}


# Evaluating


def test_an_evaluation_counts_each_class_and_names_what_it_could_not_judge(warm_and_cold, tmp_path):
    folder = tmp_path / "test"
    right = save(folder, "red/1.png", png((250, 10, 10)))
    wrong = save(folder, "red/2.png", png((10, 250, 10)))
    seen = save(folder, "cold/1.png", png(BLUE))
    strange = save(folder, "grey/1.png", png((90, 100, 100)))
    bad = save(folder, "cold/bad.png", b"nonsense")
    notes = save(folder, "red/notes.txt", b"")
    loose = save(folder, "loose.png", png())
    result = warm_and_cold.evaluate(folder)
    assert [(r.source, r.label, r.predicted) for r in result.rows] == [
        (str(seen), "cold", "cold"),
        (str(strange), "grey", "cold"),
        (str(right), "red", "red"),
        (str(wrong), "red", "cold"),
    ]
    assert isinstance(result.rows[0], Judged)
    assert result.rows[0].score == pytest.approx(math.sqrt(0.5))
    assert (result.n, result.accuracy) == (4, 0.5)
    assert result.per_class == {"cold": 1.0, "grey": 0.0, "red": 0.5}
    assert result.unregistered == ("grey",)
    assert result.also_registered == 1
    assert [f.source for f in result.failed] == [str(bad)]
    assert sorted(result.ignored) == sorted([str(notes), str(loose)])


# Rebuilding with another encoder


def test_reindexing_embeds_every_picture_anew_and_keeps_ids_and_labels(warm_and_cold):
    before = warm_and_cold.examples("cold")
    assert warm_and_cold.reindex(FakeEncoder(more=2)) == 3
    assert warm_and_cold.info().dim == 5
    assert warm_and_cold.examples("cold") == before
    (answer,) = warm_and_cold.predict([png(RED, 9)])  # (1, 0, 0, 1, 1) on itself, and on (0, 1/2, 1/2, 1, 1)
    assert [s for _, s in answer.top] == pytest.approx([1.0, 2 / math.sqrt(3 * 2.5)], abs=1e-6)


def test_an_example_removed_by_another_process_during_a_reindex_is_left_out_of_it(warm_and_cold, path, monkeypatch):
    monkeypatch.setattr(reindex, "_CHUNK", 1)

    class Removing(FakeEncoder):
        def encode(self, images):
            if self.encoded == 0:
                with ClassRegistry(path, create=False) as other:
                    other.remove("cold")
            return super().encode(images)

    encoder = Removing(more=2)
    assert warm_and_cold.reindex(encoder) == encoder.encoded == sum(warm_and_cold.classes().values()) == 1
    assert warm_and_cold.predict([png(BLUE)])[0].label == "red"


def test_reindexing_without_kept_pictures_reads_the_files_and_all_or_none_are_changed(tmp_path, path):
    files = [save(tmp_path, f"{n}.png", png((n, 0, 9))) for n in range(3)]
    with ClassRegistry(path, encoder=FakeEncoder(), keep_images=False) as registry:
        registry.add("dark", files)
        registry.add("lost", [png(BLACK)])
        assert count(path, "images") == 0
        assert registry.image(1) == files[0].read_bytes()
        files[1].unlink()
        files[2].write_bytes(png(RED))
        before = path.read_bytes()
        with pytest.raises(RegistryError) as caught:
            registry.reindex(FakeEncoder(more=1))
        message = str(caught.value)
        assert "3 of 4 images cannot be embedded again" in message
        assert f"{path} was left as it is" in message
        assert f"example 2, {files[1]}: no such file" in message
        assert f"example 3, {files[2]}: the image has changed since it was registered" in message
        assert f"example 4, <{len(png(BLACK))} bytes>: its image was not kept, nor where it was" in message
        assert path.read_bytes() == before
        assert registry.predict([png((0, 0, 250))])[0].label == "dark"
        files[1].write_bytes(png((1, 0, 9)))
        files[2].write_bytes(png((2, 0, 9)))
        registry.remove("lost")
        assert registry.reindex(FakeEncoder(more=1)) == 3


def test_pictures_added_while_a_reindex_runs_are_embedded_too(warm_and_cold, path):
    class Overtaken(FakeEncoder):
        def encode(self, images):
            if not self.encoded:
                with ClassRegistry(path, encoder=FakeEncoder()) as other:
                    other.add("late", [png(WHITE)])
                    other.remove("red")
            return super().encode(images)

    assert warm_and_cold.reindex(Overtaken(more=1)) == 3
    assert warm_and_cold.predict([png(WHITE, 9)])[0].score == pytest.approx(1.0)


def test_reindexing_an_empty_registry_says_that_it_holds_nothing(registry):
    with pytest.raises(RegistryError, match="holds no classes yet; add some with: fewshot add"):
        registry.reindex(FakeEncoder(more=1))


# Whose registry is it


def test_another_encoder_is_refused_naming_both_and_the_command_that_rebuilds(tmp_path):
    path = tmp_path / "my parts.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder(name="resnet50.a1_in1k")) as registry:
        registry.add("red", [png()])
    with pytest.raises(EncoderMismatch) as caught:
        ClassRegistry(path, encoder=FakeEncoder(more=2, name="vit_small_patch14_dinov2"))
    message = str(caught.value)
    assert "holds embeddings from resnet50.a1_in1k (d=3," in message
    assert "but this encoder is vit_small_patch14_dinov2 (d=5," in message
    assert message.endswith(f"rebuild with: fewshot reindex '{path}' --encoder vit_small_patch14_dinov2")


def test_an_encoder_without_a_name_is_refused_with_the_python_that_rebuilds(warm_and_cold, path):
    with pytest.raises(EncoderMismatch, match=r"rebuild with: ClassRegistry\('.*r\.fewshot'\)\.reindex\(encoder\)"):
        ClassRegistry(path, encoder=FakeEncoder(times=2.0))


def test_a_registry_made_with_an_encoder_of_ones_own_asks_for_it(warm_and_cold, path):
    with ClassRegistry(path) as registry:
        assert registry.classes() == {"red": 1, "cold": 2}
        with pytest.raises(RegistryError, match="made with an encoder of your own: give it as encoder="):
            registry.predict([png()])


def test_another_metric_is_refused_naming_both(path):
    ClassRegistry(path, encoder=FakeEncoder(), metric="sqeuclidean").close()
    with pytest.raises(EncoderMismatch, match="was made for the metric 'sqeuclidean', not 'cosine': open it with"):
        ClassRegistry(path, metric="cosine")
    with pytest.raises(EncoderMismatch, match="not 'cosine'"):
        ClassRegistry(path, classifier=NearestNeighborClassifier(metric="cosine"))
    with ClassRegistry(path) as registry:
        assert registry.info().metric == "sqeuclidean"


def test_a_metric_that_disagrees_with_the_classifiers_or_is_none_is_refused(path):
    with pytest.raises(ValueError, match="metric='cosine' disagrees with the classifier's metric 'sqeuclidean'"):
        ClassRegistry(path, metric="cosine", classifier=NearestNeighborClassifier(metric="sqeuclidean"))
    with pytest.raises(ValueError, match=r"metric must be one of 'cosine'.* not 'cos'"):
        ClassRegistry(path, metric="cos")


def test_what_was_chosen_at_first_is_remembered(tmp_path, path):
    picture = save(tmp_path, "a.png", png())
    ClassRegistry(path, encoder=FakeEncoder(), metric="sqeuclidean", keep_images=False).close()
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [picture])
        info = registry.info()
    assert (info.metric, info.images_kept, info.classes, info.examples, info.dim) == ("sqeuclidean", 0, 1, 1, 3)
    assert info.fingerprint == FakeEncoder().fingerprint
    with ClassRegistry(path, encoder=FakeEncoder(), keep_images=True) as registry:
        registry.add("red", [png(RED, 5)])
        assert registry.info().images_kept == 1


LIGHT = """
import sys
from fewshot import ClassRegistry
with ClassRegistry(sys.argv[1], create=False) as registry:
    registry.{use}
print([name for name in ("torch", "timm", "sklearn", "faiss") if name in sys.modules])
"""


def test_opening_a_registry_and_listing_its_classes_loads_neither_torch_nor_timm(warm_and_cold, path):
    done = run_python(LIGHT.format(use="classes(), registry.info(), registry.rename('red', 'rot')"), path)
    assert done.stdout.strip() == "[]", done.stderr
    done = run_python(LIGHT.format(use="classes(); import faiss"), path)
    assert done.stdout.strip() == "['faiss']", done.stderr


def test_a_label_composed_and_decomposed_is_one_class_through_every_door(registry):
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    registry.add(decomposed, [png()])
    assert registry.add(composed, [png()]) == AddReport(duplicates=1)
    registry.add_labelled([(png(GREEN), f" {decomposed} ")])
    assert registry.classes() == {composed: 2}
    assert len(registry.examples(decomposed)) == 2
    registry.rename(decomposed, f"{decomposed} 2")
    registry.add("other", [png((0, 0, 255))])
    assert registry.merge(["other"], f"{decomposed} 2") == 3
    example = registry.examples(f"{composed} 2")[0][0]
    assert registry.move_example(example, decomposed).label == composed
    assert registry.remove(decomposed) == 1


# What an answer rests on, and the probability of one class


def crossed(path, classifier="prototype"):
    """Two classes, of which "wide" is closer on average to a query whose closest example is of "narrow"."""
    registry = ClassRegistry(path, encoder=FakeEncoder(), classifier=classifier)
    registry.add("wide", [png((255, 0, 0)), png((0, 255, 0)), png((153, 204, 0))])
    registry.add("narrow", [png((102, 153, 153)), png((0, 0, 255))])
    return registry


QUERY = (102, 153, 51)


def test_the_nearest_examples_are_those_of_the_answer_though_one_of_another_class_is_closer(path):
    with crossed(path) as registry:
        vectors = registry.encoder.encode([png(QUERY)])
        stored = {e.id: e for e in registry.export_page(after=0, limit=9)}
        cosines = {n: float(cosine_similarity(vectors, e.vector[None])[0, 0]) for n, e in stored.items()}
        (answer,) = registry.predict([png(QUERY)], nearest=5)
        assert answer.label == "wide"
        order = sorted(cosines, key=lambda n: (stored[n].label != "wide", -cosines[n]))
        assert [n.example for n in answer.nearest] == order
        assert [n.score for n in answer.nearest] == pytest.approx([cosines[n] for n in order], abs=1e-6)
        assert answer.nearest[0].example == 3
        (few,) = registry.predict([png(QUERY)], top=1, nearest=2)
        assert [n.label for n in few.nearest] == ["wide", "wide"]
        assert (len(few.top), registry.predict([png(QUERY)], nearest=0)[0].nearest) == (1, ())


def test_the_nearest_examples_are_compared_as_the_classifier_compares(path):
    center = np.array([0.3, 0.4, 0.1], np.float32)
    with crossed(path, SimpleShotClassifier(center=center)) as registry:
        query = registry.encoder.encode([png(QUERY)])
        stored = {e.id: e for e in registry.export_page(after=0, limit=9)}
        (answer,) = registry.predict([png(QUERY)], nearest=5)
        expected = [
            cosine_similarity(query - center, stored[n.example].vector[None] - center)[0, 0] for n in answer.nearest
        ]
        assert [n.score for n in answer.nearest] == pytest.approx(expected, abs=1e-6)
        own = [n.score for n in answer.nearest if n.label == answer.label]
        assert own == sorted(own, reverse=True)
        assert [n.label for n in answer.nearest][: len(own)] == [answer.label] * len(own)


def test_of_many_queries_at_once_each_has_the_neighbours_that_it_has_alone(warm_and_cold, monkeypatch):
    asked = [png(colour) for colour in (ORANGE, RED, GREEN, BLUE, (90, 20, 200), (200, 20, 90))]
    alone = [warm_and_cold.predict([one], nearest=3)[0].nearest for one in asked]
    monkeypatch.setattr(predictor, "_MOST_SCORES", 2)
    together = [one.nearest for one in warm_and_cold.predict(asked, nearest=3)]
    assert [[n.example for n in one] for one in together] == [[n.example for n in one] for one in alone]
    assert all(one[0].label == p.top[0][0] for one, p in zip(together, warm_and_cold.predict(asked), strict=True))


def test_with_one_class_there_is_no_probability_and_it_is_said_until_there_is_another(registry):
    registry.add("red", [png(RED)])
    (answer,) = registry.predict([png((255, 255, 0))])
    assert (answer.label, answer.probability) == ("red", None)
    assert "with one class there is nothing to compare it with" in answer.note
    registry.rejection.add_negatives([png(GREEN)])
    registry.rejection.set(0.5)
    rejected, accepted = registry.predict([png(GREEN), png((255, 20, 0))])
    assert (rejected.label, accepted.label, rejected.probability, accepted.probability) == (None, "red", None, None)
    registry.add("blue", [png(BLUE)])
    (answer,) = registry.predict([png((255, 20, 0))])
    assert (0.5 < answer.probability < 1.0, answer.note) == (True, None)


# One image, tensors, folders


def test_a_single_image_is_taken_where_images_are(registry, tmp_path):
    photo = save(tmp_path, "a.png", png(RED))
    assert registry.add("red", str(photo)) == AddReport(added=1)
    assert registry.add("red", Image.open(io.BytesIO(png(RED, 5)))) == AddReport(added=1)
    assert registry.add("green", np.full((6, 6, 3), GREEN, np.uint8)) == AddReport(added=1)
    assert registry.rejection.add_negatives(png(BLUE)) == AddReport(added=1)
    for one in (photo, str(photo), png(RED), io.BytesIO(png(RED)), np.full((4, 4, 3), RED, np.uint8)):
        (answer,) = registry.predict(one)
        assert answer.label == "red"
    assert registry.predict_valid(photo).sources == (str(photo),)
    assert registry.evaluate(photo, "red").accuracy == 1.0
    with pytest.raises(ImageError, match="no such file"):
        registry.predict("b.png")


def test_a_batch_of_tensors_or_arrays_is_as_many_images(registry):
    batch = torch.zeros(2, 3, 8, 8)
    batch[0, 0] = batch[1, 2] = 1.0
    registry.add("red", batch[0])
    registry.add("blue", batch[1:])
    assert [one.label for one in registry.predict(batch)] == ["red", "blue"]
    assert [one.label for one in registry.predict(np.moveaxis(batch.numpy(), 1, 3))] == ["red", "blue"]


def test_a_folder_of_classes_is_added_and_what_was_ignored_listed(registry, tmp_path):
    save(tmp_path, "photos/red/1.png", png(RED))
    save(tmp_path, "photos/blue/1.png", png(BLUE))
    notes = save(tmp_path, "photos/blue/notes.txt", b"none")
    assert registry.add_folder(tmp_path / "photos") == AddReport(added=2, ignored=(str(notes),))
    assert (registry.classes(), len(registry)) == ({"blue": 1, "red": 1}, 2)
    save(tmp_path, "splits/train/red/2.png", png(RED, 9))
    save(tmp_path, "splits/test/red/3.png", png(RED, 10))
    with pytest.raises(AmbiguousFolders, match="splits"):
        registry.add_folder(tmp_path / "splits")
    assert len(registry) == 2


def test_a_registry_without_classes_has_length_0_and_is_still_true(registry):
    assert (len(registry), bool(registry)) == (0, True)


def test_images_with_their_labels_are_evaluated_as_their_folder_is(warm_and_cold, tmp_path):
    red, cold = [png((250, 10, 0)), b"no image"], [png((0, 250, 10)), png((250, 0, 10))]
    pictures = {"red": red, "cold": cold, "white": [png(WHITE)]}
    for label, some in pictures.items():
        for n, data in enumerate(some):
            save(tmp_path, f"new/{label}/{n}.png", data)
    images = [data for some in pictures.values() for data in some]
    labels = [label for label, some in pictures.items() for _ in some]
    found, folder = warm_and_cold.evaluate(images, labels), warm_and_cold.evaluate(tmp_path / "new")
    assert (found.n, found.accuracy, found.per_class) == (folder.n, folder.accuracy, folder.per_class)
    assert found.per_class == {"red": 1.0, "cold": 0.5, "white": 0.0}
    assert (found.unregistered, len(found.failed)) == (("white",), 1)
    # Arrays of one shape have one name: labels go by position.
    arrays = [np.full((4, 4, 3), colour, np.uint8) for colour in (RED, GREEN)]
    found = warm_and_cold.evaluate([arrays[0], np.zeros((4, 4, 9)), arrays[1]], ["red", "x", "cold"])
    assert [row.label for row in found.rows] == ["red", "cold"]
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        warm_and_cold.evaluate(arrays, ["red"])
