"""Omniglot: handwritten characters of 50 alphabets, 20 drawers each."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fewshot.datasets.dataset import Dataset, Splits, entries, missing_data, own_split
from fewshot.datasets.lazy_images import RotatedImage, images_below, text_in
from fewshot.datasets.overlap import BACKGROUND
from fewshot.media import ImageSource

Root = str | os.PathLike[str] | None

_PARTS: Splits = {"background": ("train",), "evaluation": ("test",)}
_VINYALS: Splits = {"train": (), "val": ("validation",), "trainval": (), "test": ()}
_TURNS = {f"rot{90 * turns:03}": turns for turns in range(4)}
_PAGE = "https://github.com/brendenlake/omniglot"


@dataclass(frozen=True)
class OneShotRun:
    """One of the official 20-way one-shot tasks: 20 support images, one a class, and 20 queries.

    Attributes
    ----------
    name : str
        "run01" to "run20".
    support, query : tuple of image sources
    support_labels, query_labels : tuple of str
        "class01" to "class20".
    """

    name: str
    support: tuple[ImageSource, ...]
    support_labels: tuple[str, ...]
    query: tuple[ImageSource, ...]
    query_labels: tuple[str, ...]


def omniglot(split: str, root: Root, *, rotated: bool = False) -> Dataset:
    """Read the background or the evaluation alphabets; ``rotated``: each rotation of a character is a class."""
    part = own_split("Omniglot", split, _PARTS)
    chosen: dict[str, tuple[list[ImageSource], int]] = {}
    for character, sources in _characters(root, part).items():
        if rotated:
            chosen |= {f"{character}/{word}": (sources, turns) for word, turns in _TURNS.items()}
        else:
            chosen[character] = (sources, 0)
    contained_in = (BACKGROUND,) if part == "background" else ()
    return _dataset(
        "omniglot-rotated" if rotated else "omniglot", part, chosen, grouped=True, contained_in=contained_in
    )


def omniglot_vinyals(split: str, root: Root) -> Dataset:
    """Read a part of the split of Matching Networks, in which each rotation of a character is a class.

    It mixes the alphabets of both of Omniglot's parts, and its episodes mix alphabets, so it has no groups.

    References
    ----------
    Vinyals et al. 2016, arXiv:1606.04080; the files are those of Snell, Swersky & Zemel 2017, arXiv:1703.05175.
    """
    part = own_split("the Vinyals split of Omniglot", split, _VINYALS)
    files = [
        entry / f"{part}.txt" for entry in entries(root, ("omniglotvinyals",)) if (entry / f"{part}.txt").is_file()
    ]
    if not files:
        raise missing_data(
            f"the Vinyals split of Omniglot ({part}.txt)",
            "data/omniglot/splits/vinyals/*.txt of https://github.com/jakesnell/prototypical-networks",
            f"omniglot_vinyals{os.sep}{part}.txt",
            root,
        )
    background = _characters(root, "background")
    characters = background | _characters(root, "evaluation")
    chosen: dict[str, tuple[list[ImageSource], int]] = {}
    seen = False
    for label in files[0].read_text().split():
        character, _, turn = label.rpartition("/")
        if character not in characters or turn not in _TURNS:
            raise ValueError(f"{files[0]} names {label!r}, which is no rotated character of Omniglot's")
        chosen[label] = (characters[character], _TURNS[turn])
        seen = seen or character in background
    return _dataset("omniglot-vinyals", part, chosen, grouped=False, contained_in=(BACKGROUND,) if seen else ())


def omniglot_one_shot_runs(root: Root = None) -> tuple[OneShotRun, ...]:
    """Return the official 20 one-shot runs: 400 trials of 20-way one-shot classification within alphabets.

    Parameters
    ----------
    root : path, optional
        The folder that holds omniglot.zip; by default as for ``load_dataset``.

    Returns
    -------
    tuple of OneShotRun
        In the order of their names; queries in the order of the run's ``class_labels.txt``.

    Raises
    ------
    FileNotFoundError : if Omniglot is not there, saying what to fetch, from where, and where to put it.
    ValueError : if a run names an image that is not there.

    References
    ----------
    Lake, Salakhutdinov & Tenenbaum 2015, Science 350(6266), 1332-1338.
    """
    for place in entries(root, ("omniglot",)):
        found = images_below(place, "one_shot_runs")
        if found:
            return tuple(_run(place, name, found) for name in sorted({path.split("/")[0] for path in found}))
    raise missing_data(
        "Omniglot's one_shot_runs",
        f"python/one-shot-classification/all_runs.zip from {_PAGE}",
        os.path.join("omniglot", "one_shot_runs", "run01") + " and so on, unpacked",
        root,
    )


def _run(place: Path, name: str, found: dict[str, ImageSource]) -> OneShotRun:
    answers = text_in(place, f"one_shot_runs/{name}/class_labels.txt").split()
    missing = [path for path in answers if path not in found]
    if missing or len(answers) % 2:
        raise ValueError(f"{place}: {name}'s class_labels.txt names images that are not there: {missing}")
    support = [path for path in found if path.startswith(f"{name}/training/")]
    return OneShotRun(
        name,
        tuple(found[path] for path in support),
        tuple(Path(path).stem for path in support),
        tuple(found[path] for path in answers[::2]),
        tuple(Path(path).stem for path in answers[1::2]),
    )


def _characters(root: Root, part: str) -> dict[str, list[ImageSource]]:
    """The images of each character of a part, by "Alphabet/character"."""
    for place in entries(root, ("omniglot",)):
        characters = defaultdict(list)
        for path, image in images_below(place, f"images_{part}").items():
            characters[path.rpartition("/")[0]].append(image)
        if characters:
            return dict(characters)
    raise missing_data(
        f"Omniglot's images_{part}",
        f"python/images_{part}.zip from {_PAGE}",
        os.path.join("omniglot", f"images_{part}") + ", unpacked",
        root,
    )


def _dataset(
    name: str,
    part: str,
    chosen: dict[str, tuple[list[ImageSource], int]],
    *,
    grouped: bool,
    contained_in: tuple[str, ...],
) -> Dataset:
    images: list[ImageSource] = []
    labels: list[str] = []
    for label, (sources, turns) in chosen.items():
        images += [RotatedImage(image, turns).as_image() for image in sources] if turns else sources
        labels += [label] * len(sources)
    groups = tuple(label.split("/")[0] for label in labels) if grouped else None
    return Dataset(name, tuple(images), tuple(labels), groups, part, contained_in)
