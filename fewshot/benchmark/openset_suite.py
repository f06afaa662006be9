"""A whole open-set benchmark: data x encoders x ways x shots x unknown scores, as a table and a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from fewshot import __version__
from fewshot.benchmark.inputs import Features, Inputs, Source
from fewshot.benchmark.openset_runner import METRICS, OpenSetResult, run_open_set
from fewshot.benchmark.suite import Protocol, versions
from fewshot.files import replacing
from fewshot.openset import DEFAULT, SCORES, Background, Center, shipped_center

_JSON, _MARKDOWN, _VECTORS = "open-set.json", "open-set.md", "vectors.sqlite"
_BASELINE = "softmax"
_LEGEND = (
    "Half of the queries are of classes outside the episode. Percent ± half-width of the 95 % interval over episodes "
    "(1.96 sd/√episodes). AUROC, AUPR: finding the unknown. Gain: AUROC less the softmax baseline's, paired. FPR95: "
    "unknown queries accepted where 95 % of the known are (lower is better); right: share of all then accepted that is "
    "known and named rightly. OSCR: area under known named rightly over unknown accepted."
)


@dataclass(frozen=True)
class OpenSetRow:
    """One unknown score in one setting; shares in [0, 1], each with the half-width of its 95 % interval.

    Attributes
    ----------
    data, encoder, encoder_fingerprint : str
    background : str or None
        The base data's name.
    center : int or None
        Of how many classes the encoder's centre was made; None where there is a background, or no such centre.
    score : str
        Of ``fewshot.openset.SCORES``.
    ways, shots, queries, episodes, seed : int
        ``ways`` classes are known, and as many are not; ``queries`` of each.
    accuracy : float
        Of the known queries, none being refused; the same for all scores.
    metrics : dict of name to (mean, half-width)
        Of ``fewshot.benchmark.openset_runner.METRICS``.
    gain : tuple (mean, half-width)
        Paired difference of the AUROC to the softmax baseline's.
    seconds : float
    flag : str or None
        Why the row flatters.
    key : str
        Hash of all that the numbers depend on.
    """

    data: str
    encoder: str
    encoder_fingerprint: str
    background: str | None
    center: int | None
    score: str
    ways: int
    shots: int
    queries: int
    episodes: int
    seed: int
    accuracy: float
    metrics: dict[str, tuple[float, float]]
    gain: tuple[float, float]
    seconds: float
    flag: str | None
    key: str


@dataclass(frozen=True)
class OpenSetReport:
    """The rows asked for, computed now or before, and how many settings were computed now."""

    rows: tuple[OpenSetRow, ...]
    computed: int


def run_open_bench(
    data: Sequence[str],
    out: str | Path,
    *,
    encoders: Sequence[str] = (),
    ways: Sequence[int | str] = (5,),
    shots: Sequence[int | str] = (1, 5),
    protocol: Protocol | None = None,
    base: str | None = None,
    split: str = "test",
    cache: str | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> OpenSetReport:
    """Judge all unknown scores on data and write open-set.json and open-set.md; a setting that is there is not redone.

    Parameters
    ----------
    data, out, encoders, split, cache, device, note
        As in ``run_bench``.
    ways, shots : sequences of int
        Classes learned; as many others only ask.
    protocol : Protocol, optional
    base : path or name, optional
        The background; without, the scores that need one are left out, and the default score takes the centre that
        ships for the encoder, if one does.

    Raises
    ------
    ValueError : for "various" ways, imbalanced queries, data with too few classes or pictures, or pictures without an
        encoder; all before anything is embedded.
    """
    protocol = protocol or Protocol()
    if {"various"} & {*ways, *shots} or protocol.query_imbalance is not None:
        raise ValueError("open-set episodes have a number of ways and shots, and as many queries of each class")
    settings = [(int(way), int(shot)) for way in dict.fromkeys(ways) for shot in dict.fromkeys(shots)]
    inputs = Inputs.open(data, encoders=encoders, base=base, split=split, device=device)
    for source in inputs.sources:
        _check(source, protocol, settings)
    for remark in inputs.remarks("background", "it is no unknown one"):
        note(remark)
    names = [name for name, score in SCORES.items() if base is not None or not score.needs_background]
    if len(names) < len(SCORES):
        note(f"left out, for it compares with a background (--base): {', '.join(SCORES.keys() - set(names))}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    known = _read(folder / _JSON)
    rows: list[OpenSetRow] = []
    computed = 0
    for features, given in inputs.embedded(cache=cache or str(folder / _VECTORS), with_base=True):
        background = None if given is None else Background.of(given.vectors, given.labels)
        center = shipped_center(features.fingerprint) if background is None else None
        for way, shot in settings:
            title = f"{features.data}, {features.encoder}, {way}-way {shot}-shot"
            key = _key(features, background, center, protocol, way, shot, inputs.place)
            found = [row for row in known if row.key == key]
            if found:
                note(f"already there, skipped: {title}")
            else:
                sampler = protocol.sampler(features, 2 * way, shot)
                result = run_open_set(
                    names, features.vectors, sampler, background=background, center=center, device=inputs.place
                )
                found = _rows(result, features, base, center, protocol, way, shot, key)
                known += found
                _write(folder, known)
                computed += 1
                best = next(row for row in found if row.score == DEFAULT)
                auroc, (gain, width) = best.metrics["auroc"][0], best.gain
                more = "" if math.isnan(width) else f" ± {100 * width:.2f}"
                note(f"{title}: AUROC {100 * auroc:.2f} %, {100 * gain:+.2f}{more} to {_BASELINE}")
            rows += found
    return OpenSetReport(tuple(rows), computed)


def _check(source: Source, protocol: Protocol, settings: list[tuple[int, int]]) -> None:
    for way, shot in settings:
        try:
            protocol.sampler(source, 2 * way, shot)
        except ValueError as error:
            raise ValueError(f"{error} (an open-set episode has as many classes outside as its {way})") from error


def _key(
    features: Features,
    background: Background | None,
    center: Center | None,
    protocol: Protocol,
    ways: int,
    shots: int,
    device: str,
) -> str:
    others = None
    if background is not None:
        others = hashlib.sha256(background.vectors.numpy().tobytes() + background.groups.tobytes()).hexdigest()
    at = None if center is None else center.vector.tolist()
    value = [features.content, features.fingerprint, others, at, asdict(protocol), ways, shots, device, __version__]
    return hashlib.sha256(json.dumps([value, list(SCORES)]).encode()).hexdigest()[:32]


def _rows(
    result: OpenSetResult,
    features: Features,
    base: str | None,
    center: Center | None,
    protocol: Protocol,
    ways: int,
    shots: int,
    key: str,
) -> list[OpenSetRow]:
    return [
        OpenSetRow(
            data=features.data,
            encoder=features.encoder,
            encoder_fingerprint=features.fingerprint,
            background=base,
            center=None if center is None else center.n_classes,
            score=name,
            ways=ways,
            shots=shots,
            queries=protocol.queries,
            episodes=len(result.accuracy),
            seed=protocol.seed,
            accuracy=float(result.accuracy.mean()),
            metrics={metric: result[name].mean(metric) for metric in METRICS},
            gain=result.paired(name, _BASELINE),
            seconds=result.seconds[name],
            flag=features.flag,
            key=key,
        )
        for name in result.scores
    ]


def _read(path: Path) -> list[OpenSetRow]:
    if not path.exists():
        return []
    try:
        return [_row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, or another version's ({error}); delete it, or choose another --out"
        ) from error


def _row(*, gain: Any, metrics: dict[str, Any], **others: Any) -> OpenSetRow:
    pairs = {name: _known(pair) for name, pair in metrics.items()}
    return OpenSetRow(gain=_known(gain), metrics=pairs, **others)


def _known(pair: Sequence[float | None]) -> tuple[float, float]:
    """Return a mean and half-width; null in the file is NaN, as the half-width of one episode's is."""
    mean, width = (math.nan if value is None else float(value) for value in pair)
    return mean, width


def _nulls(value: Any) -> Any:
    """Return it with None for each NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _nulls(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(folder: Path, rows: list[OpenSetRow]) -> None:
    value: dict[str, Any] = {"versions": versions(), "rows": [_nulls(asdict(row)) for row in rows]}
    with replacing(folder / _JSON) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(folder / _MARKDOWN) as temporary:
        temporary.write_text(markdown(rows), encoding="utf-8")


def _percent(mean: float, width: float) -> str:
    return f"{100 * mean:.2f}" + ("" if math.isnan(width) else f" ± {100 * width:.2f}")


def markdown(rows: Sequence[OpenSetRow]) -> str:
    """Write one table for each setting, the best score by AUROC first."""
    parts = ["# Unknown pictures", _LEGEND]
    for _, group in groupby(rows, key=lambda row: row.key):
        some = sorted(group, key=lambda row: -row.metrics["auroc"][0])
        first = some[0]
        others = f"background {first.background}" if first.background else "no background"
        if first.center is not None:
            others += f", but the centre of {first.center} classes that ships for the encoder"
        parts.append(
            f"## {first.data}, {first.encoder}, {first.ways}-way {first.shots}-shot{' †' if first.flag else ''}"
        )
        parts.append(
            f"{first.episodes:,} episodes, {first.queries} queries a class, seed {first.seed}; {others}. Known queries "
            f"named rightly, none refused: {100 * first.accuracy:.2f} %."
        )
        lines = ["| score | AUROC | gain | AUPR | FPR95 | right | OSCR |", "| --- |" + " ---: |" * 6]
        for row in some:
            columns = [row.metrics["auroc"], row.gain]
            columns += [row.metrics[name] for name in ("aupr", "fpr95", "accepted_accuracy", "oscr")]
            texts = " | ".join(_percent(mean, width) for mean, width in columns)
            lines.append(f"| {row.score}{' (default)' * (row.score == DEFAULT)} | {texts} |")
        parts.append("\n".join(lines))
        if first.flag:
            parts.append(f"† {first.flag}")
    return "\n\n".join(parts) + "\n"
