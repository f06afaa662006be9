"""Train glyph encoders on Omniglot as in the papers, and measure them: one forward pass a picture, inductive.

    python benchmarks/omniglot.py lake --work encoders

"lake" learns from the 30 background alphabets, "small1" and "small2" from the 5 of the smaller background sets; they
are measured on the 20 official within-alphabet one-shot runs (Lake, Salakhutdinov & Tenenbaum 2015), 400 trials.
"vinyals" learns from trainval of the Vinyals split and is measured on its test classes, 10,000 episodes of 15 queries.
Cosine prototypes everywhere. Nothing of the evaluation set is learned from or chooses a hyper-parameter: ``--validate``
holds out background alphabets (Vinyals: characters) instead, for choosing the recipe. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from fewshot import EpisodeSampler, PrototypeClassifier, TimmEncoder, load_dataset
from fewshot.benchmark.runner import run_benchmark
from fewshot.datasets.dataset import Dataset, entries
from fewshot.datasets.lazy_images import text_in
from fewshot.datasets.omniglot import omniglot_one_shot_runs
from fewshot.training.recipe import Recipe
from fewshot.training.train import train_encoder

# How often each task's pictures are seen; the small sets have a seventh of the characters.
EPOCHS = {"lake": 12, "small1": 40, "small2": 40, "vinyals": 12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(EPOCHS))
    parser.add_argument("--work", required=True, help="folder for the encoders")
    parser.add_argument("--epochs", type=int, help="passes over the pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contrastive", type=float, default=1.0, help="weight of the contrastive loss")
    parser.add_argument("--validate", action="store_true", help="hold out a tenth, and measure only that")
    options = parser.parse_args()
    data = learned_from(options.task)
    recipe = Recipe(
        arch="fewshot_pocket",
        augment=("glyphs",),
        # The Vinyals split has the turns of a character as classes of its own.
        rotations=options.task != "vinyals",
        epochs=options.epochs or EPOCHS[options.task],
        contrastive=(options.contrastive,),
        grow=True,
        learning_rate=0.2,
        ways=(20,),
        hold_out=0.1 if options.validate else 0.0,
        seed=options.seed,
    )
    name = (
        f"omniglot-{options.task}-{recipe.epochs}-{options.contrastive:g}-{recipe.seed}"
        + "-validate" * options.validate
    )
    made = train_encoder([data], Path(options.work) / name, recipe, note=lambda line: print(line, file=sys.stderr))
    log = [json.loads(line) for line in (made.folder / "training.jsonl").read_text().splitlines()]
    result: dict[str, Any] = {
        "recipe": {key: value for key, value in recipe.as_json().items() if value is not None},
        "pictures": len(data),
        "classes": len(data.classes),
        "minutes": round(made.seconds / 60, 1),
        "log": log,
    }
    if options.validate:
        print(json.dumps({**result, "validation": made.validation}))
        return
    encoder = TimmEncoder(f"local-dir:{made.folder}")
    result |= vinyals(encoder) if options.task == "vinyals" else one_shot_runs(encoder)
    save(f"omniglot_{options.task}", result)


def learned_from(task: str) -> Dataset:
    """Read the training set of a task."""
    if task == "vinyals":
        return load_dataset("omniglot-vinyals", split="trainval")
    data = load_dataset("omniglot", split="background")
    if task == "lake":
        return data
    place = next(iter(entries(None, ("omniglot",))))
    alphabets = set(text_in(place, f"background_{task}_alphabets.txt").split())
    return data.take([i for i, group in enumerate(data.groups or ()) if group in alphabets])


def one_shot_runs(encoder: TimmEncoder) -> dict[str, Any]:
    """Errors of the 20 runs, percent."""
    errors = []
    for run in omniglot_one_shot_runs():
        classifier = PrototypeClassifier().fit(encoder.encode(run.support), run.support_labels)
        wrong = classifier.predict(encoder.encode(run.query)) != np.array(run.query_labels)
        errors.append(100.0 * float(wrong.mean()))
    return {"error": float(np.mean(errors)), "trials": 400, "errors": errors}


def vinyals(encoder: TimmEncoder) -> dict[str, Any]:
    """Accuracies on the test classes, percent."""
    test = load_dataset("omniglot-vinyals", split="test")
    vectors = encoder.encode(test.images)
    rows = []
    for ways in (5, 20):
        for shots in (1, 5):
            sampler = EpisodeSampler(test.labels, n_way=ways, n_shot=shots, n_query=15, n_episodes=10_000)
            found = run_benchmark({"prototype": PrototypeClassifier()}, vectors, sampler)["prototype"]
            rows.append({"ways": ways, "shots": shots, "accuracy": 100 * found.accuracy, "ci95": 100 * found.ci95})
    return {"rows": rows}


if __name__ == "__main__":
    main()
