"""Episodes hold what was asked for, nothing twice, and the same again from the same seed."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from fewshot.episodes import EpisodeSampler

Y = np.repeat(["a", "b", "c", "d", "e", "f", "g"], [8, 9, 40, 41, 60, 8, 300])


def drawn(y=Y, **changes):
    asked = {"n_way": 5, "n_shot": 3, "n_query": 4, "n_episodes": 300, **changes}
    return EpisodeSampler(y, **asked)


def rows(sampler):
    """Each episode alone, padding taken off."""
    for some in sampler:
        for classes, s, sl, q, ql in zip(
            some.classes, some.support, some.support_labels, some.query, some.query_labels, strict=True
        ):
            yield classes[classes >= 0], s[sl >= 0], sl[sl >= 0], q[ql >= 0], ql[ql >= 0]


def test_an_episode_holds_the_ways_shots_and_queries_asked_for_and_nothing_twice():
    sampler = drawn()
    names = np.array(sampler.classes_)
    count = 0
    for classes, support, support_labels, query, query_labels in rows(sampler):
        assert len(set(classes.tolist())) == 5
        assert np.bincount(support_labels).tolist() == [3] * 5
        assert np.bincount(query_labels).tolist() == [4] * 5
        assert len({*support.tolist(), *query.tolist()}) == 5 * 7
        assert_array_equal(Y[support], names[classes[support_labels]])
        assert_array_equal(Y[query], names[classes[query_labels]])
        count += 1
    assert count == len(sampler) == 300


def test_the_same_seed_gives_the_same_episodes_however_many_are_drawn():
    few, many = list(rows(drawn(n_episodes=10))), list(rows(drawn(n_episodes=600)))
    for one, other in zip(few, many, strict=False):
        for first, second in zip(one, other, strict=True):
            assert_array_equal(first, second)
    other = next(rows(drawn(random_state=1)))
    assert any((a != b).any() for a, b in zip(few[0], other, strict=True))
    assert any((a != b).any() for a, b in zip(many[0], many[256], strict=True))  # chunks differ


@pytest.mark.parametrize("size", [8, 300])
def test_every_example_of_a_class_is_as_likely_as_any_other(size):
    y = np.repeat([0, 1], size)
    sampler = EpisodeSampler(y, n_way=2, n_shot=3, n_query=4, n_episodes=4096)
    seen = np.bincount(np.concatenate([row[1] for row in rows(sampler)]), minlength=2 * size)
    assert chisquare(seen).pvalue > 1e-4


def test_every_pair_of_classes_is_as_likely_as_any_other():
    y = np.repeat(np.arange(4), 10)
    sampler = EpisodeSampler(y, n_way=2, n_shot=1, n_query=1, n_episodes=4096)
    pairs = [tuple(sorted(row[0].tolist())) for row in rows(sampler)]
    counts = [pairs.count(pair) for pair in itertools.combinations(range(4), 2)]
    assert sum(counts) == 4096
    assert chisquare(counts).pvalue > 1e-4


def test_the_classes_of_an_episode_come_from_one_group():
    groups = np.where(np.isin(Y, ["a", "b", "c"]), "left", "right")
    seen = set()
    for classes, *_ in rows(drawn(n_way=3, groups=groups)):
        names = {drawn().classes_[c] for c in classes}
        assert names == {"a", "b", "c"} or names < {"d", "e", "f", "g"}
        seen.add(names == {"a", "b", "c"})
    assert seen == {True, False}


def test_imbalanced_queries_keep_their_number_and_have_dirichlets_mean_and_spread():
    y = np.repeat(np.arange(5), 200)
    sampler = EpisodeSampler(y, n_way=5, n_shot=1, n_query=15, n_episodes=4096, query_imbalance=2.0)
    counts = np.array([np.bincount(row[4], minlength=5) for row in rows(sampler)])
    assert (counts.sum(1) == 75).all()
    shares = counts / 75
    assert np.abs(shares.mean(0) - 0.2).max() < 0.01
    # Dirichlet(2, ..., 2) of 5: variance (1/5)(4/5)/11
    assert np.abs(shares.var(0) - 0.16 / 11).max() < 0.001
    for classes, _, _, query, labels in itertools.islice(rows(sampler), 50):
        assert_array_equal(y[query], classes[labels])
        assert len(set(query.tolist())) == 75
        assert len(labels) == 75


def test_various_episodes_follow_meta_datasets_bounds():
    y = np.repeat(np.arange(60), np.arange(60) + 15)
    sampler = EpisodeSampler(y, n_way="various", n_shot="various", n_query=10, n_episodes=200)
    ways, shots = [], []
    for classes, support, support_labels, query, query_labels in rows(sampler):
        ways.append(len(classes))
        per_class = np.bincount(support_labels, minlength=len(classes))
        shots += per_class.tolist()
        assert per_class.min() >= 1
        assert len(support) <= 500
        asked = np.bincount(query_labels)
        assert len(set(asked.tolist())) == 1
        assert asked[0] <= 10
        assert len({*support.tolist(), *query.tolist()}) == len(support) + len(query)
        assert_array_equal(y[support], classes[support_labels])
    assert min(ways) >= 5
    assert max(ways) <= 50
    assert len(set(ways)) > 20
    assert len(set(shots)) > 10


def test_various_ways_go_with_a_fixed_number_of_shots_and_queries():
    sampler = EpisodeSampler(np.repeat(np.arange(60), 15), n_way="various", n_shot=5, n_query=10, n_episodes=200)
    ways = []
    for classes, support, support_labels, query, query_labels in rows(sampler):
        ways.append(len(classes))
        assert np.bincount(support_labels).tolist() == [5] * len(classes)
        assert np.bincount(query_labels).tolist() == [10] * len(classes)
        assert len({*support.tolist(), *query.tolist()}) == 15 * len(classes)
        assert_array_equal(support // 15, classes[support_labels])
        assert_array_equal(query // 15, classes[query_labels])
    assert min(ways) >= 5
    assert max(ways) <= 50
    assert len(set(ways)) > 20
    assert sampler.disjoint() is None


def test_various_shots_go_with_a_fixed_number_of_ways():
    y = np.repeat(np.arange(20), np.arange(20) + 2)
    sampler = EpisodeSampler(y, n_way=3, n_shot="various", n_query=10, n_episodes=200)
    shots = set()
    for classes, support, support_labels, query, query_labels in rows(sampler):
        assert len(set(classes.tolist())) == 3
        shots.update(np.bincount(support_labels, minlength=3).tolist())
        smallest = int((classes + 2).min())  # class c has c + 2 examples
        assert np.bincount(query_labels).tolist() == [min(10, smallest // 2)] * 3
        assert_array_equal(y[support], classes[support_labels])
        assert len({*support.tolist(), *query.tolist()}) == len(support) + len(query)
    assert min(shots) == 1
    assert len(shots) > 10


def test_without_replacement_no_example_is_in_two_episodes():
    y = np.repeat(np.arange(10), 40)
    sampler = EpisodeSampler(y, n_way=5, n_shot=3, n_query=5, n_episodes=10, replacement=False)
    assert [len(some) for some in sampler] == [10]
    used = [i for _, support, _, query, _ in rows(sampler) for i in (*support.tolist(), *query.tolist())]
    assert len(used) == len(set(used)) == 10 * 5 * 8 == len(y)


def most_deals(left, ways):
    """The largest number of hands of ``ways`` different classes, by trying all."""

    @functools.cache
    def most(left):
        hands = itertools.combinations([c for c, n in enumerate(left) if n], ways)
        return max(
            (1 + most(tuple(sorted(n - (c in hand) for c, n in enumerate(left)))) for hand in hands),
            default=0,
        )

    return most(tuple(left))


@pytest.mark.parametrize("capacities", [(1, 1, 1), (2, 1, 1, 1), (5, 1, 1, 1), (3, 3, 2, 1), (4, 2, 2, 1, 1)])
def test_as_many_disjoint_episodes_are_dealt_as_can_be(capacities):
    y = np.repeat(np.arange(len(capacities)), np.array(capacities) * 3 + 1)
    for seed in range(5):
        sampler = EpisodeSampler(y, n_way=3, n_shot=1, n_query=2, n_episodes=99, random_state=seed)
        apart = sampler.disjoint()
        assert (1 if apart is None else len(apart)) == most_deals(capacities, 3)


@pytest.mark.parametrize("changes", [{}, {"query_imbalance": 2.0}], ids=["balanced", "imbalanced"])
def test_disjoint_episodes_are_as_asked_for_share_nothing_and_do_not_end_early(changes):
    y = np.repeat(np.arange(8), [60, 50, 40, 40, 60, 50, 45, 45])
    groups = np.where(y < 3, "left", "right")
    sampler = EpisodeSampler(y, n_way=3, n_shot=2, n_query=4, n_episodes=99, groups=groups, **changes)
    apart = sampler.disjoint()
    found = list(rows(apart))
    assert len(found) == len(apart) > 9
    used = np.concatenate([[*support, *query] for _, support, _, query, _ in found])
    assert len(set(used.tolist())) == len(used)
    for classes, support, support_labels, query, query_labels in found:
        assert_array_equal(y[support], classes[support_labels])
        assert_array_equal(y[query], classes[query_labels])
        assert len({c < 3 for c in classes.tolist()}) == 1
        assert np.bincount(support_labels).tolist() == [2, 2, 2]
        assert len(query) == 12
    spread = [np.bincount(row[4], minlength=3).tolist() for row in found]
    assert ([4, 4, 4] in spread and len({*map(tuple, spread)}) == 1) == (not changes)
    again = EpisodeSampler(
        y, n_way=3, n_shot=2, n_query=4, n_episodes=len(apart), groups=groups, replacement=False, **changes
    )
    for one, other in zip(found, rows(again), strict=True):
        assert_array_equal(np.concatenate(one), np.concatenate(other))


def test_where_disjoint_episodes_make_no_sense_there_are_none():
    assert drawn(n_episodes=1).disjoint() is None
    assert drawn(n_way="various", n_shot="various").disjoint() is None
    assert EpisodeSampler([0, 0, 0, 1, 1, 1], n_way=2, n_shot=1, n_query=1, n_episodes=9).disjoint() is None
    apart = drawn(n_episodes=2, replacement=False)
    assert apart.disjoint() is apart
    assert len(drawn(n_episodes=99).disjoint()) == 3
    assert len(drawn(n_episodes=2).disjoint()) == 2  # no more than were asked for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_shot": 5}, "class 'a' has 8 examples, but an episode may need n_shot \\+ n_query = 9"),
        ({"n_way": 8}, "no group has the 8 classes that an episode needs; there are 7 classes"),
        ({"query_imbalance": 2.0}, "class 'a' has 8 examples, .* n_shot \\+ n_way \\* n_query = 23"),
        ({"query_imbalance": 0}, "query_imbalance is a finite concentration above 0, not 0"),
        ({"query_imbalance": np.inf}, "query_imbalance is a finite concentration above 0, not inf"),
        ({"n_way": "various", "query_imbalance": 2.0}, "'various' episodes have neither query_imbalance nor"),
        ({"n_shot": "various", "replacement": False}, "'various' episodes have neither query_imbalance nor"),
        ({"n_way": "various", "n_shot": 5}, r"class 'a' has 8 examples, but an episode may need n_shot \+ n_query = 9"),
        ({"n_way": 1}, "n_way must be a whole number of at least 2, not 1"),
        ({"n_episodes": 0}, "n_episodes must be a whole number of at least 1, not 0"),
        ({"replacement": False}, "only \\d+ episodes without a common example could be drawn, not 300"),
        ({"groups": np.arange(len(Y))}, "class 'a' lies in 8 groups; it must lie in one"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once_naming_what_is_short(changes, message):
    with pytest.raises(ValueError, match=message):
        drawn(**changes)
