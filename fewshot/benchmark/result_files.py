"""What a benchmark leaves on disk: one .npz for each setting, to which each finished method is added."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewshot.files import replacing


@dataclass(frozen=True)
class Row:
    """One method in one setting, as a row of results.json.

    Attributes
    ----------
    data, encoder, encoder_fingerprint, method : str
    classifier : str
        The method with all its hyper-parameters.
    transductive : bool
    ways, shots : int or "various"
    queries : int
        Of each class.
    episodes, seed : int
    query_imbalance : float or None
    replacement, within_groups : bool
    accuracy, ci95 : float
        Mean over episodes, in [0, 1], and the half-width of its interval, NaN for one episode.
    ci95_disjoint : float
        The half-width from episodes no two of which share an image, which speaks of other images of the same classes;
        NaN where fewer than two such episodes can be drawn.
    disjoint_episodes : int
        How many those are; without replacement, all.
    seconds : float
        From vectors in memory to predictions, sampling included.
    device : str
    flag : str or None
        Why the row flatters.
    classes, examples : int
        In the data.
    content : str
        Hash of the data's vectors, labels and groups.
    file : str
        The setting's .npz.
    key : str
        Hash of all that the numbers depend on.
    versions : dict of str to str
    """

    data: str
    encoder: str
    encoder_fingerprint: str
    method: str
    classifier: str
    transductive: bool
    ways: int | Literal["various"]
    shots: int | Literal["various"]
    queries: int
    episodes: int
    seed: int
    query_imbalance: float | None
    replacement: bool
    within_groups: bool
    accuracy: float
    ci95: float
    ci95_disjoint: float
    disjoint_episodes: int
    seconds: float
    device: str
    flag: str | None
    classes: int
    examples: int
    content: str
    file: str
    key: str
    versions: dict[str, str]

    @property
    def setting(self) -> str:
        """Data, encoder, ways and shots in words."""
        return f"{self.data}, {self.encoder}, {self.ways}-way {self.shots}-shot"

    @property
    def protocol(self) -> str:
        """How the episodes were drawn, in words."""
        text = f"{self.episodes:,} episodes, {self.queries} queries a class, seed {self.seed}"
        if self.within_groups:
            text += ", classes of one group"
        if self.query_imbalance is not None:
            text += f", imbalanced queries (Dirichlet {self.query_imbalance:g})"
        return text if self.replacement else text + ", no image in two episodes"

    @property
    def section(self) -> tuple[str, ...]:
        """What rows of one table share: data, encoder and protocol."""
        return (self.data, self.encoder, self.content, self.encoder_fingerprint, self.protocol)


@dataclass(frozen=True)
class Predictions:
    """One method's answers, one entry a query: episode, picture's file, its class, and the class predicted."""

    episode: NDArray[np.int64]
    file: NDArray[np.str_]
    true: NDArray[np.str_]
    predicted: NDArray[np.str_]


class Outcome:
    """One setting's .npz, no pickle in it.

    It holds "classes" and "files", the names; "query" (e, q), positions in "files"; "true" (e, q), positions in
    "classes"; and for each method "accuracies/METHOD" (e,), "predicted/METHOD" (e, q) and "row/METHOD", its row as
    JSON. -1 is padding.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> dict[str, Row]:
        """Return the row of each method that is there; none if there is no file yet.

        Raises
        ------
        ValueError : if the file is damaged or another version's.
        """
        if not self.path.exists():
            return {}
        try:
            with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = {n.removeprefix("row/"): Row(**json.loads(str(file[n]))) for n in file if n.startswith("row/")}
        except Exception as error:
            raise ValueError(
                f"{self.path} is damaged, or another version's ({error}); delete it, or choose another --out"
            ) from error
        return found

    def accuracies(self) -> dict[str, NDArray[np.float64]]:
        """Return the accuracies (e,) of each method."""
        with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {n.removeprefix("accuracies/"): file[n] for n in file if n.startswith("accuracies/")}

    def predictions(self, method: str) -> Predictions:
        """Return a method's answers with the names of pictures and classes."""
        with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            asked = file["true"] >= 0
            return Predictions(
                np.nonzero(asked)[0],
                file["files"][file["query"][asked]],
                file["classes"][file["true"][asked]],
                file["classes"][file[f"predicted/{method}"][asked]],
            )

    def add(self, row: Row, arrays: Mapping[str, NDArray[Any]], shared: Mapping[str, NDArray[Any]]) -> None:
        """Add one method, or put it in its former place; the file appears whole or stays as it was.

        Parameters
        ----------
        row : Row
        arrays : "accuracies" and "predicted"
        shared : "classes", "files", "query" and "true", written with the first method
        """
        mine = {f"{name}/{row.method}": array for name, array in arrays.items()}
        mine[f"row/{row.method}"] = np.array(json.dumps(asdict(row)))
        with replacing(self.path) as temporary:
            if self.path.exists():
                self._copy(temporary, without={f"{name}.npy" for name in mine})
            else:
                mine = {**shared, **mine}
            with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as target:
                for name, array in mine.items():
                    with target.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.save(member, array, allow_pickle=False)

    def _copy(self, target: Path, *, without: set[str]) -> None:
        """Copy the file; only where something is to be left out need it be compressed again."""
        with zipfile.ZipFile(self.path) as source:
            if without.isdisjoint(source.namelist()):
                shutil.copyfile(self.path, target)
                return
            with zipfile.ZipFile(target, "w") as opened:
                for info in source.infolist():
                    if info.filename not in without:
                        opened.writestr(info, source.read(info))


def smallest(array: NDArray[np.int64]) -> NDArray[Any]:
    """Return whole numbers in the smallest signed type that holds them."""
    reach = int(np.abs(array).max(initial=0))
    return array.astype(next(t for t in (np.int8, np.int16, np.int32, np.int64) if reach <= np.iinfo(t).max))
