"""What unlabelled pictures of a new domain are worth to a frozen encoder: ``DomainAdapter`` on real data.

    python benchmarks/domain.py --work work

Three tasks, 1 and 5 shots, 15 queries of each class, cosine prototypes, 1,000 episodes; each method is compared with
prototypes of unadapted embeddings on the same episodes.

- Omniglot's evaluation characters, 20-way within an alphabet: support and queries are of the new domain, adapters are
  fitted to unlabelled pictures of the background characters; those of "coral" also have Tiny ImageNet's training
  pictures as source.
- Tiny ImageNet's test classes, 5-way: the same, with its validation classes.
- The same classes, but the queries are corrupted (inverted, a third of the contrast, noise), and the support is not:
  adapters are fitted to corrupted pictures of the validation classes and applied to the queries alone; with "one
  adapter each" the support has another, fitted to uncorrupted pictures.

"(t)" is transductive: the adapter is fitted to the queries and the support themselves. The work folder keeps the
embeddings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save, shared_file
from numpy.typing import NDArray
from PIL import Image

from fewshot import DomainAdapter, EpisodeSampler, PrototypeClassifier, TimmEncoder, load_dataset, open_image
from fewshot.classifiers import FewShotClassifier
from fewshot.datasets import Dataset
from fewshot.domain_adaptation import AdaptedClassifier
from fewshot.encoders import EmbeddingCache

Vectors = NDArray[np.float32]
ENCODERS = {"mobilenetv2": "mobilenetv2_100.tf_in1k", "mobilenetv1": "mobilenetv1_100.tf_in1k", "pocket": None}
SEEN = "†"
TASKS = ("Omniglot, 20-way within an alphabet", "Tiny ImageNet, 5-way", "Tiny ImageNet, 5-way, corrupted queries")
BASELINE = "not adapted"
_PER_CLASS = 40  # pictures of each class in the task with corrupted queries
_CHUNK = 50  # episodes


@dataclass(frozen=True)
class Candidate:
    """A method to compare: support and query embeddings (n, d) of all pictures, and the classifier of its episodes."""

    name: str
    support: Vectors
    query: Vectors
    classifier: FewShotClassifier
    transductive: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the embeddings; some 2 GB")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--episodes", type=int, default=1_000)
    parser.add_argument("--cache", help="an embedding cache from an earlier run; by default in the work folder")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.encoders:
        place = ENCODERS[name]
        encoder = TimmEncoder(name if place is None else f"local-dir:{shared_file('weights', place)}")
        cached = EmbeddingCache(encoder, options.cache or work / "vectors.sqlite")
        for task, candidates, data in tasks(cached):
            print(f"{name}, {task}", file=sys.stderr)
            rows += [{"encoder": name, "task": task, **row} for row in compared(candidates, data, options.episodes)]
    save("domain", {"queries": 15, "seed": 0, "rows": rows})
    print(markdown(rows))


def tasks(encoder: EmbeddingCache) -> Iterator[tuple[str, list[Candidate], Dataset]]:
    """Each task's name, the methods to compare, and the data set its episodes are drawn from."""
    novel, unlabelled = load_dataset("omniglot", split="evaluation"), load_dataset("omniglot", split="background")
    photographs = encoder.encode(load_dataset("tiny-imagenet", split="train").images)
    yield TASKS[0], within_domain(encoder, novel, unlabelled, photographs), novel
    novel, unlabelled = load_dataset("tiny-imagenet", split="test"), load_dataset("tiny-imagenet", split="val")
    yield TASKS[1], within_domain(encoder, novel, unlabelled, None), novel
    novel, unlabelled = first_of_each_class(novel), first_of_each_class(unlabelled)
    yield TASKS[2], across_domains(encoder, novel, unlabelled), novel


def within_domain(
    encoder: EmbeddingCache, novel: Dataset, unlabelled: Dataset, source: Vectors | None
) -> list[Candidate]:
    """Support and queries are of the same domain, and pass through the same adapter."""
    own, other = encoder.encode(novel.images), encoder.encode(unlabelled.images)
    prototypes = PrototypeClassifier()
    candidates = [Candidate(BASELINE, own, own, prototypes)]
    for fitted_to, transductive in ((other, False), (own, True)):
        for method in ("center", "whiten", "coral"):
            if method != "coral" or source is not None:
                adapter = DomainAdapter(method, source=source if method == "coral" else None).fit(fitted_to)
                adapted = adapter.transform(own)
                candidates.append(Candidate(method, adapted, adapted, prototypes, transductive))
    for method in ("center", "whiten"):
        per_episode = AdaptedClassifier(PrototypeClassifier(), adaptation=method)
        candidates.append(Candidate(f"{method}, per episode", own, own, per_episode, True))
    return candidates


def across_domains(encoder: EmbeddingCache, novel: Dataset, unlabelled: Dataset) -> list[Candidate]:
    """The queries are corrupted, the support is not."""
    clean, clean_unlabelled = encoder.encode(novel.images), encoder.encode(unlabelled.images)
    own, other = (
        encoder.encoder.encode([corrupted(image, n) for n, image in enumerate(data.images)])
        for data in (novel, unlabelled)
    )
    prototypes = PrototypeClassifier()
    candidates = [
        Candidate(f"uncorrupted queries, {BASELINE}", clean, clean, prototypes),
        Candidate(BASELINE, clean, own, prototypes),
    ]
    for fitted_to, transductive in ((other, False), (own, True)):
        for method in ("center", "whiten", "coral"):
            adapter = DomainAdapter(method, source=clean_unlabelled if method == "coral" else None).fit(fitted_to)
            support = clean if method == "coral" else DomainAdapter(method).fit(clean_unlabelled).transform(clean)
            name = method if method == "coral" else f"{method}, one adapter each"
            candidates.append(Candidate(name, support, adapter.transform(own), prototypes, transductive))
    return candidates


def compared(candidates: list[Candidate], data: Dataset, episodes: int) -> list[dict[str, Any]]:
    """Accuracy of each candidate, percent, and the paired difference to the baseline, with 95 % intervals."""
    rows = []
    for shots in (1, 5):
        n_way = 20 if data.groups else 5
        sampler = EpisodeSampler(
            data.labels, n_way=n_way, n_shot=shots, n_query=15, n_episodes=episodes, groups=data.groups
        )
        found: dict[int, list[NDArray[np.float64]]] = {number: [] for number in range(len(candidates))}
        for chunk in sampler:
            for start in range(0, len(chunk.support), _CHUNK):
                part = slice(start, start + _CHUNK)
                support, query = chunk.support[part], chunk.query[part]
                labels, truth = codes(chunk.support_labels[part], chunk.query_labels[part])
                for number, candidate in enumerate(candidates):
                    scores = candidate.classifier.episode_scores(
                        torch.from_numpy(candidate.support[support]), labels, torch.from_numpy(candidate.query[query])
                    )
                    found[number].append((scores.argmax(-1) == truth).double().mean(1).numpy())
        accuracies = [100 * np.concatenate(chunks) for chunks in found.values()]
        baseline = accuracies[[candidate.name for candidate in candidates].index(BASELINE)]
        for candidate, values in zip(candidates, accuracies, strict=True):
            row = {"shots": shots, "method": candidate.name, "transductive": candidate.transductive}
            mean, error = spread(values)
            gain, gain_error = spread(values - baseline)
            rows.append(
                {**row, "episodes": len(values), "accuracy": mean, "ci95": error, "gain": gain, "gain_ci95": gain_error}
            )
    return rows


def codes(labels: NDArray[Any], truth: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (e, s) and (e, q) as 0 to c - 1, in each episode for itself."""
    pairs = [np.unique(row, return_inverse=True) for row in labels]
    queries = [np.searchsorted(classes, row) for (classes, _), row in zip(pairs, truth, strict=True)]
    return torch.from_numpy(np.stack([inverse for _, inverse in pairs])), torch.from_numpy(np.stack(queries))


def spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    return round(float(values.mean()), 2), round(1.96 * float(values.std(ddof=1)) / len(values) ** 0.5, 2)


def corrupted(image: Any, seed: int) -> Image.Image:
    """Return a picture inverted, at a third of its contrast, with noise of 20 of 255 levels."""
    pixels = np.asarray(open_image(image), np.float32)
    noise = np.random.default_rng(seed).normal(0, 20, pixels.shape)
    return Image.fromarray(np.clip(127.5 - (pixels - 127.5) / 3 + noise, 0, 255).astype(np.uint8))


def first_of_each_class(data: Dataset) -> Dataset:
    """The first pictures of each class."""
    labels = np.array(data.labels)
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:_PER_CLASS] for label in np.unique(labels)]))
    return replace(data, images=tuple(data.images[i] for i in kept), labels=tuple(labels[kept].tolist()))


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table a task: methods down, encoders and shots across; the difference to the baseline."""
    parts = []
    for task in TASKS:
        some = [row for row in rows if row["task"] == task]
        columns = list(dict.fromkeys((row["encoder"], row["shots"]) for row in some))
        photographs = task != TASKS[0]
        heads = [f"{encoder} {shots}{f' {SEEN}' * (photographs and encoder != 'pocket')}" for encoder, shots in columns]
        parts += [f"**{task}**", "", "| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(columns)]
        for name, transductive in dict.fromkeys((row["method"], row["transductive"]) for row in some):
            chosen = [row for row in some if (row["method"], row["transductive"]) == (name, transductive)]
            found = {(row["encoder"], row["shots"]): row for row in chosen}
            cells = [_cell(found.get(column)) for column in columns]
            parts.append(f"| {name}{' (t)' * transductive} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["method"] == BASELINE:
        return f"{row['accuracy']:.1f} ± {row['ci95']:.1f}"
    return f"{round(row['gain'], 1) + 0.0:+.1f} ± {row['gain_ci95']:.1f}"


if __name__ == "__main__":
    main()
