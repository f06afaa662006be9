"""Where the threshold to "none of these" is drawn: by hand, by learning without a class, and over many registries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from unknown_data import AXES, drawn, known_of, line_of, scores_of

from fewshot.openset.background import Background
from fewshot.openset.center import Center
from fewshot.openset.leave_one_out import without_class, without_example, without_example_around, without_group
from fewshot.openset.threshold import LeaveOneOutScores, leave_one_out_scores, required_classes
from fewshot.openset.unknown_scores import DEFAULT, SCORES, KnownClasses, evenly_spaced
from fewshot.openset.whitening import Whitening


def test_the_scores_behind_a_threshold_are_those_of_the_classes_left_out_in_turn():
    X = drawn(39, 1, np.random.default_rng(2))[:, :1]
    expected = [scores_of(np.delete(X, j, 0), 1, X[j])[0] for j in range(39)]
    left_out = leave_one_out_scores(X[:, 0], np.arange(39))
    assert_allclose(left_out.unknown, expected, atol=1e-5)
    assert left_out.groups.tolist() == list(range(39))
    assert line_of(X, 1, 0.05) == left_out.threshold(0.05)


def logged(logs, groups, source):
    """Scores 1 + u = exp(log), and classes."""
    return LeaveOneOutScores(np.exp(logs) - 1.0, np.array(groups), np.empty(0), source)


def test_the_threshold_continues_the_tail_of_a_background_by_hand():
    left_out = logged([0.0, -3.0, -1.0], [1, 0, 2], "background")
    # -3 and -1 are the tail, 2 below 0 on average: (2 + 1) / (3 + 1) (1 + t / (2 * 2))^-2 is a third at t = 2.
    assert_allclose(left_out.threshold(1 / 3).value, np.exp(-2.0) - 1)
    # No further out than one of 3 + 1: sqrt(3) - 1, four times.
    assert_allclose(left_out.threshold(0.01).value, np.exp(-4 * (np.sqrt(3) - 1)) - 1)


def test_the_threshold_of_classes_left_out_counts_their_closeness_half_and_their_number_less_one_by_hand():
    left_out = logged([0.0, -3.0, -1.0], [1, 0, 2], "classes")
    # (1 + 1) / (1.5 + 1) (1 + t / (1 * 2))^-1 is two thirds of 0.6 at t = 2.
    assert_allclose(left_out.threshold(0.6).value, np.exp(-2.0) - 1)


def test_the_examples_of_a_class_share_its_weight_by_hand():
    left_out = logged([-3.0, 1.0, -1.0, 0.0], [0, 0, 1, 2], "background")
    # Half of class 0 is 3 below 0, class 1 is 1 below: 5/3 on average, of 1.5 classes. (2.5 / 4) (1 + t / 2.5)^-1.5.
    assert_allclose(left_out.threshold(0.625 / 1.25**1.5).value, np.exp(-2.5 * 0.25) - 1)


@pytest.mark.parametrize(("classes", "level"), [(19, 0.05), (60, 0.05), (12, 0.2), (200, 0.01)])
def test_of_a_tail_that_is_a_power_exactly_the_share_asked_is_accepted(classes, level):
    rng = np.random.default_rng(classes)
    lines = [
        logged(-0.25 * rng.exponential(size=classes), np.arange(classes), "background").threshold(level).value
        for _ in range(1_500)
    ]
    accepted = (1.0 + np.array(lines)) ** 4
    assert_allclose(accepted.mean(), level, atol=3 * accepted.std() / np.sqrt(1_500))


def test_of_very_many_classes_the_threshold_is_the_quantile_whatever_the_tail():
    scores = np.random.default_rng(0).uniform(-0.5, 0.5, size=20_000)
    left_out = LeaveOneOutScores(scores, np.arange(20_000), np.empty(0), "background")
    assert_allclose(left_out.threshold(0.05).value, -0.45, atol=0.003)


def test_scores_that_are_all_one_accept_nothing_and_one_score_is_the_line():
    same = LeaveOneOutScores(np.full(30, 0.25), np.arange(30), np.empty(0), "classes")
    assert_allclose(same.threshold(0.05).value, 0.25)
    assert LeaveOneOutScores(np.array([0.5]), np.array([0]), np.empty(0), "background").threshold(0.2).value == 0.5


def test_one_picture_in_two_classes_does_not_keep_all_others_out():
    rng = np.random.default_rng(7)
    apart = rng.uniform(-0.4, 0.0, 40)
    alike = np.where(np.arange(40) < 2, -1.1, apart)  # their prototypes coincide
    lines = [LeaveOneOutScores(u, np.arange(40), np.empty(0), "classes").threshold(0.05).value for u in (apart, alike)]
    assert -0.99 < lines[1] < lines[0] < -0.3


def test_the_share_refused_is_that_of_the_examples_left_out_in_turn():
    X = drawn(20, 3, np.random.default_rng(3))[:, :3]
    threshold = line_of(X, 3, 0.2)
    refused = []
    for j, i in np.ndindex(20, 3):
        fewer = X.copy()
        unit = X[j] / np.linalg.norm(X[j], axis=1, keepdims=True)
        fewer[j] = np.delete(unit, i, 0).mean(0)
        prototypes = torch.tensor(fewer / np.linalg.norm(fewer, axis=2, keepdims=True)).mean(1)
        prototypes[j] = torch.tensor(fewer[j, 0])
        value = SCORES[DEFAULT](KnownClasses(prototypes[None], prototypes[None]), torch.tensor(X[j, i][None, None]))
        refused.append(float(value) >= threshold.value)
    assert_allclose(threshold.estimated_false_reject, np.mean(refused))


def around_the_others(known, background, n):
    """What is known with a background that lacks the class of vector n; how much it shrinks stays as it was."""
    rest = background.vectors[torch.from_numpy(background.groups != background.groups[n])]
    scatter = float((rest - rest.mean(0)).square().sum())
    return replace(known, whitening=Whitening.of(rest, float(known.whitening.strength) * scatter))


def scores_around_the_others(X, shots, others):
    """The scores of each class of a background (classes, each, d), around the mean of the other classes."""
    background = Background.of(
        others.reshape(-1, others.shape[-1]), np.repeat(np.arange(len(others)), others.shape[1]).astype(str)
    )
    known = known_of(
        X[None, :, :shots].reshape(1, -1, X.shape[2]), np.repeat(np.arange(len(X)), shots)[None], background
    )
    return np.array(
        [
            float(SCORES[DEFAULT](around_the_others(known, background, n), vector[None, None])[0, 0])
            for n, vector in enumerate(background.vectors)
        ]
    )


def test_with_a_background_its_scores_are_around_the_mean_of_the_others():
    rng = np.random.default_rng(4)
    X, others = drawn(5, 2, rng), drawn(99, 1, rng)[:, :1]
    background = Background.of(others[:, 0])
    left_out = leave_one_out_scores(X[:, :2].reshape(10, 24), np.repeat(np.arange(5), 2), background=background)
    assert_allclose(left_out.unknown, scores_around_the_others(X, 2, others), atol=1e-5)
    threshold = line_of(X, 2, 0.05, background)
    assert (threshold.source, threshold.n_unknown, threshold.false_accept_bound) == ("background", 99, 0.05)


def test_pictures_of_one_background_class_are_left_out_together_and_count_as_one():
    rng = np.random.default_rng(5)
    X, others = drawn(5, 1, rng), drawn(30, 6, rng)
    background = Background.of(others.reshape(-1, 24), np.repeat(np.arange(30), 10).astype(str))
    assert line_of(X, 1, 0.05, background).n_unknown == 30
    left_out = leave_one_out_scores(X[:, 0], np.arange(5), background=background)
    order = np.argsort(left_out.groups, kind="stable")
    by_class = background.groups.argsort(kind="stable")
    assert_allclose(left_out.unknown[order], scores_around_the_others(X, 1, others)[by_class], atol=1e-5)


def mixed(classes, rng, d=10):
    """Examples (s, d) of classes of 2 to 4, more than a whitening takes, and the class of each."""
    codes = np.repeat(np.arange(classes), rng.integers(2, 5, classes))
    means = rng.normal(size=(classes, d)) + 1.0
    return torch.tensor(means[codes] + 0.6 * rng.normal(size=(len(codes), d)), dtype=torch.float32), codes


class Pinned(Center):
    """Counts so often, whatever is left out."""

    def weight(self, prototypes):
        return torch.full_like(prototypes[:, :1, :1], self.n_classes)


@pytest.mark.parametrize("center", [None, Center(torch.full((10,), 0.2), 9)], ids=["no centre", "centre"])
@pytest.mark.parametrize("classes", [2, 6, 30, 110], ids=lambda n: f"{n} classes")
def test_leaving_a_class_or_an_example_out_by_products_is_as_learning_without_it(classes, center):
    rng = np.random.default_rng(classes)
    X, codes = mixed(classes, rng)
    known = known_of(X[None].tolist(), codes[None], None, center)
    unit, used = known.support[0], evenly_spaced(len(X)).numpy()
    assert (known.whitening is None) == (len(X) < 64)

    def without(gone, prototypes, query, center):
        whitening = None
        if known.whitening is not None:
            rest = unit[[n for n in used if n not in gone]]
            scatter = float((rest - rest.mean(0)).square().sum())
            whitening = Whitening.of(rest[None], float(known.whitening.strength) * scatter)
        left = KnownClasses(prototypes[None], unit[None], None, whitening, center)
        return float(SCORES[DEFAULT](left, query[None, None])[0, 0])

    p = known.prototypes[0]
    asked = rng.permutation(len(X))[:30]
    classes_left = [
        without(set(np.flatnonzero(codes == codes[n])), p[np.arange(classes) != codes[n]], unit[n], center)
        for n in asked
    ]
    pinned = None if center is None else Pinned(center.vector, float(center.weight(known.prototypes)))
    examples_left = []
    for n in asked:
        fewer, size = p.clone(), (codes == codes[n]).sum()
        fewer[codes[n]] = (size * p[codes[n]] - unit[n]) / (size - 1)
        examples_left.append(without({n}, fewer, unit[n], pinned))
    assert_allclose(without_class(known, codes, asked), classes_left, atol=2e-5)
    assert_allclose(without_example(known, codes, asked), examples_left, atol=2e-5)


@pytest.mark.parametrize(("groups", "each"), [(30, 4), (100, 3), (70, 1), (19, 1), (2, 40)])
def test_leaving_a_background_class_out_by_products_is_as_a_background_without_it(groups, each):
    rng = np.random.default_rng(groups)
    X, codes = mixed(6, rng)
    others = np.repeat(np.arange(groups), each)
    background = Background.of(rng.normal(size=(len(others), 10)).astype(np.float32), others.astype(str))
    known = known_of(X[None].tolist(), codes[None], background)
    expected = [
        float(SCORES[DEFAULT](around_the_others(known, background, n), vector[None, None])[0, 0])
        for n, vector in enumerate(background.vectors)
    ]
    assert_allclose(without_group(known, background, np.arange(len(others))), expected, atol=2e-5)
    fewer = []
    for n, code in enumerate(codes):
        left, size = known.prototypes.clone(), (codes == code).sum()
        left[0, code] = (size * left[0, code] - known.support[0, n]) / (size - 1)
        fewer.append(float(SCORES[DEFAULT](replace(known, prototypes=left), X[n][None, None])[0, 0]))
    assert_allclose(without_example_around(known, codes, np.arange(len(X))), fewer, atol=2e-5)


def test_a_background_of_one_class_leaves_nothing_when_it_is_left_out():
    background = Background.of(np.eye(3, dtype=np.float32), ["a", "a", "a"])
    known = known_of(AXES, [[0, 1]], background)
    assert_allclose(without_group(known, background, np.array([0, 2])), [-1.0, -np.log(2) / 40], atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "level", "met", "bound"),
    [
        (19, 0.05, True, 0.05),
        (18, 0.05, False, 2 / 19),
        (9, 0.1, True, 0.1),
        (4, 0.05, False, 0.4),
        (99, 0.01, True, 0.01),
    ],
)
def test_nineteen_classes_bound_false_accepts_at_five_percent_and_fewer_at_more(classes, level, met, bound):
    threshold = line_of(drawn(classes, 1, np.random.default_rng(0)), 1, level)
    assert threshold.met is met
    assert_allclose(threshold.false_accept_bound, bound)
    assert threshold.required_classes == required_classes(level, "classes") == round(1 / level) - 1


@pytest.mark.parametrize(("level", "met", "bound"), [(0.34, False, 2 / 3), (0.5, False, 2 / 3), (0.7, True, 0.7)])
def test_two_classes_are_compared_with_one_another_alone_and_bound_at_two_thirds(level, met, bound):
    threshold = line_of(drawn(2, 1, np.random.default_rng(0)), 1, level)
    assert (threshold.met, threshold.false_accept_bound) == (met, pytest.approx(bound))
    assert threshold.required_classes == (1 if met else 3)
    assert required_classes(level, "background") < 3


def test_a_limit_below_the_bound_gets_the_strictest_threshold_there_is():
    X = drawn(5, 1, np.random.default_rng(0))
    strictest = line_of(X, 1, 1 / 6)
    assert strictest.met
    assert line_of(X, 1, 0.01).value == strictest.value < line_of(X, 1, 0.4).value
    two = [line_of(drawn(2, 4, np.random.default_rng(0)), 4, level).value for level in (0.01, 0.5, 0.7)]
    assert two[0] == two[1] < two[2]


def test_the_bound_of_a_background_too_small_is_one_step_not_two():
    rng = np.random.default_rng(0)
    threshold = line_of(drawn(5, 1, rng), 1, 0.05, Background.of(drawn(9, 1, rng)[:, 0]))
    assert (threshold.met, threshold.false_accept_bound) == (False, 0.1)


def test_too_few_classes_are_said_with_how_many_would_be_enough():
    threshold = line_of(drawn(7, 1, np.random.default_rng(0)), 1, 0.05)
    assert threshold.describe() == (
        "7 registered classes are too few to bound false accepts at 0.05: that takes 19. The bound is 0.25; register "
        "more classes, or give images of others as a background or as negatives"
    )
    assert threshold.estimated_false_reject is None


def test_one_class_alone_gives_no_threshold_and_says_so():
    with pytest.raises(ValueError, match="one class and no background"):
        line_of(drawn(1, 5, np.random.default_rng(0)), 5, 0.05)
    background = Background.of(drawn(19, 1, np.random.default_rng(1))[:, 0])
    assert line_of(drawn(1, 5, np.random.default_rng(0)), 5, 0.05, background).met


@pytest.mark.parametrize("level", [0, 1, -0.1, float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match=rf"in \(0, 1\), not {level}"):
        line_of(drawn(5, 1, np.random.default_rng(0)), 1, level)


def shares_accepted(given, threshold, registries):
    """Of unknown and known pictures, over random registries; ``threshold`` sets the threshold."""
    rng = np.random.default_rng(8)
    unknown, known = [], []
    for _ in range(registries):
        classes = int(rng.integers(19, 30) if given == "classes" else rng.integers(3, 12))
        X, outside = drawn(classes, 2, rng, d=12), drawn(15, 0, rng, d=12)
        background = Background.of(drawn(40, 1, rng, d=12)[:, 0]) if given == "background" else None
        value = threshold(X, background)
        unknown.append((scores_of(X, 2, outside, background) < value).mean())
        known.append((scores_of(X, 2, X[:, 2:], background) < value).mean())
    return np.array(unknown), np.array(known)


def half_width(shares):
    return 1.96 * shares.std(ddof=1) / np.sqrt(len(shares))


@pytest.mark.parametrize("given", ["classes", "background"])
def test_over_many_registries_unknown_pictures_are_accepted_as_rarely_as_promised(given):
    unknown, known = shares_accepted(given, lambda X, background: line_of(X, 2, 0.05, background).value, 80)
    assert unknown.mean() <= 0.05 + half_width(unknown)
    assert unknown.mean() > 0.03  # nor is the threshold so low that it says little
    assert known.mean() > 0.2


def test_a_threshold_without_the_finite_sample_would_break_the_promise():
    """The meta-test of the one above: the plain 5 % quantile of the classes left out accepts too many."""

    def plain(X, _):
        left_out = leave_one_out_scores(X[:, :2].reshape(-1, X.shape[2]), np.repeat(np.arange(len(X)), 2))
        return np.quantile(left_out.unknown[::2], 0.05)

    unknown, _ = shares_accepted("classes", plain, 80)
    assert unknown.mean() > 0.05 + half_width(unknown)


@pytest.mark.parametrize(("shots", "centre"), [(1, False), (1, True), (3, False), (3, True)])
def test_one_class_and_negatives_are_scored_as_by_learning_without_each(shots, centre):
    X, others = drawn(1, shots, np.random.default_rng(1))[:, :shots], drawn(5, 0, np.random.default_rng(2))[:, 0]
    center = Center.of(drawn(30, 1, np.random.default_rng(3))[:, 0], [str(n) for n in range(30)]) if centre else None

    def cosine(query, keys):
        unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
        return (unit(keys) @ unit(query)).max()

    def score(query, support, negatives):
        prototype = (support / np.linalg.norm(support, axis=-1, keepdims=True)).mean(0, keepdims=True)
        further = cosine(query, negatives) - cosine(query, prototype)
        return scores_of(support[None], len(support), query, center=center)[0] + max(further, 0.0)

    found = leave_one_out_scores(X[0], np.zeros(shots, int), center=center, negatives=others)
    assert (found.source, found.groups.tolist()) == ("negatives", list(range(5)))
    assert_allclose(found.unknown, [score(others[n], X[0], np.delete(others, n, 0)) for n in range(5)], atol=1e-5)
    left_out = [score(X[0, n], np.delete(X[0], n, 0), others) for n in range(shots)] if shots > 1 else []
    assert_allclose(np.sort(found.known), np.sort(left_out), atol=1e-5)


@pytest.mark.parametrize(
    ("level", "value", "met", "bound"),
    [
        (0.5, 2.0, True, 0.5),
        (0.25, 1.0, True, 0.25),
        (0.3, 1.0, True, 0.3),
        (0.05, 1.0, False, 0.25),
        (0.9, 3.0, True, 0.9),
    ],
)
def test_three_negatives_bound_false_accepts_by_their_rank_at_a_quarter_and_no_less(level, value, met, bound):
    found = LeaveOneOutScores(np.array([3.0, 1.0, 2.0]), np.arange(3), np.array([0.5]), "negatives").threshold(level)
    assert (found.value, found.met, found.false_accept_bound, found.n_unknown) == (value, met, bound, 3)
    if not met:
        assert found.describe().startswith(
            "3 negatives are too few to bound false accepts at 0.05: that takes 19. The bound is 0.25; add more neg"
        )


def test_over_many_classes_of_one_example_the_share_of_unknown_images_accepted_is_the_rank_of_the_negatives():
    """7 negatives and a limit of 0.25: the second lowest of them, 2 / 8."""
    rng, accepted = np.random.default_rng(0), []
    for _ in range(400):
        X, negatives = drawn(1, 1, rng), drawn(7, 0, rng)[:, 0]
        value = leave_one_out_scores(X[0, :1], [0], negatives=negatives).threshold(0.25).value
        query = drawn(20, 0, rng)[:, 0]
        unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
        closest, own = (unit(query) @ unit(negatives).T).max(1), unit(query) @ unit(X[0, 0])
        accepted.append((np.maximum(closest - own, 0.0) - own < value).mean())
    # At most, as a new image has one negative more beside it than each of these had.
    assert 0.17 < np.mean(accepted) < 0.25 + 0.02
