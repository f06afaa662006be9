"""No method takes vectors or scores off their device: what would fail on a GPU, seen without one."""

from __future__ import annotations

import pytest
import torch
from classifier_variants import VARIANTS, episodes, shown
from sklearn.base import clone
from torch.overrides import TorchFunctionMode

from fewshot.classifiers import MatchingClassifier, PrototypeClassifier


class Left(Exception):
    """A tensor was taken to the CPU."""


class StayingOnDevice(TorchFunctionMode):
    """Refuse to take a tensor to the CPU, but for what steers Python: class numbers, and one number at a time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        given = (*args[1:], *(kwargs or {}).values())
        if name in ("numpy", "cpu", "__array__"):
            raise Left(name)
        if name in ("tolist", "item") and args[0].is_floating_point():
            raise Left(name)
        if name == "to" and any(isinstance(value, str) and value == "cpu" for value in given):
            raise Left(name)
        return function(*args, **(kwargs or {}))


class WithoutValues(StayingOnDevice):
    """Answer what steers Python for tensors of the meta device, which have a shape and no values."""

    def __init__(self, truth):
        super().__init__()
        self.steers = {"__bool__": truth, "__int__": 2, "__float__": 0.0}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self.steers and args[0].device.type == "meta":
            return self.steers[name]
        return super().__torch_function__(function, types, args, kwargs)


def answers(classifier, e, sizes, device="cpu", mode=None):
    """Scores and probabilities of e episodes, of which those with few examples are padded."""
    support, labels, query = (torch.from_numpy(part).to(device) for part in episodes(3, sizes, e=e))
    with mode or StayingOnDevice():
        return (
            classifier.episode_scores(support, labels, query, n_classes=3),
            classifier.episode_probabilities(support, labels, query, n_classes=3),
        )


EPISODES = {"a single one": (1, [[2, 3, 1]]), "several": (3, [[2, 2, 2]]), "padded": (3, [[1, 1, 1], [4, 1, 2]])}
every_kind = pytest.mark.parametrize(("e", "sizes"), EPISODES.values(), ids=EPISODES)
every_method = pytest.mark.parametrize("classifier", VARIANTS, ids=shown)


@every_method
@every_kind
def test_no_vector_or_score_is_taken_to_the_cpu(classifier, e, sizes):
    scores, shares = answers(clone(classifier), e, sizes)
    assert scores.shape == shares.shape == (e, 6, 3)


# Base classes lend their statistics by value, of which these tensors have none.
@pytest.mark.parametrize("classifier", [c for c in VARIANTS if getattr(c, "base", None) is None], ids=shown)
def test_all_that_a_method_makes_is_on_the_device_of_the_episodes(classifier):
    for found in answers(clone(classifier), 1, [[2, 3, 1]], "meta", WithoutValues(truth=False)):
        assert (found.shape, found.device.type) == ((1, 6, 3), "meta")


def test_padding_is_replaced_on_the_device_of_the_episodes():
    padded = answers(PrototypeClassifier(), 3, [[1, 1, 1], [4, 1, 2]], "meta", WithoutValues(truth=True))
    assert {found.device.type for found in padded} == {"meta"}


@pytest.mark.gpu
@every_method
@every_kind
def test_a_gpu_scores_as_the_cpu_does(classifier, e, sizes):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for ours, theirs in zip(
        answers(clone(classifier), e, sizes), answers(clone(classifier), e, sizes, "cuda"), strict=True
    ):
        assert theirs.device.type == "cuda"
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-2, atol=1e-3)


class _ThroughNumpy(PrototypeClassifier):
    def _learn(self, support, membership):
        return super()._learn(torch.from_numpy(support.numpy()), membership)


class _ThroughTheCpu(PrototypeClassifier):
    def _scores(self, learned, query):
        return super()._scores(learned, query.to("cpu"))


class _ThroughAList(MatchingClassifier):
    def _scores(self, learned, query):
        return super()._scores(learned, torch.tensor(query.tolist()))


class _ScaledOnTheCpu(PrototypeClassifier):
    def prepare(self, vectors):
        return vectors * torch.ones(vectors.shape[-1])


@pytest.mark.parametrize("broken", [_ThroughNumpy, _ThroughTheCpu, _ThroughAList])
def test_a_method_that_takes_vectors_to_the_cpu_is_noticed(broken):
    with pytest.raises(Left, match=r"^(numpy|to|tolist)$"):
        answers(broken(), 1, [[1, 1, 1]])


def test_a_method_that_mixes_devices_is_noticed():
    answers(_ScaledOnTheCpu(), 1, [[1, 1, 1]])  # which no test on one device sees
    with pytest.raises(RuntimeError, match=r"device cpu .* device meta"):
        answers(_ScaledOnTheCpu(), 1, [[1, 1, 1]], "meta", WithoutValues(truth=False))
