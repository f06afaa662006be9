"""The names of the classes that YOLO's label files number."""

from __future__ import annotations

from pathlib import Path

import yaml

NAME_LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")


def yolo_names(folder: Path) -> dict[int, str]:
    """Read the names from the first file of ``NAME_LISTS`` that lies in a folder of labels or up to two around it.

    Raises
    ------
    ValueError : if there is none, or it holds no names.
    """
    for place in (folder, *folder.absolute().parents[:2]):
        for name in NAME_LISTS:
            if (place / name).is_file():
                return _read(place / name)
    raise ValueError(
        f"{folder} numbers its classes, and nothing names them: put data.yaml, or classes.txt with a name on each "
        "line, beside the labels"
    )


def _read(path: Path) -> dict[int, str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.rstrip().splitlines()]
        return dict(enumerate(lines))
    try:
        held = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    names = held.get("names") if isinstance(held, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(isinstance(number, int) for number in names):
        return {number: str(name) for number, name in names.items()}
    raise ValueError(f"{path} has no list of names, or names by number, under 'names'")
