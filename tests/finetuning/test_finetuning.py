"""Fine-tuning: views, gradient steps, the choice that does no harm, and the classifier around them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_networks import thin_encoder
from torch import nn
from torch.nn import functional

from fewshot import EmbeddingCache, FineTuneClassifier, ImageError, PrototypeClassifier, TimmEncoder
from fewshot.calibration import shipped_calibration
from fewshot.encoders.timm_network import load_network
from fewshot.encoders.tta import flipped_centre
from fewshot.finetuning import choice as choosing
from fewshot.finetuning.choice import choose, folds
from fewshot.finetuning.cut import cut
from fewshot.finetuning.frozen import classifier_of, judged
from fewshot.finetuning.gradient_steps import Portions, Steps, Tuner
from fewshot.finetuning.parts import choose_parts
from fewshot.finetuning.support import Viewer, graph_bytes, portions
from fewshot.finetuning.views import altered, plain
from fewshot.finetuning.walk import Job, Method, Seen, Support, Walk, class_scores, prototypes
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers

CPU = torch.device("cpu")
LENS = Lens((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU, "float32")
COLOURS = {"red": (150, 110, 110), "green": (110, 150, 110), "blue": (110, 110, 150)}


def tinted(label, seed):
    """Coarse noise with a faint tint, which is all that tells the classes apart."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 60, (6, 6, 1)) + rng.normal(0, 10, (6, 6, 3))
    coarse = np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def encoder():
    return thin_encoder()


@pytest.fixture(scope="module")
def support():
    labels = [label for label in COLOURS for _ in range(3)]
    return [tinted(label, number) for number, label in enumerate(labels)], labels


@pytest.fixture(scope="module")
def queries():
    labels = [label for label in COLOURS for _ in range(10)]
    return [tinted(label, 100 + number) for number, label in enumerate(labels)], np.array(labels)


def directions_of(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bar():
    return Progress(None, "test").__enter__()


def a_tuner(encoder, trainable="last-2", *, workers=1, portions=(100, 100), loss="cross-entropy", schedule="together"):
    network = encoder.exact_network()
    parts = choose_parts(network, trainable, 4)
    trunk, top = cut(network, None, torch.rand(1, 3, 64, 64))
    crew = Workers(top, workers)
    named = dict(network.named_parameters())
    groups = [[named[name] for name in group] for group in parts.groups]
    crew.__enter__()
    return Tuner(top, groups, Method(loss, schedule, 0), LENS, crew, Portions(*portions)), trunk, groups, crew, network


def pixels_of(images):
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def support_of(trunk, images, labels, crew, views=3):
    codes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    return Viewer(trunk, LENS, crew, 4, False, 0).support(pixels_of(images), codes, views, 2**29)


def a_job(material, rate, stops):
    everything = torch.arange(len(material.labels))
    return Job(material, everything, torch.arange(len(material.views[0])), rate, stops, ())


def walked(tuner, material, rate, stops):
    """Directions at each stop of one path."""
    (path,) = tuner.run([a_job(material, rate, stops)], bar())
    return [seen.directions for seen in path.values()]


def directions(encoder, support, rate=1e-3, stops=(0, 3), **settings):
    tuner, trunk, _, crew, _ = a_tuner(encoder, **settings)
    with crew:
        return walked(tuner, support_of(trunk, *support, crew), rate, stops)


def test_a_view_of_a_plain_picture_is_plain_and_of_another_is_another(support):
    grey = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    views = altered(grey, torch.Generator().manual_seed(0), flip=False)
    assert_allclose(views.std((1, 2, 3)), 0, atol=1e-6)
    assert len({round(float(view.mean()), 4) for view in views}) > 1  # brightness differs
    pixels = pixels_of(support[0])
    first, again, other = (altered(pixels, torch.Generator().manual_seed(seed), flip=False) for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first - other).abs().mean() > 0.02
    assert first.min() >= 0
    assert first.max() <= 1


def test_views_that_may_not_differ_are_the_picture_and_flipping_mirrors_about_half(support, monkeypatch):
    for name in ("_TURN", "_ZOOM", "_SHEAR", "_MOVE", "_CONTRAST", "_BRIGHTNESS"):
        monkeypatch.setattr(f"fewshot.finetuning.views.{name}", 0.0)
    pixels = pixels_of(support[0]).repeat(10, 1, 1, 1)
    assert_allclose(altered(pixels, torch.Generator().manual_seed(0), flip=False), plain(pixels), atol=1e-3)
    flipped = altered(pixels, torch.Generator().manual_seed(0), flip=True)
    mirrored = (flipped - plain(pixels).flip(3)).abs().amax((1, 2, 3)) < 1e-3
    kept = (flipped - plain(pixels)).abs().amax((1, 2, 3)) < 1e-3
    assert (mirrored ^ kept).all()
    assert 25 < int(mirrored.sum()) < 65


def test_prototypes_are_means_of_directions_and_scores_ten_times_the_cosine():
    means = prototypes(torch.tensor([[4.0, 0.0], [3.0, 4.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), 2)
    assert_allclose(means, [[0.8, 0.4], [0.0, 1.0]], rtol=1e-6)
    # (0.8, 0.4) has length 0.894: (0.6 * 0.8 + 0.8 * 0.4) / 0.894 = 0.894
    assert_allclose(class_scores(torch.tensor([[3.0, 4.0]]), means), [[8.94427, 8.0]], rtol=1e-6)


@pytest.mark.parametrize("loss", ["cross-entropy", "prototypical"])
def test_workers_and_chunks_change_no_gradient(encoder, support, loss):
    plainly = directions(encoder, support, loss=loss)
    assert (plainly[1] - plainly[0]).abs().max() > 1e-3
    for settings in ({"workers": 2}, {"portions": (2, 2)}, {"portions": (9, 2)}, {"workers": 2, "portions": (5, 2)}):
        found = directions(encoder, support, loss=loss, **settings)
        assert_array_equal(found[0], plainly[0])
        # Adam divides by gradients' sizes, so that sums in another order show where gradients are almost zero.
        assert (found[1] - plainly[1]).norm() < 0.05 * (plainly[1] - plainly[0]).norm()


def test_a_path_starts_from_the_untouched_top_each_time_and_repeats(encoder, support):
    tuner, trunk, groups, crew, network = a_tuner(encoder)
    with crew:
        material = support_of(trunk, *support, crew)
        first, second = (walked(tuner, material, 1e-3, (0, 2, 4)) for _ in range(2))
        assert_array_equal(torch.stack(first), torch.stack(second))
        assert (first[1] - first[0]).abs().max() > 0
        tuner.restore()
        assert_array_equal(first[0], prototypes(tuner.embed(material.plain), material.labels, 3))
        exact = encoder.exact_network().state_dict()
        assert all(torch.equal(tensor, exact[name]) for name, tensor in network.state_dict().items())
    assert len(groups) == 2


def test_progressive_steps_move_the_last_block_first_and_the_one_before_it_slower(encoder, support):
    tuner, trunk, groups, crew, _ = a_tuner(encoder, schedule="progressive")
    start = [group[0].detach().clone() for group in groups]
    with crew:
        material = support_of(trunk, *support, crew)
        moved = []
        for steps in (5, 15):
            walked(tuner, material, 1e-3, (steps,))
            moved.append(
                [float((group[0].detach() - before).abs().max()) for group, before in zip(groups, start, strict=True)]
            )
    assert moved[0][0] > 0
    assert moved[0][1] == 0
    assert 0 < moved[1][1] < moved[1][0] / 2


def test_batch_norms_keep_their_statistics_whatever_trains(encoder, support):
    tuner, trunk, _, crew, network = a_tuner(encoder, "all")
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    with crew:
        material = support_of(trunk, *support, crew)
        walked(tuner, material, 1e-3, (2,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
    assert any("running_mean" in name for name in before)


def test_a_loss_that_is_not_finite_ends_the_path_with_what_was_seen(encoder, support):
    assert len(directions(encoder, support, rate=1e30, stops=(0, 1, 50))) < 3


@pytest.mark.parametrize("loss", ["cross-entropy", "prototypical"])
def test_a_step_over_many_pictures_shows_some_of_them_and_for_prototypes_whole_classes(loss):
    material = some_support(np.repeat(np.arange(40), 5))
    walk = Walk(a_job(material, 1e-3, (1,)), Method(loss, "together", 0), [[torch.zeros(1, requires_grad=True)]])
    walk.begin(material.plain[0] if loss == "cross-entropy" else None)
    (maps,), labels = walk.draw()
    assert 28 < len(labels) <= 32
    assert len(maps) == len(labels) * (1 if loss == "cross-entropy" else 2)
    if loss == "prototypical":
        assert set(torch.bincount(labels).tolist()) == {0, 5}


def test_maps_beyond_the_memory_are_of_fewer_views_and_beyond_two_an_error(encoder, support):
    _, trunk, _, crew, _ = a_tuner(encoder)
    images, labels = support
    codes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    taken = 9 * 16 * 16 * 16 * 4  # bytes of nine maps, of which the support itself is one
    with crew:
        viewer = Viewer(trunk, LENS, crew, 4, False, 0)
        few = viewer.support(pixels_of(images), codes, 8, 4.5 * taken)
        assert few.views[0].shape == (3, 9, 16, 16, 16)
        with pytest.raises(ValueError, match=r"the maps of 9 pictures take .* GiB a view.*raise memory"):
            viewer.support(pixels_of(images), codes, 8, 2.5 * taken)


def test_the_graph_of_a_picture_is_counted_and_shared_among_workers():
    top = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    maps = [torch.rand(4, 10)]
    assert graph_bytes(top, maps, LENS) == 4 * (10 + 20)  # the inputs of the two layers; tanh's output is one of them
    gib = 12 * 120 / 2**30
    assert portions(top, maps, LENS, 2, gib) == Portions(3, 3)  # half of 12 pictures' graphs, for two
    assert portions(top, maps, LENS, 2, gib / 100) == Portions(1, 1)
    assert portions(top, maps, LENS, 1, 2.0) == Portions(2**30 // 120, 2**29 // 120)  # a CPU's share of what it keeps


def some_support(labels, views=4):
    labels = torch.as_tensor(labels)
    return Support((torch.rand(len(labels), 2),), (torch.rand(views, len(labels), 2),), labels, int(labels.max()) + 1)


def test_folds_hold_out_one_picture_of_each_class_and_none_twice():
    kind, parts = folds(some_support([0, 0, 0, 1, 1, 1, 2]), seed=0)
    assert kind == "examples"
    assert len(parts) == 3
    held = [sorted(set(range(7)) - set(part.learn.tolist())) for part in parts]
    assert sorted(held[0] + held[1] + held[2]) == [0, 1, 2, 3, 4, 5]  # the class of one is always learned from
    assert all(len(one) == 2 and one[0] < 3 <= one[1] for one in held)
    assert [part.labels.tolist() for part in parts] == [[0, 1]] * 3
    many = folds(some_support([c for c in range(20) for _ in range(5)]), seed=0)[1]
    assert len(many) == 2  # 40 pictures are enough


def test_where_less_than_half_of_the_classes_have_two_pictures_views_are_held_out():
    support = some_support([0, 0, 1, 2])
    kind, (part,) = folds(support, seed=0)
    assert kind == "views"
    assert part.learn.tolist() == [0, 1, 2, 3]
    assert part.views.tolist() == [0, 1]
    assert_array_equal(part.held[0], torch.cat([support.views[0][2], support.views[0][3]]))
    assert part.labels.tolist() == [0, 0, 1, 2] * 2


def test_pictures_of_one_class_alone_are_not_held_out():
    assert folds(some_support([0, 1, 1, 1, 1]), seed=0)[0] == "views"  # to answer 1 always would be right
    assert folds(some_support([0, 0, 1, 1, 1]), seed=0)[0] == "examples"


class Scripted:
    """Steps whose paths turn the two classes' directions by so many degrees each."""

    follow = Steps.follow

    def __init__(self, degrees):
        self.degrees = degrees
        self.asked = []

    def run(self, jobs, bar):
        self.asked += [(job.rate, tuple(job.learn.tolist())) for job in jobs]
        return [{step: Seen(self.turned(job.rate, step), job.asked[0][0]) for step in job.stops} for job in jobs]

    def turned(self, rate, step):
        turn = math.radians(self.degrees.get((rate, step), 0.0))
        return torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])


def circle(*degrees):
    """Features at these angles: (cos, sin)."""
    turns = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return (torch.stack([turns.cos(), turns.sin()], 1),)


def judge(degrees, held, labels, kind="examples"):
    support = some_support([0, 0, 1, 1])
    part = choosing.Fold(torch.arange(4), torch.arange(4), held, torch.tensor(labels))
    (best,) = Scripted(degrees).follow([choose(support, kind, [part], (0.1, 0.2), (1, 2))], bar())
    return best


# At 50 degrees a picture of class 0 lies beyond the boundary of 45, until both directions turn back by 20.
HELD, LABELS = circle(50, 20, 110, 100), [0, 0, 1, 1]


def test_the_candidate_of_the_lowest_held_out_loss_wins():
    best = judge({(0.1, 1): 20.0, (0.1, 2): 5.0, (0.2, 1): -8.0, (0.2, 2): -20.0}, HELD, LABELS)
    assert (best.learning_rate, best.steps) == (0.2, 2)
    assert (best.accuracy_before, best.accuracy_after, best.held_out) == (0.75, 1.0, "examples")


def asked_of_folds(degrees, *held):
    """The rates and the folds that paths were asked for, untouched ones left out."""
    tuner, support = Scripted(degrees), some_support([0, 0, 1, 1])
    parts = [
        choosing.Fold(torch.tensor([number]), torch.arange(4), features, torch.tensor(labels))
        for number, (features, labels) in enumerate(held)
    ]
    tuner.follow([choose(support, "examples", parts, (0.1, 0.2), (1, 2))], bar())
    return [(rate, *chosen) for rate, chosen in tuner.asked if rate]


def test_only_the_rate_that_wins_the_first_fold_is_tried_on_the_others_as_long_as_it_is_ahead():
    ahead, behind = {(0.1, 1): -5.0, (0.2, 2): -20.0}, {(r, step): 9.0 for r in (0.1, 0.2) for step in (1, 2)}
    easy, hard = (HELD, LABELS), (circle(55, 58, 60, 62), [1, 1, 1, 1])
    assert asked_of_folds(ahead, easy, easy) == [(0.1, 0), (0.2, 0), (0.2, 1)]
    assert asked_of_folds(behind, easy, easy) == [(0.1, 0), (0.2, 0)]
    # Turned by 20 degrees, the boundary of 45 is at 65: the second fold loses more than the first gained.
    assert asked_of_folds(ahead, easy, hard, easy) == [(0.1, 0), (0.2, 0), (0.2, 1)]


def test_the_untouched_encoder_wins_ties_and_within_chance_and_where_it_has_nothing_to_gain():
    assert judge({}, HELD, LABELS).steps == 0
    # One held-out picture gains and one loses: the mean gain is less than its standard error.
    assert judge({(0.1, 1): -1.0}, circle(50, 60), [0, 1]).steps == 0
    right = judge({(0.1, 1): -10.0}, circle(20, 100), [0, 1])
    assert (right.steps, right.accuracy_before) == (0, 1.0)


def test_held_out_views_need_a_larger_gain_than_held_out_pictures():
    # The losses fall by 1.05, 0.05, 0.00 and 0.00: 0.28 on the mean, whose standard error is 0.26.
    assert judge({(0.1, 1): -20.0}, HELD, LABELS, "examples").steps == 1
    assert judge({(0.1, 1): -20.0}, HELD, LABELS, "views").steps == 0


def test_sharper_scores_alone_are_no_gain():
    scores, labels = torch.tensor([[2.0, 1.0], [0.5, 1.0], [1.0, 0.5]]), torch.tensor([0, 1, 1])
    first = judged([scores], [labels])[0]
    plainly = [functional.cross_entropy(scores * times, labels) for times in (0.5, 1, 2, 4)]
    assert_allclose(first.mean(), min(plainly))


def test_tuning_learns_what_the_frozen_encoder_does_not_see_and_leaves_it_alone(encoder, support, queries):
    images, labels = support
    before = encoder.encode(queries[0])
    frozen = PrototypeClassifier().fit(encoder.encode(images), labels).predict(before)
    classifier = FineTuneClassifier(encoder, trainable="last-2", steps=40, learning_rate=3e-3).fit(images, labels)
    tuned = classifier.predict(queries[0])
    assert (tuned == queries[1]).mean() > (frozen == queries[1]).mean() + 0.1
    assert_array_equal(encoder.encode(queries[0]), before)
    assert classifier.encoder_.fingerprint != encoder.fingerprint
    assert_array_equal(classifier.predict(queries[0]), tuned)
    assert classifier.predict_proba(queries[0][:4]).sum(1) == pytest.approx(1)
    assert_array_equal(classifier.classes_[classifier.scores(queries[0]).argmax(1)], tuned)
    by_hand = PrototypeClassifier().fit(directions_of(classifier.encoder_.encode(images)), labels)
    assert_array_equal(by_hand.predict(classifier.encoder_.encode(queries[0])), tuned)
    assert (classifier.choice_.steps, classifier.choice_.held_out) == (40, None)
    assert classifier.choice_.parameters == 2 * (16 * 16 * 9 + 2 * 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable": "head"},
        {"trainable": "lora", "steps": 2},
        {"trainable": "norms", "learning_rate": 1e-3, "steps": 2, "loss": "prototypical"},
        {"trainable": "all", "steps": 2, "flip": True, "views": 2},
    ],
)
def test_every_way_of_training_runs_and_repeats_with_its_random_state(encoder, support, settings):
    images, labels = support
    state = torch.random.get_rng_state()
    first, second = (FineTuneClassifier(encoder, **settings).fit(images, labels) for _ in range(2))
    assert_array_equal(first.scores(images), second.scores(images))
    assert replace(first.choice_, seconds=0) == replace(second.choice_, seconds=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.choice_.parameters > 0


def test_one_picture_of_a_class_is_enough(encoder, support):
    images, labels = support
    classifier = FineTuneClassifier(encoder, trainable="last", views=4, steps=2).fit(images[::3], labels[::3])
    assert classifier.choice_.held_out == "views"
    assert classifier.predict(images[::3]).tolist() == labels[::3]


@pytest.mark.parametrize("mirror", [False, True])
def test_an_untouched_classifier_reads_the_vectors_of_the_given_encoder(encoder, support, queries, monkeypatch, mirror):
    monkeypatch.setattr(choosing, "_MARGIN_EXAMPLES", math.inf)
    images, labels = support
    encoded: list[int] = []
    encode_views = TimmEncoder.encode_views

    def counting(self, images, views):
        encoded.append(len(images) * len(views))
        return encode_views(self, images, views)

    monkeypatch.setattr(TimmEncoder, "encode_views", counting)
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, mirror=mirror).fit(images, labels)
    assert sum(encoded) == (1 + mirror) * len(images)  # once each: what chose the answer is what it learns from
    assert (classifier.choice_.steps, classifier.choice_.learning_rate) == (0, 0.0)
    assert classifier.choice_.mirror is mirror
    assert classifier.encoder_ is encoder
    mirrored = [[flipped_centre(np.asarray(image)) for image in each] for each in (images, queries[0])]
    own, asked = (
        directions_of(encoder.encode(plainly)) + mirror * directions_of(encoder.encode(turned))
        for plainly, turned in zip((images, queries[0]), mirrored, strict=True)
    )
    head = classifier_of(classifier.choice_.head).fit(own, labels)
    assert_allclose(classifier.scores(queries[0]), head.scores(asked), atol=1e-3)


def test_an_interrupted_fit_leaves_the_classifier_as_it_was(encoder, support, monkeypatch):
    images, labels = support
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, learning_rate=1e-3).fit(images, labels)
    before, threads = classifier.scores(images), torch.get_num_threads()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tuner, "_gradients", stopped)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(images[:6], labels[:6])
    assert_array_equal(classifier.scores(images), before)
    assert torch.get_num_threads() == threads


def test_it_is_cloned_like_any_estimator(encoder, support):
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3)
    twin = clone(classifier)
    assert twin.get_params(deep=False).keys() == classifier.get_params(deep=False).keys()
    assert twin.encoder.fingerprint == encoder.fingerprint
    with pytest.raises(NotFittedError):
        twin.predict(support[0])
    assert twin.fit(*support).classes_.tolist() == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": "last-9"}, r"'last-N' with N from 1 to 4 \(the blocks of Conv4\)"),
        ({"loss": "triplet"}, "loss must be one of 'cross-entropy', 'prototypical', not 'triplet'"),
        ({"trainable": "head", "loss": "prototypical"}, "'head' takes no gradient steps, but loss='prototypical'"),
        ({"trainable": "head", "steps": 9}, "'head' takes no gradient steps, but steps=9: leave it out, or train"),
        ({"schedule": "late"}, "schedule must be one of"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, not 0.0"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number above 0, not 'fast'"),
        ({"memory": -1.0}, "memory must be a finite number above 0"),
        ({"memory": 1e-4, "trainable": "last"}, r"9 pictures take 0\.0001 GiB .*, more than memory=0\.0001 GiB"),
        ({"flip": "yes"}, "flip must be True or False, not 'yes'"),
        ({"random_state": 2**32}, "random_state must be at most 4294967295, as numpy's, not 4294967296"),
        ({"views": 0}, "views must be a whole number of at least 1"),
    ],
)
def test_a_wrong_parameter_is_refused_naming_the_right_ones(encoder, support, settings, message):
    with pytest.raises(ValueError, match=message):
        FineTuneClassifier(encoder, **settings).fit(*support)


def test_one_class_unreadable_pictures_and_unfit_encoders_are_refused(encoder, support, tmp_path):
    images, labels = support
    with pytest.raises(ValueError, match=r"only \['red'\]: give two"):
        FineTuneClassifier(encoder).fit(images[:2], ["red", "red"])
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image.*1 of the 2 pictures to learn from"):
        FineTuneClassifier(encoder).fit([images[0], tmp_path / "bad.jpg"], ["a", "b"])
    layered = clone(encoder).set_params(layer=1)
    with pytest.raises(ValueError, match=r"after layer 1, but .* without layer"):
        FineTuneClassifier(layered).fit(images, labels)
    with pytest.raises(TypeError, match="not EmbeddingCache; of a cache, give its encoder"):
        FineTuneClassifier(EmbeddingCache(encoder, tmp_path / "cache.db")).fit(images, labels)


@pytest.mark.parametrize("trainable", ["layer4", "last-0", None, 2])
def test_parts_of_no_network_are_refused_before_a_picture_is_read(trainable):
    with pytest.raises(ValueError, match=r"trainable must be 'head', 'last', 'last-N' .*, not ") as caught:
        FineTuneClassifier("no such encoder", trainable=trainable).fit(["no.jpg", "none.jpg"], [0, 1])
    assert repr(trainable) in str(caught.value)


def test_an_encoder_is_not_saved_in_the_place_of_a_file(encoder, support, tmp_path):
    classifier = FineTuneClassifier(encoder, trainable="head", mirror=False).fit(*support)
    (tmp_path / "mine").write_text("notes")
    with pytest.raises(NotADirectoryError, match=r"cannot write .*mine: it is a file; give a folder"):
        classifier.save_encoder(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "notes"


@pytest.mark.parametrize("pool", [None, "max"])
def test_a_saved_encoder_loads_with_the_same_fingerprint_vectors_and_preprocessing(pool, support, tmp_path):
    torch.manual_seed(0)
    name = "test_resnet.r160_in1k"  # 160 pixels, crop 0.95, bilinear: not what `fewshot train` writes
    first = TimmEncoder(name, pretrained=False, pool=pool, device="cpu", precision="float32")
    encoder = first.with_network(load_network(name, pretrained=False))
    images, labels = [support[0][i] for i in (0, 3)], ["a", "b"]
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3, views=2)
    classifier.fit(images, labels).save_encoder(tmp_path / "mine")
    loaded = TimmEncoder(f"local-dir:{tmp_path / 'mine'}", pool=pool, device="cpu", precision="float32")
    assert loaded.fingerprint == classifier.encoder_.fingerprint != encoder.fingerprint
    assert_array_equal(loaded.encode(images), classifier.encoder_.encode(images))
    config = json.loads((tmp_path / "mine" / "config.json").read_text())["pretrained_cfg"]
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ([3, 160, 160], 0.95, "bilinear")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert '"trainable": "last"' in card
    assert (', pool="max"' in card.replace("'", '"')) == (pool == "max")


@pytest.mark.data
def test_a_real_network_keeps_the_settings_of_its_folder_when_saved(shared, support, tmp_path):
    encoder = TimmEncoder(f"local-dir:{shared / 'weights' / 'mobilenetv2_100.tf_in1k'}", device="cpu")
    images, labels = [support[0][i] for i in (0, 3)], ["a", "b"]
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3, views=2)
    classifier.fit(images, labels).save_encoder(tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["model_args"] == {"pad_type": "same"}
    assert (tmp_path / "mine" / "model.safetensors").stat().st_size < 7_000_000  # frozen blocks stay float16
    assert_array_equal(TimmEncoder(f"local-dir:{tmp_path / 'mine'}").encode(images), classifier.encoder_.encode(images))


def test_probabilities_of_pocket_are_as_sharp_as_pockets():
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    classifier = FineTuneClassifier("pocket", trainable="head", mirror=False).fit(images, [0, 0, 1, 1])
    vectors = directions_of(classifier.encoder_.encode(images))
    own = classifier._classifier.predict_proba(vectors, shipped_calibration(TimmEncoder("pocket").fingerprint))
    assert_allclose(classifier.predict_proba(images), own, atol=1e-6)
    assert not np.allclose(own, classifier._classifier.predict_proba(vectors))  # the table of other encoders
