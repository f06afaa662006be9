"""What a data set is, where one is looked for, and what its splits may be called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewshot.media import ImageSource

# A split's name in its own set, and the other words for it.
Splits = Mapping[str, tuple[str, ...]]
SPLITS: Splits = {
    "train": ("base", "meta-train", "training"),
    "val": ("valid", "validation", "meta-val"),
    "test": ("novel", "meta-test", "testing"),
}


@dataclass(frozen=True)
class Dataset:
    """Pictures, each with its class.

    Attributes
    ----------
    name : str
    images : tuple of image sources
        As ``fewshot.open_image`` takes them; none is read before it is used.
    labels : tuple of str
        The class of each picture.
    groups : tuple of str, optional
        The group of each picture, where an episode's classes are drawn from one group, as from one of Omniglot's
        alphabets.
    split : str, optional
        The part of the set, in the set's own words; None if it has no parts.
    trained_on : tuple of str
        The training sets that hold classes of this one: an encoder that learned from one of them is no stranger to
        these classes. ``training_overlap`` reads it.
    ignored : tuple of str
        Files that were passed over.

    Raises
    ------
    ValueError : if there is not one label, or not one group, for each picture.
    """

    name: str
    images: tuple[ImageSource, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    split: str | None = None
    trained_on: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, values in (("labels", self.labels), ("groups", self.groups)):
            if values is not None and len(values) != len(self.images):
                raise ValueError(f"{self.name} has {len(self.images)} images but {len(values)} {what}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def take(self, positions: Sequence[int]) -> Dataset:
        """Return the data set of the pictures at these positions, in this order."""
        return replace(
            self,
            images=tuple(self.images[i] for i in positions),
            labels=tuple(self.labels[i] for i in positions),
            groups=None if self.groups is None else tuple(self.groups[i] for i in positions),
        )


def plain(name: str) -> str:
    """Return a name in small letters, without the "-", "_" and blanks that people put in differently."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def split_asked(title: str, split: str, splits: Splits) -> str:
    """Return the set's own word for a split.

    Raises
    ------
    ValueError : for a split that the set does not have, naming those it has.
    """
    for own in splits:
        if plain(split) in split_words(own, splits):
            return own
    raise ValueError(f"{title} has no split {split!r}; it has {', '.join(splits)}")


def split_words(own: str, splits: Splits) -> set[str]:
    """Return all the words for a split, plain."""
    return {plain(word) for word in (own, *splits[own])}


def data_folders(root: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    """Return the folders that data is looked for in, in order; the last is where new data belongs."""
    if root is not None:
        return (Path(os.path.abspath(root)),)
    shared = os.environ.get("FEWSHOT_SHARED") or os.path.join(os.pardir, "shared")
    own = os.environ.get("FEWSHOT_DATA") or os.path.join("~", ".cache", "fewshot", "data")
    return Path(os.path.abspath(shared)) / "data", Path(os.path.abspath(os.path.expanduser(own)))


def entries(root: str | os.PathLike[str] | None, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders and zips of these plain names in the data folders."""
    for data in data_folders(root):
        if data.is_dir():
            yield from (entry for entry in sorted(data.iterdir()) if plain(entry.name.removesuffix(".zip")) in names)


def absent(title: str, fetch: str, place: str, root: str | os.PathLike[str] | None) -> FileNotFoundError:
    """The error for data that is not there: what to fetch, from where, and where to put it."""
    folders = data_folders(root)
    looked = " and ".join(str(folder) for folder in folders)
    return FileNotFoundError(
        f"{title} was not found in {looked}. Fetch {fetch}, and put it there as {folders[-1] / place}"
        + ("" if root is not None else " (or name another folder with root= or $FEWSHOT_DATA)")
    )
