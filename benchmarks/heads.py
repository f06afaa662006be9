"""Classifiers of many classes: whitened prototypes against prototypes and scikit-learn's linear classifiers.

{mobilenetv2, mobilenetv1, pocket} x {Tiny ImageNet, all 200 classes; Omniglot, all evaluation characters} x {20, 81,
200 ways} x {1, 2, 5, 10 shots}, 10 queries of each class. Within a draw all methods answer the same queries; a
difference's interval is of the draws (Student's t).

scikit-learn's are on unit vectors; logistic regression, the linear SVM and the discriminant with the value of ``C`` or
``shrinkage`` that is best on the queries of the 20-way column of the same data and shots: better than anybody could
choose beforehand. Ridge regression is ``RidgeClassifierCV``, which chooses by leave-one-out. mobilenetv2 was trained on
Tiny ImageNet's classes, pocket on 120 of them.

With ``--average`` instead: calibrated probabilities averaged over the best few of whitened prototypes, ridge, logistic
regression and the discriminant, by the likelihood of examples left out (one of each class, at most three times), or
over all four, beside whitened prototypes alone. With one example nothing can be left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from calibration import ENCODERS
from common import save, shared_file
from scipy.stats import t as student
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from fewshot.calibration import shipped_calibration
from fewshot.classifiers import (
    LinearDiscriminantClassifier,
    LogisticRegressionClassifier,
    PrototypeClassifier,
    RidgeClassifier,
    WhitenedPrototypeClassifier,
)
from fewshot.datasets import load_dataset
from fewshot.encoders import EmbeddingCache, load_encoder
from fewshot.episodes import EpisodeSampler

DATA = {"Tiny ImageNet": ("tiny-imagenet", ("train", "val", "test")), "Omniglot": ("omniglot", ("test",))}
SHOTS, QUERIES = (1, 2, 5, 10), 10
# Images of each class that are embedded.
_PER_CLASS = 30
# How many draws, of all methods and of the slower ones.
DRAWS = {20: (60, 10), 81: (16, 4), 200: (8, 3)}
OURS = {
    "whitened": WhitenedPrototypeClassifier,
    "prototype": PrototypeClassifier,
    "ridge": RidgeClassifier,
    "discriminant": LinearDiscriminantClassifier,
}
SLOWER = {
    "logistic": [LogisticRegressionClassifier()],
    "sklearn logistic": [LogisticRegression(C=C, max_iter=300) for C in (1.0, 10.0, 100.0)],
    "sklearn ridge": [RidgeClassifierCV(alphas=(0.1, 0.3, 1.0, 3.0, 10.0))],
    "sklearn discriminant": [LinearDiscriminantAnalysis("lsqr", shrinkage=a) for a in (0.3, 0.6, 0.9)],
    "sklearn linear SVM": [LinearSVC(C=C) for C in (0.1, 1.0, 10.0)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--ways", nargs="+", type=int, default=list(DRAWS), choices=list(DRAWS))
    parser.add_argument(
        "--rivals", nargs="*", default=["mobilenetv2"], choices=list(ENCODERS), help="the slower ones too"
    )
    parser.add_argument("--average", action="store_true", help="averages of classifiers, and nothing else")
    options = parser.parse_args()
    Path(options.work).mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
    rows = []
    for encoder in options.encoders:
        for title in DATA:
            X, y = vectors(encoder, title, Path(options.work))
            if options.average:
                table = shipped_calibration(network_of(encoder).fingerprint)
                for ways, shots in itertools.product(sorted(options.ways), SHOTS):
                    found = averages(X, y, ways, shots, table)
                    best = dict.fromkeys((name for name, _ in found), 0)
                    rows += summary(found, best, encoder=encoder, data=title, ways=ways, shots=shots)
                continue
            tuned: dict[int, dict[str, int]] = {}
            for ways, shots in itertools.product(sorted(options.ways), SHOTS):
                theirs = rivals(shots, tuned.get(shots)) if encoder in options.rivals else {}
                found, best = column(X, y, ways, shots, theirs)
                tuned.setdefault(shots, best)
                rows += summary(found, best, encoder=encoder, data=title, ways=ways, shots=shots)
    save("heads_average" if options.average else "heads", {"queries": QUERIES, "rows": rows})
    print(markdown(rows))


def vectors(encoder: str, title: str, work: Path) -> tuple[Any, Any]:
    """Return unit vectors and labels of some images of every class."""
    network = network_of(encoder)
    kept = work / f"{encoder}-{title.replace(' ', '-')}-{network.fingerprint.split(':')[-1][:12]}.npz"
    if not kept.exists():
        name, splits = DATA[title]
        images, labels = [], []
        for split in splits:
            dataset = load_dataset(name, split=split)
            names = np.array(dataset.labels, str)
            taken = np.concatenate([np.flatnonzero(names == one)[:_PER_CLASS] for one in np.unique(names)])
            images += [dataset.images[n] for n in taken]
            labels += names[taken].tolist()
        X = EmbeddingCache(network, work / "vectors.sqlite").encode(images)
        np.savez(kept, X=X, y=np.array(labels))
    found = np.load(kept)
    return normalize(found["X"]).astype(np.float32), found["y"]


def network_of(encoder: str, **settings: Any) -> Any:
    place = ENCODERS[encoder]
    return load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder, **settings)


def averages(X: Any, y: Any, ways: int, shots: int, table: Any) -> dict[tuple[str, int], list[float]]:
    """Return the accuracies, in each draw, of whitened prototypes and of averages of several classifiers."""
    sampler = EpisodeSampler(
        y, n_way=ways, n_shot=shots, n_query=QUERIES, n_episodes=2 * DRAWS[ways][1], random_state=0
    )
    kinds = [OURS["whitened"], OURS["ridge"], LogisticRegressionClassifier, OURS["discriminant"]]
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for chunk, e in ((some, e) for some in sampler for e in range(len(some))):
        support, labels = X[chunk.support[e]], chunk.support_labels[e]
        asked, truth = X[chunk.query[e]], chunk.query_labels[e]
        each = [kind().fit(support, labels).predict_proba(asked, table) for kind in kinds]
        turn = np.arange(len(labels)) % shots  # a sampler's episodes are sorted by class
        likelihood = np.zeros(len(kinds))
        for out in [turn == n for n in range(min(shots, 3))] if shots > 1 else []:
            for n, kind in enumerate(kinds):
                left = kind().fit(support[~out], labels[~out]).predict_proba(support[out], table)
                likelihood[n] += np.log(left[np.arange(ways), labels[out]].clip(1e-6)).mean()
        best = np.argsort(-likelihood, kind="stable")
        mixtures = {"whitened": [0], "average of all": range(4)}
        if shots > 1:
            mixtures |= {"the best": best[:1], "average of the best 2": best[:2], "average of the best 3": best[:3]}
        for name, some in mixtures.items():
            answers = np.sum([each[n] for n in some], axis=0).argmax(1)
            found[name, 0].append(float((answers == truth).mean()))
    return found


def rivals(shots: int, tuned: dict[str, int] | None) -> dict[str, dict[int, Any]]:
    """Return the slower classifiers by name and number of the variant; only the tuned ones, where these are known.

    With one example of each class the discriminant has no covariance to shrink.
    """
    able = {name: some for name, some in SLOWER.items() if not (shots == 1 and "discriminant" in name)}
    return {
        name: {n: one for n, one in enumerate(some) if not tuned or n == tuned[name]} for name, some in able.items()
    }


def column(
    X: Any, y: Any, ways: int, shots: int, theirs: dict[str, dict[int, Any]]
) -> tuple[dict[tuple[str, int], list[float]], dict[str, int]]:
    """Return the accuracies of each variant in each draw, and the number of each method's best."""
    many, few = DRAWS[ways]
    sampler = EpisodeSampler(y, n_way=ways, n_shot=shots, n_query=QUERIES, n_episodes=many, random_state=0)
    ours = {name: {0: kind()} for name, kind in OURS.items()}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    chunks = ((chunk, e) for chunk in sampler for e in range(len(chunk)))
    for draw, (chunk, e) in enumerate(chunks):
        support, query = X[chunk.support[e]], X[chunk.query[e]]
        for name, variants in (ours | theirs if draw < few else ours).items():
            for n, one in variants.items():
                answers = one.fit(support, chunk.support_labels[e]).predict(query)
                found[name, n].append(float((answers == chunk.query_labels[e]).mean()))
    best = {name: max(some, key=lambda n: np.mean(found[name, n])) for name, some in (ours | theirs).items()}
    return found, best


def summary(found: dict[tuple[str, int], list[float]], best: dict[str, int], **column: Any) -> list[dict[str, Any]]:
    """Return a row for each method: its accuracy, and by how much whitened prototypes are ahead in the same draws."""
    rows = []
    for name, n in best.items():
        values = found[name, n]
        gain = np.subtract(found["whitened", 0][: len(values)], values)
        row = {**column, "method": name, "draws": len(values)}
        row |= {"accuracy": round(float(np.mean(values)), 4), "whitened_gain": round(float(gain.mean()), 4)}
        row["ci95"] = round(float(student.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5), 4)
        rows.append(row)
        print(*row.values(), file=sys.stderr, flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table an encoder and data set: whitened prototypes' accuracy, and their gain on each other method."""
    parts = []
    for encoder, data in dict.fromkeys((row["encoder"], row["data"]) for row in rows):
        some = [row for row in rows if (row["encoder"], row["data"]) == (encoder, data)]
        columns = list(dict.fromkeys((row["ways"], row["shots"]) for row in some))
        cells = {(row["method"], row["ways"], row["shots"]): row for row in some}
        parts += [f"**{encoder}, {data}**", ""]
        parts += ["| | " + " | ".join(f"{w}-way {s}" for w, s in columns) + " |", "|---|" + "---|" * len(columns)]
        for method in dict.fromkeys(row["method"] for row in some):
            texts = [_cell(cells.get((method, *column))) for column in columns]
            parts.append(f"| {'whitened, %' if method == 'whitened' else f'on {method}'} | " + " | ".join(texts) + " |")
        parts.append("")
    return "\n".join(parts)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["method"] == "whitened":
        return f"{100 * row['accuracy']:.1f}"
    return f"{100 * row['whitened_gain']:+.1f} ± {100 * row['ci95']:.1f}"


if __name__ == "__main__":
    main()
