"""Loading a data set by name or path: a standard set, a folder or zip, or one of torchvision's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fewshot.datasets.dataset import Dataset, own_split, split_names
from fewshot.datasets.layouts import LAYOUTS, split_folder, standard
from fewshot.datasets.omniglot import omniglot, omniglot_vinyals
from fewshot.datasets.torchvision_sets import torchvision_dataset, torchvision_names
from fewshot.errors import AmbiguousFolders
from fewshot.media import (
    SPLITS,
    Folder,
    folder_at,
    is_folder,
    is_place,
    labelled_images,
    normalised_name,
    without_secrets,
)

_NAMED: dict[str, Callable[[str, str | os.PathLike[str] | None], Dataset]] = {
    "omniglot": omniglot,
    "omniglot-rotated": partial(omniglot, rotated=True),
    "omniglot-vinyals": omniglot_vinyals,
    **{layout.name: partial(standard, layout) for layout in LAYOUTS},
}
_PLAIN = {normalised_name(name): name for name in _NAMED}


def load_dataset(
    name_or_path: str | os.PathLike[str], *, split: str = "test", root: str | os.PathLike[str] | None = None
) -> Dataset:
    """List the images, texts or sounds of a data set, with their classes; none is read yet.

    Parameters
    ----------
    name_or_path : str or path
        - "omniglot" (splits "background" and "evaluation"; labels "Alphabet/character01", groups the alphabets);
          "omniglot-rotated", the same with each rotation of a character as a class ("Alphabet/character01/rot090");
          "omniglot-vinyals" (train, val, trainval, test; with rotations, without groups);
        - "tiny-imagenet" (a split of its classes; labels are WordNet ids), "cifar-fs", "fc100", "mini-imagenet",
          "tiered-imagenet" (train, val, test), "cub-200" (base, val, novel, by Chen et al. 2019);
        - a folder or zip of class folders of images, texts (.txt) or sounds ("./omniglot" if it has one of the names
          above), or a folder with such a folder, or zip, for each split; or the URL of such a folder
          ("s3://bucket/photos", see ``CloudFile``);
        - the name of a torchvision data set ("EuroSAT", "Flowers102", "DTD", "FGVCAircraft", "GTSRB", ...), which
          torchvision downloads: see ``torchvision_dataset``.

        Case, "-" and "_" do not matter in the first two.
    split : str, default "test"
        "train" and "test" are also taken for the set's own names ("background" and "evaluation", "base" and "novel").
        A set without splits is read whole.
    root : path, optional
        The folder that holds the data sets; by default $FEWSHOT_DATA, or else ~/.cache/fewshot/datasets.

    Returns
    -------
    Dataset
        Sorted by class, and in a class by file name, where it comes from folders.

    Raises
    ------
    FileNotFoundError : if the data is not there, saying what to fetch, from where, and where to put it.
    ValueError : for an unknown name, with close matches; a split that the set does not have; or files that do not fit
        together.

    References
    ----------
    Omniglot: Lake et al. 2015, Science 350(6266). Vinyals split: arXiv:1606.04080. Tiny ImageNet: Le & Yang 2015.
    CIFAR-FS: Bertinetto et al. 2019, arXiv:1805.08136. FC100: Oreshkin et al. 2018, arXiv:1805.10123. mini-ImageNet:
    Ravi & Larochelle 2017. tiered-ImageNet: Ren et al. 2018, arXiv:1803.00676. CUB: Wah et al. 2011, split by
    Chen et al. 2019, arXiv:1904.04232 (write_CUB_filelist.py).

    Examples
    --------
    >>> import os
    >>> from PIL import Image
    >>> from fewshot import load_dataset
    >>> for label in ("apple", "pear"):
    ...     os.makedirs(f"fruit/{label}")
    ...     Image.new("RGB", (8, 8)).save(f"fruit/{label}/1.png")
    >>> load_dataset("fruit").labels
    ('apple', 'pear')
    """
    name = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and normalised_name(name) in _PLAIN:
        return _NAMED[_PLAIN[normalised_name(name)]](split, root)
    if is_place(name):
        return _from_place(name, split)
    if os.path.basename(name) != name or name.endswith(".zip") or not isinstance(name_or_path, str):
        raise FileNotFoundError(f"no such folder or zip: {name}")
    known = torchvision_names()
    if name not in known:
        raise ValueError(f"there is no data set, folder or zip {name!r}{_close(name, [*_NAMED, *known])}")
    return torchvision_dataset(name, split, root)


def _close(name: str, known: list[str]) -> str:
    folded = {normalised_name(other): other for other in known}
    close = difflib.get_close_matches(normalised_name(name), folded, cutoff=0.6)
    return "; close: " + ", ".join(folded[match] for match in close) if close else f"; named are {', '.join(_NAMED)}"


def _from_place(place: str, split: str) -> Dataset:
    """A folder or zip of class folders; or a folder of such folders or zips, named for the splits."""
    shown = without_secrets(place)
    name = (shown.rstrip("/") if shown != place or "://" in place else str(Path(place).absolute())).replace(os.sep, "/")
    name = name.rpartition("/")[2].removesuffix(".zip")
    parts, others = _split_folders(folder_at(place)) if is_folder(place) else ({}, ())
    if parts:
        own = own_split(shown, split, {known: SPLITS[known] for known in parts})
        found = labelled_images(parts[own], None)
        return Dataset(
            name, found.images, found.labels, split=own, ignored=found.ignored + others, modality=found.modality
        )
    if split != "test":
        raise ValueError(f"{shown} has no split {split!r}: it holds class folders; leave split out to read it whole")
    try:
        found = labelled_images(place, None)
    except AmbiguousFolders as error:
        if is_folder(place):
            raise
        raise ValueError(f"{place} {error.reason}; unpack it and give the folder") from error
    return Dataset(name, found.images, found.labels, ignored=found.ignored, modality=found.modality)


_SPLIT_NAMES = {word for known in SPLITS for word in split_names(known, SPLITS)}


def _split_folders(folder: Folder) -> tuple[dict[str, str], tuple[str, ...]]:
    """The folders, or zips, of class folders by the split they are named for; and what else there is."""
    inside = folder.entries()
    named = [name for name in inside if normalised_name(name.removesuffix(".zip")) in _SPLIT_NAMES]
    if not all(
        name.endswith(".zip") or (inside[name] and any(folder_at(folder.place(name)).entries().values()))
        for name in named
    ):
        return {}, ()
    others = [name for name in inside if name not in named]
    if len(named) < 2 and any(inside[name] for name in others):  # one class may be called "test"
        return {}, ()
    found = {known: split_folder(folder, known, SPLITS) for known in SPLITS}
    places = {known: folder.place(name) for known, name in found.items() if name is not None}
    return places, tuple(without_secrets(folder.place(name)) for name in others)
