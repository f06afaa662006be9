"""Labels as paths, and the deepest level that is sure."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.media import labelled_images
from fewshot.registry.label_paths import LabelTree, check_roll_up, levels_of
from fewshot.registry.results import NOT_SURE

LABELS = ["drink/canned/coke", "drink/canned/pepsi", "drink/tea", "food/bread"]


@pytest.mark.parametrize(
    ("label", "levels"),
    [
        ("drink/canned/coke", ["drink", "drink/canned", "drink/canned/coke"]),
        ("coke", ["coke"]),
        ("/coke", ["/coke"]),
        ("coke/", ["coke", "coke/"]),
        ("a//b", ["a", "a//b"]),
        (" / ", [" / "]),
    ],
)
def test_a_label_has_a_level_for_each_part_that_is_not_empty(label, levels):
    assert levels_of(label) == levels


@pytest.mark.parametrize(
    ("probabilities", "share", "answer"),
    [
        ([0.95, 0.02, 0.02, 0.01], 0.9, ("drink/canned/coke", 0.95)),
        ([0.50, 0.45, 0.03, 0.02], 0.9, ("drink/canned", 0.95)),
        ([0.40, 0.30, 0.25, 0.05], 0.9, ("drink", 0.95)),
        ([0.40, 0.30, 0.10, 0.20], 0.9, None),
        ([0.10, 0.10, 0.20, 0.60], 0.6, ("food/bread", 0.6)),
        ([0.30, 0.20, 0.20, 0.30], 0.5, ("drink/canned", 0.5)),
        ([0.35, 0.00, 0.25, 0.40], 0.6, ("drink", 0.6)),  # though the likeliest class is elsewhere
    ],
)
def test_the_deepest_level_that_has_the_share_is_the_answer(probabilities, share, answer):
    (found,) = LabelTree(LABELS).roll_up(np.array([probabilities], np.float32), share)

    assert found == (answer if answer is None else (answer[0], pytest.approx(answer[1], abs=1e-6)))


def test_a_class_that_is_also_a_level_counts_below_itself():
    tree = LabelTree(["drink", "drink/tea"])

    assert tree.roll_up(np.array([[0.6, 0.4], [0.05, 0.95]], np.float32), 0.9) == [
        ("drink", pytest.approx(1.0)),
        ("drink/tea", pytest.approx(0.95)),
    ]


def test_every_answer_agrees_with_sums_made_one_by_one():
    rng = np.random.default_rng(0)
    labels = [f"{a}/{b}/{c}" if c else f"{a}/{b}" for a in "xyz" for b in "mn" for c in ("", "p", "q")]
    probabilities = rng.dirichlet(np.full(len(labels), 0.2), size=200).astype(np.float32)
    for row, found in zip(probabilities, LabelTree(labels).roll_up(probabilities, 0.7), strict=True):
        sums: dict[str, float] = {}
        for label, p in zip(labels, row.tolist(), strict=True):
            for level in levels_of(label):
                sums[level] = sums.get(level, 0.0) + p
        sure = [level for level, p in sums.items() if p >= 0.7]
        assert (found and found[0]) == max(sure, key=lambda level: level.count("/"), default=None)


@pytest.mark.parametrize("share", [0.0, 0.49, 1.01, float("nan")])
def test_a_share_that_two_levels_could_have_is_refused(share):
    with pytest.raises(ValueError, match=r"roll_up is a probability in \[0.5, 1\], not"):
        check_roll_up(share)
    check_roll_up(None)


RED, DARK_RED, BLUE = (255, 0, 0), (215, 0, 30), (0, 0, 255)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Two reds that are hard to tell apart, and a blue."""
    path = tmp_path_factory.mktemp("paths") / "colours.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as made:
        for label, colour in (("warm/red/bright", RED), ("warm/red/dark", DARK_RED), ("cold/blue", BLUE)):
            made.add(label, png(colour))
        yield made


def test_a_picture_between_two_classes_is_answered_by_the_level_above_them(registry):
    between = png((235, 0, 15))
    (plain,) = registry.predict(between)
    (rolled,) = registry.predict(between, roll_up=0.9)

    assert plain.label.startswith("warm/red/")
    assert plain.probability < 0.9
    assert rolled.label == "warm/red"
    assert rolled.probability >= 0.9
    assert rolled.top == plain.top
    assert registry.predict(png(BLUE), roll_up=0.9)[0].label == "cold/blue"


def test_the_sum_is_that_of_the_calibrated_probabilities(registry):
    query = png((150, 20, 110))
    found = registry.predict_group([query])  # its top holds the probability of each class
    p = dict(found.top)

    (rolled,) = registry.predict(query, roll_up=0.5)

    warm = p["warm/red/bright"] + p["warm/red/dark"]
    assert rolled.label in ("warm/red", "warm/red/bright", "warm/red/dark")
    if rolled.label == "warm/red":
        assert rolled.probability == pytest.approx(warm, abs=1e-3)


def test_where_no_level_is_sure_there_is_no_label_and_a_note_says_so(registry):
    (unsure,) = registry.predict(png((120, 0, 120)), roll_up=1.0)

    assert (unsure.label, unsure.note) == (None, NOT_SURE)
    assert unsure.top[0][0]
    assert unsure.probability is not None


def test_one_class_has_no_probability_and_keeps_its_label(tmp_path):
    with ClassRegistry(tmp_path / "one.fewshot", encoder=FakeEncoder()) as one:
        one.add("warm/red", png(RED))
        (found,) = one.predict(png(BLUE), roll_up=0.9)
        group = one.predict_group([png(BLUE)], roll_up=0.9)

    assert (found.label, found.probability) == ("warm/red", None)
    assert (group.label, group.probability) == ("warm/red", None)


def test_groups_roll_up_as_pictures_do(registry):
    between = png((235, 0, 15))
    found = registry.predict_group([between] * 2, roll_up=0.9)
    assert (found.label, found.top[0][0].rpartition("/")[0]) == ("warm/red", "warm/red")
    assert found.probability == pytest.approx(registry.predict(between, roll_up=0.9)[0].probability, abs=2e-3)
    unsure = registry.predict_group([png((120, 0, 120))], roll_up=1.0)
    assert (unsure.label, unsure.note) == (None, NOT_SURE)
    with pytest.raises(ValueError, match="roll_up is a probability"):
        registry.predict_group([between], roll_up=0.3)


def test_an_evaluation_says_how_each_level_is_recognised_and_how_deep_it_answers(registry):
    pictures = [png(colour, size=5) for colour in (RED, (236, 0, 14), DARK_RED, BLUE, (0, 40, 250))]
    truths = ["warm/red/bright", "warm/red/dark", "warm/red/bright", "cold/blue", "warm/red/dark"]

    plain = registry.evaluate(pictures, truths)
    rolled = registry.evaluate(pictures, truths, roll_up=0.9)

    # by hand: the fifth is taken for blue, the third for the other red
    predicted = [row.predicted for row in plain.rows]
    assert (predicted[2], predicted[4]) == ("warm/red/dark", "cold/blue")
    levels = plain.levels
    assert [(one.level, one.n) for one in levels] == [
        (0, 5),
        (1, 5),
        (2, 5),
        (3, 4),
    ]  # the first, of no label, all have
    assert [one.accuracy for one in levels[1:3]] == [0.8, 0.8]
    assert sum(one.answered for one in levels) == 5
    assert [row.answer for row in plain.rows] == predicted
    assert rolled.accuracy == plain.accuracy  # of the closest class, whatever the answer
    answers = [row.answer for row in rolled.rows]
    assert answers[1] == "warm/red"
    assert rolled.rows[1].answered_right
    assert not rolled.rows[4].answered_right
    depths = [0 if answer is None else answer.count("/") + 1 for answer in answers]
    assert [one.answered for one in rolled.levels] == [depths.count(level) for level in range(4)]
    assert rolled.rejected == 0.0


def test_paths_of_folders_are_labels_where_that_is_asked_for(tmp_path):
    for n, place in enumerate(("drink/canned/coke", "drink/tea", "food")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / f"{n}.png").write_bytes(png(size=n + 4))
    (tmp_path / "loose.png").write_bytes(png())

    found = labelled_images(tmp_path, nested=True)

    assert found.labels == ("drink/canned/coke", "drink/tea", "food")
    assert found.ignored == (str(tmp_path / "loose.png"),)
    assert found.nested == ()
    # as before without: the outermost folders that hold pictures themselves are the classes
    assert set(labelled_images(tmp_path / "drink").labels) == {"canned", "tea"}
