"""Seconds per 1,000 episodes and accuracy, against loops over scikit-learn and learn2learn 0.2.0, on the same episodes.

5-way, 15 queries, 640-d features made here (or ``--features FILE``), on this CPU. A loop fits and asks one episode
after another, as its users write it, on vectors normalised once before. The formulas are the same, so the answers are
too, but for near ties; they are counted. learn2learn's rows are left out where it is not installed;
benchmarks/README.md says how it is. Its SVClassifier is not here: it needs qpth, which needs numpy below 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from numpy.typing import NDArray
from races import Rival, drawn, features, race
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from fewshot import Episodes
from fewshot import classifiers as ours

# method, the rival's estimator, ours, episodes for the rival
SKLEARN: list[tuple[str, Callable[[], Any], ours.FewShotClassifier, int]] = [
    ("prototypes", NearestCentroid, ours.PrototypeClassifier(metric="sqeuclidean"), 1000),
    ("k-NN", lambda: KNeighborsClassifier(1, metric="cosine"), ours.NearestNeighborClassifier(), 1000),
    # Targets of -1 and 1 instead of 0 and 1 add the same to each class's answer.
    ("ridge", lambda: RidgeClassifier(alpha=1.0, fit_intercept=False), ours.RidgeClassifier(), 1000),
    ("logistic regression", lambda: LogisticRegression(C=1.0), ours.LogisticRegressionClassifier(), 500),
]
LEARN2LEARN: list[tuple[str, str, ours.FewShotClassifier]] = [
    ("prototypes", "euclidean", ours.PrototypeClassifier(metric="sqeuclidean")),
    ("cosine prototypes", "cosine", ours.PrototypeClassifier()),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument(
        "--features", type=Path, help="labelled vectors, .npz or .parquet, such as `fewshot export` writes"
    )
    options = parser.parse_args()
    # NearestCentroid divides by its degrees of freedom, none at one shot; thousands of warnings would be in its time.
    np.seterr(divide="ignore", invalid="ignore")
    X, y = features(options.features)
    pairs = [("scikit-learn", name, scikit(make), mine, count) for name, make, mine, count in SKLEARN]
    try:
        from learn2learn.nn import PrototypicalClassifier
    except ImportError:
        print("learn2learn is not installed: its rows are left out; see benchmarks/README.md", file=sys.stderr)
    else:
        data = torch.from_numpy(X)
        for name, distance, mine in LEARN2LEARN:
            rival = learn2learn(PrototypicalClassifier, distance, data)
            pairs.append(("learn2learn", name, rival, mine, 1000))
    rows = []
    for shots in options.shots:
        episodes = drawn(y, shots)
        for library, name, rival, mine, count in pairs:
            raced = race("loop", rival, mine, X, episodes, count, options.rounds)
            rows.append({"method": name, "loop": library, "shots": shots, **raced})
            print(rows[-1], file=sys.stderr)
    result = "vs_loops" if options.features is None else f"vs_loops_{options.features.stem}"
    save(result, {"threads": torch.get_num_threads(), "rows": rows})


def scikit(make: Callable[[], Any]) -> Rival:
    """Fit and predict, as everybody writes it."""

    def answer(X: NDArray[np.float32], one: Episodes) -> NDArray[np.int64]:
        fitted = make().fit(X[one.support[0]], one.support_labels[0])
        return np.asarray(fitted.predict(X[one.query[0]]))

    return answer


def learn2learn(kind: Any, distance: str, data: torch.Tensor) -> Rival:
    """The head alone, on tensors made once."""

    def answer(_: NDArray[np.float32], one: Episodes) -> NDArray[np.int64]:
        head = kind(data[one.support[0]], torch.from_numpy(one.support_labels[0]), distance=distance)
        return np.asarray(head(data[one.query[0]]).argmax(1).numpy())

    return answer


if __name__ == "__main__":
    main()
