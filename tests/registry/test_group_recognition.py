"""Several pictures of one object get one answer."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeEncoder, png
from numpy.testing import assert_allclose

from fewshot import ClassRegistry, ImageError
from fewshot.classifiers import SoftKMeansClassifier
from fewshot.registry import CLASSIFIERS, Failure

RED, GREEN, BLUE = ([(255, 0, 0), (230, 40, 0)], [(0, 255, 0), (40, 230, 0)], [(0, 0, 255), (0, 40, 230)])
# Of one reddish object, the last of which looks green.
FRAMES = [png(colour) for colour in ((200, 90, 10), (190, 30, 90), (150, 140, 20), (110, 150, 20))]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "colours.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as made:
        for label, colours in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            made.add(label, map(png, colours))
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The same classes, and shades of grey that are none of them."""
    path = tmp_path_factory.mktemp("guarded") / "colours.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as made:
        for label, colours in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            made.add(label, map(png, colours))
        made.rejection.add_negatives([png((n, n + 9, n)) for n in range(60, 240, 20)])
        yield made


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_one_picture_alone_and_its_copies_are_answered_as_the_picture(registry, classifier):
    registry.set_classifier(classifier)
    (single,) = registry.predict(FRAMES[0], top=3)

    for group in (FRAMES[:1], FRAMES[:1] * 4):
        found = registry.predict_group(group, top=3)
        assert found.label == single.label
        assert found.probability == pytest.approx(single.probability, abs=2e-3)
        assert found.unknown_score == pytest.approx(single.unknown_score, abs=1e-5)
        assert found.effective_size == pytest.approx(1.0, abs=1e-5)
        assert sum(p for _, p in found.top) == pytest.approx(1.0, abs=1e-5)
    registry.set_classifier("whitened")


def test_different_pictures_count_for_more_than_one_and_for_fewer_than_they_are(registry):
    found = registry.predict_group(FRAMES[:3])

    assert 1 < found.effective_size < 3
    assert found.label == "red"
    assert [name for name, _ in found.top] == ["red", "green", "blue"]
    assert found.top[0][1] == found.probability


def test_several_groups_are_answered_as_each_alone_in_the_order_in_which_they_come(registry):
    groups = ["b", "a", "b", "a"]
    found = registry.predict_groups(FRAMES, groups)

    assert [one.group for one in found] == ["b", "a"]
    for one, some in zip(found, (FRAMES[::2], FRAMES[1::2]), strict=True):
        alone = registry.predict_group(some)
        assert alone.label == one.label
        assert_allclose([p for _, p in one.top], [p for _, p in alone.top], atol=1e-6)
    assert [len(one.members) for one in found] == [2, 2]


def test_a_picture_that_cannot_be_read_is_listed_in_its_place_and_the_others_answer(registry):
    found = registry.predict_group([FRAMES[0], b"broken", FRAMES[1]])

    assert found.label == registry.predict_group(FRAMES[:2]).label
    assert [isinstance(one, Failure) for _, one in found.members] == [False, True, False]
    assert found.failed[0].reason.startswith("not an image")
    assert found.agreement == 1.0  # of those that can be read


def test_a_group_of_nothing_readable_says_so_beside_others_and_raises_alone(registry):
    broken, fine = registry.predict_groups([b"x", FRAMES[0], b"y"], ["broken", "fine", "broken"])

    assert (broken.label, broken.probability, broken.top, len(broken.failed)) == (None, None, (), 2)
    assert fine.label == "red"
    with pytest.raises(ImageError, match="not an image"):
        registry.predict_group([b"x", b"y"])
    with pytest.raises(ValueError, match="a group holds at least one image, not none"):
        registry.predict_group([])
    assert registry.predict_groups([], []) == []


def test_no_label_where_too_few_members_agree(registry):
    found = registry.predict_group(FRAMES, min_agreement=0.75)
    assert (found.label, found.agreement) == ("red", 0.75)

    refused = registry.predict_group(FRAMES, min_agreement=0.76)
    assert refused.label is None
    assert refused.top[0][0] == "red"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_agreement": 1.5}, r"min_agreement is a share of a group's members, in \[0, 1\], not 1.5"),
        ({"top": 0}, "top must be a whole number of at least 1, not 0"),
        ({"max_false_accept": 2.0}, "max_false_accept is a share of unknown images"),
    ],
)
def test_nonsense_is_refused_with_what_was_given(registry, options, message):
    with pytest.raises(ValueError, match=message):
        registry.predict_group(FRAMES, **options)


def test_each_picture_needs_a_group(registry):
    with pytest.raises(ValueError, match="4 images but 3 groups; each image needs one"):
        registry.predict_groups(FRAMES, "abc")


def test_a_group_of_no_class_is_refused_at_a_limit_and_one_of_a_class_is_not(guarded):
    grey = [png((n, n + 9, n)) for n in (110, 130, 150)]
    near = [png((250, n, 0)) for n in (0, 10, 20)]
    unknown, known = guarded.predict_groups([*grey, *near], "uuukkk", max_false_accept=0.1)

    assert (unknown.label, known.label) == (None, "red")
    assert unknown.false_accept_bound == 0.1
    assert unknown.unknown_score > known.unknown_score
    assert guarded.predict_groups(grey, "uuu", max_false_accept=1)[0].label is not None


def test_the_refusal_of_one_picture_is_that_of_predict(guarded):
    pictures = [png(colour) for colour in np.random.default_rng(0).integers(0, 255, (30, 3))]
    pictures += [png((n, n + 9, n)) for n in range(75, 175, 10)]
    singles = guarded.predict(pictures, max_false_accept=0.2)
    groups = guarded.predict_groups(pictures, map(str, range(40)), max_false_accept=0.2)

    labels = [one.label for one in singles]
    assert [one.label for one in groups] == labels
    assert None in labels
    assert len(set(labels)) > 2


def test_negatives_bound_false_accepts_of_groups_beside_one_class(tmp_path):
    with ClassRegistry(tmp_path / "red.fewshot", encoder=FakeEncoder()) as one:
        one.add("red", map(png, RED))
        one.rejection.add_negatives([png((0, n, 255)) for n in range(0, 200, 20)])
        one.rejection.set(0.2)
        red, blue = one.predict_groups([*map(png, RED), *map(png, BLUE)], "rrbb")

    assert (red.label, blue.label) == ("red", None)
    assert red.probability is None
    assert "with one class there is nothing to compare it with" in red.note


def test_a_transductive_classifier_reads_all_groups_together(registry, tmp_path):
    with ClassRegistry(tmp_path / "t.fewshot", encoder=FakeEncoder(), classifier=SoftKMeansClassifier()) as own:
        for label, colours in (("red", RED), ("green", GREEN)):
            own.add(label, map(png, colours))
        found = own.predict_groups(FRAMES, map(str, range(4)))  # each alone
        singles = own.predict(FRAMES)

    assert [one.label for one in found] == [one.label for one in singles]
    assert_allclose([one.probability for one in found], [one.probability for one in singles], atol=2e-3)
