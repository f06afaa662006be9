"""Train the bundled encoder ``pocket`` on photographs and handwritten characters at once, and measure it.

    python benchmarks/train_pocket.py --out fewshot/encoders/pocket
    python benchmarks/train_pocket.py --evaluate-only fewshot/encoders/pocket

It learns from two sets: Tiny ImageNet's 120 train classes, and Omniglot's background alphabets in four rotations, each
rotation a class. Three small background alphabets are held out to watch the training. One trunk, one cosine head a
domain, and every batch holds both domains, so that the running statistics of the batch norms serve both. Pictures grow
from 32 to 64 pixels while it learns. The result is a folder that ``timm.create_model("local-dir:FOLDER")`` reads.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import fewshot.encoders.architectures

SIZE = 64  # pixels a side, of the network's input
GLYPH_SIZE = 84  # pixels a side at which glyphs wait in memory
HELD_OUT = ("Balinese", "Early_Aramaic", "Greek")  # background alphabets that only the validation sees
MEAN, STD = 0.5, 0.25
ARCHITECTURE = fewshot.encoders.architectures.fewshot_pocket.__name__


# ------------------------------------------------------------------------------------------------------------ the data


@dataclass(frozen=True)
class Pictures:
    """Pictures and their classes.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n, 3, h, w), or (n, h, w) for grey ones
    labels : int64 Tensor of shape (n,), 0 .. classes - 1
    """

    pixels: Tensor
    labels: Tensor


def _data_folder() -> Path:
    """Where the data lies unless --data says otherwise: $FEWSHOT_SHARED, else ../shared; in it, data/."""
    return Path(os.environ.get("FEWSHOT_SHARED", "../shared")) / "data"


def _read_photos(path: Path) -> Pictures:
    """Decode a zip of ``class/picture.jpg`` once."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        pixels = np.empty((len(names), SIZE, SIZE, 3), np.uint8)
        for i, name in enumerate(names):
            pixels[i] = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
    labels = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    return Pictures(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))


def _read_glyphs(path: Path, part: str, size: int) -> tuple[Pictures, NDArray[np.str_]]:
    """Decode one part of omniglot.zip once, and name the alphabet of each picture."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(part + "/") and n.endswith(".png"))
        pixels = np.empty((len(names), size, size), np.uint8)
        for i, name in enumerate(names):
            picture = Image.open(io.BytesIO(archive.read(name))).convert("L")
            pixels[i] = picture.resize((size, size), Image.Resampling.BICUBIC)
    labels = np.unique([name.rsplit("/", 1)[0] for name in names], return_inverse=True)[1]
    alphabets = np.array([name.split("/")[1] for name in names])
    return Pictures(torch.from_numpy(pixels), torch.from_numpy(labels)), alphabets


def _read_digits() -> Pictures:
    """Read the 8x8 scans of scikit-learn, dark on white, enlarged as the encoder enlarges them."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = np.round(255 - scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(s).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for s in scans]
    return Pictures(torch.from_numpy(np.stack(resized)), torch.from_numpy(labels.astype(np.int64)))


def _select(pictures: Pictures, keep: NDArray[np.bool_]) -> Pictures:
    chosen = torch.from_numpy(keep)
    return Pictures(pictures.pixels[chosen], torch.unique(pictures.labels[chosen], return_inverse=True)[1])


# ---------------------------------------------------------------------------------------------------- the augmentation


class Augment:
    """Draws altered pictures, a whole batch at once, as (n, 3, size, size) float32 in [0, 1].

    Parameters
    ----------
    generator : torch.Generator
        The only source of chance.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def _chance(self, share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < share

    def photos(self, pixels: Tensor, size: int) -> Tensor:
        """Crop, flip and recolour uint8 photographs (n, 3, h, w)."""
        n = len(pixels)
        area, ratio = self._uniform(0.35, 1.0, n), torch.exp(self._uniform(-0.29, 0.29, n))
        area[self._chance(0.2, n)] = 1.0  # some whole pictures, as sharp as those met later
        ratio[area == 1.0] = 1.0
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = width * torch.where(self._chance(0.5, n), 1.0, -1.0)
        theta[:, 1, 1] = height
        theta[:, 0, 2] = (1 - width) * self._uniform(-1, 1, n)
        theta[:, 1, 2] = (1 - height) * self._uniform(-1, 1, n)
        grid = functional.affine_grid(theta, [n, 3, size, size], align_corners=False)
        x = functional.grid_sample(pixels.float() / 255, grid, padding_mode="reflection", align_corners=False)
        grey = x.mean(1, keepdim=True)
        saturation = self._uniform(0.6, 1.4, n, 1, 1, 1)
        saturation[self._chance(0.1, n)] = 0.0
        x = grey + (x - grey) * saturation
        level = x.mean((1, 2, 3), keepdim=True)
        x = (x - level) * self._uniform(0.6, 1.4, n, 1, 1, 1) + level
        x = x * self._uniform(0.7, 1.3, n, 1, 1, 1) * self._uniform(0.93, 1.07, n, 3, 1, 1)
        return x.clamp_(0, 1)

    def glyphs(self, pixels: Tensor, quarter_turns: Tensor, size: int) -> Tensor:
        """Turn, bend, thicken, blur and repaint uint8 characters (n, h, w), dark on white."""
        ink = (255 - pixels.float().unsqueeze(1)) / 255
        x = functional.grid_sample(ink, self._glyph_grid(ink, quarter_turns, size), align_corners=False)
        x = self._thicken(x, size)
        x = self._soften(x, size)
        return self._paint(x)

    def _glyph_grid(self, ink: Tensor, quarter_turns: Tensor, size: int) -> Tensor:
        """Where each output pixel (n, size, size, 2) reads: affine, elastic, and some fitted to the character's box."""
        n = len(ink)
        angle = quarter_turns * (math.pi / 2) + self._uniform(-0.26, 0.26, n)
        shear = self._uniform(-0.25, 0.25, n)
        zoom = torch.exp(self._uniform(-0.25, 0.2, n))
        stretch = torch.exp(self._uniform(-0.15, 0.15, n))
        centre, extent = _boxes(ink)
        fitted = self._chance(0.35, n)
        zoom = torch.where(fitted, extent.amax(1) * self._uniform(1.0, 1.3, n), 1 / zoom)
        centre = torch.where(fitted[:, None], centre, torch.zeros(n, 2)) + self._uniform(-0.1, 0.1, n, 2)
        cos, sin = torch.cos(angle), torch.sin(angle)
        theta = torch.empty(n, 2, 3)
        theta[:, 0, 0], theta[:, 0, 1] = cos * zoom * stretch, (cos * shear - sin) * zoom / stretch
        theta[:, 1, 0], theta[:, 1, 1] = sin * zoom * stretch, (sin * shear + cos) * zoom / stretch
        theta[:, :, 2] = centre
        grid = functional.affine_grid(theta, [n, 1, size, size], align_corners=False)
        bend = torch.randn(n, 2, 5, 5, generator=self.generator) * self._uniform(0, 0.06, n, 1, 1, 1)
        bend = functional.interpolate(bend, size=(size, size), mode="bicubic", align_corners=True)
        return grid + bend.permute(0, 2, 3, 1)

    def _thicken(self, x: Tensor, size: int) -> Tensor:
        """Widen strokes by 0 to 8 pixels at size 64, most of them a little."""
        steps = (self._uniform(0, 1, len(x)) ** 2 * (4.99 * size / SIZE)).long()
        out, wider = x.clone(), x
        for step in range(1, int(steps.max()) + 1):
            wider = functional.max_pool2d(wider, 3, stride=1, padding=1)
            out[steps == step] = wider[steps == step]
        return out

    def _soften(self, x: Tensor, size: int) -> Tensor:
        """Scan three parts in ten of the batch at 7 to 20 pixels a side and enlarge them again; blur two in ten."""
        part = len(x) // 10
        pieces = list(x.split([part, part, part, 2 * part, len(x) - 5 * part]))
        for i, mode in enumerate(("bicubic", "bilinear", "bicubic")):
            side = int(torch.randint(7, (20, 20, 10)[i] + 1, (), generator=self.generator))
            coarse = functional.interpolate(pieces[i], size=(side, side), mode="area")
            pieces[i] = functional.interpolate(coarse, size=(size, size), mode=mode, align_corners=False).clamp(0, 1)
        pieces[3] = functional.avg_pool2d(pieces[3], 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat(pieces)

    def _paint(self, x: Tensor) -> Tensor:
        """Give ink and paper their colours: half of the batch black on white, three in ten light on dark."""
        n = len(x)
        varied = self._chance(0.5, n, 1, 1, 1)
        ink = torch.where(varied, self._uniform(0.0, 0.4, n, 1, 1, 1) + self._uniform(-0.05, 0.05, n, 3, 1, 1), 0.0)
        paper = torch.where(varied, self._uniform(0.6, 1.0, n, 1, 1, 1) + self._uniform(-0.05, 0.05, n, 3, 1, 1), 1.0)
        noise = torch.randn(x.shape, generator=self.generator) * (self._chance(0.2, n, 1, 1, 1) * 0.05)
        x = (x * ink + (1 - x) * paper + noise).clamp_(0, 1)
        return torch.where(self._chance(0.3, n, 1, 1, 1), 1 - x, x)


def _boxes(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half size (n, 2), x before y, of the ink in (n, 1, h, w), in units where the picture is [-1, 1]."""
    size = ink.shape[-1]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    centres, extents = [], []
    for axis in (2, 3):  # a maximum down the columns leaves x, along the rows leaves y
        inked = ink.amax(axis).squeeze(1) > 0.5
        low = torch.where(inked, at, 1.0).amin(1)
        high = torch.where(inked, at, -1.0).amax(1)
        centres.append((low + high) / 2)
        extents.append(((high - low) / 2).clamp(min=0.1))
    return torch.stack(centres, 1), torch.stack(extents, 1)


# -------------------------------------------------------------------------------------------------------- the learning


class CosineHead(nn.Module):
    """Scores (n, c) as scaled cosines between features (n, d) and one learned direction a class.

    References
    ----------
    Gidaris & Komodakis 2018, arXiv:1804.09458, eq. 3-4; Chen et al. 2019, arXiv:1904.04232, section 3.2.
    """

    def __init__(self, d: int, classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, d) / math.sqrt(d))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, c) of features (n, d)."""
        return self.scale * functional.normalize(x) @ functional.normalize(self.weight).T


class PairLoss(nn.Module):
    """Finds each glyph's partner, of the same class by another drawer, among all others of the batch.

    The first half of the features (n, d) are the partners of the second half, in the same order.

    References
    ----------
    Sohn 2016, "Improved deep metric learning with multi-class N-pair loss objective", eq. 6; Chen et al. 2020,
    arXiv:2002.05709, eq. 1 (all others as rivals); it departs in that pairs are two drawers' characters.
    """

    def __init__(self, scale: float = 16.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Mean cross-entropy over features (n, d)."""
        n = len(x)
        unit = functional.normalize(x)
        cosines = (self.scale * unit @ unit.T).masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
        return functional.cross_entropy(cosines, (torch.arange(n) + n // 2) % n)


class Learner(nn.Module):
    """The trunk, its two heads, and the loss of pairs."""

    def __init__(self, photo_classes: int, glyph_classes: int) -> None:
        super().__init__()
        self.trunk = timm.create_model(ARCHITECTURE, num_classes=0)
        self.photo_head = CosineHead(self.trunk.num_features, photo_classes)
        self.glyph_head = CosineHead(self.trunk.num_features, glyph_classes)
        self.pairs = PairLoss()


class Worker:
    """Every n-th picture of a batch through the trunk, on one thread, with batch norm over this share alone.

    Threads of one operator wait for each other at every layer, which costs most of the time where cores are shared;
    workers wait twice a step. They share the trunk's weights and add to the same gradients; the first one's running
    statistics are the trunk's.

    Parameters
    ----------
    trunk : nn.Module
        The trunk to share.
    index, n : int
        Which share this is, of how many.
    seed : int
        For the augmentation, together with ``index``.
    precision : {"bfloat16", "float32"}
        Of the convolutions.
    """

    def __init__(self, trunk: nn.Module, index: int, n: int, seed: int, precision: str) -> None:
        self.trunk = trunk if index == 0 else copy.deepcopy(trunk)
        for mine, shared in zip(self.trunk.modules(), trunk.modules(), strict=True):
            mine._parameters.update(shared._parameters)
        self.trunk.train()
        self.share = slice(index, None, n)
        self.augment = Augment(torch.Generator().manual_seed(1 + seed * 100 + index))
        self.precision = precision

    def forward(self, batch: tuple[Tensor, Tensor, Tensor, int]) -> tuple[Tensor, Tensor]:
        """Return features of this share of (photos, glyphs, quarter turns, size): the photos' and the glyphs'."""
        photos, glyphs, turns, size = batch
        drawn = self.augment.photos(photos[self.share], size)
        x = torch.cat([drawn, self.augment.glyphs(glyphs[self.share], turns[self.share], size)])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16", cache_enabled=False):
            self.features = self.trunk(_normalise(x)).float()
        return self.features[: len(drawn)], self.features[len(drawn) :]

    def backward(self, gradients: tuple[Tensor, Tensor]) -> None:
        """Send the gradients of the whole batch's features, photos' and glyphs', back through this share."""
        self.features.backward(torch.cat([part[self.share] for part in gradients]))


def _normalise(x: Tensor) -> Tensor:
    return ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _size_of(epoch: int, epochs: int) -> int:
    """Pixels a side in an epoch: small pictures first, for they cost a quarter."""
    done = epoch / epochs
    return 32 if done < 0.2 else 40 if done < 0.55 else 48 if done < 0.85 else SIZE


def _optimiser(learner: Learner, args: argparse.Namespace) -> torch.optim.Optimizer:
    decayed = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if args.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=args.lr)


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: up in a tenth of the steps, then down along a cosine."""
    warm = 0.1 * steps
    return step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _train_epoch(
    learner: Learner,
    average: Learner,
    optimiser: torch.optim.Optimizer,
    photos: Pictures,
    glyphs: Pictures,
    epoch: int,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Pass once over the photographs, beside as many glyphs as the batches hold."""
    seed, n, size = args.seed * 100_000 + epoch, args.workers, _size_of(epoch, args.epochs)
    generator = torch.Generator().manual_seed(seed)
    workers = [Worker(learner.trunk, i, n, seed, args.precision) for i in range(n)]
    steps, pairs = len(photos.labels) // args.photos, args.glyphs // 2
    photo_order = torch.randperm(len(photos.labels), generator=generator)
    by_class = torch.argsort(glyphs.labels, stable=True).view(int(glyphs.labels.max()) + 1, -1)  # (c, drawers)
    rounds = 1 + steps * pairs // (4 * len(by_class))
    class_order = torch.cat([torch.randperm(4 * len(by_class), generator=generator) for _ in range(rounds)])
    sums = torch.zeros(4)
    learner.train()
    with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = args.lr * _rate(epoch * steps + step, args.epochs * steps)
            p = photo_order[step * args.photos : (step + 1) * args.photos]
            classes = class_order[step * pairs : (step + 1) * pairs].repeat(2)
            drawers = torch.rand(pairs, by_class.shape[1], generator=generator).topk(2).indices.T.flatten()
            g = by_class[classes // 4, drawers]
            batch = photos.pixels[p], glyphs.pixels[g], classes % 4, size
            parts = list(pool.map(Worker.forward, workers, repeat(batch)))
            features = torch.cat([torch.stack(part, 1).flatten(0, 1) for part in zip(*parts, strict=True)])
            features = features.detach().requires_grad_()
            scores = learner.photo_head(features[: len(p)]), learner.glyph_head(features[len(p) :])
            targets = photos.labels[p], classes
            losses = [functional.cross_entropy(s, t, label_smoothing=0.1) for s, t in zip(scores, targets, strict=True)]
            optimiser.zero_grad()
            (losses[0] + args.glyph_weight * (losses[1] + learner.pairs(features[len(p) :]))).backward()
            list(pool.map(Worker.backward, workers, repeat(features.grad.split([len(p), len(g)]))))
            nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
            optimiser.step()
            taken = epoch * steps + step + 1
            _follow(average, learner, min(0.998, taken / (taken + 9)))
            right = [(s.argmax(1) == t).float().mean() for s, t in zip(scores, targets, strict=True)]
            sums += torch.stack([*losses, *right]).detach()
    means = (sums / steps).tolist()
    names = ("photo_loss", "glyph_loss", "photo_accuracy", "glyph_accuracy")
    return {"size": size, **{name: round(m, 4) for name, m in zip(names, means, strict=True)}}


@torch.no_grad()
def _follow(average: Learner, learner: Learner, decay: float) -> None:
    """Move the running average of weights and statistics towards the learner's."""
    for mean, now in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


# ------------------------------------------------------------------------------------------------------- the measuring


@torch.no_grad()
def _embed(model: nn.Module, pixels: Tensor, size: int = SIZE, precision: str = "bfloat16") -> Tensor:
    """Return unit vectors (n, d) of uint8 pictures, (n, 3, h, w) or (n, h, w)."""
    model.eval()
    out = []
    for part in pixels.split(250):
        x = part.float() / 255
        x = x if x.ndim == 4 else x.unsqueeze(1).expand(-1, 3, -1, -1)
        if x.shape[-1] != size:
            x = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            out.append(functional.normalize(model(_normalise(x)).float()))
    return torch.cat(out)


def _episodes(
    vectors: Tensor, labels: Tensor, n_way: int, n_shot: int, n_episodes: int, n_query: int = 15, seed: int = 0
) -> tuple[float, float]:
    """Accuracy of cosine prototypes in percent: its mean over episodes and the half width of its 95 % interval."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels.numpy() == c) for c in range(int(labels.max()) + 1)]
    accuracies = []
    for start in range(0, n_episodes, 100):
        e = min(100, n_episodes - start)
        ways = [rng.permutation(len(members))[:n_way] for _ in range(e)]
        picks = np.array([[rng.permutation(members[c])[: n_shot + n_query] for c in way] for way in ways])
        drawn = vectors[torch.from_numpy(picks)]
        prototypes = functional.normalize(drawn[:, :, :n_shot].mean(2), dim=-1)
        queries = drawn[:, :, n_shot:].reshape(e, n_way * n_query, -1)
        nearest = (queries @ prototypes.transpose(1, 2)).argmax(-1)
        truth = torch.arange(n_way).repeat_interleave(n_query)
        accuracies.append((nearest == truth).double().mean(1))
    values = torch.cat(accuracies)
    return 100 * values.mean().item(), 100 * 1.96 * values.std().item() / math.sqrt(len(values))


def evaluate(folder: Path, data: Path, n_episodes: int, precision: str) -> dict[str, Any]:
    """Measure a folder of weights on classes that no training saw; percentages with 95 % intervals."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    photos = _read_photos(data / "tiny_imagenet" / "test.zip")
    glyphs, _ = _read_glyphs(data / "omniglot.zip", "images_evaluation", SIZE)
    digits = _read_digits()
    result: dict[str, Any] = {"folder": folder.name, "precision": precision, "episodes": n_episodes}
    for name, pictures, n_way, shots in (
        ("tiny_imagenet_test", photos, 5, (1, 5)),
        ("omniglot_evaluation", glyphs, 20, (1, 5)),
        ("digits", digits, 10, (5,)),
    ):
        vectors = _embed(model, pictures.pixels, precision=precision)
        raw = functional.normalize(_darkness(pictures.pixels).flatten(1))
        for shot in shots:
            mean, interval = _episodes(vectors, pictures.labels, n_way, shot, n_episodes)
            result[f"{name}_{n_way}way_{shot}shot"] = [round(mean, 2), round(interval, 2)]
            result[f"{name}_{n_way}way_{shot}shot_raw_pixels"] = round(
                _episodes(raw, pictures.labels, n_way, shot, min(n_episodes, 1000))[0], 2
            )
    return result


def _darkness(pixels: Tensor) -> Tensor:
    """Reduce uint8 pictures to their darkness (n, 1, 16, 16) in [0, 1]: the baseline of raw pixels."""
    x = 1 - pixels.float().reshape(len(pixels), -1, SIZE, SIZE).mean(1, keepdim=True) / 255
    return functional.interpolate(x, size=(16, 16), mode="area")


# ----------------------------------------------------------------------------------------------------------- the files


def export(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors as timm reads them; convolutions as float16, the rest as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = timm.get_pretrained_cfg(ARCHITECTURE).to_dict()
    keys = ("input_size", "pool_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "first_conv")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": model.num_features,
        "global_pool": "avg",
        "tags": ["image-feature-extraction", "few-shot", "timm"],
        "pretrained_cfg": {
            "tag": "omniglot_tinyimagenet",
            "custom_load": False,
            **{key: cfg[key] for key in (*keys, "classifier")},
            "fixed_input_size": False,
            "num_classes": 0,
            "license": "other",
            "description": "Learned from Omniglot's background set (MIT licence) and from Tiny ImageNet's photographs, "
            "which are for non-commercial research and education only.",
        },
    }
    state = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "config.json.part").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in ("model.safetensors", "config.json"):
        (folder / f"{name}.part").chmod(0o644)
        os.replace(folder / f"{name}.part", folder / name)


def _save(path: Path, parts: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(parts, part)
    os.replace(part, path)


def train(args: argparse.Namespace) -> None:
    """Train from the start, or from the last finished epoch with --resume; a line of JSON an epoch."""
    photos = _read_photos(args.data / "tiny_imagenet" / "train.zip")
    watch_photos = _read_photos(args.data / "tiny_imagenet" / "val.zip")
    watch_photos = _select(watch_photos, np.arange(len(watch_photos.labels)) % 2 == 0)  # half of each class will do
    glyphs, alphabets = _read_glyphs(args.data / "omniglot.zip", "images_background", GLYPH_SIZE)
    watched = np.isin(alphabets, HELD_OUT)
    watch_glyphs, glyphs = _select(glyphs, watched), _select(glyphs, ~watched)
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        classes = int(photos.labels.max()) + 1, 4 * (int(glyphs.labels.max()) + 1)
        learner = Learner(*classes).to(memory_format=torch.channels_last)
        average = Learner(*classes).to(memory_format=torch.channels_last)
    average.load_state_dict(learner.state_dict())
    optimiser = _optimiser(learner, args)
    checkpoint, log, first, minutes = args.work / "checkpoint.pt", args.work / "train.log", 0, 0.0
    args.work.mkdir(parents=True, exist_ok=True)
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(saved["learner"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        first, minutes = saved["epoch"] + 1, saved["minutes"]
    for epoch in range(first, args.epochs):
        start = time.monotonic()
        line = {"epoch": epoch + 1, **_train_epoch(learner, average, optimiser, photos, glyphs, epoch, args)}
        minutes += (time.monotonic() - start) / 60
        line["minutes"] = round(minutes, 1)
        for name, watch, n_way in (("photo", watch_photos, 5), ("glyph", watch_glyphs, 20)):
            vectors = _embed(average.trunk, watch.pixels, line["size"], args.precision)
            for shot in (1, 5):
                mean = _episodes(vectors, watch.labels, n_way, shot, 400)[0]
                line[f"held_out_{name}_{n_way}way_{shot}shot"] = round(mean, 2)
        states = {"learner": learner.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        _save(checkpoint, {**states, "epoch": epoch, "minutes": minutes})
        export(average.trunk, args.out)
        with log.open("a" if epoch else "w", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def main() -> None:
    """Read the command line and train, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=_data_folder(), help="folder with omniglot.zip and tiny_imagenet/")
    parser.add_argument("--out", type=Path, default=Path("pocket"), help="folder for config.json and model.safetensors")
    parser.add_argument("--work", type=Path, default=Path("pocket-training"), help="folder for checkpoint and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=11, help="passes over the photographs")
    parser.add_argument("--photos", type=int, default=112, help="photographs in a batch")
    parser.add_argument("--glyphs", type=int, default=80, help="glyphs in a batch")
    parser.add_argument("--optimiser", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--lr", type=float, default=0.2, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--glyph-weight", type=float, default=0.7, help="weight of the glyphs' loss beside the photos'")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--workers", type=int, default=2, help="threads, each with its share of a batch")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch in --work")
    parser.add_argument("--evaluate-only", type=Path, metavar="DIR", help="measure a folder: one line of JSON")
    parser.add_argument("--episodes", type=int, default=10_000, help="episodes of --evaluate-only")
    args = parser.parse_args()
    torch.set_num_threads(args.workers if args.evaluate_only else 1)  # training spreads its work itself
    if args.evaluate_only:
        print(json.dumps(evaluate(args.evaluate_only, args.data, args.episodes, args.precision)))
    else:
        train(args)


if __name__ == "__main__":
    main()
