"""Seconds per 1,000 episodes and accuracy, against easyfsl 1.5.0 with its own hyper-parameters, on the same episodes.

5-way, 15 queries, 640-d features, on this CPU. Needs easyfsl: ``pip install --no-deps easyfsl==1.5.0``. The features
are made here: Gaussian classes on the positive side, as after a ReLU; only their shape matters to the clock.
``--features FILE`` takes real ones, whose accuracies mean more; easyfsl's PT-MAP loses their negative entries. Rounds
are interleaved and the best of each counts; easyfsl's slow methods run on fewer episodes, and ours on the same ones
for the accuracy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from numpy.typing import NDArray
from races import Rival, drawn, features, race

from fewshot import Episodes
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
    "BD-CSPN": ("BDCSPN", BDCSPNClassifier(prior="uniform"), 1000, False),
    "LaplacianShot": ("LaplacianShot", LaplacianShotClassifier(prior="uniform"), 500, False),
    "TIM": (
        "TIM",
        TIMClassifier(steps=50, learning_rate=1e-4, conditional_weight=0.1, prior="uniform"),
        50,
        True,
    ),
    "transductive fine-tuning": ("TransductiveFinetuning", TransductiveFineTuningClassifier(), 100, False),
    "PT-MAP": ("PTMAP", PTMAPClassifier(n_iter=10, prior="uniform"), 100, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--methods", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument(
        "--features", type=Path, help="labelled vectors, .npz or .parquet, such as `fewshot export` writes"
    )
    options = parser.parse_args()
    try:
        import easyfsl.methods
    except ImportError:
        sys.exit("needs easyfsl: pip install --no-deps easyfsl==1.5.0")
    X, y = features(options.features)
    rows = []
    for shots in options.shots:
        episodes = drawn(y, shots)
        for name in options.methods:
            theirs, ours, count, same = PAIRS[name]
            model = getattr(easyfsl.methods, theirs)(backbone=torch.nn.Identity())
            raced = race("easyfsl", answers(model, X), ours, X, episodes, count, options.rounds)
            rows.append({"method": name, "shots": shots, **raced, "same_formula": same})
            print(rows[-1], file=sys.stderr)
    # A file's own name keeps its result beside the one of the features made here.
    result = "vs_easyfsl" if options.features is None else f"vs_easyfsl_{options.features.stem}"
    save(result, {"threads": torch.get_num_threads(), "rows": rows})


def answers(model: Any, X: NDArray[np.float32]) -> Rival:
    """Return one episode's answers by easyfsl's model, from tensors made once."""
    data = torch.from_numpy(X)

    def answer(_: NDArray[np.float32], one: Episodes) -> NDArray[np.int64]:
        model.process_support_set(data[one.support[0]], torch.from_numpy(one.support_labels[0]))
        return np.asarray(model(data[one.query[0]]).detach().argmax(1).numpy())

    return answer


if __name__ == "__main__":
    main()
