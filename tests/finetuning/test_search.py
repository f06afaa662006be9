"""The search for steps and learning rate on held-out folds."""

from __future__ import annotations

import math

import torch
from numpy.testing import assert_allclose, assert_array_equal
from tinted_data import some_support
from torch.nn import functional

from fewshot.finetuning.frozen_baseline import FrozenBaseline, evaluate
from fewshot.finetuning.search import make_folds, search
from fewshot.finetuning.top_trainer import Fold


def test_folds_hold_out_one_example_of_each_class_and_none_twice():
    kind, parts = make_folds(some_support([0, 0, 0, 1, 1, 1, 2]), seed=0)
    assert kind == "examples"
    assert len(parts) == 3
    held = [sorted(set(range(7)) - set(part.train.tolist())) for part in parts]
    assert sorted(held[0] + held[1] + held[2]) == [0, 1, 2, 3, 4, 5]  # the class of one is always learned from
    assert all(len(one) == 2 and one[0] < 3 <= one[1] for one in held)
    assert [part.labels.tolist() for part in parts] == [[0, 1]] * 3
    many = make_folds(some_support([c for c in range(20) for _ in range(5)]), seed=0)[1]
    assert len(many) == 2  # 40 examples are enough


def test_where_less_than_half_of_the_classes_have_two_examples_views_are_held_out():
    support = some_support([0, 0, 1, 2])
    kind, (part,) = make_folds(support, seed=0)
    assert kind == "views"
    assert part.train.tolist() == [0, 1, 2, 3]
    assert part.views.tolist() == [0, 1]
    assert_array_equal(part.held_out[0], torch.cat([support.views[0][2], support.views[0][3]]))
    assert part.labels.tolist() == [0, 0, 1, 2] * 2


def test_examples_of_one_class_alone_are_not_held_out():
    assert make_folds(some_support([0, 1, 1, 1, 1]), seed=0)[0] == "views"  # to answer 1 always would be right
    assert make_folds(some_support([0, 0, 1, 1, 1]), seed=0)[0] == "examples"


class ScriptedTrainer:
    """Turns the directions of two classes by so many degrees at a rate and stop, and notes what it is to fit."""

    def __init__(self, degrees):
        self.degrees = degrees
        self.fitted = []

    def fit(self, support, fold, learning_rate, stops, bar):
        if learning_rate:
            self.fitted.append((learning_rate, *fold.train.tolist()))
        return {stop: functional.normalize(fold.held_out[0]) @ self.turned(learning_rate, stop).mT for stop in stops}

    def turned(self, rate, step):
        turn = math.radians(self.degrees.get((rate, step), 0.0))
        return torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])


def circle(*degrees):
    """Features at these angles: (cos, sin)."""
    turns = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return (torch.stack([turns.cos(), turns.sin()], 1),)


def searched(degrees, held, labels, kind="examples"):
    fold = Fold(torch.arange(4), torch.arange(4), held, torch.tensor(labels))
    return search(ScriptedTrainer(degrees), some_support([0, 0, 1, 1]), [fold], kind, (0.1, 0.2), (1, 2), None, None)


# At 50 degrees an example of class 0 lies beyond the boundary of 45, until both directions turn back by 20.
HELD, LABELS = circle(50, 20, 110, 100), [0, 0, 1, 1]


def test_the_candidate_of_the_lowest_held_out_loss_wins():
    best = searched({(0.1, 1): 20.0, (0.1, 2): 5.0, (0.2, 1): -8.0, (0.2, 2): -20.0}, HELD, LABELS)
    assert (best.learning_rate, best.steps) == (0.2, 2)
    assert (best.accuracy_before, best.accuracy_after, best.held_out) == (0.75, 1.0, "examples")


def fits_of_folds(degrees, *held):
    """The rates and folds that are fitted."""
    trainer = ScriptedTrainer(degrees)
    folds = [
        Fold(torch.tensor([number]), torch.arange(4), features, torch.tensor(labels))
        for number, (features, labels) in enumerate(held)
    ]
    search(trainer, some_support([0, 0, 1, 1]), folds, "examples", (0.1, 0.2), (1, 2), None, None)
    return trainer.fitted


def test_only_the_rate_that_wins_the_first_fold_is_tried_on_the_others_as_long_as_it_is_ahead():
    ahead, behind = {(0.1, 1): -5.0, (0.2, 2): -20.0}, {(r, step): 9.0 for r in (0.1, 0.2) for step in (1, 2)}
    easy, hard = (HELD, LABELS), (circle(55, 58, 60, 62), [1, 1, 1, 1])
    assert fits_of_folds(ahead, easy, easy) == [(0.1, 0), (0.2, 0), (0.2, 1)]
    assert fits_of_folds(behind, easy, easy) == [(0.1, 0), (0.2, 0)]
    # Turned by 20 degrees, the boundary of 45 is at 65: the second fold loses more than the first gained.
    assert fits_of_folds(ahead, easy, hard, easy) == [(0.1, 0), (0.2, 0), (0.2, 1)]


def test_the_untouched_encoder_wins_ties_and_within_chance_and_where_it_has_nothing_to_gain():
    assert searched({}, HELD, LABELS).steps == 0
    # One held-out example gains and one loses: the mean gain is less than its standard error.
    assert searched({(0.1, 1): -1.0}, circle(50, 60), [0, 1]).steps == 0
    right = searched({(0.1, 1): -10.0}, circle(20, 100), [0, 1])
    assert (right.steps, right.accuracy_before) == (0, 1.0)


def test_held_out_views_need_a_larger_gain_than_held_out_examples():
    # The losses fall by 1.05, 0.05, 0.00 and 0.00: 0.28 on the mean, whose standard error is 0.26.
    assert searched({(0.1, 1): -20.0}, HELD, LABELS, "examples").steps == 1
    assert searched({(0.1, 1): -20.0}, HELD, LABELS, "views").steps == 0


def test_sharper_scores_alone_are_no_gain():
    scores, labels = torch.tensor([[2.0, 1.0], [0.5, 1.0], [1.0, 0.5]]), torch.tensor([0, 1, 1])
    first = evaluate([scores], [labels])[0]
    for scale in (0.25, 1, 16):  # of cosines, logits and distances
        times = [10 / 2**k for k in range(8)]
        plainly = [functional.cross_entropy(scores * scale * each, labels) for each in times]
        assert_allclose(evaluate([scores * scale], [labels])[0].mean(), min(plainly))
        assert_allclose(evaluate([scores * scale], [labels])[0].mean(), first.mean(), rtol=0.02)


def test_fine_tuning_must_beat_what_the_untouched_encoder_would_answer():
    features, labels = torch.tensor([[1.0, 0.2], [1.0, 0.1], [0.1, 1.0], [0.2, 1.0]]), torch.tensor([0, 0, 1, 1])
    fold = Fold(torch.arange(4), torch.arange(1), (features,), labels)

    class Swapping(ScriptedTrainer):
        """Its start confuses the two classes, and a step tells them apart."""

        def turned(self, rate, step):
            return torch.eye(2) if step else torch.eye(2).flip(0)

    def chosen(baseline):
        return search(Swapping({}), some_support([0, 0, 1, 1]), [fold], "examples", (0.1,), (1,), baseline, None)

    plain, right = torch.eye(2).flip(0)[labels], torch.eye(2)[labels] * 20
    assert chosen(None).steps == 1
    best = chosen(FrozenBaseline(False, (right,), features))
    assert (best.steps, best.accuracy_before, best.accuracy_after) == (0, 1.0, 1.0)
    best = chosen(FrozenBaseline(False, (plain,), features))
    assert (best.steps, best.accuracy_before, best.accuracy_after) == (1, 0.0, 1.0)
