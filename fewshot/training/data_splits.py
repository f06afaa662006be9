"""The data sets to train on and to validate on, of disjoint classes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewshot.datasets import Dataset, load_dataset
from fewshot.media import describe, is_place
from fewshot.training.recipe import Recipe, per_set

# Images of each validation class: more would cost much time, and hardly help to choose the best epoch.
_VALIDATION_PER_CLASS = 60

Data = str | os.PathLike[str] | Dataset
Note = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A data set for training or validation, and the ways of its episodes."""

    dataset: Dataset
    ways: int


def load_splits(
    data: Sequence[Data], validation: Sequence[Data] | None, split: str | None, recipe: Recipe, note: Note
) -> tuple[list[Part], list[Part]]:
    """Return the data sets to train on, and those to validate on; parameters as ``train_encoder``'s."""
    if not data:
        raise ValueError("give data to train on")
    train: list[Part] = []
    val: list[Part] = []
    for given, ways in zip(data, per_set("ways", recipe.ways, len(data)), strict=True):
        dataset, held_out = _loaded(given, split, "train"), None
        if validation is None:
            dataset, held_out = _held_out(given, dataset, ways, recipe, note)
        if any(dataset.name == other.dataset.name for other in train):  # the log is by name
            dataset = replace(dataset, name=f"{dataset.name} ({len(train) + 1})")
        train.append(Part(dataset, ways))
        val += [Part(held_out, ways)] if held_out is not None else []
    if validation:
        pairs = zip(validation, per_set("ways", recipe.ways, len(validation)), strict=True)
        val += [Part(_loaded(given, None, "val"), ways) for given, ways in pairs]
        _note_shared_classes(train, val, note)
    val = [Part(limit_per_class(part.dataset, _VALIDATION_PER_CLASS), part.ways) for part in val]
    for part in train + val:
        ignored = part.dataset.ignored
        if ignored:
            note(
                f"{part.dataset.name}: {len(ignored)} files left out, which are no images of a class: {ignored[0]}, ..."
            )
    return train, val


def described(train: Sequence[Part], val: Sequence[Part]) -> list[dict[str, Any]]:
    """Return what identifies the data, as JSON values."""
    return [
        {
            "name": part.dataset.name,
            "split": part.dataset.split,
            "use": use,
            "images": len(part.dataset),
            "classes": len(part.dataset.classes),
            "content": content_hash(part.dataset),
        }
        for use, parts in (("training", train), ("validation", val))
        for part in parts
    ]


def _note_shared_classes(train: Sequence[Part], val: Sequence[Part], note: Note) -> None:
    """Report validation classes that seem to be trained on."""
    for part in train:
        for held_out in val:
            shared = sorted(set(map(str, part.dataset.labels)) & set(map(str, held_out.dataset.labels)))
            if shared:
                note(
                    f"{len(shared)} of the {len(held_out.dataset.classes)} validation classes of "
                    f"{held_out.dataset.name} have the names of training classes of {part.dataset.name}, such as "
                    f"{shared[0]!r}: if they are the same classes, validation says nothing about new ones"
                )


def _loaded(given: Data, split: str | None, default: str) -> Dataset:
    """The given split of a data set, or else the default one, or else the whole of a set without splits."""
    if isinstance(given, Dataset):
        return given
    try:
        return load_dataset(given, split=split or default)
    except ValueError:
        whole = load_dataset(given) if split is None and is_place(given) else None
        if whole is None or whole.split is not None:
            raise
        return whole


def _held_out(given: Data, dataset: Dataset, ways: int, recipe: Recipe, note: Note) -> tuple[Dataset, Dataset | None]:
    """For training and validation: the set's own split "val" if its classes are others, or classes held out."""
    if not isinstance(given, Dataset) and dataset.split is not None:
        try:
            val = load_dataset(given, split="val")
        except (ValueError, FileNotFoundError):
            val = None
        if val is not None and not set(val.labels) & set(dataset.labels):
            return dataset, val
    if recipe.hold_out == 0:
        return dataset, None
    parts = split_classes(dataset, recipe.hold_out, ways=ways, examples=recipe.shots + 1, seed=recipe.seed)
    held = parts[1].classes
    note(
        f"{dataset.name}: {len(held)} of {len(dataset.classes)} classes are held out for validation, at least "
        f"{recipe.hold_out:.0%} and the {ways} of an episode (--hold-out, --ways; --hold-out 0 trains on all): "
        f"{', '.join(held[:10])}{', ...' if held[10:] else ''}"
    )
    return parts


def split_classes(dataset: Dataset, share: float, *, ways: int, examples: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set by class into training and validation; whole groups where it has groups.

    Parameters
    ----------
    dataset : Dataset
    share : float
        Of the classes, or of the groups, to hold out; rounded, but at least ``ways`` classes.
    ways, examples : int
        Classes of a validation episode, and images that each of them must have.
    seed : int

    Returns
    -------
    Dataset, Dataset
        For training and for validation.

    Raises
    ------
    ValueError : if too few classes have enough images, or are left for training.
    """
    counts = Counter(dataset.labels)
    unit = dict(zip(dataset.labels, dataset.groups or dataset.labels, strict=True))
    units = sorted(set(unit.values()))
    held: list[str] = []
    chosen: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(units)):
        classes = [label for label, name in unit.items() if name == units[number] and counts[label] >= examples]
        if len(chosen) >= max(1, round(share * len(units))) and len(held) >= ways:
            break
        if classes:
            chosen.add(units[number])
            held += classes
    left = [label for label in counts if unit[label] not in chosen]
    if len(held) < ways or len(left) < 2:
        able = sum(count >= examples for count in counts.values())
        raise ValueError(
            f"{dataset.name} has {len(counts)} classes, {able} of them with the {examples} images that a validation "
            f"episode needs: too few to hold out {ways} and to train on the others. Name other data with --validation, "
            "lower --ways, --shots or --queries, or take --hold-out 0 to train without validation"
        )
    return _chosen(dataset, set(left)), _chosen(dataset, set(held))


def _chosen(dataset: Dataset, labels: set[str]) -> Dataset:
    return dataset.take([i for i, label in enumerate(dataset.labels) if label in labels])


def limit_per_class(dataset: Dataset, most: int) -> Dataset:
    """Return a data set with at most so many images of each class, evenly spaced among the class's."""
    of_class: dict[str, list[int]] = {}
    for i, label in enumerate(dataset.labels):
        of_class.setdefault(label, []).append(i)
    keep = [
        members[i]
        for members in of_class.values()
        for i in np.linspace(0, len(members) - 1, min(most, len(members))).round().astype(int)
    ]
    return dataset.take(sorted(keep))


def content_hash(dataset: Dataset) -> str:
    """Return 16 hexadecimal digits made of the images' names and classes."""
    digest = hashlib.sha256()
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        digest.update(f"{os.path.basename(describe(image))}\0{label}\0".encode())
    return digest.hexdigest()[:16]
