"""A whole benchmark: data x encoders x ways x shots x methods, kept on disk as it goes, nothing done twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from fewshot import __version__
from fewshot.benchmark.inputs import Features, Inputs, Source
from fewshot.benchmark.methods import METHODS, chosen, described
from fewshot.benchmark.plots import draw
from fewshot.benchmark.result_files import Outcome, Row, smallest
from fewshot.benchmark.runner import BenchmarkResult, run_benchmark
from fewshot.benchmark.tables import leaders, markdown
from fewshot.classifiers import FewShotClassifier
from fewshot.episodes import EpisodeSampler
from fewshot.errors import MissingExtra
from fewshot.files import replacing

Count = int | Literal["various"]
_EPISODES_FOLDER, _VECTORS = "episodes", "vectors.sqlite"


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn, ways and shots apart; the words are ``EpisodeSampler``'s.

    Attributes
    ----------
    queries, episodes, seed : int
    query_imbalance : float, optional
    replacement : bool
    within_groups : bool
        The classes of an episode come from one of the data's groups.
    """

    queries: int = 15
    episodes: int = 10_000
    seed: int = 0
    query_imbalance: float | None = None
    replacement: bool = True
    within_groups: bool = False

    def sampler(self, source: Source | Features, ways: Count, shots: Count) -> EpisodeSampler:
        """Make the sampler of one setting.

        Raises
        ------
        ValueError : if the data cannot serve it, naming the data, the class and its count.
        """
        name = source.name if isinstance(source, Source) else source.data
        if self.within_groups and source.groups is None:
            raise ValueError(f"{name} has no groups, which --within-groups asks for")
        try:
            return EpisodeSampler(
                source.labels,
                n_way=ways,
                n_shot=shots,
                n_query=self.queries,
                n_episodes=self.episodes,
                groups=source.groups if self.within_groups else None,
                query_imbalance=self.query_imbalance,
                replacement=self.replacement,
                random_state=self.seed,
            )
        except ValueError as error:
            raise ValueError(f"{name}, {ways}-way {shots}-shot: {error}") from error


@dataclass(frozen=True)
class Refusal:
    """A method that could not answer in a setting, and why."""

    setting: str
    method: str
    reason: str


@dataclass(frozen=True)
class BenchReport:
    """What ``run_bench`` has done.

    Attributes
    ----------
    rows : tuple of Row
        Of all that was asked for, computed now or before.
    computed, skipped : int
        How many of them were computed now, and how many were there.
    failed : tuple of Refusal
    """

    rows: tuple[Row, ...]
    computed: int
    skipped: int
    failed: tuple[Refusal, ...]

    def best(self) -> tuple[Row, ...]:
        """Return the most accurate row of each setting, inductive and transductive apart."""
        found: dict[tuple[str, bool], Row] = {}
        for row in self.rows:
            held = found.setdefault((row.file, row.transductive), row)
            if row.accuracy > held.accuracy:
                found[row.file, row.transductive] = row
        return tuple(found.values())


def run_bench(
    data: Sequence[str],
    out: str | Path,
    *,
    encoders: Sequence[str] = (),
    methods: Sequence[str] = ("all",),
    ways: Sequence[Count] = (5,),
    shots: Sequence[Count] = (1, 5),
    protocol: Protocol | None = None,
    base: str | None = None,
    split: str = "test",
    cache: str | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Benchmark methods on data and write results.json, results.md, episodes/*.npz and, with matplotlib, two pictures.

    Each method is kept as soon as it is finished; what the folder holds with the same vectors, labels, protocol,
    hyper-parameters, device and version of fewshot is not computed again. The tables are of all that the folder holds.

    Parameters
    ----------
    data : sequence of paths or names
        A folder or zip of class folders, a feature file (.npz or .parquet), or a data set's name.
    out : path
        A folder; made if it does not exist.
    encoders : sequence of names
        What embeds pictures; feature files need none.
    methods : sequence of names
        As ``fewshot.benchmark.methods.chosen`` takes them; "all", "inductive" and "transductive" name many.
    ways, shots : sequences of int, or of "various"
    protocol : Protocol, optional
    base : path or name, optional
        Data of other classes; of a data set its "train". SimpleShot takes its mean as a centre, labelled or not; what
        learns from base classes needs its labels, and without them is in none of the groups of ``methods``.
    split : str
        Of named data sets.
    cache : path, optional
        Where pictures' vectors are kept; by default vectors.sqlite in ``out``.
    device : str, optional
        For encoders and methods; by default the best there is.
    note : callable
        Told of each finished, skipped or refused method in one line.

    Raises
    ------
    ValueError : for a device that is not there, an unknown method, one without the base it needs, data that cannot
        serve a setting, or pictures without an encoder; all before anything is embedded.
    """
    protocol = protocol or Protocol()
    inputs = Inputs.open(data, encoders=encoders, base=base, split=split, device=device)
    makers = chosen(methods, base_classes=inputs.base is not None and inputs.base.labels is not None)
    for name in chosen(methods).keys() - makers:
        note(f"left out, for it learns from base data with labels (--base): {name}")
    for remark in inputs.remarks("base", "the base gives it away"):
        note(remark)
    settings = _settings(ways, shots)
    for source in inputs.sources:
        for way, shot in settings:
            protocol.sampler(source, way, shot)
    folder = Path(out)
    bench = _Bench(folder, protocol, inputs.place, note)
    with_base = any(make.takes_center or make.needs_base for make in makers.values())
    (folder / _EPISODES_FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        for features, given in inputs.embedded(cache=cache or str(folder / _VECTORS), with_base=with_base):
            classifiers = {name: make(given) for name, make in makers.items()}
            for way, shot in settings:
                bench.setting(features, way, shot, classifiers)
    finally:
        _summarise(folder, note)
    return BenchReport(tuple(bench.rows), bench.computed, len(bench.rows) - bench.computed, tuple(bench.failed))


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    return {
        "fewshot": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
    }


def _settings(ways: Sequence[Count], shots: Sequence[Count]) -> list[tuple[Count, Count]]:
    if ("various" in ways) != ("various" in shots):
        raise ValueError("ways and shots are both 'various' or both numbers: give 'various' to both or to none")
    pairs = [(way, shot) for way in dict.fromkeys(ways) for shot in dict.fromkeys(shots)]
    return [(way, shot) for way, shot in pairs if (way == "various") == (shot == "various")]


class _Bench:
    """A run in progress."""

    def __init__(self, folder: Path, protocol: Protocol, device: str, note: Callable[[str], None]) -> None:
        self._folder, self._protocol, self._device, self._note = folder, protocol, device, note
        self._hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        self.rows: list[Row] = []
        self.failed: list[Refusal] = []
        self.computed = 0

    def setting(
        self, features: Features, ways: Count, shots: Count, classifiers: Mapping[str, FewShotClassifier]
    ) -> None:
        """Run the methods that are not there yet, and keep each when it is finished."""
        where = {
            "content": features.content,
            "encoder_fingerprint": features.fingerprint,
            "ways": ways,
            "shots": shots,
            **asdict(self._protocol),
        }
        outcome = Outcome(self._file(f"{features.data}-{features.encoder}-{ways}way-{shots}shot", _hash(where)))
        there = outcome.rows()
        keys = {name: self._key(where, classifier) for name, classifier in classifiers.items()}
        found = [name for name, key in keys.items() if name in there and there[name].key == key]
        title = f"{features.data}, {features.encoder}, {ways}-way {shots}-shot"
        if found:
            self._note(f"already there, skipped: {title}: {', '.join(found)}")
        for name, classifier in classifiers.items():
            if name in found:
                self.rows.append(there[name])
                continue
            sampler = self._protocol.sampler(features, ways, shots)
            try:
                result = run_benchmark({name: classifier}, features.vectors, sampler, device=self._device)
            except (ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._note(f"failed: {title}: {name}: {reason}")
                self.failed.append(Refusal(title, name, reason))
                continue
            row = Row(
                data=features.data,
                encoder=features.encoder,
                method=name,
                classifier=described(classifier),
                transductive=classifier.transductive,
                accuracy=result[name].accuracy,
                ci95=result[name].ci95,
                ci95_disjoint=result[name].ci95_disjoint,
                disjoint_episodes=len(result[name].disjoint),
                seconds=result[name].seconds,
                device=self._hardware,
                flag=features.flag,
                classes=len(sampler.classes_),
                examples=sampler.n_examples,
                file=f"{_EPISODES_FOLDER}/{outcome.path.name}",
                key=keys[name],
                versions=versions(),
                **where,
            )
            outcome.add(row, *_arrays(name, result, features, sampler))
            self.rows.append(row)
            self.computed += 1
            self._note(f"{title}: {name}: {100 * row.accuracy:.2f} ± {100 * row.ci95:.2f} %, {row.seconds:.2f} s")

    def _key(self, where: dict[str, Any], classifier: FewShotClassifier) -> str:
        return _hash({**where, "method": described(classifier), "device": self._hardware, "fewshot": __version__})

    def _file(self, title: str, digest: str) -> Path:
        """The setting's file: that of its hash, whatever its data were called when it was made."""
        folder = self._folder / _EPISODES_FOLDER
        known = sorted(folder.glob(f"*-{digest[:12]}.npz"))
        plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in title)
        return known[0] if known else folder / f"{plain[-120:]}-{digest[:12]}.npz"


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _arrays(
    name: str, result: BenchmarkResult, features: Features, sampler: EpisodeSampler
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """What ``Outcome.add`` keeps: the method's arrays, and those all methods share."""
    episodes, method = result.episodes, result[name]
    asked = episodes.query_labels >= 0

    def named(within: NDArray[np.int64]) -> NDArray[Any]:
        """From classes within the episode to positions among all."""
        positions = np.take_along_axis(episodes.classes, np.maximum(within, 0), axis=1)
        return smallest(np.where(asked, positions, -1))

    own = {"accuracies": method.accuracies, "predicted": named(method.predicted)}
    shared = {
        "classes": np.array(sampler.classes_, str),
        "files": np.array(features.files, str),
        "query": smallest(np.where(asked, episodes.query, -1)),
        "true": named(episodes.query_labels),
    }
    return own, shared


def _summarise(folder: Path, note: Callable[[str], None]) -> None:
    """Write the tables and pictures of all that the folder holds."""
    rows: list[Row] = []
    bold: set[tuple[str, str]] = set()
    for path in sorted((folder / _EPISODES_FOLDER).glob("*.npz")):
        outcome = Outcome(path)
        mine = outcome.rows()
        accuracies = outcome.accuracies()
        rows += mine.values()
        for transductive in (False, True):
            some = {name: accuracies[name] for name, row in mine.items() if row.transductive == transductive}
            bold |= {(mine[name].file, name) for name in leaders(some)}
    if not rows:
        return
    order = {name: n for n, name in enumerate(METHODS)}
    rows.sort(key=lambda row: (*row.section, _number(row.ways), _number(row.shots), order.get(row.method, 99)))
    with replacing(folder / "results.json") as temporary:
        value = {"versions": versions(), "rows": [_plain(row) for row in rows]}
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / "results.md") as temporary:
        temporary.write_text(markdown(rows, bold), encoding="utf-8")
    try:
        draw(rows, folder)
    except MissingExtra as error:
        note(f"no pictures: {error}")


def _number(count: Count) -> int:
    return 0 if count == "various" else int(count)


def _plain(row: Row) -> dict[str, Any]:
    """A row for results.json: NaN as null, and its versions only where they are not this run's."""
    value = {name: None if item != item else item for name, item in asdict(row).items() if name != "key"}
    if row.versions == versions():
        del value["versions"]
    return value
