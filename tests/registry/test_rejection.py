"""A registry that rejects unknown images, by a limit on false accepts, negatives and a background."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_allclose
from PIL import Image

from fewshot import ClassRegistry, RegistryError
from fewshot.cli import main
from fewshot.openset.background import Background
from fewshot.openset.threshold import estimate_threshold
from fewshot.registry.repair import repair_registry
from fewshot.registry.results import AddReport

pytestmark = pytest.mark.usefixtures("pocket_stays")
CYAN, ORANGE = (0, 255, 255), (204, 102, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.fewshot"


@pytest.fixture
def registry(path):
    with ClassRegistry(path, encoder=FakeEncoder()) as opened:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            opened.add(label, [png(colour), png(colour, 5)])
        yield opened


def colours(n, seed=0):
    """Vectors of n colours at random, each a class."""
    return np.random.default_rng(seed).random((n, 3)).astype(np.float32)


def labels_of(registry, *pictures, **asked):
    return [prediction.label for prediction in registry.predict([png(colour) for colour in pictures], **asked)]


def test_unasked_every_picture_gets_its_best_class_and_an_unknown_score(registry):
    near, between = registry.predict([png(RED, 6), png(ORANGE)])
    assert (near.label, between.label) == ("red", "red")
    assert -1.1 < near.unknown_score < between.unknown_score < 1.0


def test_asked_a_picture_past_the_threshold_has_no_label_but_still_its_ranking(registry):
    registry.rejection.set(0.05, background=colours(60))
    threshold = registry.rejection.threshold()
    near, far = registry.predict([png(RED, 6), png(ORANGE)])
    assert near.unknown_score < threshold.value <= far.unknown_score
    assert (near.label, far.label) == ("red", None)
    assert far.top[0][0] == "red"
    assert far.score == far.top[0][1]
    assert labels_of(registry, RED, ORANGE, max_false_accept=1) == ["red", "red"]


def test_the_threshold_is_that_of_estimate_threshold_on_the_registrys_vectors(registry):
    others = colours(40)
    threshold = registry.rejection.set(0.1, background=others, labels=[str(n // 2) for n in range(40)])
    vectors, codes = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0), np.repeat(np.arange(3), 2)
    background = Background.of(others, [str(n // 2) for n in range(40)])
    assert threshold == estimate_threshold(vectors, codes, max_false_accept=0.1, background=background)
    assert threshold.n_unknown == 20


def test_the_threshold_is_stored_in_the_file_and_estimated_again_when_classes_change(registry, path):
    kept = registry.rejection.set(0.05, background=colours(60))
    with ClassRegistry(path, encoder=FakeEncoder()) as other:
        assert (other.rejection.max_false_accept, other.rejection.threshold()) == (0.05, kept)
        assert labels_of(other, CYAN) == [None]
        other.add("cyan", [png(CYAN)])
    assert registry.rejection.threshold() != kept
    assert labels_of(registry, CYAN) == ["cyan"]
    registry.remove("cyan")
    assert registry.rejection.threshold() == kept
    assert registry.rejection.set(None) is None
    assert (registry.rejection.max_false_accept, registry.rejection.threshold()) == (None, None)
    assert labels_of(registry, CYAN) != [None]


def test_without_a_background_few_classes_bound_false_accepts_as_they_can(registry):
    threshold = registry.rejection.threshold(0.05)
    assert (threshold.false_accept_bound, threshold.met, threshold.source) == (0.5, False, "classes")
    assert threshold.describe().startswith(
        "3 registered classes are too few to bound false accepts at 0.05: that takes 19."
    )


def test_evaluation_stays_closed_set(registry, tmp_path):
    (tmp_path / "new" / "red").mkdir(parents=True)
    (tmp_path / "new" / "red" / "1.png").write_bytes(png(ORANGE))
    registry.rejection.set(0.05, background=colours(60))
    assert registry.evaluate(tmp_path / "new").accuracy == 1.0


def test_an_evaluation_says_what_the_stored_limit_rejects_and_how_often_the_others_are_right(registry, tmp_path):
    for name, colour in (("right", RED), ("far", ORANGE)):
        (tmp_path / "new" / "red").mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / "red" / f"{name}.png").write_bytes(png(colour, 7))
    without = registry.evaluate(tmp_path / "new")
    assert (without.accuracy, without.accepted_accuracy, without.rejected) == (1.0, 1.0, 0.0)
    registry.rejection.add_negatives([png(ORANGE)])
    registry.rejection.set(0.05, background=colours(60))
    found = registry.evaluate(tmp_path / "new")
    refused = [p.label is None for p in registry.predict([row.source for row in found.rows])]
    assert [row.rejected for row in found.rows] == refused == [True, False]
    assert (found.accuracy, found.accepted_accuracy, found.rejected) == (1.0, 1.0, 0.5)
    assert registry.info().max_false_accept == 0.05


def test_a_picture_closer_to_a_negative_than_to_any_class_is_more_surely_unknown(registry):
    before, red = registry.predict([png(ORANGE, 7), png(RED, 7)])
    assert registry.rejection.add_negatives([png(ORANGE)]) == AddReport(added=1)
    after, same = registry.predict([png(ORANGE, 7), png(RED, 7)])
    # Its cosine to the negative is 1, to red 2 / sqrt(5).
    assert_allclose(after.unknown_score - before.unknown_score, 1 - 2 / np.sqrt(5), atol=1e-5)
    assert (after.label, same) == ("red", red)
    assert registry.classes() == {"red": 2, "green": 2, "blue": 2}


def test_negatives_are_counted_once_and_not_taken_from_classes(registry, tmp_path):
    report = registry.rejection.add_negatives([png(BLACK), png(BLACK), png(RED), tmp_path / "missing.png"])
    assert (report.added, report.duplicates) == (1, 1)
    assert [conflict.held_by for conflict in report.conflicts] == [("red",)]
    assert report.failed[0].reason == "no such file"
    assert registry.rejection.n_negatives == 1
    assert registry.rejection.forget_negatives() == 1
    assert registry.rejection.n_negatives == 0


def test_after_a_reindex_negatives_are_embedded_anew_and_the_background_is_asked_for_again(registry):
    registry.rejection.add_negatives([png(ORANGE)])
    registry.rejection.set(0.05, background=colours(60))
    registry.reindex(FakeEncoder(more=1))
    with pytest.raises(RegistryError, match=r"60 background vectors .* another encoder .*--background DATA"):
        labels_of(registry, RED)
    assert labels_of(registry, RED, max_false_accept=1) == ["red"]
    wider = np.concatenate([colours(60), np.ones((60, 1), np.float32)], axis=1)
    assert registry.rejection.set(0.05, background=wider).met
    assert labels_of(registry, RED) == ["red"]


def test_negatives_whose_pictures_are_not_kept_ask_to_be_given_again_after_a_reindex(path, tmp_path):
    for name, colour in (("a", RED), ("b", GREEN), ("c", ORANGE)):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    with ClassRegistry(path, encoder=FakeEncoder(), keep_images=False) as registry:
        registry.add("red", [tmp_path / "a.png"])
        registry.add("green", [tmp_path / "b.png"])
        registry.rejection.add_negatives([tmp_path / "c.png"])
        registry.reindex(FakeEncoder(more=1))
        assert registry.predict([png(RED)])[0].label == "red"
        with pytest.raises(RegistryError, match=r"1 negative vectors .* --forget-negatives, and add them again"):
            registry.predict([png(RED)], max_false_accept=0.5)
        registry.rejection.forget_negatives()
        assert registry.rejection.threshold(0.7).met


def test_what_cannot_be_kept_changes_nothing(registry):
    registry.rejection.set(0.1)
    for wrong in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match=r"in \(0, 1\)"):
            registry.rejection.set(wrong, background=colours(5))
    with pytest.raises(ValueError, match="vector 0 of 2 holds NaN"):
        registry.rejection.set(0.1, background=np.full((2, 3), np.nan, np.float32))
    assert registry.rejection.max_false_accept == 0.1
    assert registry.rejection.threshold().source == "classes"


def test_a_negative_is_not_taken_into_a_class_unless_both_are_wanted(registry):
    registry.rejection.add_negatives([png(ORANGE)])
    refused = registry.add("orange", [png(ORANGE)])
    assert [conflict.held_by for conflict in refused.conflicts] == [("none of these",)]
    assert (refused.added, "orange" in registry.classes()) == (0, False)
    assert registry.add("orange", [png(ORANGE)], allow_conflict=True).added == 1


def test_pictures_of_the_background_that_a_class_holds_stand_for_nothing(registry):
    registry.rejection.set(0.05, background=colours(60))
    alone = registry.rejection.threshold()
    assert registry.rejection.n_shared == 0
    with_red = np.concatenate([colours(60), np.eye(3, dtype=np.float32)[:1]])
    assert registry.rejection.set(0.05, background=with_red) == alone
    assert registry.rejection.n_shared == 1
    registry.remove("red")
    assert registry.rejection.threshold().n_unknown == 61


def test_a_stored_threshold_is_read_not_estimated_again_until_something_changes(registry, path, monkeypatch):
    import fewshot.openset

    kept = registry.rejection.set(0.05, background=colours(60))
    draw, drawn = fewshot.openset.leave_one_out_scores, []
    monkeypatch.setattr(fewshot.openset, "leave_one_out_scores", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    with ClassRegistry(path, encoder=FakeEncoder()) as other:
        assert labels_of(other, RED, ORANGE) == ["red", None]
        assert other.rejection.threshold() == kept
        other.rejection.add_negatives([png(ORANGE)])
        assert (other.rejection.threshold(), drawn) == (kept, [])
        other.add("cyan", [png(CYAN)])
        assert labels_of(other, CYAN, CYAN) == ["cyan", "cyan"]
        assert labels_of(other, CYAN) == ["cyan"]
        assert drawn == [1]
    with ClassRegistry(path, encoder=FakeEncoder()) as third:
        assert third.rejection.threshold() not in (kept, None)
        assert drawn == [1]
    assert registry.rejection.threshold(0.2).max_false_accept == 0.2
    assert drawn == [1, 1]


def test_a_change_while_a_threshold_is_estimated_is_in_the_threshold_that_is_kept(registry, path, monkeypatch):
    import fewshot.openset

    draw, calls = fewshot.openset.leave_one_out_scores, []

    def meanwhile(*given, **named):
        calls.append(1)
        if len(calls) == 1:
            with ClassRegistry(path, encoder=FakeEncoder()) as other:  # as the lock is not held
                other.add("cyan", [png(CYAN)])
        return draw(*given, **named)

    monkeypatch.setattr(fewshot.openset, "leave_one_out_scores", meanwhile)
    revision, _ = registry._store.state()
    assert registry.rejection.set(0.5).n_unknown == 4
    assert len(calls) == 2
    assert registry._store.state()[0] == revision + 2  # the class and the limit, and nothing for what was begun anew


def test_noting_a_threshold_anew_is_no_change_of_what_is_answered(registry, path):
    registry.rejection.set(0.5)
    registry.add("cyan", [png(CYAN)])
    before = registry._store.state()
    with ClassRegistry(path, encoder=FakeEncoder()) as other:
        assert other.rejection.threshold().n_unknown == 4
    assert registry._store.state() == before


def test_a_limit_that_cannot_be_set_any_more_refuses_nothing_and_each_answer_says_so(registry):
    registry.rejection.set(0.5)
    assert registry.predict([png(RED)])[0].false_accept_bound == 0.5
    assert registry.predict([png(RED)], max_false_accept=1)[0].false_accept_bound is None
    registry.remove("green")
    registry.remove("blue")
    answer = registry.predict([png(CYAN)])[0]
    assert (answer.label, answer.false_accept_bound) == ("red", None)
    with pytest.raises(ValueError, match="one class and no background"):
        registry.rejection.threshold()
    registry.remove("red")
    with pytest.raises(RegistryError, match="holds no classes"):
        registry.rejection.threshold()


def test_vectors_of_another_size_are_no_background(registry):
    with pytest.raises(ValueError, match="4"):
        registry.rejection.set(0.1, background=np.ones((5, 4), np.float32))
    assert registry.rejection.max_false_accept is None


@pytest.mark.parametrize("kind", ["negative", "background"])
def test_a_changed_byte_of_what_is_of_no_class_is_noticed_and_repaired_away(registry, path, tmp_path, kind):
    registry.rejection.add_negatives([png(ORANGE), png(BLACK)])
    registry.rejection.set(0.5, background=colours(3))
    registry.close()
    with closing(sqlite3.connect(path)) as connection:
        (id_, vector) = connection.execute("SELECT id, vector FROM outsiders WHERE kind = ?", (kind,)).fetchone()
        changed = bytes([vector[0] ^ 1]) + vector[1:]
        connection.execute("UPDATE outsiders SET vector = ? WHERE id = ?", (changed, id_))
        connection.commit()
    with ClassRegistry(path, encoder=FakeEncoder()) as damaged:
        assert [problem for problem in damaged.check() if problem.startswith(f"{kind} {id_}, ")]
        with pytest.raises(RegistryError, match=rf"{kind} {id_}, .*is not what was stored.*fewshot repair"):
            damaged.predict([png(RED)])
    found = repair_registry(path, tmp_path / "new.fewshot")
    assert found.lost == ("some of what is of no class: negatives, or the background of the threshold",)
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder()) as whole:
        assert whole.check() == []
        assert whole.rejection.n_negatives == (1 if kind == "negative" else 2)
        assert whole.predict([png(RED)])[0].label == "red"


def test_a_file_from_before_the_checksums_is_given_them(registry, path):
    registry.rejection.add_negatives([png(ORANGE)])
    registry.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE outsiders DROP COLUMN checksum")
        connection.execute("PRAGMA user_version = 4")
        connection.commit()
    with ClassRegistry(path, encoder=FakeEncoder()) as opened:
        assert opened.check() == []
        assert opened.predict([png(RED)])[0].label == "red"


def shades(n, seed=0):
    """Pictures of n colours at random, none of them near red."""
    chosen = np.random.default_rng(seed).integers(0, 256, (n, 3))
    return [png((int(r) // 2, 128 + int(g) // 2, int(b))) for r, g, b in chosen]


def test_one_example_of_one_class_and_a_few_negatives_tell_it_from_others_at_the_rank_of_the_negatives(path):
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        with pytest.raises(ValueError, match="add negatives"):
            registry.rejection.set(0.1)
        registry.rejection.add_negatives(shades(15))
        found = registry.rejection.set(0.1)
        assert (found.source, found.n_unknown, found.met, found.false_accept_bound) == ("negatives", 15, True, 0.1)
        assert found.estimated_false_reject is None
        answers = registry.predict([png(RED, 3), png((220, 40, 10)), *shades(20, seed=1)])
        assert [p.label for p in answers[:2]] == ["red", "red"]
        assert [p.label for p in answers[2:]].count("red") <= 2
        assert answers[0].false_accept_bound == 0.1
    with ClassRegistry(path, encoder=FakeEncoder()) as again:
        assert again.rejection.threshold() == found
        again.rejection.add_negatives(shades(4, seed=2))
        assert again.rejection.threshold().n_unknown == 19
        assert (again.rejection.threshold(0.05).met, found.required_classes) == (True, 9)


def test_too_few_negatives_for_a_limit_get_the_strictest_threshold_and_it_is_said(registry):
    for label in ("green", "blue"):
        registry.remove(label)
    registry.rejection.add_negatives([png(GREEN), png(ORANGE)])
    found = registry.rejection.set(0.01)
    assert (found.met, found.false_accept_bound) == (False, pytest.approx(1 / 3))
    assert found.describe().startswith("2 negatives are too few to bound false accepts at 0.01: that takes 99.")
    assert found.estimated_false_reject == 0.0
    # Beside green alone, orange is as close to red as 2 / sqrt(5), and that is the closer of the two.
    assert_allclose(found.value, -2 / np.sqrt(5), atol=1e-5)
    assert labels_of(registry, RED, GREEN, (0, 255, 30)) == ["red", None, None]


def test_of_classes_and_negatives_that_the_threshold_is_estimated_from_which_bounds_false_accepts_at_less(registry):
    registry.rejection.add_negatives(shades(9))
    assert registry.rejection.threshold(0.5).source == "classes"  # these are enough: 2 / (3 + 1)
    fewer = registry.rejection.threshold(0.1)
    assert (fewer.source, fewer.met, fewer.n_unknown) == ("negatives", True, 9)
    assert registry.rejection.set(0.05, background=colours(19)).source == "background"


# The command line


def call(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return (json.loads(result.stdout) if result.stdout else None), result.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Small pictures of noise around a colour: folders of 4 known classes and 19 others, and a registry."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, first, count, each in (("known", 0, 4, 2), ("others", 10, 19, 1)):
        for number in range(first, first + count):
            folder = root / part / str(number)
            folder.mkdir(parents=True)
            colour = np.random.default_rng(number).integers(0, 256, 3)
            for picture in range(each):
                noisy = np.clip(colour + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / f"{picture}.png")
    call("add", root / "made.fewshot", "--from-folder", root / "known")
    return root


@pytest.fixture
def made(pictures, tmp_path):
    return shutil.copy(pictures / "made.fewshot", tmp_path / "r.fewshot")


def test_a_limit_is_kept_shown_followed_and_forgotten(pictures, made):
    answer, notes = call("threshold", made, "--max-false-accept", 0.05)
    assert (answer["false_accept_bound"], answer["unknown_classes"], answer["estimated_from"]) == (0.4, 4, "classes")
    assert "4 registered classes are too few to bound false accepts at 0.05" in notes
    kept, notes = call("threshold", made, "--background", pictures / "others")
    assert (kept["false_accept_bound"], kept["unknown_classes"], kept["estimated_from"]) == (0.05, 19, "background")
    assert "too few" not in notes
    assert call("threshold", made)[0] == kept
    asked = [pictures / "known" / "0" / "0.png", *sorted((pictures / "others").rglob("*.png"))[:5]]
    answers, _ = call("predict", made, *asked, "--nearest", 0)
    assert answers[0]["label"] == "0"
    for row in answers:
        assert (row["label"] is None) == (row["unknown_score"] >= kept["threshold"] - 1e-4), row
    assert None in [row["label"] for row in answers]
    assert call("threshold", made, "--forget")[0] == {"max_false_accept": None, "negatives": 0}


def test_an_unreadable_picture_of_a_background_is_listed_and_the_others_stand(pictures, made, tmp_path):
    shutil.copytree(pictures / "others", tmp_path / "others")
    (tmp_path / "others" / "10" / "bad.png").write_bytes(b"no picture")
    shutil.copy(pictures / "known" / "0" / "0.png", tmp_path / "others" / "11" / "known.png")
    words = ("threshold", made, "--max-false-accept", 0.05, "--background", tmp_path / "others")
    answer, notes = call(*words, status=1)
    assert [failure["path"] for failure in answer["failed"]] == [str(tmp_path / "others" / "10" / "bad.png")]
    assert answer["unknown_classes"] == 19
    assert "ignored: 1 image of the background that a class holds as well" in notes


def test_a_background_of_nothing_readable_is_refused(made, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "bad.png").write_bytes(b"no picture")
    _, notes = call("threshold", made, "--max-false-accept", 0.05, "--background", tmp_path / "others", status=1)
    assert "none of the 1 images" in notes


def test_predict_says_where_the_bound_exceeds_the_limit(pictures, made):
    _, notes = call("predict", made, pictures / "known" / "0" / "0.png", "--max-false-accept", 0.05)
    assert "The bound is 0.4" in notes


def test_negatives_are_added_from_the_command_line(pictures, made):
    answer, _ = call("add", made, "--negative", *sorted((pictures / "others").rglob("*.png"))[:2])
    assert answer == {"label": None, "negatives": 2, "added": 2, "duplicates": 0, "classes": 4}
    assert call("threshold", made, "--forget-negatives")[0]["negatives"] == 0


def test_one_class_and_negatives_are_enough_on_the_command_line(pictures, tmp_path):
    made = tmp_path / "one.fewshot"
    call("add", made, "product", pictures / "known" / "0" / "0.png")
    _, notes = call("threshold", made, "--max-false-accept", 0.05, status=1)
    assert "fewshot add --negative" in notes
    call("add", made, "--negative", *sorted((pictures / "others").rglob("*.png")))
    answer, notes = call("threshold", made, "--max-false-accept", 0.05)
    assert (answer["false_accept_bound"], answer["estimated_from"], answer["unknown_classes"]) == (
        0.05,
        "negatives",
        19,
    )
    assert "too few" not in notes
    answers, _ = call("predict", made, *(pictures / "known" / str(n) / "1.png" for n in range(4)))
    assert [row["label"] for row in answers][1:] == [None, None, None]


def test_a_class_is_told_how_to_have_a_negative_back_and_can(pictures, made):
    first, second = sorted((pictures / "others").rglob("*.png"))[:2]
    call("add", made, "--negative", first, second)
    answer, notes = call("add", made, "new", second, pictures / "known" / "0" / "0.png", status=1)
    assert [conflict["held_by"] for conflict in answer["conflicts"]] == [["none of these"], ["0"]]
    assert "1 image registered under another label; remove them there, or accept" in notes
    assert f"with: fewshot remove {made} --negative ID, the IDs from: fewshot classes {made} --negatives" in notes
    listed, _ = call("classes", made, "--negatives")
    assert [row["source"] for row in listed] == [str(first), str(second)]
    answer, _ = call("remove", made, "--negative", listed[1]["negative"])
    assert answer == {"label": None, "removed": 1, "negatives": 1}
    assert call("add", made, "new", second)[0]["added"] == 1
    _, notes = call("remove", made, "--negative", listed[1]["negative"], status=1)
    assert f"no negative {listed[1]['negative']} in {made}" in notes


@pytest.mark.parametrize(
    "words",
    [
        ["add", "r.fewshot", "--negative", "--from-folder", "known"],
        ["add", "r.fewshot", "--negative"],
        ["remove", "r.fewshot", "bolt", "--negative", "1"],
        ["remove", "r.fewshot"],
        ["classes", "r.fewshot", "bolt", "--negatives"],
        ["threshold", "r.fewshot", "--forget", "--max-false-accept", "0.1"],
        ["threshold", "r.fewshot", "--max-false-accept", "1"],
        ["predict", "r.fewshot", "x.png", "--max-false-accept", "0"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(words):
    call(*words, status=2)
