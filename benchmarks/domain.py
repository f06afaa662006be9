"""What unlabelled pictures of a new domain are worth to a frozen encoder: ``DomainAdapter``'s methods on real data.

    python benchmarks/domain.py --work work

Three tasks, 1 and 5 shots, 15 queries of each class, cosine prototypes, 1,000 episodes; each method beside prototypes
of the vectors as they are, on the same episodes.

- Omniglot's evaluation characters, 20-way within an alphabet: support and queries are of the new domain, adapters see
  unlabelled pictures of the background characters; those of "coral" also have Tiny ImageNet's training pictures as
  source.
- Tiny ImageNet's test classes, 5-way: the same, with its validation classes.
- The same classes, but the queries are photographed badly (inverted, a third of the contrast, noise), and the support
  is not: adapters see bad pictures of the validation classes, and queries alone pass through them, but for "two
  centers", where the support passes through one of its own, fitted to good pictures.

"(t)" is transductive: the adapter sees the very pictures that are asked about, or an episode's own. "batch-norm" and
"entropy" change the encoder, so it must have batch norms of its own: pocket only. The work folder keeps the vectors.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SHARED, save, shared_file
from numpy.typing import NDArray
from PIL import Image

os.environ.setdefault("FEWSHOT_SHARED", str(SHARED))

from fewshot import DomainAdapter, EpisodeSampler, PrototypeClassifier, TimmEncoder, load_dataset, open_image
from fewshot.classifiers.base import FewShotClassifier
from fewshot.datasets.dataset import Dataset
from fewshot.domain_adaptation.adapted_classifier import AdaptedClassifier
from fewshot.encoders.embedding_cache import EmbeddingCache

Vectors = NDArray[np.float32]
ENCODERS = {"mobilenetv2": "mobilenetv2_100.tf_in1k", "mobilenetv1": "mobilenetv1_100.tf_in1k", "pocket": None}
SEEN = "†"
TASKS = ("Omniglot, 20-way within an alphabet", "Tiny ImageNet, 5-way", "Tiny ImageNet, 5-way, bad queries")
# Pictures that an adapter of the encoder sees, and of each class in the task with bad queries.
_UNLABELLED, _EACH = 2_000, 40
_AT_ONCE = 50


@dataclass(frozen=True)
class Way:
    """A method as it is asked: support and query vectors (n, d) of all pictures, and who classifies them."""

    name: str
    support: Vectors
    query: Vectors
    classifier: FewShotClassifier
    transductive: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the vectors; some 2 GB")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--episodes", type=int, default=1_000)
    parser.add_argument("--cache", help="file of vectors that are known already; default one in the work folder")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for encoder in options.encoders:
        place = ENCODERS[encoder]
        name = encoder if place is None else f"local-dir:{shared_file('weights', place)}"
        eyes = EmbeddingCache(TimmEncoder(name), options.cache or work / "vectors.sqlite")
        for task, ways, data in tasks(eyes, encoder == "pocket"):
            print(f"{encoder}, {task}", file=sys.stderr)
            rows += [{"encoder": encoder, "task": task, **row} for row in race(ways, data, task, options.episodes)]
    save("domain", {"queries": 15, "seed": 0, "rows": rows})
    print(markdown(rows))


def tasks(eyes: EmbeddingCache, has_norms: bool) -> Iterator[tuple[str, list[Way], Dataset]]:
    """Each task's name, the ways to answer it, and its labels and groups."""
    asked, others = load_dataset("omniglot", split="evaluation"), load_dataset("omniglot", split="background")
    photographs = eyes.encode(load_dataset("tiny-imagenet", split="train").images)
    yield TASKS[0], ways_of(eyes, asked, others, photographs, has_norms), asked
    asked, others = load_dataset("tiny-imagenet", split="test"), load_dataset("tiny-imagenet", split="val")
    yield TASKS[1], ways_of(eyes, asked, others, None, has_norms), asked
    asked, others = some_of_each(asked), some_of_each(others)
    yield TASKS[2], ways_across(eyes, asked, others, has_norms), asked


def ways_of(
    eyes: EmbeddingCache, asked: Dataset, others: Dataset, source: Vectors | None, has_norms: bool
) -> list[Way]:
    """Support and queries are of the same domain, and pass through the same adapter."""
    own, other = eyes.encode(asked.images), eyes.encode(others.images)
    prototypes = PrototypeClassifier()
    ways = [Way("as they are", own, own, prototypes)]
    for seen, transductive in ((other, False), (own, True)):
        for method in ("center", "whiten", "coral"):
            if method != "coral" or source is not None:
                adapter = DomainAdapter(method, source=source if method == "coral" else None).fit(seen)
                adapted = adapter.transform(own)
                ways.append(Way(method, adapted, adapted, prototypes, transductive))
    for method in ("center", "whiten"):
        episodes = AdaptedClassifier(PrototypeClassifier(), adaptation=method)
        ways.append(Way(f"{method}, of the episode", own, own, episodes, True))
    if has_norms:
        unlabelled = drawn(others.images)
        for method in ("batch-norm", "entropy"):
            adapted = DomainAdapter(method, encoder=eyes.encoder).fit(unlabelled).transform(asked.images)
            ways.append(Way(method, adapted, adapted, prototypes))
    return ways


def ways_across(eyes: EmbeddingCache, asked: Dataset, others: Dataset, has_norms: bool) -> list[Way]:
    """The support is of good pictures, the queries are of bad ones."""
    good, good_others = eyes.encode(asked.images), eyes.encode(others.images)
    bad_images, bad_other_images = ([bad(image, n) for n, image in enumerate(data.images)] for data in (asked, others))
    bad_own, bad_others = eyes.encoder.encode(bad_images), eyes.encoder.encode(bad_other_images)
    prototypes = PrototypeClassifier()
    ways = [Way("good queries, as they are", good, good, prototypes), Way("as they are", good, bad_own, prototypes)]
    for seen, transductive in ((bad_others, False), (bad_own, True)):
        for method in ("center", "whiten", "coral"):
            adapter = DomainAdapter(method, source=good_others if method == "coral" else None).fit(seen)
            support = good if method == "coral" else DomainAdapter(method).fit(good_others).transform(good)
            name = method if method == "coral" else f"two of {method}"
            ways.append(Way(name, support, adapter.transform(bad_own), prototypes, transductive))
    if has_norms:
        for method in ("batch-norm", "entropy"):
            adapter = DomainAdapter(method, encoder=eyes.encoder).fit(bad_other_images)
            ways.append(Way(method, good, adapter.transform(bad_images), prototypes))
    return ways


def race(ways: list[Way], data: Dataset, task: str, episodes: int) -> list[dict[str, Any]]:
    """Accuracy of each way, percent, and the paired difference to the vectors as they are, with 95 % intervals."""
    rows = []
    for shots in (1, 5):
        n_way = 20 if data.groups else 5
        sampler = EpisodeSampler(
            data.labels, n_way=n_way, n_shot=shots, n_query=15, n_episodes=episodes, groups=data.groups
        )
        answers: dict[int, list[NDArray[np.float64]]] = {number: [] for number in range(len(ways))}
        for chunk in sampler:
            for at in range(0, len(chunk.support), _AT_ONCE):
                part = slice(at, at + _AT_ONCE)
                support, query = chunk.support[part], chunk.query[part]
                labels, wanted = codes(chunk.support_labels[part], chunk.query_labels[part])
                for number, way in enumerate(ways):
                    scores = way.classifier.episode_scores(
                        torch.from_numpy(way.support[support]), labels, torch.from_numpy(way.query[query])
                    )
                    answers[number].append((scores.argmax(-1) == wanted).double().mean(1).numpy())
        accuracies = [100 * np.concatenate(found) for found in answers.values()]
        base = accuracies[[way.name for way in ways].index("as they are")]
        for way, found in zip(ways, accuracies, strict=True):
            row = {"shots": shots, "method": way.name, "transductive": way.transductive, "episodes": len(found)}
            mean, error = spread(found)
            gain, gain_error = spread(found - base)
            rows.append({**row, "accuracy": mean, "ci95": error, "gain": gain, "gain_ci95": gain_error})
    return rows


def codes(labels: NDArray[Any], wanted: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (e, s) and (e, q) as 0 to c - 1, in each episode for itself."""
    pairs = [np.unique(row, return_inverse=True) for row in labels]
    asked = [np.searchsorted(classes, row) for (classes, _), row in zip(pairs, wanted, strict=True)]
    return torch.from_numpy(np.stack([inverse for _, inverse in pairs])), torch.from_numpy(np.stack(asked))


def spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    return round(float(values.mean()), 2), round(1.96 * float(values.std(ddof=1)) / len(values) ** 0.5, 2)


def bad(image: Any, number: int) -> Image.Image:
    """Return a picture inverted, at a third of its contrast, with noise of 20 of 255 levels; the same for a number."""
    pixels = np.asarray(open_image(image), np.float32)
    noise = np.random.default_rng(number).normal(0, 20, pixels.shape)
    return Image.fromarray(np.clip(127.5 - (pixels - 127.5) / 3 + noise, 0, 255).astype(np.uint8))


def drawn(images: Any) -> list[Any]:
    """Some pictures of all classes, as many as an adapter of the encoder sees."""
    order = np.random.default_rng(0).permutation(len(images))[:_UNLABELLED]
    return [images[place] for place in order]


def some_of_each(data: Dataset) -> Dataset:
    """The first pictures of each class."""
    labels = np.array(data.labels)
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:_EACH] for label in np.unique(labels)]))
    return replace(data, images=tuple(data.images[i] for i in kept), labels=tuple(labels[kept].tolist()))


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table a task: methods down, encoders and shots across; the difference to the vectors as they are."""
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
    if row["method"] == "as they are":
        return f"{row['accuracy']:.1f} ± {row['ci95']:.1f}"
    return f"{round(row['gain'], 1) + 0.0:+.1f} ± {row['gain_ci95']:.1f}"


if __name__ == "__main__":
    main()
