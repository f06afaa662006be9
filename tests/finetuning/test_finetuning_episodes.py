"""Many episodes tuned: the loop's answers, one path at a time and several in one batched pass."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from small_networks import made, pictures, thin_encoder
from torch import nn

from fewshot import EpisodeSampler, FineTuneClassifier, ImageError, PrototypeClassifier, TimmEncoder, run_finetuning
from fewshot.finetuning import session as sessions
from fewshot.finetuning.cut import Top, cut
from fewshot.finetuning.folding import norms_folded
from fewshot.finetuning.gradient_steps import Portions, Steps, Tuner
from fewshot.finetuning.parts import choose_parts
from fewshot.finetuning.support import saved_bytes
from fewshot.finetuning.together import Together, _quietly
from fewshot.finetuning.walk import Job, Method, Seen, Support, Walk
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers

CPU = torch.device("cpu")


def lens_of(precision):
    return Lens((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU, precision)


def noisy(label, seed):
    """Coarse noise around one of six tints that lie close together."""
    rng = np.random.default_rng(seed)
    tint = (
        110 + 40 * np.array([label == 0, label == 1, label == 2]) - 40 * np.array([label == 3, label == 4, label == 5])
    )
    return Image.fromarray(
        np.clip(tint + rng.normal(0, 60, (6, 6, 1)) + rng.normal(0, 10, (6, 6, 3)), 0, 255).astype(np.uint8)
    ).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def shapes():
    labels = np.repeat(np.arange(6), 8)
    return [noisy(label, number) for number, label in enumerate(labels)], labels


@pytest.fixture(scope="module")
def encoder():
    return thin_encoder()


def sampler_of(labels, **changes):
    return EpisodeSampler(labels, **{"n_way": 3, "n_shot": 2, "n_query": 3, "n_episodes": 5} | changes)


def looped(classifier, images, sampler):
    """What a classifier fitted anew in each episode chooses and predicts."""
    found = []
    for some in sampler:
        for i in range(len(some)):
            known, asked = some.support_labels[i] >= 0, some.query_labels[i] >= 0
            classifier.fit([images[j] for j in some.support[i, known]], some.support_labels[i, known])
            found.append((classifier.choice_, classifier.predict([images[j] for j in some.query[i, asked]])))
    return found


def without_seconds(choice):
    return {name: value for name, value in vars(choice).items() if name != "seconds"}


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable": "last"},
        {"trainable": "head"},
        {"trainable": "lora", "loss": "prototypical", "flip": True, "steps": 4, "learning_rate": 3e-3},
        {"trainable": "norms", "steps": 6, "learning_rate": 3e-3},
        {"trainable": "all", "schedule": "progressive", "steps": 8, "mirror": True, "head": "logistic", "views": 3},
    ],
)
def test_the_answers_are_those_of_fitting_anew_in_each_episode(encoder, shapes, settings):
    images, labels = shapes
    classifier = FineTuneClassifier(encoder, **settings)
    sampler = sampler_of(labels)
    wanted = looped(classifier, images, sampler)
    for at_once in (1, 3):
        result = run_finetuning(classifier, images, sampler, at_once=at_once)
        drawn = result.episodes
        assert result.at_once == (1 if settings["trainable"] == "head" else at_once)
        apart = PrototypeClassifier()
        for i, (choice, predicted) in enumerate(wanted):
            assert_array_equal(result["fine-tuning"].predicted[i], predicted)
            assert without_seconds(result.choices[i]) == pytest.approx(without_seconds(choice))
            support, query = (encoder.encode([images[j] for j in of[i]]) for of in (drawn.support, drawn.query))
            assert_array_equal(
                result["prototype"].predicted[i], apart.fit(support, drawn.support_labels[i]).predict(query)
            )
        assert any(choice.steps for choice in result.choices) or settings["trainable"] == "head"
        assert_allclose(
            result["fine-tuning"].accuracies, [(predicted == drawn.query_labels[0]).mean() for _, predicted in wanted]
        )


def test_episodes_of_several_sizes_and_without_replacement(encoder, shapes):
    images, labels = shapes
    classifier = FineTuneClassifier(encoder, trainable="last", steps=3, learning_rate=1e-2, views=2)
    various = EpisodeSampler(labels, n_way="various", n_shot="various", n_query=2, n_episodes=4)
    assert len({int((row >= 0).sum()) for row in next(iter(various)).support_labels}) > 1
    wanted = looped(classifier, images, various)
    result = run_finetuning(classifier, images, various, at_once=4)
    for (_, predicted), row in zip(wanted, result["fine-tuning"].predicted, strict=True):
        assert_array_equal(row[: len(predicted)], predicted)
        assert (row[len(predicted) :] == -1).all()
    assert not len(result["fine-tuning"].disjoint)
    apart = run_finetuning(classifier, images, sampler_of(labels, n_episodes=2, replacement=False))
    assert_array_equal(apart["fine-tuning"].disjoint, apart["fine-tuning"].accuracies)
    assert apart.paired("fine-tuning", "prototype").first == "fine-tuning"


def test_what_cannot_be_tuned_is_refused_before_anything_is(encoder, shapes, tmp_path, monkeypatch):
    images, labels = shapes
    monkeypatch.setattr(sessions.Session, "tune", None)
    classifier = FineTuneClassifier(encoder, trainable="last")
    with pytest.raises(ValueError, match="there are 47 pictures, but the sampler was given 48 labels"):
        run_finetuning(classifier, images[1:], sampler_of(labels))
    with pytest.raises(ValueError, match="at_once"):
        run_finetuning(classifier, images, sampler_of(labels), at_once=0)
    with pytest.raises(ValueError, match="trainable must be"):
        run_finetuning(FineTuneClassifier(encoder, trainable="neck"), images, sampler_of(labels))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    bad = int(next(iter(sampler_of(labels))).query[0, 0])
    with pytest.raises(ImageError, match=rf"bad\.jpg.*image {bad} of 48"):
        run_finetuning(classifier, [*images[:bad], tmp_path / "bad.jpg", *images[bad + 1 :]], sampler_of(labels))
    with pytest.raises(TypeError, match="only a FineTuneClassifier is tuned on episodes, not PrototypeClassifier"):
        run_finetuning(PrototypeClassifier(), images, sampler_of(labels))


def test_fewer_are_tuned_at_once_where_the_memory_forbids(encoder, shapes):
    images, labels = shapes
    asked = {"trainable": "last", "steps": 1, "learning_rate": 1e-3}
    sampler = sampler_of(labels, n_episodes=3)
    narrow = run_finetuning(FineTuneClassifier(encoder, memory=0.002, **asked), images, sampler, at_once=100)
    assert 1 < narrow.at_once < 3
    wide = run_finetuning(FineTuneClassifier(encoder, memory=4.0, **asked), images, sampler, at_once=100)
    assert wide.at_once == 3
    assert_array_equal(narrow["fine-tuning"].predicted, wide["fine-tuning"].predicted)


@pytest.mark.parametrize("trainable", ["last", "norms", "lora"])
def test_what_a_path_takes_is_counted_with_what_each_makes_of_its_weights(trainable):
    with both_ways("test_resnet", trainable, "float32", "cross-entropy") as (_, together, support, _):
        job = Job(support, torch.arange(6), torch.arange(2), 1e-3, (1,), ())
        walks = [Walk(job, together._method, groups) for groups in together._starts(2)]

        def kept(n):
            given = [[each[:5] for each in support.plain]] * n
            with _quietly():
                return saved_bytes(lambda: together._features(together._workers.twins[0], walks[:n], given))

        own = 5 * sum(each.nbytes for each in walks[0].parameters)  # made of, gradient, two means, stacked
        estimate = together.path_bytes([each[:2] for each in support.plain])  # of 5 pictures, as both_ways says
        assert 0.99 < estimate / (own + kept(2) - kept(1)) < 1.4


class Unbatchable(nn.Module):
    """Looks at its numbers, which a batched pass has none of."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (1.0 if x.sum().item() > -1e9 else 2.0)


def test_a_network_that_cannot_be_batched_is_tuned_one_episode_at_a_time_or_refused(encoder, shapes, monkeypatch):
    images, labels = shapes

    def unbatchable(*given):
        trunk, top = cut(*given)
        return trunk, Top(Unbatchable(top))

    monkeypatch.setattr(sessions, "cut", unbatchable)
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"cannot be tuned on several episodes in one pass.*at_once=1"):
        run_finetuning(classifier, images, sampler_of(labels), at_once=2)
    monkeypatch.setattr(sessions, "most_at_once", lambda device: 4)
    assert run_finetuning(classifier, images, sampler_of(labels)).at_once == 1
    monkeypatch.setattr(sessions, "cut", cut)
    assert run_finetuning(classifier, images, sampler_of(labels)).at_once == 4


NETWORKS = ("test_resnet", "test_efficientnet", "test_convnext", "vit_tiny_patch16_224")


@contextmanager
def both_ways(name, trainable, precision, loss):
    """One path at a time and several together, from the same start, a support, and maps to ask about."""
    network = made(name)
    parts = choose_parts(network, trainable, 4)
    x = pictures(network, 16, 32 if name.startswith("vit") else None)
    trunk, top = cut(network, None, x[:1])
    named = dict(network.named_parameters())
    groups = [[named[name] for name in group] for group in parts.groups]
    maps = [each.to(torch.bfloat16 if precision == "bfloat16" else torch.float32) for each in trunk(x)]
    views = tuple(each[:12].unflatten(0, (2, 6)) for each in maps)
    support = Support(tuple(each[:6] for each in maps), views, torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    method, lens = Method(loss, "together", 0), lens_of(precision)
    folded = nullcontext() if trainable == "norms" else norms_folded(top, [each[:1].float() for each in maps])
    with folded, Workers(top, 2) as workers:
        alone = Tuner(top, groups, method, lens, workers, Portions(100, 100))
        together = Together(groups, method, 3, lens, workers, 5)
        assert together.agrees([each[:2] for each in maps])
        yield alone, together, support, tuple(each[12:] for each in maps)


def first_gradients(steps, jobs):
    """The losses of a first step, and all gradients of each path as one vector."""
    walks = [Walk(job, steps._method, groups) for job, groups in zip(jobs, steps._starts(len(jobs)), strict=True)]
    heads = steps._method.loss == "cross-entropy"
    for walk, own in zip(walks, steps._embed(walks, [walk.own for walk in walks]), strict=True):
        walk.begin(own if heads else None)
    losses = steps._gradients(walks, *zip(*(walk.draw() for walk in walks), strict=True))
    flat = [torch.cat([p.grad.flatten() for p in walk.parameters if p.grad is not None]).clone() for walk in walks]
    return losses, flat


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("trainable", ["last", "all", "norms", "lora"])
def test_gradients_together_are_those_of_each_alone(name, trainable):
    loss = "prototypical" if trainable == "all" else "cross-entropy"
    with both_ways(name, trainable, "float32", loss) as (alone, together, support, _):
        jobs = [Job(support, torch.tensor(learn), torch.arange(2), 1e-3, (1,), ()) for learn in ([0, 2, 4], [1, 3, 5])]
        jobs.append(Job(support, torch.arange(6), torch.arange(2), 1e-3, (1,), ()))
        losses, gradients = first_gradients(together, jobs)
        exact = []
        for job, loss, gradient in zip(jobs, losses, gradients, strict=True):
            (one,), (wanted,) = first_gradients(alone, [job])
            exact.append(wanted)
            assert float(loss) == pytest.approx(float(one), rel=1e-4)
            assert (gradient - wanted).norm() < 1e-2 * wanted.norm()
    with both_ways(name, trainable, "bfloat16", loss) as (alone, together, support, _):
        jobs = [replace(job, support=support) for job in jobs]
        _, gradients = first_gradients(together, jobs)
        for job, gradient, wanted in zip(jobs, gradients, exact, strict=True):
            _, (rounded,) = first_gradients(alone, [job])
            # Lively norms make gradients that bfloat16 hardly holds: batched, they are not much worse.
            lost, lost_alone = (1 - torch.cosine_similarity(each, wanted, dim=0) for each in (gradient, rounded))
            assert lost < 3 * lost_alone + 0.005


@pytest.mark.parametrize("name", NETWORKS)
def test_paths_walked_together_are_those_walked_alone(name):
    with both_ways(name, "last", "float32", "cross-entropy") as (alone, together, support, asked):
        jobs = [Job(support, torch.arange(6), torch.arange(2), rate, (0, 3), [asked]) for rate in (5e-4, 1e-3)]
        jobs.append(Job(support, torch.arange(0, 6, 2), torch.arange(2), 1e-3, (2,), ()))
        with Progress(None, "test") as bar:
            wanted = alone.run(jobs, bar)
            alone.restore()
            start = [each.detach().clone() for group in alone._groups for each in group]
            found = together.run(jobs, bar)
        assert all(map(torch.equal, start, (each.detach() for group in alone._groups for each in group)))
    assert [list(path) for path in found] == [list(path) for path in wanted] == [[0, 3], [0, 3], [2]]
    for one, other in zip(wanted[:2], found[:2], strict=True):
        moved = (one[3].directions - one[0].directions).norm()
        assert moved > 1e-4
        # Adam divides by gradients' sizes, so that sums in another order show where gradients are almost zero.
        assert (other[3].directions - one[3].directions).norm() < 0.1 * moved
        assert_allclose(other[0].features, one[0].features, rtol=1e-3, atol=1e-3 * float(one[0].features.abs().max()))
    assert found[2][2].features.shape == (0, one[0].features.shape[1])


def test_a_path_whose_loss_is_not_finite_ends_and_the_others_go_on(encoder, shapes):
    images, labels = shapes
    with pytest.raises(ValueError, match=r"episode [01]: tuning diverged"):
        run_finetuning(
            FineTuneClassifier(encoder, trainable="last", steps=30, learning_rate=1e30),
            images,
            sampler_of(labels),
            at_once=2,
        )
    network = made("test_resnet")
    parts = choose_parts(network, "last", 4)
    trunk, top = cut(network, None, pictures(network)[:1])
    maps = trunk(pictures(network, 4))
    support = Support(maps, tuple(each[None] for each in maps), torch.tensor([0, 0, 1, 1]), 2)
    named = dict(network.named_parameters())
    groups = [[named[name] for name in group] for group in parts.groups]
    jobs = [Job(support, torch.arange(4), torch.arange(1), rate, (0, 1, 40), ()) for rate in (1e-3, 1e30)]
    with Workers(top, 1) as workers, Progress(None, "test") as bar:
        method = Method("cross-entropy", "together", 0)
        fine, broken = Together(groups, method, 2, lens_of("float32"), workers, 100).run(jobs, bar)
    assert list(fine) == [0, 1, 40]
    assert 40 not in broken


class Recorded(Steps):
    """Answers each path with its rate, and keeps how many were asked for together."""

    def __init__(self):
        self.asked = []

    def run(self, jobs, bar):
        self.asked.append([job.rate for job in jobs])
        return [{0: Seen(torch.tensor(job.rate), torch.empty(0))} for job in jobs]

    _starts = _embed = _gradients = None


def test_plans_that_ask_for_different_things_are_followed_beside_each_other():
    def plan(*wanted):
        total = 0.0
        for rates in wanted:
            found = yield [Job(None, None, None, rate, (0,), ()) for rate in rates]
            assert [float(path[0].directions) for path in found] == pytest.approx(rates)
            total += sum(rates)
        return total

    steps = Recorded()
    with Progress(None, "test") as bar:
        found = steps.follow([plan([1, 2], [3]), plan(), plan([4], [5, 6], [7])], bar)
    assert found == [6, 0, 22]
    assert steps.asked == [[1, 2, 4], [3, 5, 6], [7]]


@pytest.mark.gpu
def test_on_a_gpu_several_are_tuned_at_once_and_answer_as_on_a_cpu(shapes):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    images, labels = shapes
    found = []
    for device in ("cuda", "cpu"):
        encoder = TimmEncoder("pocket", device=device, precision="float32")
        classifier = FineTuneClassifier(encoder, trainable="last", steps=4, learning_rate=1e-3, memory=4.0)
        found.append(run_finetuning(classifier, images, sampler_of(labels)))
    assert [result.at_once for result in found] == [5, 1]
    assert (found[0]["fine-tuning"].predicted == found[1]["fine-tuning"].predicted).mean() > 0.9


def test_in_bfloat16_the_answers_are_nearly_those_of_fitting_anew_and_repeat(shapes):
    images, labels = shapes
    rounded = TimmEncoder("pocket", device="cpu", precision="bfloat16")
    classifier = FineTuneClassifier(rounded, trainable="last", steps=4, learning_rate=1e-3, views=3)
    wanted = np.array([predicted for _, predicted in looped(classifier, images, sampler_of(labels))])
    found, again = (run_finetuning(classifier, images, sampler_of(labels), at_once=3)["fine-tuning"] for _ in range(2))
    assert (found.predicted == wanted).mean() > 0.9
    assert_array_equal(found.predicted, again.predicted)


def test_the_bar_of_a_run_counts_episodes_and_shows_the_loss(encoder, shapes, monkeypatch):
    images, labels = shapes
    told = []

    class Bar:
        def __init__(self, **settings):
            told.append(settings["desc"])

        def update(self, n):
            told.append(n)

        def set_postfix_str(self, text, refresh):
            told.append(text)

        def close(self):
            told.append("closed")

    monkeypatch.setattr("fewshot.progress._bar_type", lambda: Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, learning_rate=1e-3, views=2)
    run_finetuning(classifier, images, sampler_of(labels, n_episodes=2))
    told = told[told.index("fine-tune") :]
    assert [one for one in told if not str(one).startswith("loss ")] == ["fine-tune", 1, 1, "closed"]
    assert len(told) == 4 + 2 * 2
