"""Groups of pictures of one object: one answer from several pictures, of which some are near-copies of each other.

    python benchmarks/groups.py --work work

Registries of 5 or 20 classes and 1 or 5 shots, drawn from Tiny ImageNet's test classes; the other classes are unknown.
A group holds 3 or 5 pictures of one class that are all different, or of which 2 (of 3) or 3 (of 5) are near-copies of
one, or that are all near-copies of one: the picture cropped, turned, brighter or darker, and blurred. Each third of the
groups is of one kind. ``--work`` keeps the embeddings.

    python benchmarks/groups.py --work work --fit

Prints what the constants of ``fewshot/registry/group_evidence.py`` were chosen by: the same on validation classes, and
for mobilenetv2, which was trained on all of Tiny ImageNet's classes, on 30 training classes, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibration import ENCODERS
from common import save, shared_file
from PIL import Image, ImageEnhance, ImageFilter
from scipy.stats import t as student

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.calibration import measure_reliability, shipped_calibration
from fewshot.classifiers import WhitenedPrototypeClassifier
from fewshot.datasets import load_dataset
from fewshot.encoders import load_encoder
from fewshot.media import open_image
from fewshot.registry.group_evidence import GroupEvidence, class_scatter
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore

# Pictures of each class that are embedded, and near-copies of each.
PICTURES, COPIES = 40, 4
KINDS = ("different", "mixed", "copies")
SETTINGS = ((5, 1, 0.2), (5, 5, 0.2), (20, 1, 0.05), (20, 5, 0.05))
"""Classes, shots, and the limit on false accepts, the smallest round one that so many classes can promise."""
KNOWN, UNKNOWN = 6, 3
"""Groups of each class."""
FRIGATE = 0.6  # of at least three pictures must agree


def near_copy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return what the next frame of the same object might look like."""
    width, height = image.size
    turned = image.rotate(float(rng.uniform(-6, 6)), resample=Image.Resampling.BICUBIC)
    share = float(rng.uniform(0.8, 0.95))
    left, top = (int(rng.uniform(0, (1 - share) * side)) for side in (width, height))
    found = turned.crop((left, top, left + int(share * width), top + int(share * height))).resize((width, height))
    found = ImageEnhance.Brightness(found).enhance(float(rng.uniform(0.8, 1.2)))
    found = ImageEnhance.Contrast(found).enhance(float(rng.uniform(0.85, 1.15)))
    return found.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.6))))


def embedded(encoder: str, split: str, work: Path, classes: int | None = None) -> tuple[np.ndarray, str]:
    """Return vectors (c, PICTURES, 1 + COPIES, d) of a split's first pictures and near-copies, and the fingerprint."""
    place = ENCODERS[encoder]
    network = load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder)
    kept = work / f"groups-{encoder}-{split}-{network.fingerprint.split(':')[-1][:12]}.npy"
    if not kept.exists():
        dataset = load_dataset("tiny-imagenet", split=split)
        labels, rng = np.array(dataset.labels, str), np.random.default_rng(0)
        found = []
        for label in np.unique(labels)[:classes]:
            images = []
            for n in np.flatnonzero(labels == label)[:PICTURES].tolist():
                image = open_image(dataset.images[n])
                images += [image, *(near_copy(image, rng) for _ in range(COPIES))]
            found.append(network.encode(images).reshape(PICTURES, 1 + COPIES, -1))
        np.save(kept, np.array(found, np.float32))
    return np.load(kept), network.fingerprint


def drawn_group(pictures: np.ndarray, size: int, kind: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return (picture, copy) of each member."""
    some = rng.permutation(pictures)[:size].tolist()
    copies = {"different": 0, "mixed": size // 2 + 1, "copies": size}[kind]
    return [(some[0], copy) for copy in range(copies)] + [(one, 0) for one in some[bool(copies) :][: size - copies]]


class Episode:
    """A registry of some classes, and groups of these and of the others."""

    def __init__(self, V: np.ndarray, fingerprint: str, ways: int, shots: int, rng: np.random.Generator) -> None:
        order = rng.permutation(len(V))
        kept = {int(c): rng.permutation(PICTURES) for c in order[:ways]}
        self.support = [(self._key(c, n, 0), str(c)) for c, some in kept.items() for n in some[:shots]]
        groups = [c for c in order[:ways].tolist() for _ in range(KNOWN)]
        groups += [c for c in order[ways:].tolist() for _ in range(UNKNOWN)]
        self.groups, self.kinds = [], []
        for number, c in enumerate(groups):
            kind, size = KINDS[number % 3], (3, 5)[number // 3 % 2]
            pictures = kept[c][shots:] if c in kept else np.arange(PICTURES)
            self.groups.append([self._key(c, n, copy) for n, copy in drawn_group(pictures, size, kind, rng)])
            self.kinds.append(kind)
        self.truths = [str(c) if c in kept else None for c in groups]
        self.V, self.fingerprint = V, fingerprint

    @staticmethod
    def _key(c: int, n: int, copy: int) -> str:
        return f"{c} {n} {copy}"

    def vectors(self, keys: list[str]) -> np.ndarray:
        """Return the embeddings of pictures by their keys."""
        return np.array([self.V[tuple(map(int, key.split()))] for key in keys], np.float32)

    def registry(self, folder: str, number: int) -> ClassRegistry:
        """Make the registry in a folder; its examples are keys, whose vectors the encoder looks up."""
        encoder = FunctionEncoder(self.vectors, dim=self.V.shape[-1], fingerprint=self.fingerprint, modality="text")
        registry = ClassRegistry(f"{folder}/{number}.fewshot", encoder=encoder, classifier="whitened")
        registry.add_labelled(self.support)
        return registry


def rivals(episode: Episode) -> dict[str, list[tuple[str | None, float]]]:
    """Return the answer, and its probability, of other ways to read a group, for each group."""
    keys, labels = zip(*episode.support, strict=True)
    classifier = WhitenedPrototypeClassifier().fit(episode.vectors(list(keys)), labels)
    table = shipped_calibration(episode.fingerprint)
    found: dict[str, list[tuple[str | None, float]]] = defaultdict(list)
    for group in episode.groups:
        X = episode.vectors(group)
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        each = classifier.predict_proba(np.concatenate([X, unit.mean(axis=0, keepdims=True)]), table).astype(float)
        votes = classifier.classes_[each[:-1].argmax(axis=1)].tolist()
        most = max(votes, key=votes.count)
        total = np.log(each[:-1].clip(1e-30)).sum(axis=0)
        summed = np.exp(total - total.max())
        for name, p in (
            ("single picture", each[0]),
            ("plain sum", summed / summed.sum()),
            ("mean embedding", each[-1]),
        ):
            found[name].append((str(classifier.classes_[p.argmax()]), float(p.max())))
        found["majority of 60 %"].append((most if votes.count(most) >= FRIGATE * len(group) else None, np.nan))
    return found


def measured(V: np.ndarray, fingerprint: str, setting: tuple[int, int, float], draws: int) -> list[dict[str, Any]]:
    """Return a row for each group of each draw: the answers, and whether it is accepted."""
    ways, shots, limit = setting
    rng, rows = np.random.default_rng(ways + shots), []
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(draws):
            episode = Episode(V, fingerprint, ways, shots, rng)
            with episode.registry(folder, draw) as registry:
                members = [(key, str(n)) for n, group in enumerate(episode.groups) for key in group]
                asked, groups = zip(*members, strict=True)
                found = registry.predict_groups(asked, groups, max_false_accept=limit)
                single = registry.predict([g[0] for g in episode.groups], nearest=0, top=1, max_false_accept=limit)
            others = rivals(episode)
            for n, (one, truth, kind) in enumerate(zip(found, episode.truths, episode.kinds, strict=True)):
                answers = {
                    "group": (one.top[0][0], one.probability),
                    **{name: some[n] for name, some in others.items()},
                }
                row = {"draw": draw, "truth": truth, "kind": kind, "answers": answers, "size": one.effective_size}
                rows.append({**row, "accepted": one.label is not None, "single": single[n].label is not None})
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and ECE of each way to read the known groups, and the share of each that is accepted."""
    known = [row for row in rows if row["truth"] is not None]
    found: dict[str, Any] = {"known_groups": len(known), "unknown_groups": len(rows) - len(known), "methods": {}}
    for name in known[0]["answers"]:
        kinds = {kind: [row for row in known if kind in ("all", row["kind"])] for kind in ("all", *KINDS)}
        found["methods"][name] = {kind: reliability(name, some) for kind, some in kinds.items()}
    for what in ("accepted", "single"):
        found[what] = {
            "false_accept": by_draw([r for r in rows if r["truth"] is None], what),
            "true_accept": by_draw(known, what),
        }
    sizes = {kind: np.mean([row["size"] for row in known if row["kind"] == kind]) for kind in KINDS}
    return found | {"effective_size": {kind: round(float(size), 2) for kind, size in sizes.items()}}


def reliability(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    answers = [row["answers"][name] for row in rows]
    right = np.array([label == row["truth"] for (label, _), row in zip(answers, rows, strict=True)])
    confidence = np.array([p for _, p in answers], float)
    found = {"accuracy": round(float(right.mean()), 4)}
    if np.isnan(confidence).any():
        return found | {"answered": round(float(np.mean([label is not None for label, _ in answers])), 4)}
    p = torch.from_numpy(np.stack([confidence, np.zeros(len(confidence))], axis=1))
    ece = measure_reliability(p, torch.from_numpy(np.where(right, 0, 1))).ece
    return found | {"confidence": round(float(confidence.mean()), 4), "ece": round(ece, 4)}


def by_draw(rows: list[dict[str, Any]], what: str) -> list[float]:
    """Return the mean over draws, and the half-width of its 95 % interval (Student's t)."""
    shares: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        shares[row["draw"]].append(row[what])
    each = [float(np.mean(some)) for some in shares.values()]
    return [
        round(float(np.mean(each)), 4),
        round(float(student.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) / len(each) ** 0.5), 4),
    ]


def fit(V: np.ndarray, fingerprint: str, setting: tuple[int, int, float], draws: int) -> None:
    """Print the ECE for each share of common error, and the accepted shares for each share of common unknown score."""
    ways, shots, limit = setting
    rng = np.random.default_rng(ways + shots)
    table = shipped_calibration(fingerprint)
    cells: dict[tuple[str, float], list[Any]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(draws):
            episode = Episode(V, fingerprint, ways, shots, rng)
            keys, labels = zip(*episode.support, strict=True)
            classifier = WhitenedPrototypeClassifier().fit(episode.vectors(list(keys)), labels)
            with episode.registry(folder, draw) as registry:
                with closing(RegistryStore(registry.path, create=False)) as store:
                    snapshot = SnapshotCache(store).current()
                scatter, threshold = class_scatter(snapshot), registry.rejection.threshold(limit)
                mean = registry.rejection.mean_unknown_score(snapshot, threshold)
                flat = [key for group in episode.groups for key in group]
                unknown = iter([p.unknown_score for p in registry.predict(flat, top=1, nearest=0)])
            for group, truth in zip(episode.groups, episode.truths, strict=True):
                X = episode.vectors(group)
                evidence = GroupEvidence.of(X, scatter)
                score = evidence.weights @ [next(unknown) for _ in group]
                log = evidence.weights @ np.log(classifier.predict_proba(X, table).astype(float).clip(1e-30))
                for shared in np.arange(0, 0.7, 0.1).round(2):
                    spread = (shared + (1 - shared) * evidence.concentration) ** 0.5
                    accepted = score < mean + spread * (threshold.value - mean)
                    cells["true" if truth else "false", shared].append(accepted)
                    if truth:
                        p = np.exp(log / spread**2 - (log / spread**2).max())
                        best = classifier.classes_[p.argmax()]
                        cells["answer", shared].append(
                            {"truth": truth, "answers": {"": (best, float(p.max() / p.sum()))}}
                        )
    for shared in np.arange(0, 0.7, 0.1).round(2):
        accepts = (round(float(np.mean(cells[kind, shared])), 3) for kind in ("false", "true"))
        print(ways, shots, limit, "shared", shared, reliability("", cells["answer", shared])["ece"], *accepts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the embeddings")
    parser.add_argument("--draws", type=int, default=60, help="registries of each setting")
    parser.add_argument("--fit", action="store_true", help="on validation and training classes; writes nothing")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for encoder in ("pocket", "mobilenetv2"):
        V, fingerprint = embedded(encoder, "val" if options.fit else "test", work)
        if options.fit and encoder == "mobilenetv2":
            V = np.concatenate([V, embedded(encoder, "train", work, 30)[0]])
        for setting in SETTINGS:
            if options.fit:
                print(encoder)
                fit(V, fingerprint, setting, options.draws)
                continue
            row = {"encoder": encoder, "ways": setting[0], "shots": setting[1], "max_false_accept": setting[2]}
            rows.append(row | summary(measured(V, fingerprint, setting, options.draws)))
            print(rows[-1], file=sys.stderr, flush=True)
    if not options.fit:
        save("groups", {"draws": options.draws, "rows": rows})
        print(markdown(rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| | " + " | ".join(f"{r['encoder']} {r['ways']}-way {r['shots']}" for r in rows) + " |"]
    lines.append("|---|" + "---|" * len(rows))
    for name in rows[0]["methods"]:
        cells = [row["methods"][name]["all"] for row in rows]
        shown = [f"{100 * c['accuracy']:.1f}" + (f" ({c['ece']:.3f})" if "ece" in c else "") for c in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    for what, title in (("accepted", "group"), ("single", "single picture")):
        for kind in ("false_accept", "true_accept"):
            cells = ["{:.1f} ± {:.1f}".format(*(100 * x for x in row[what][kind])) for row in rows]
            lines.append(f"| {title}, {kind.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
