"""Small data to train on: scikit-learn's digits at 16 pixels, and noise."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_digits

from fewshot import Dataset
from fewshot.training.decoded_images import DecodedImages
from fewshot.training.objectives import TrainingSet
from fewshot.training.recipe import Recipe
from fewshot.training.train import train_encoder

SMALL = Recipe(arch="conv4", size=16, epochs=3, ways=(3,), queries=5, batch_size=(32,), augment=("none",), hold_out=0.3)


def digits(per_class=30, classes=range(10), name="digits", **more) -> Dataset:
    """Dark on white, the first of each class."""
    scans, labels = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in classes])
    images = tuple((255 - scans[i].reshape(8, 8) * (255 / 16)).astype(np.uint8) for i in chosen)
    return Dataset(name, images, tuple(f"digit {labels[i]}" for i in chosen), **more)


def train(out, *data, validation=None, note=lambda _: None, picture=False, **changes):
    """Train on the digits, or other data, by a small recipe with changes; the picture costs as much as the training."""
    with nullcontext() if picture else patch("fewshot.training.train.draw_training"):
        recipe = replace(SMALL, **changes)
        return train_encoder(data or [digits()], out, recipe, validation=validation, device="cpu", note=note)


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def log(folder):
    """The training's log, without what a clock says."""
    import json

    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def pictures(sizes=(4, 4, 4), side=8, channels=3, groups=None) -> DecodedImages:
    """Noise, so many images of each class."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    pixels = torch.randint(
        0, 256, (len(labels), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return DecodedImages("noise", pixels, labels, tuple(f"class {i}" for i in range(len(sizes))), groups)


def training_set(
    sizes=(4, 4, 4), *, batch=4, rotated=False, contrastive=0.0, ways=2, weight=1.0, augment="none", **more
) -> TrainingSet:
    """Noise to train on."""
    return TrainingSet(pictures(sizes, **more), augment, rotated, batch, ways, weight, contrastive)
