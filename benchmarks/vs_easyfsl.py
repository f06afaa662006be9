"""Seconds per 1,000 episodes and accuracy, against easyfsl 1.5.0 with its own hyper-parameters, on the same episodes.

5-way, 15 queries, 640-d features, on this CPU. Needs easyfsl: ``pip install --no-deps easyfsl==1.5.0``. The features
are made here: Gaussian classes on the positive side, as after a ReLU; only their shape matters to the clock. Rounds
are interleaved and the best of each counts; easyfsl's slow methods run on fewer episodes, and ours on the same ones
for the accuracy.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from common import save

from fewshot import EpisodeSampler
from fewshot.benchmark import EpisodeScorer
from fewshot.classifiers import (
    BDCSPNClassifier,
    CosineHeadClassifier,
    FewShotClassifier,
    LaplacianShotClassifier,
    PrototypeClassifier,
    PTMAPClassifier,
    SimpleShotClassifier,
    TIMClassifier,
    TransductiveFineTuningClassifier,
)

# easyfsl's hyper-parameters are its defaults; ours are set to the same where the formula is the same.
# name: (easyfsl's class and arguments, ours, episodes for easyfsl, whether the formula is the same)
PAIRS: dict[str, tuple[str, FewShotClassifier, int, bool]] = {
    "prototypes": ("PrototypicalNetworks", PrototypeClassifier(metric="sqeuclidean"), 1000, True),
    "SimpleShot": ("SimpleShot", SimpleShotClassifier(), 1000, False),
    "fine-tune": ("Finetune", CosineHeadClassifier(steps=200), 50, False),
    "BD-CSPN": ("BDCSPN", BDCSPNClassifier(epsilon=1.0, prior="uniform"), 1000, False),
    "LaplacianShot": ("LaplacianShot", LaplacianShotClassifier(epsilon=1.0, prior="uniform"), 500, False),
    "TIM": (
        "TIM",
        TIMClassifier(learning_rate=1e-4, conditional_weight=0.1, prior="uniform"),
        50,
        True,
    ),
    "transductive fine-tuning": ("TransductiveFinetuning", TransductiveFineTuningClassifier(), 100, False),
    "PT-MAP": ("PTMAP", PTMAPClassifier(n_iter=10, prior="uniform"), 20, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--methods", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    options = parser.parse_args()
    try:
        import easyfsl.methods
    except ImportError:
        sys.exit("needs easyfsl: pip install --no-deps easyfsl==1.5.0")
    X, y = features()
    rows = []
    for shots in options.shots:
        sampler = EpisodeSampler(y, n_way=5, n_shot=shots, n_query=15, n_episodes=1000)
        for name in options.methods:
            theirs, ours, count, same = PAIRS[name]
            model = getattr(easyfsl.methods, theirs)(backbone=torch.nn.Identity())
            rows.append({"method": name, "shots": shots, **race(model, ours, X, sampler, count, options.rounds)})
            rows[-1]["same_formula"] = same
            print(rows[-1], file=sys.stderr)
    save("vs_easyfsl", {"threads": torch.get_num_threads(), "rows": rows})


def features(classes: int = 20, per_class: int = 600, d: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """Class means and deviations that decay over the axes, then a ReLU and L2-normalised, as easyfsl's own features."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), per_class)
    spread = (1.0 + np.arange(d)) ** -0.3
    x = 0.2 + (rng.normal(size=(classes, d))[y] * 0.16 + rng.normal(size=(len(y), d))) * spread
    x = np.maximum(x, 0.0)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def race(
    model: Any, ours: FewShotClassifier, X: np.ndarray, sampler: EpisodeSampler, count: int, rounds: int
) -> dict[str, float]:
    """Best seconds of each per 1,000 episodes, and accuracies on the episodes that both answered."""
    data = torch.from_numpy(X)
    best = {"easyfsl": np.inf, "ours": np.inf}
    looped(model, data, sampler, 5)
    batched(ours, data, sampler)
    for _ in range(rounds):
        start = time.perf_counter()
        theirs = looped(model, data, sampler, count)
        best["easyfsl"] = min(best["easyfsl"], (time.perf_counter() - start) * 1000 / count)
        start = time.perf_counter()
        mine = batched(ours, data, sampler)
        best["ours"] = min(best["ours"], time.perf_counter() - start)
    return {
        "episodes_easyfsl": count,
        "easyfsl_seconds_per_1000": round(best["easyfsl"], 4),
        "ours_seconds_per_1000": round(best["ours"], 4),
        "times_faster": round(best["easyfsl"] / best["ours"], 1),
        "easyfsl_accuracy": round(float(np.mean(theirs)) * 100, 2),
        "ours_accuracy": round(float(np.mean(mine[:count])) * 100, 2),
    }


def looped(model: Any, data: torch.Tensor, sampler: EpisodeSampler, count: int) -> np.ndarray:
    """easyfsl, one episode after another, as its users run it; sampling is left out for both."""
    accuracies = []
    for some in EPISODES.setdefault(id(sampler), list(sampler)):
        for row in range(len(some)):
            if len(accuracies) == count:
                return np.array(accuracies)
            labels = torch.from_numpy(some.support_labels[row])
            model.process_support_set(data[some.support[row]], labels)
            predicted = model(data[some.query[row]]).detach().argmax(1).numpy()
            accuracies.append((predicted == some.query_labels[row]).mean())
    return np.array(accuracies)


def batched(ours: FewShotClassifier, data: torch.Tensor, sampler: EpisodeSampler) -> np.ndarray:
    """Ours, from the same vectors in memory."""
    scorer = EpisodeScorer(ours, data, 2**22)
    return np.concatenate(
        [(scorer(some) == some.query_labels).mean(1) for some in EPISODES.setdefault(id(sampler), list(sampler))]
    )


EPISODES: dict[int, list[Any]] = {}


if __name__ == "__main__":
    main()
