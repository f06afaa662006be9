"""Fine-tuned encoders against frozen ones, on the same episodes: accuracy, seconds and trained parameters.

    python benchmarks/finetune.py --work work

Cells: mobilenetv2 on Omniglot's evaluation characters, 20-way within an alphabet, and pocket on Tiny ImageNet's test
classes, 5-way, 1 and 5 shots each, for each choice of what trains. ``FineTuneClassifier`` is fitted on each episode's
support alone, and compared on its queries with whitened and with cosine prototypes of the frozen encoder. The work
folder holds a line an episode; the same command resumes. ``--validate`` takes background alphabets and validation
classes instead, for choosing defaults. Each process computes in one thread; seconds are processor time.

    python benchmarks/finetune.py --work work --wait

How long a person waits: 20 classes of 5 images at 224 px, mobilenetv2, all cores, default parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from numpy.typing import NDArray

from fewshot import (
    EpisodeSampler,
    FineTuneClassifier,
    PrototypeClassifier,
    TimmEncoder,
    WhitenedPrototypeClassifier,
    load_dataset,
)
from fewshot.datasets.dataset import Dataset
from fewshot.encoders.embedding_cache import EmbeddingCache
from fewshot.finetuning import Choice

MOBILENET = ("weights", "mobilenetv2_100.tf_in1k")
# name: (encoder's folder, data, split, split to validate on, ways, shots)
CELLS = {
    "characters-5": (MOBILENET, "omniglot", "evaluation", "background", 20, 5),
    "characters-1": (MOBILENET, "omniglot", "evaluation", "background", 20, 1),
    "photos-5": ((), "tiny-imagenet", "test", "val", 5, 5),
    "photos-1": ((), "tiny-imagenet", "test", "val", 5, 1),
}
FROZEN = {"prototype": PrototypeClassifier, "whitened": WhitenedPrototypeClassifier}
CHOSEN = {field.name for field in fields(Choice)}
TRAINABLE = ("head", "last", "last-2", "all", "norms", "lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the answers")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--trainable", nargs="+", default=list(TRAINABLE))
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--queries", type=int, default=15, help="of each class")
    parser.add_argument("--encoder", help="folder of weights, in place of each cell's own")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: other parameters of FineTuneClassifier")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--validate", action="store_true", help="background alphabets and validation classes")
    parser.add_argument("--partial", action="store_true", help="only fill the work folder: several can at once")
    parser.add_argument("--as-is", action="store_true", help="compute nothing: sum up what the work folder holds")
    parser.add_argument("--cache", help="file of vectors that are known already; default one in the work folder")
    parser.add_argument("--wait", action="store_true", help="seconds of one tuning with all cores, three times")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    options.cache = options.cache or str(work / "vectors.sqlite")
    if options.wait:
        save("finetune_wait", {"classes": 20, "pictures": 5, "side": 224, "seed": 0, "rows": waits()})
        return
    rows = []
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=_one_thread) as pool:
        for cell in options.cells:
            for trainable in options.trainable:
                if found := run_cell(cell, trainable, options, work, pool):
                    rows.append(summary(cell, trainable, found))
                    print(_line(rows[-1]), file=sys.stderr)
    if options.validate or options.settings or options.partial:
        print(json.dumps(rows))
    else:
        save("finetune", {"queries": options.queries, "seed": 0, "rows": rows})
    print(markdown(rows))


def run_cell(
    cell: str, trainable: str, options: argparse.Namespace, work: Path, pool: ProcessPoolExecutor
) -> list[dict[str, Any]]:
    """Do the episodes of a cell that are not in the work folder yet; return all."""
    settings = {"trainable": trainable, **options.settings}
    asked = [cell, options.encoder, options.queries, options.validate, settings]
    file = work / f"{cell}-{trainable}{'-validate' * options.validate}{_tag(options.settings)}.jsonl"
    known: dict[int, dict[str, Any]] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry.pop("asked") == asked and entry["choice"].keys() == CHOSEN:  # nor of an earlier version
                known[entry["episode"]] = entry
    left = [number for number in range(options.episodes) if number not in known and not options.as_is]
    waiting = [
        pool.submit(
            one_episode,
            Draw(cell, options.encoder, options.validate, options.queries, options.episodes, options.cache),
            number,
            settings,
        )
        for number in left
    ]
    for done in as_completed(waiting):
        entry = done.result()
        known[entry["episode"]] = entry
        with file.open("a") as out:
            out.write(json.dumps({"asked": asked, **entry}) + "\n")
    return [known[number] for number in sorted(known) if number < options.episodes]


@dataclass(frozen=True)
class Draw:
    """What decides the episodes, and where vectors of the frozen encoder are kept."""

    cell: str
    folder: str | None
    validate: bool
    queries: int
    episodes: int
    cache: str


def one_episode(draw: Draw, number: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune on one episode's support; accuracies on its queries."""
    encoder, data, drawn = _drawn(draw)
    support, labels, query, wanted = drawn[number]
    images, asked = [data.images[i] for i in support], [data.images[i] for i in query]
    known = EmbeddingCache(encoder, draw.cache)
    vectors, queries = known.encode(images), known.encode(asked)
    frozen = {name: made().fit(vectors, labels).predict(queries) for name, made in FROZEN.items()}
    begun = time.process_time()
    classifier = FineTuneClassifier(encoder, random_state=number, **settings).fit(images, labels)
    seconds = time.process_time() - begun
    tuned = classifier.predict(asked)
    return {
        "episode": number,
        **{name: float((found == wanted).mean()) for name, found in frozen.items()},
        "tuned": float((tuned == wanted).mean()),
        "seconds": round(seconds, 2),
        "choice": asdict(classifier.choice_),
    }


def waits() -> list[dict[str, Any]]:
    """Tune on the supports of three episodes, each from pictures to the answer, as a person would."""
    rows = []
    encoder, data, drawn = _drawn(Draw("characters-5", None, False, 1, 3, ""))
    encoder.encode([data.images[0]])  # loaded and compiled before the clock starts, as after a first prediction
    for number, (support, labels, _, _) in enumerate(drawn):
        classifier = FineTuneClassifier(encoder, random_state=number).fit([data.images[i] for i in support], labels)
        rows.append(asdict(classifier.choice_))
    return rows


@lru_cache(maxsize=1)
def _drawn(draw: Draw) -> tuple[TimmEncoder, Dataset, list[tuple[NDArray[np.int64], ...]]]:
    """Return the encoder, the pictures, and each episode: support, its labels, queries, their labels."""
    place, name, split, other, ways, shots = CELLS[draw.cell]
    own = f"local-dir:{shared_file(*place)}" if place else "pocket"
    data = load_dataset(name, split=other if draw.validate else split)
    sampler = EpisodeSampler(
        data.labels, n_way=ways, n_shot=shots, n_query=draw.queries, n_episodes=draw.episodes, groups=data.groups
    )
    drawn = [
        row
        for chunk in sampler
        for row in zip(chunk.support, chunk.support_labels, chunk.query, chunk.query_labels, strict=True)
    ]
    return TimmEncoder(f"local-dir:{draw.folder}" if draw.folder else own), data, drawn


def summary(cell: str, trainable: str, episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, percent, with 95 % intervals; "gain" is paired, tuned minus whitened on the same queries."""
    accuracies = {name: 100 * np.array([entry[name] for entry in episodes]) for name in (*FROZEN, "tuned")}
    gain = accuracies["tuned"] - accuracies["whitened"]
    return {
        "cell": cell,
        "trainable": trainable,
        "episodes": len(episodes),
        **{name: round(float(each.mean()), 2) for name, each in accuracies.items()},
        "gain": round(float(gain.mean()), 2),
        "ci95": round(1.96 * float(gain.std(ddof=1)) / len(gain) ** 0.5, 2) if len(gain) > 1 else None,
        "untouched": sum(entry["choice"]["steps"] == 0 for entry in episodes),
        "tta": sum(entry["choice"]["tta"] for entry in episodes),
        "worst": round(float(gain.min()), 1),
        "seconds": round(float(np.median([entry["seconds"] for entry in episodes])), 1),
        "parameters": episodes[0]["choice"]["parameters"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a cell and choice of what trains."""
    counts = "untouched | tta | seconds | parameters |"
    lines = [f"| cell | trains | episodes | prototype | whitened | tuned | gain | worst | {counts}", "|---" * 12 + "|"]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: dict[str, Any]) -> str:
    gain = f"{round(row['gain'], 1) + 0.0:+.1f}" + ("" if row["ci95"] is None else f" ± {row['ci95']:.1f}")
    numbers = [*(f"{row[name]:.1f}" for name in (*FROZEN, "tuned")), gain, f"{row['worst']:+.1f}"]
    numbers += [row[name] for name in ("untouched", "tta", "seconds")]
    cells = [row["cell"], row["trainable"], row["episodes"], *numbers, f"{row['parameters']:,}"]
    return f"| {' | '.join(map(str, cells))} |"


def _tag(settings: dict[str, Any]) -> str:
    return "".join(f"-{name}-{value}" for name, value in sorted(settings.items()))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
