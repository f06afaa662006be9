"""Training the top of a network from maps at the split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from small_networks import thin_encoder
from tinted_data import a_trainer, codes_of, everything, pixels_of, tinted_images
from torch import nn

from fewshot import RidgeClassifier, WhitenedPrototypeClassifier
from fewshot.finetuning.graph_memory import ChunkSizes, chunk_sizes, graph_bytes
from fewshot.finetuning.top_trainer import batch_positions, cosine_scores, prototypes, top_loss
from fewshot.progress import Progress


@pytest.fixture(scope="module")
def encoder():
    return thin_encoder()


def a_support(trunk_encoder):
    images, labels = tinted_images(3)
    return trunk_encoder.support(pixels_of(images), codes_of(labels), 3, 2**29)


def fitted(trainer, support, learning_rate, stops):
    with Progress(None, "test") as bar:
        return trainer.fit(support, everything(support), learning_rate, stops, bar)


def scores_of(encoder, rate=1e-3, stops=(0, 3), **settings):
    """The support's scores at each stop."""
    with a_trainer(encoder, **settings) as (trainer, _, _, trunk_encoder):
        return list(fitted(trainer, a_support(trunk_encoder), rate, stops).values())


def test_prototypes_are_means_of_directions_and_scores_ten_times_the_cosine():
    means = prototypes(torch.tensor([[4.0, 0.0], [3.0, 4.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), 2)
    assert_allclose(means, [[0.8, 0.4], [0.0, 1.0]], rtol=1e-6)
    # (0.8, 0.4) has length 0.894: (0.6 * 0.8 + 0.8 * 0.4) / 0.894 = 0.894
    assert_allclose(cosine_scores(torch.tensor([[3.0, 4.0]]), means), [[8.94427, 8.0]], rtol=1e-6)


def test_the_loss_is_of_views_against_the_head_or_the_means_of_their_own_images():
    views = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # Scores are 10 and 0 for the own and the other class, and the other way round once the head is swapped.
    assert_allclose(top_loss(views, torch.tensor([0, 1]), torch.eye(2)), np.log1p(np.exp(-10.0)), rtol=1e-3)
    assert_allclose(top_loss(views, torch.tensor([1, 0]), torch.eye(2)), np.log1p(np.exp(10.0)), rtol=1e-6)
    # The classes of a step may be any two of many; the images as they are lie at 90 degrees to their views.
    plain = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    assert_allclose(top_loss(torch.cat([views, plain]), torch.tensor([7, 3]), None), 10.0, rtol=1e-4)


@pytest.mark.parametrize("loss", ["cross-entropy", "prototypical"])
def test_workers_and_chunks_change_no_gradient(encoder, loss):
    plainly = scores_of(encoder, loss=loss)
    assert (plainly[1] - plainly[0]).abs().max() > 1e-3
    for settings in ({"workers": 2}, {"chunks": (2, 2)}, {"chunks": (9, 2)}, {"workers": 2, "chunks": (5, 2)}):
        found = scores_of(encoder, loss=loss, **settings)
        assert_allclose(found[0], plainly[0], rtol=1e-6)
        # Adam divides by gradients' sizes, so that sums in another order show where gradients are almost zero.
        assert (found[1] - plainly[1]).norm() < 0.05 * (plainly[1] - plainly[0]).norm()


@pytest.mark.parametrize("classifier", [WhitenedPrototypeClassifier(), RidgeClassifier()])
def test_a_training_starts_from_the_untouched_top_each_time_and_repeats_and_its_classifier_scores(encoder, classifier):
    with a_trainer(encoder, classifier=classifier) as (trainer, blocks, network, trunk_encoder):
        support = a_support(trunk_encoder)
        first, second = (list(fitted(trainer, support, 1e-3, (0, 2, 4)).values()) for _ in range(2))
        assert_array_equal(torch.stack(first), torch.stack(second))
        assert (first[1] - first[0]).abs().max() > 0
        trainer.restore()
        features = trainer.embed(support.plain)
        by_hand = clone(classifier).fit(features.numpy(), support.labels.numpy()).scores(features.numpy())
        assert_allclose(first[0], by_hand, atol=1e-5)
        exact = encoder.exact_network().state_dict()
        assert all(torch.equal(tensor, exact[name]) for name, tensor in network.state_dict().items())
    assert len(blocks) == 2


def test_progressive_unfreezing_moves_the_last_block_first_and_the_one_before_it_slower(encoder):
    with a_trainer(encoder, schedule="progressive") as (trainer, blocks, _, trunk_encoder):
        start = [block[0].detach().clone() for block in blocks]
        support = a_support(trunk_encoder)
        moved = []
        for steps in (5, 15):
            fitted(trainer, support, 1e-3, (steps,))
            moved.append(
                [float((block[0].detach() - before).abs().max()) for block, before in zip(blocks, start, strict=True)]
            )
    assert moved[0][0] > 0
    assert moved[0][1] == 0
    assert 0 < moved[1][1] < moved[1][0] / 2


def test_batch_norms_keep_their_statistics_whatever_trains(encoder):
    with a_trainer(encoder, "all") as (trainer, _, network, trunk_encoder):
        before = {name: tensor.clone() for name, tensor in network.named_buffers()}
        fitted(trainer, a_support(trunk_encoder), 1e-3, (2,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
    assert any("running_mean" in name for name in before)


def test_a_loss_that_is_not_finite_ends_the_training_with_the_scores_before_it(encoder):
    assert len(scores_of(encoder, rate=1e30, stops=(0, 1, 50))) < 3


@pytest.mark.parametrize("loss", ["cross-entropy", "prototypical"])
def test_a_step_over_many_examples_takes_some_of_them_and_for_prototypes_whole_classes(loss):
    labels = torch.from_numpy(np.repeat(np.arange(40), 5))
    shown = batch_positions(labels, loss, torch.Generator().manual_seed(0))
    assert 28 < len(shown) <= 32
    assert len(set(shown.tolist())) == len(shown)
    if loss == "prototypical":
        assert set(torch.bincount(labels[shown]).tolist()) == {0, 5}
    assert batch_positions(labels[:20], loss, torch.Generator()).tolist() == list(range(20))


def test_maps_beyond_the_memory_are_of_fewer_views_and_beyond_two_an_error(encoder):
    images, labels = tinted_images(3)
    taken = 9 * 16 * 16 * 16 * 4  # bytes of nine maps, of which the support itself is one
    with a_trainer(encoder) as (_, _, _, trunk_encoder):
        few = trunk_encoder.support(pixels_of(images), codes_of(labels), 8, 4.5 * taken)
        assert few.views[0].shape == (3, 9, 16, 16, 16)
        with pytest.raises(ValueError, match=r"the maps of 9 images take .* GiB a view.*raise memory"):
            trunk_encoder.support(pixels_of(images), codes_of(labels), 8, 2.5 * taken)


def test_the_graph_of_an_image_is_counted_and_shared_among_workers(encoder):
    top = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    maps = [torch.rand(4, 10)]
    assert graph_bytes(top, maps, encoder.loaded) == 4 * (
        10 + 20
    )  # the inputs of the two layers; tanh's output is one of them
    gib = 12 * 120 / 2**30
    assert chunk_sizes(top, maps, encoder.loaded, 2, gib) == ChunkSizes(3, 3)  # half of 12 images' graphs, for two
    assert chunk_sizes(top, maps, encoder.loaded, 2, gib / 100) == ChunkSizes(1, 1)
    assert chunk_sizes(top, maps, encoder.loaded, 1, 2.0) == ChunkSizes(
        2**30 // 120, 2**29 // 120
    )  # a CPU's share of what it keeps
