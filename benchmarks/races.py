"""What the races against other libraries share: features, the same episodes for both, interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot import Episodes, EpisodeSampler
from fewshot.benchmark.runner import EpisodePredictor
from fewshot.classifiers.base import FewShotClassifier
from fewshot.vectors.feature_files import read_features

# From vectors (n, d) and one episode to the class of each query (q,).
Rival = Callable[[NDArray[np.float32], Episodes], NDArray[np.int64]]


def features(path: Path | None) -> tuple[NDArray[np.float32], list[str] | NDArray[np.int64]]:
    """L2-normalised vectors and labels: of a file that `fewshot export` or another program wrote, else made here."""
    if path is None:
        return synthetic()
    found = read_features(path)
    if found.labels is None:
        raise SystemExit(f"{path} holds no labels")
    return found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True), found.labels


def synthetic(classes: int = 20, per_class: int = 600, d: int = 640) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Class means and deviations that decay over the axes, then a ReLU and L2-normalised, as easyfsl's own features."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), per_class)
    spread = (1.0 + np.arange(d)) ** -0.3
    x = 0.2 + (rng.normal(size=(classes, d))[y] * 0.16 + rng.normal(size=(len(y), d))) * spread
    x = np.maximum(x, 0.0)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def drawn(y: list[str] | NDArray[np.int64], shots: int) -> list[Episodes]:
    """1,000 5-way episodes with 15 queries of each class; sampling is in nobody's time."""
    return list(EpisodeSampler(y, n_way=5, n_shot=shots, n_query=15, n_episodes=1000))


def race(
    name: str,
    rival: Rival,
    ours: FewShotClassifier,
    X: NDArray[np.float32],
    episodes: list[Episodes],
    count: int,
    rounds: int,
) -> dict[str, float]:
    """Best seconds of each per 1,000 episodes, and accuracies on the `count` episodes that both answered."""
    truth = np.concatenate([some.query_labels for some in episodes])
    best = {name: np.inf, "ours": np.inf}
    looped(rival, X, episodes, 5)
    batched(ours, X, episodes)
    for _ in range(rounds):
        start = time.perf_counter()
        theirs = looped(rival, X, episodes, count)
        best[name] = min(best[name], (time.perf_counter() - start) * 1000 / count)
        start = time.perf_counter()
        mine = batched(ours, X, episodes)
        best["ours"] = min(best["ours"], (time.perf_counter() - start) * 1000 / len(truth))
    return {
        f"episodes_{name}": count,
        f"{name}_seconds_per_1000": round(best[name], 4),
        "ours_seconds_per_1000": round(best["ours"], 4),
        "times_faster": round(best[name] / best["ours"], 1),
        f"{name}_accuracy": round(float((theirs == truth[:count]).mean()) * 100, 2),
        "ours_accuracy": round(float((mine[:count] == truth[:count]).mean()) * 100, 2),
        "answers_that_differ": int((theirs != mine[:count]).sum()),
    }


def looped(rival: Rival, X: NDArray[np.float32], episodes: list[Episodes], count: int) -> NDArray[np.int64]:
    """One episode after another, as a rival's users run it."""
    rows = (some[row : row + 1] for some in episodes for row in range(len(some)))
    return np.stack([rival(X, one) for one, _ in zip(rows, range(count), strict=False)])


def batched(ours: FewShotClassifier, X: NDArray[np.float32], episodes: list[Episodes]) -> NDArray[np.int64]:
    """Ours, from the same vectors in memory."""
    predict = EpisodePredictor(ours, torch.from_numpy(X), 2**22)
    return np.concatenate([predict(some) for some in episodes])
