"""A registry whose pictures may be of several classes: stored once, predicted by a yes or no for each."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png
from sklearn.metrics import average_precision_score, f1_score

from fewshot import ClassRegistry, MultiLabelClassifier
from fewshot.registry.multi_label_results import JudgedLabels, MultiLabelEvaluation
from fewshot.registry.results import AddReport

MAGENTA, YELLOW, CYAN, WHITE = (255, 0, 255), (255, 255, 0), (0, 255, 255), (255, 255, 255)
COLOURS = {
    RED: ["red"], GREEN: ["green"], BLUE: ["blue"], MAGENTA: ["red", "blue"], YELLOW: ["red", "green"],
    CYAN: ["green", "blue"], WHITE: ["red", "green", "blue"],
}  # fmt: skip


def shade(colour, number, size=4):
    """A picture of nearly a colour: another one for each number."""
    return png([abs(part - 7 * number) % 256 for part in colour], size)


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(name="colours"), multi_label=True) as made:
        for colour, labels in COLOURS.items():
            made.add(labels, [shade(colour, number) for number in range(4)])
        yield made


def test_a_picture_of_several_labels_is_an_example_of_each_and_embedded_once(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), multi_label=True) as registry:
        assert registry.add(["red", "blue"], [png(MAGENTA)]) == AddReport(added=2)
        assert registry.add("blue", [png(MAGENTA), png(BLUE)]) == AddReport(added=1, duplicates=1)
        assert registry.add_labelled([(png(CYAN), "green"), (png(CYAN), "blue")]) == AddReport(added=2)
        assert (registry.classes(), registry.encoder.encoded) == ({"red": 1, "blue": 3, "green": 1}, 3)
        assert registry.info().multi_label


def test_the_same_picture_in_several_class_folders_is_of_each(tmp_path):
    for label, colours in (("red", (RED, MAGENTA)), ("blue", (BLUE, MAGENTA))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number, colour in enumerate(colours):
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(png(colour))
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), multi_label=True) as registry:
        assert registry.add_folder(tmp_path / "photos") == AddReport(added=4)
        evaluated = registry.evaluate_labels(tmp_path / "photos")
        assert [sorted(row.labels) for row in evaluated.rows] == [["blue"], ["blue", "red"], ["red"]]
        assert evaluated.also_registered == 3


def test_predictions_are_those_of_the_classifier_on_pictures_and_negatives(registry):
    registry.rejection.add_negatives([png(BLACK), shade(BLACK, 1)])
    questions = [png((250, 20, 240)), png((30, 220, 20)), png((9, 9, 9))]
    vectors, truth = [], []
    for colour, labels in COLOURS.items():
        for number in range(4):
            vectors.append(registry.encoder.encode([shade(colour, number)])[0])
            truth.append([label in labels for label in ("red", "green", "blue")])
    vectors += list(registry.encoder.encode([png(BLACK), shade(BLACK, 1)]))
    by_hand = MultiLabelClassifier().fit(vectors, [*truth, [0, 0, 0], [0, 0, 0]])
    expected = by_hand.predict_proba(registry.encoder.encode(questions))
    for answer, row in zip(registry.predict(questions), expected, strict=True):
        assert dict(answer.top) == pytest.approx(dict(zip(("red", "green", "blue"), row, strict=True)))
        assert {label for label, _ in answer.labels} == {
            label for label, p in zip(("red", "green", "blue"), row, strict=True) if p >= by_hand.threshold_
        }
    assert {label for label, _ in registry.predict(questions)[0].labels} == {"red", "blue"}


def test_the_nearest_examples_are_named_with_all_their_labels(registry):
    (answer,) = registry.predict(png(MAGENTA), nearest=1, top=2)
    assert (len(answer.top), answer.label, answer.probability) == (2, answer.labels[0][0], answer.top[0][1])
    assert answer.nearest[0].label == "red, blue"
    assert answer.nearest[0].score == pytest.approx(1.0)
    assert registry.predict(png(MAGENTA), nearest=0)[0].nearest == ()


def test_predictions_follow_changes(registry):
    before = registry.predict(png(MAGENTA))[0]
    registry.remove("blue")
    assert "blue" not in dict(registry.predict(png(MAGENTA))[0].top)
    assert "blue" in dict(before.top)
    assert registry.predict(png(RED))[0].label == "red"


def test_with_one_class_there_is_no_probability_until_there_are_negatives(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(name="colours"), multi_label=True) as registry:
        registry.add("red", [png(RED), shade(RED, 1)])
        (answer,) = registry.predict(png(RED))
        assert (answer.probability, "no probability" in answer.note) == (None, True)
        registry.rejection.add_negatives([png(BLUE), png(GREEN)])
        assert registry.predict(png(RED))[0].probability > 0.5 > registry.predict(png(BLUE))[0].probability


def test_a_picture_that_is_a_negative_gets_no_label(registry):
    registry.rejection.add_negatives([png(BLACK)])
    (conflict,) = registry.add("red", [png(BLACK)]).conflicts
    assert conflict.held_by == ("none of these",)


def test_it_stays_multi_label_and_a_registry_of_one_label_does_not_become_so(registry, tmp_path):
    registry.close()
    with ClassRegistry(tmp_path / "r.fewshot") as again:
        assert again.multi_label
    with pytest.raises(ValueError, match="made multi-label, and cannot be opened as of one label"):
        ClassRegistry(tmp_path / "r.fewshot", multi_label=False)
    with ClassRegistry(tmp_path / "one.fewshot", encoder=FakeEncoder(name="colours")) as one:
        one.add("red", png(RED))
        with pytest.raises(ValueError, match=r"takes one label .*, and the list 'red', 'blue' gives several"):
            one.add(["red", "blue"], png(MAGENTA))
        with pytest.raises(ValueError, match="is not multi-label: evaluate it with evaluate"):
            one.evaluate_labels([png(RED)], [["red"]])
    with pytest.raises(ValueError, match="made of one label for each example, and cannot be opened as multi-label"):
        ClassRegistry(tmp_path / "one.fewshot", multi_label=True)
    with ClassRegistry(tmp_path / "r.fewshot") as again, pytest.raises(ValueError, match="no label given"):
        again.add([], png(RED))


@pytest.mark.parametrize(
    ("what", "ask"),
    [
        ("limit on false accepts", lambda registry: registry.rejection.set(max_false_accept=0.1)),
        ("limit on false accepts", lambda registry: registry.predict(png(RED), max_false_accept=0.1)),
        ("choice of a classifier", lambda registry: registry.set_classifier("nearest")),
        ("choice of a classifier", lambda registry: registry.compare_classifiers()),
        ("choice of a classifier", lambda registry: ClassRegistry(registry.path, classifier="nearest")),
        ("accuracy; evaluate_labels gives F1", lambda registry: registry.evaluate([png(RED)], ["red"])),
        ("roll-up", lambda registry: registry.predict(png(RED), roll_up=0.9)),
        ("diagnosis", lambda registry: registry.diagnose()),
        ("prediction of groups", lambda registry: registry.predict_groups([png(RED)], ["a"])),
        ("prior of descriptions", lambda registry: registry.describe("red")),
    ],
)
def test_what_has_no_meaning_for_several_labels_is_refused_before_any_work(what, ask, registry):
    encoded = registry.encoder.encoded
    with pytest.raises(ValueError, match=f"each class is a yes or no of its own: there is no {what}"):
        ask(registry)
    assert registry.encoder.encoded == encoded


def test_no_bundle_detector_or_fine_tuning_is_of_a_multi_label_registry(registry, tmp_path):
    from fewshot.detection import Detector
    from fewshot.finetuning import tune_registry
    from fewshot.runtime import export_bundle

    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="there is no bundle for it"):
        export_bundle(registry, tmp_path / "b.zip")
    with pytest.raises(ValueError, match="there is no fine-tuning for it"):
        tune_registry(registry)
    with pytest.raises(ValueError, match="there is no detector for it"):
        Detector(registry)


def test_the_figures_of_an_evaluation_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    truth, p = rng.random((40, 3)) < 0.4, rng.random((40, 3))
    rows = [
        JudgedLabels(
            str(n),
            frozenset(label for label, t in zip(labels, truth[n], strict=True) if t),
            frozenset(label for label, q in zip(labels, p[n], strict=True) if q > 0.5),
            dict(zip(labels, p[n], strict=True)),
        )
        for n in range(40)
    ]
    found = MultiLabelEvaluation(tuple(rows))
    assert found.micro_f1 == pytest.approx(f1_score(truth, p > 0.5, average="micro"))
    assert found.macro_f1 == pytest.approx(f1_score(truth, p > 0.5, average="macro"))
    assert found.mean_average_precision == pytest.approx(average_precision_score(truth, p))
    assert found.exact == pytest.approx((truth == (p > 0.5)).all(axis=1).mean())
    assert found.per_class["b"].n == truth[:, 1].sum()


def test_labels_that_are_not_registered_count_as_missed(registry):
    found = registry.evaluate_labels([png(MAGENTA), png(GREEN), b"junk"], [["red", "pink"], "green", []])
    assert (found.n, found.unregistered, len(found.failed)) == (2, ("pink",), 1)
    assert found.per_class["pink"].recall == 0.0
    with pytest.raises(ValueError, match="2 images but 1 lists of labels"):
        registry.evaluate_labels([png(RED), png(GREEN)], [["red"]])
