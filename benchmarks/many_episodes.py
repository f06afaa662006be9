"""Many episodes fine-tuned: ``run_finetuning``, one at a time and several in one pass, against fitting anew in each.

    python benchmarks/many_episodes.py

The same episodes three ways: a loop that fits ``FineTuneClassifier`` and asks it, and prototypes of the untouched
encoder too, and ``run_finetuning`` with one and with four episodes in one pass. Seconds an episode, everything included
but the loading of the encoder; accuracies, percent; and the share of queries that get the loop's answer. On a GPU where
there is one, else on all cores of a CPU.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import save, shared_file
from numpy.typing import NDArray

from fewshot import EpisodeSampler, FineTuneClassifier, PrototypeClassifier, TimmEncoder, load_dataset, run_finetuning
from fewshot.datasets.dataset import Dataset

MOBILENET = ("weights", "mobilenetv2_100.tf_in1k")
# (name, folder of weights, data, split, ways, shots, what trains)
CELLS = (
    ("pocket, 5 photographs of 5 classes", (), "tiny-imagenet", "test", 5, 5, ("last-2", "norms")),
    ("mobilenetv2, 1 character of 20 classes", MOBILENET, "omniglot", "evaluation", 20, 1, ("last-2",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--memory", type=float, default=4.0, help="GiB; FineTuneClassifier's own default is 1")
    options = parser.parse_args()
    rows = [row(cell, trainable, options) for cell in CELLS for trainable in cell[-1]]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    asked = {"episodes": options.episodes, "memory": options.memory, "queries": 15, "seed": 0}
    save("many_episodes", {"device": device, **asked, "rows": rows})
    print(f"| encoder and task | trains | loop | {' | '.join(f'{n} at once' for n in options.at_once)} |")
    print("|---" * (3 + len(options.at_once)) + "|")
    for each in rows:
        runs = " | ".join(f"{run['seconds']:.1f} ({each['loop'] / run['seconds']:.1f} x)" for run in each["runs"])
        print(f"| {each['cell']} | {each['trainable']} | {each['loop']:.1f} | {runs} |")


def row(cell: tuple[Any, ...], trainable: str, options: argparse.Namespace) -> dict[str, Any]:
    name, place, data_name, split, ways, shots, _ = cell
    encoder = TimmEncoder(f"local-dir:{shared_file(*place)}" if place else "pocket")
    data = load_dataset(data_name, split=split)
    encoder.encode(data.images[:1])
    classifier = FineTuneClassifier(encoder, trainable=trainable, memory=options.memory)
    sampler = EpisodeSampler(
        data.labels, n_way=ways, n_shot=shots, n_query=15, n_episodes=options.episodes, groups=data.groups
    )
    begun = time.perf_counter()
    wanted, accuracy = looped(classifier, data, sampler)
    loop = (time.perf_counter() - begun) / options.episodes
    runs = []
    for n in options.at_once:
        result = run_finetuning(classifier, data.images, sampler, at_once=n)
        tuned = result["fine-tuning"]
        runs.append(
            {
                "at_once": result.at_once,
                "seconds": round(tuned.seconds / options.episodes, 2),
                "accuracy": round(100 * tuned.accuracy, 2),
                "same": round(float((tuned.predicted == wanted).mean()), 4),
            }
        )
        print(name, trainable, f"loop {loop:.2f}", runs[-1], flush=True)
    return {"cell": name, "trainable": trainable, "loop": round(loop, 2), "accuracy": accuracy, "runs": runs}


def looped(classifier: FineTuneClassifier, data: Dataset, sampler: EpisodeSampler) -> tuple[NDArray[np.int64], float]:
    """Predict each episode's queries (e, q) by a classifier fitted to its support; return the mean accuracy too."""
    predicted, right = [], []
    for some in sampler:
        for support, labels, query, answers in zip(
            some.support, some.support_labels, some.query, some.query_labels, strict=True
        ):
            shown, asked = [data.images[i] for i in support], [data.images[i] for i in query]
            encode = classifier.encoder.encode
            PrototypeClassifier().fit(encode(shown), labels).predict(encode(asked))
            predicted.append(classifier.fit(shown, labels).predict(asked))
            right.append(float((predicted[-1] == answers).mean()))
    return np.array(predicted), round(100 * float(np.mean(right)), 2)


if __name__ == "__main__":
    main()
