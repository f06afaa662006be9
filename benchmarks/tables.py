"""Every method on every encoder and data set: the tables of README.md, and what they say about the default classifier.

{mobilenetv2, mobilenetv1, pocket} x {Omniglot 5-way over all evaluation alphabets, Omniglot 20-way within one, Tiny
ImageNet's test classes 5-way} x {1, 5 shots}, 15 queries of each class; 10,000 episodes, methods that iterate
1,000 or 100. The base data (SimpleShot's centre, distribution calibration) are each set's own training classes. The
work folder holds the vectors and every answer; the same command goes on where it was. With ``--methods`` the others'
rows stay as they are in the result file; what is best of a column is then found without pairing, for their answers are
not at hand: all that is not below the best by more than both intervals allow.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import RESULTS, save, shared_file

from fewshot.benchmark import Protocol, run_suite
from fewshot.benchmark.methods import METHODS
from fewshot.benchmark.result_files import MethodRow, ResultFile
from fewshot.benchmark.tables import leaders

# How many episodes; the closed forms 10,000. Distribution calibration fits thousands of drawn examples in each episode.
FEWER = {"logistic": 1_000, "cosine-head": 1_000, "distribution-calibration": 100}
FEWER |= {name: 1_000 for name, method in METHODS.items() if method.transductive}
ENCODERS = {
    "mobilenetv2": ("weights", "mobilenetv2_100.tf_in1k"),
    "mobilenetv1": ("weights", "mobilenetv1_100.tf_in1k"),
    "pocket": (),
}
# title: (data set, ways, whether the classes of an episode come from one alphabet)
TASKS = {
    "Omniglot, 5-way": ("omniglot", 5, False),
    "Omniglot, 20-way within an alphabet": ("omniglot", 20, True),
    "Tiny ImageNet, 5-way": ("tiny-imagenet", 5, False),
}
# SimpleShot without base data: unit vectors, not centred.
_PLAIN = "simpleshot, no centre"
# These first episodes are the same however many are drawn.
_COMMON = 1_000
KEPT = ("method", "ways", "shots", "episodes", "accuracy", "ci95", "ci95_disjoint", "seconds", "transductive", "flag")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder for vectors and every answer; some 3 GB")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    settings: dict[Any, dict[str, Any]] = defaultdict(dict)
    for encoder in options.encoders:
        place = ENCODERS[encoder]
        for title, (data, ways, within) in TASKS.items():
            for episodes in (10_000, 1_000, 100):
                if within and episodes == 100:
                    continue  # it would take hours
                methods = [name for name in options.methods if FEWER.get(name, 10_000) == episodes]
                # Transductive methods run without base data, as those beside them.
                inductive = [METHODS[name] for name in methods if not METHODS[name].transductive]
                based = any(method.takes_center or method.needs_base for method in inductive)
                for plain in ([False] if methods else []) + ([True] if "simpleshot" in methods else []):
                    report = run_suite(
                        [data],
                        work / ("plain" if plain else "results"),
                        encoders=[f"local-dir:{shared_file(*place)}" if place else encoder],
                        methods=["simpleshot"] if plain else methods,
                        ways=[ways],
                        shots=[1, 5],
                        protocol=Protocol(episodes=episodes, within_groups=within),
                        base=data if based and not plain else None,
                        cache=str(work / "vectors.sqlite"),
                        note=lambda line: print(line, file=sys.stderr),
                    )
                    for row in report.rows:
                        name = _PLAIN if plain else row.method
                        rows.append({"task": title, "encoder": encoder, **summary(row), "method": name})
                        if row.episodes >= _COMMON:
                            file = ResultFile(work / ("plain" if plain else "results") / row.file, MethodRow)
                            accuracies = file.arrays("accuracies")[row.method][:_COMMON]
                            settings[title, encoder, row.shots, row.transductive][name] = accuracies
    best = {(*setting, name) for setting, accuracies in settings.items() for name in leaders(accuracies)}
    for row in rows:
        row["best"] = (row["task"], row["encoder"], row["shots"], row["transductive"], row["method"]) in best
    if (ran := {row["method"].split(",")[0] for row in rows}) != set(METHODS):
        before = json.loads((RESULTS / "tables.json").read_text())["rows"]
        rows += [row for row in before if row["method"].split(",")[0] not in ran]
        mark_unpaired(rows, ran)
    rows.sort(key=lambda row: (list(TASKS).index(row["task"]), list(ENCODERS).index(row["encoder"])))
    save("tables", {"queries": 15, "seed": 0, "rows": rows})
    print(markdown(rows))


def mark_unpaired(rows: list[dict[str, Any]], ran: set[str]) -> None:
    """Mark the best of each column among rows of different runs; those of the earlier run lose marks, but get none."""
    columns: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        columns[row["task"], row["encoder"], row["shots"], row["transductive"]].append(row)
    for column in columns.values():
        top = max((row for row in column if row["episodes"] >= _COMMON), key=lambda row: row["accuracy"])
        for row in column:
            close = top["accuracy"] - row["accuracy"] <= math.hypot(top["ci95"], row["ci95"])
            able = row["method"].split(",")[0] in ran or row["best"]
            row["best"] = bool(close and able and row["episodes"] >= _COMMON)


def summary(row: MethodRow) -> dict[str, Any]:
    """What is kept of a row, rounded as it is shown."""
    kept = {name: value for name, value in asdict(row).items() if name in KEPT}
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in kept.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table a task: methods down, encoders and shots across, percent.

    Bold is the best of each column, inductive and transductive apart, with all that the paired difference on the first
    1,000 episodes does not show to be worse.
    """
    parts = []
    for title in dict.fromkeys(row["task"] for row in rows):
        some = [row for row in rows if row["task"] == title]
        columns = list(dict.fromkeys((row["encoder"], row["shots"]) for row in some))
        marked = {(row["encoder"], row["shots"]) for row in some if row["flag"]}
        cells: dict[str, dict[Any, dict[str, Any]]] = defaultdict(dict)
        for row in some:
            cells[row["method"]][row["encoder"], row["shots"]] = row
        heads = [f"{encoder} {shots}{' †' * ((encoder, shots) in marked)}" for encoder, shots in columns]
        parts += [f"**{title}**", ""]
        parts += ["| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(columns)]
        for method, found in sorted(cells.items(), key=lambda item: _order(item[0])):
            texts = [_cell(found.get(column)) for column in columns]
            parts.append(f"| {method}{' (t)' * _order(method)[0]} | " + " | ".join(texts) + " |")
        parts.append("")
    return "\n".join(parts)


def _order(method: str) -> tuple[bool, int]:
    """Inductive methods first, then as ``METHODS`` has them."""
    name = method.split(",")[0]
    return METHODS[name].transductive, list(METHODS).index(name)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    text = f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}"
    return f"**{text}**" if row["best"] else text


if __name__ == "__main__":
    main()
