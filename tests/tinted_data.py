"""Tinted images that only colour tells apart, an encoder that does not see it, and a trainer of its top."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from fewshot import WhitenedPrototypeClassifier
from fewshot.finetuning.graph_memory import ChunkSizes
from fewshot.finetuning.network_split import split_network
from fewshot.finetuning.support_maps import SupportMaps, TrunkEncoder
from fewshot.finetuning.top_trainer import Fold, TopTrainer
from fewshot.finetuning.trainable_parts import trainable_blocks
from fewshot.training.workers import Workers

COLOURS = {"red": (150, 110, 110), "green": (110, 150, 110), "blue": (110, 110, 150)}


def tinted(label, seed):
    """Coarse noise with a faint tint, which is all that tells the classes apart."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 60, (6, 6, 1)) + rng.normal(0, 10, (6, 6, 3))
    coarse = np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


def tinted_images(n, first=0):
    """Return n images of each of three classes, and their labels."""
    labels = [label for label in COLOURS for _ in range(n)]
    return [tinted(label, first + number) for number, label in enumerate(labels)], labels


def directions_of(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pixels_of(images):
    return np.stack([np.asarray(image) for image in images])


def codes_of(labels):
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1])


@contextmanager
def a_trainer(
    encoder,
    trainable="last-2",
    *,
    workers=1,
    chunks=(100, 100),
    loss="cross-entropy",
    schedule="together",
    classifier=None,
):
    """A trainer of a copy of the encoder's network, its blocks, the network, and what encodes to the split."""
    network = encoder.exact_network()
    blocks = [list(block.values()) for block in trainable_blocks(network, trainable, 4)]
    trunk, top = split_network(network, None, torch.rand(1, 3, 64, 64))
    with Workers(top, workers) as crew:
        head = classifier or WhitenedPrototypeClassifier()
        trainer = TopTrainer(
            blocks, encoder.loaded, crew, ChunkSizes(*chunks), head, loss=loss, schedule=schedule, seed=0
        )
        yield trainer, blocks, network, TrunkEncoder(trunk, encoder.loaded, crew, flip=False, seed=0)


def everything(support):
    """The fold that trains on all of a support, and scores it."""
    return Fold(torch.arange(len(support.labels)), torch.arange(len(support.views[0])), support.plain, support.labels)


def some_support(labels, views=4):
    labels = torch.as_tensor(labels)
    return SupportMaps(
        (torch.rand(len(labels), 2),), (torch.rand(views, len(labels), 2),), labels, int(labels.max()) + 1
    )
