"""A data set: its images and labels, the names of its splits, and the folder where it is looked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewshot.media import Modality, medium_of, normalised_name

# A split's name in its own data set, and its other names.
Splits = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dataset:
    """Images, texts or sounds with their labels.

    Attributes
    ----------
    name : str
    images : tuple of sources
        As ``ClassRegistry.add`` takes them; none is read before it is used.
    labels : tuple of str
        The class of each image.
    groups : tuple of str, optional
        The group of each image, such as its alphabet in Omniglot; episodes can be drawn within groups.
    split : str, optional
        The split, by the data set's own name; None if it has no splits.
    contained_in : tuple of str
        The pretraining sets that contain classes of this one, such as "imagenet"; see ``training_overlap``.
    ignored : tuple of str
        Files of another kind, left out.
    modality : {"image", "text", "audio"}, default "image"

    Raises
    ------
    ValueError : if there is not one label, or not one group, for each image.

    Examples
    --------
    >>> from fewshot import Dataset
    >>> data = Dataset("fruit", images=("a.jpg", "b.jpg", "c.jpg"), labels=("apple", "pear", "apple"))
    >>> len(data), data.classes
    (3, ('apple', 'pear'))
    >>> data.take([0, 2]).labels
    ('apple', 'apple')
    """

    name: str
    images: tuple[Any, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    split: str | None = None
    contained_in: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    modality: Modality = "image"

    def __post_init__(self) -> None:
        for what, values in (("labels", self.labels), ("groups", self.groups)):
            if values is not None and len(values) != len(self.images):
                noun = medium_of(self.modality).noun
                raise ValueError(f"{self.name} has {len(self.images)} {noun}s but {len(values)} {what}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def take(self, positions: Sequence[int]) -> Dataset:
        """Return the data set of the images at these indices, in this order."""
        return replace(
            self,
            images=tuple(self.images[i] for i in positions),
            labels=tuple(self.labels[i] for i in positions),
            groups=None if self.groups is None else tuple(self.groups[i] for i in positions),
        )


def own_split(title: str, split: str, splits: Splits) -> str:
    """Return the data set's own name of a split.

    Raises
    ------
    ValueError : for a split that the set does not have, naming those it has.
    """
    for own in splits:
        if normalised_name(split) in split_names(own, splits):
            return own
    raise ValueError(f"{title} has no split {split!r}; it has {', '.join(splits)}")


def split_names(own: str, splits: Splits) -> set[str]:
    """Return all names of a split, normalised."""
    return {normalised_name(word) for word in (own, *splits[own])}


def data_folder(root: str | os.PathLike[str] | None) -> Path:
    """Return the folder that holds the data sets: ``root``, $FEWSHOT_DATA, or else ~/.cache/fewshot/datasets."""
    if root is None:
        root = os.environ.get("FEWSHOT_DATA") or os.path.join("~", ".cache", "fewshot", "datasets")
    return Path(os.path.abspath(os.path.expanduser(root)))


def entries(root: str | os.PathLike[str] | None, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders and zips of these normalised names in the data folder."""
    data = data_folder(root)
    if data.is_dir():
        for entry in sorted(data.iterdir()):
            if normalised_name(entry.name.removesuffix(".zip")) in names:
                yield entry


def missing_data(title: str, fetch: str, place: str, root: str | os.PathLike[str] | None) -> FileNotFoundError:
    """Return the error for data that is not there: what to fetch, from where, and where to put it."""
    folder = data_folder(root)
    other = "" if root is not None else " (or set $FEWSHOT_DATA to the folder that holds your data sets)"
    return FileNotFoundError(
        f"{title} was not found in {folder}. Fetch {fetch}, and put it there as {folder / place}{other}"
    )
