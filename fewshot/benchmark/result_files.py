"""What a suite leaves on disk: a row for each method, or unknown score, and an .npz for each setting."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewshot.files import replacing


@dataclass(frozen=True)
class ResultRow:
    """What the rows of both suites have in common.

    Attributes
    ----------
    data, encoder, encoder_fingerprint : str
    content : str
        Hash of the data's vectors, labels and groups.
    ways, shots : int or "various"
    queries : int
        Of each class.
    episodes, seed : int
    query_imbalance : float or None
    replacement, within_groups : bool
    classes, examples : int
        In the data.
    accuracy : float
        Mean over episodes, in [0, 1].
    seconds : float
        From vectors in memory to predictions, sampling included.
    device : str
    flag : str or None
        Why the figures are optimistic.
    file : str
        The setting's .npz.
    key : str
        Hash of all that the figures depend on.
    versions : dict of str to str
    """

    data: str
    encoder: str
    encoder_fingerprint: str
    content: str
    ways: int | Literal["various"]
    shots: int | Literal["various"]
    queries: int
    episodes: int
    seed: int
    query_imbalance: float | None
    replacement: bool
    within_groups: bool
    classes: int
    examples: int
    accuracy: float
    seconds: float
    device: str
    flag: str | None
    file: str
    key: str
    versions: dict[str, str]

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
        """Data, encoder and protocol."""
        return (self.data, self.encoder, self.content, self.encoder_fingerprint, self.protocol)

    @property
    def group(self) -> tuple[Any, ...]:
        """What rows that compete have in common: the setting."""
        return (self.file,)

    @property
    def figure(self) -> float:
        """What is highest in the best row of a group: the accuracy."""
        return self.accuracy


@dataclass(frozen=True)
class MethodRow(ResultRow):
    """A method's accuracy in one setting.

    Attributes
    ----------
    method : str
    classifier : str
        The method with all its hyper-parameters.
    transductive : bool
    ci95 : float
        Half-width of the accuracy's 95 % interval; NaN for one episode.
    ci95_disjoint : float
        Half-width from episodes no two of which share an image, an interval for new images of the same classes; NaN
        where fewer than two such episodes can be drawn.
    disjoint_episodes : int
        How many those are; without replacement, all.
    """

    method: str
    classifier: str
    transductive: bool
    ci95: float
    ci95_disjoint: float
    disjoint_episodes: int

    @property
    def group(self) -> tuple[Any, ...]:
        """The setting, and whether it is transductive."""
        return (self.file, self.transductive)


@dataclass(frozen=True)
class OpenSetRow(ResultRow):
    """An unknown score in one setting, with ``ways`` known classes and as many unknown ones.

    ``accuracy`` is that of the known queries, none being rejected: the same for all scores.

    Attributes
    ----------
    score : str
        Of ``fewshot.openset.SCORES``.
    background : str or None
        The base data's name.
    center : int or None
        Of how many classes the encoder's centre was made; None where there is a background, or no such centre.
    metrics : dict of name to [mean, half-width]
        Of ``OpenSetMetrics``, in [0, 1], each with its 95 % interval over episodes.
    gain : [mean, half-width]
        Paired difference of the AUROC to the softmax baseline's.
    """

    score: str
    background: str | None
    center: int | None
    metrics: dict[str, list[float]]
    gain: list[float]

    @property
    def figure(self) -> float:
        """The AUROC."""
        return self.metrics["auroc"][0]


R = TypeVar("R", bound=ResultRow)


@dataclass(frozen=True)
class Predictions:
    """One method's predictions, one entry a query: its episode, the image's file, its class and the class predicted."""

    episode: NDArray[np.int64]
    file: NDArray[np.str_]
    true: NDArray[np.str_]
    predicted: NDArray[np.str_]


class ResultFile(Generic[R]):
    """The rows and arrays of one setting's methods in an .npz, without pickle.

    For each method it holds "row/METHOD", its row as JSON, and "NAME/METHOD", its arrays. The closed-set suite's are
    "accuracies/METHOD" (e,) and "predicted/METHOD" (e, q), beside four that all methods share: "classes" and "files",
    the names; "query" (e, q), positions in "files"; and "true" (e, q), positions in "classes", as "predicted" has them.
    -1 is padding. The open-set suite's are the metrics of each episode, such as "auroc/SCORE" (e,).
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._kind = kind

    def rows(self) -> dict[str, R]:
        """Return the row of each method in the file; none if there is no file yet.

        Raises
        ------
        ValueError : if the file is damaged or another version's.
        """
        if not self.path.exists():
            return {}
        try:
            return {name: self._kind(**json.loads(str(row))) for name, row in self.arrays("row").items()}
        except Exception as error:
            raise ValueError(
                f"{self.path} is damaged, or another version's ({error}); delete it, or choose another --out"
            ) from error

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the array "NAME/METHOD" of each method."""
        with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {n.removeprefix(f"{name}/"): file[n] for n in file if n.startswith(f"{name}/")}

    def predictions(self, method: str) -> Predictions:
        """Return a method's predictions with the names of images and classes."""
        with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            real = file["true"] >= 0
            return Predictions(
                np.nonzero(real)[0],
                file["files"][file["query"][real]],
                file["classes"][file["true"][real]],
                file["classes"][file[f"predicted/{method}"][real]],
            )

    def add(self, method: str, row: R, arrays: Mapping[str, NDArray[Any]], shared: Mapping[str, NDArray[Any]]) -> None:
        """Add a method, or put it in its former place; the file appears whole or stays as it was.

        Parameters
        ----------
        method : str
        row : ResultRow
        arrays : mapping of NAME to the method's array
        shared : mapping of name to array
            Written with the first method.
        """
        added = {f"{name}/{method}": array for name, array in arrays.items()}
        added[f"row/{method}"] = np.array(json.dumps(asdict(row)))
        with replacing(self.path) as temporary:
            if self.path.exists():
                self._copy(temporary, without={f"{name}.npy" for name in added})
            else:
                added = {**shared, **added}
            with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as target:
                for name, array in added.items():
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
