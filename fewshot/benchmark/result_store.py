"""What both suites share: results are saved as they are finished, runs resume, tables are of all in a folder."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from fewshot import __version__
from fewshot.benchmark.inputs import Features, note_minutes
from fewshot.benchmark.protocol import Count, Protocol
from fewshot.benchmark.result_files import R, ResultFile
from fewshot.episodes import EpisodeSampler
from fewshot.files import replacing


class Result(NamedTuple):
    """One method's result in one setting: its summary, its row's own fields, and arrays as ``ResultFile.add``'s."""

    summary: str
    fields: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    shared: Mapping[str, NDArray[Any]]


Compute = Callable[[EpisodeSampler, Sequence[str]], Mapping[str, Result]]
"""From a sampler and names of methods to their results."""

_PROBE = (16, 64)  # episodes; the difference is without what is done once


@dataclass(frozen=True)
class Failure:
    """A method that failed in a setting, and why."""

    setting: str
    method: str
    reason: str


@dataclass(frozen=True)
class SuiteReport(Generic[R]):
    """What a suite has done.

    Attributes
    ----------
    rows : tuple of rows
        Of all requested methods and settings, computed now or before.
    computed, skipped : int
        How many of them were computed now, and how many were there.
    failed : tuple of Failure
    """

    rows: tuple[R, ...]
    computed: int
    skipped: int
    failed: tuple[Failure, ...]

    def best(self) -> tuple[R, ...]:
        """Return the best row of each setting, of inductive and of transductive methods."""
        groups: dict[tuple[Any, ...], list[R]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return tuple(max(rows, key=lambda row: row.figure) for rows in groups.values())


class ResultStore(Generic[R]):
    """The results of a suite in a folder, one file for each setting; what is there is not computed again.

    Parameters
    ----------
    folder : Path
    settings : str
        The name of its folder of settings.
    kind : type
        Of the rows.
    protocol : Protocol
    device : str
    note : callable
        Called with a line for each method that is skipped, finished or failed.
    """

    def __init__(
        self, folder: Path, settings: str, kind: type[R], protocol: Protocol, device: str, note: Callable[[str], None]
    ) -> None:
        self.folder, self._settings, self._kind, self._protocol, self._note = folder, settings, kind, protocol, note
        self._hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        self._rows: list[R] = []
        self._failed: list[Failure] = []
        self._computed = 0
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"results cannot be written to {folder}: it is a file; give a folder")
        (folder / settings).mkdir(parents=True, exist_ok=True)

    def setting(
        self,
        features: Features,
        sampler: EpisodeSampler,
        ways: Count,
        shots: Count,
        methods: Mapping[str, str],
        compute: Compute,
        *,
        together: bool = False,
        context: Sequence[str] = (),
    ) -> None:
        """Compute the methods of one setting that the folder lacks, and save each as soon as it is finished.

        A method that raises an error is listed as failed, and the others go on.

        Parameters
        ----------
        features, sampler, ways, shots
        methods : dict of name to str
            With all hyper-parameters: another description is another method.
        compute : callable
        together : bool, default False
            Whether it is called once with all missing methods; by default with one after another.
        context : sequence of str
            What else the setting's figures depend on.
        """
        where = {
            "content": features.content,
            "encoder_fingerprint": features.fingerprint,
            "ways": ways,
            "shots": shots,
            **asdict(self._protocol),
        }
        title = f"{features.data}, {features.encoder}, {ways}-way {shots}-shot"
        digest = _hash([where, *context])
        file = self._file(f"{features.data}-{features.encoder}-{ways}way-{shots}shot", digest)
        keys = {name: _hash([digest, text, self._hardware, __version__]) for name, text in methods.items()}
        rows = {name: row for name, row in file.rows().items() if row.key == keys.get(name)}
        if rows:
            self._note(f"already there, skipped: {title}: {', '.join(name for name in methods if name in rows)}")
        missing = [name for name in methods if name not in rows]
        self._note_time(title, sampler, missing, compute)
        for names in [missing] if together and missing else [[name] for name in missing]:
            for name, result in self._computed_or_failed(title, names, partial(compute, sampler)):
                rows[name] = self._kind(
                    data=features.data,
                    encoder=features.encoder,
                    classes=len(sampler.classes_),
                    examples=sampler.n_examples,
                    device=self._hardware,
                    flag=features.flag,
                    file=f"{self._settings}/{file.path.name}",
                    key=keys[name],
                    versions=versions(),
                    **where,
                    **result.fields,
                )
                file.add(name, rows[name], result.arrays, result.shared)
                self._computed += 1
                self._note(f"{title}: {name}: {result.summary}")
        self._rows += [rows[name] for name in methods if name in rows]

    def _note_time(self, title: str, sampler: EpisodeSampler, names: Sequence[str], compute: Compute) -> None:
        """Say how long methods will take, by a few episodes, if it is minutes."""
        if len(sampler) < 10 * _PROBE[1] or not names:
            return
        took = []
        for count in _PROBE:
            few = copy.copy(sampler)
            few.n_episodes = count
            try:
                took.append(sum(result.fields["seconds"] for result in compute(few, names).values()))
            except Exception:  # one that fails is listed when its turn comes
                return
        seconds = (took[1] - took[0]) / (_PROBE[1] - _PROBE[0]) * len(sampler)
        note_minutes(
            self._note, f"{title}: {len(names)} x {len(sampler):,} episodes", seconds, "fewer --episodes take less"
        )

    def _computed_or_failed(
        self, title: str, names: Sequence[str], compute: Callable[[Sequence[str]], Mapping[str, Result]]
    ) -> Iterator[tuple[str, Result]]:
        """Yield each method's result; methods that fail together are computed one after another."""
        try:
            found = compute(names)
        except Exception as error:
            if len(names) > 1:
                for name in names:
                    yield from self._computed_or_failed(title, [name], compute)
                return
            reason = next(iter(str(error).splitlines()), "")
            if not reason or not isinstance(error, (ValueError, RuntimeError)):
                reason = f"{type(error).__name__}: {reason}"
            self._note(f"failed: {title}: {names[0]}: {reason}")
            self._failed.append(Failure(title, names[0], reason))
            return
        yield from found.items()

    def report(self) -> SuiteReport[R]:
        """Return what was done since the store was opened."""
        skipped = len(self._rows) - self._computed
        return SuiteReport(tuple(self._rows), self._computed, skipped, tuple(self._failed))

    def files(self) -> list[ResultFile[R]]:
        """Return the file of each setting that the folder holds."""
        return [ResultFile(path, self._kind) for path in sorted((self.folder / self._settings).glob("*.npz"))]

    def write_tables(self, name: str, rows: Sequence[R], markdown: str) -> None:
        """Write rows to NAME.json, their versions only where they are not this run's, and a text to NAME.md."""
        plain = [_without_nan(asdict(row)) for row in rows]
        for row in plain:
            del row["key"]
            if row["versions"] == versions():
                del row["versions"]
        value = {"versions": versions(), "rows": plain}
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for suffix, content in ((".json", text), (".md", markdown)):
            with replacing(self.folder / f"{name}{suffix}") as temporary:
                temporary.write_text(content, encoding="utf-8")

    def _file(self, title: str, digest: str) -> ResultFile[R]:
        """The setting's file: that of its hash, whatever its data were called when it was made."""
        folder = self.folder / self._settings
        known = sorted(folder.glob(f"*-{digest[:12]}.npz"))
        plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in title)
        return ResultFile(known[0] if known else folder / f"{plain[-120:]}-{digest[:12]}.npz", self._kind)


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    libraries = {"fewshot": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {**libraries, "scikit-learn": sklearn.__version__, "python": platform.python_version()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _without_nan(value: Any) -> Any:
    """The value with None for each NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
