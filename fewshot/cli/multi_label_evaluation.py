"""What `fewshot evaluate` measures of a multi-label registry."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

from fewshot.cli.example_paths import check_holds_texts, note_ignored, registry_medium
from fewshot.cli.output import exit_if_failed, note, print_result
from fewshot.cli.text_rows import read_text_rows

if TYPE_CHECKING:
    from fewshot.media import LabelledImages
    from fewshot.registry import ClassRegistry, MultiLabelEvaluation


def evaluate_multi_label(
    registry: ClassRegistry,
    folder: LabelledImages | None,
    from_csv: str | None,
    text: str | None,
    label: str | None,
    separator: str | None,
    out: str | None,
    roll_up: float | None,
) -> None:
    """Predict the classes of labelled examples, and print F1 and average precision."""
    if roll_up is not None:
        registry.require_single_label("roll-up")
    if folder is not None:
        result = registry.evaluate_labels(folder)
    else:
        check_holds_texts(registry)
        rows = read_text_rows(str(from_csv), str(text), label)
        labels = [[part for part in row.label.split(separator or "\n") if part.strip()] for row in rows]
        result = registry.evaluate_labels([row.source for row in rows], labels)
    medium = registry_medium(registry)
    note_ignored(result.ignored, medium)
    if result.unregistered:
        note(f"not registered, so never predicted: {', '.join(result.unregistered)}")
    if result.also_registered:
        note(
            f"registered examples among the {medium.counted(result.n)}: {result.also_registered}; "
            f"the figures on new {medium.noun}s may be lower"
        )
    if out is not None:
        _write_rows(result, out)
    print_result(
        {
            "micro_f1": _share(result.micro_f1),
            "macro_f1": _share(result.macro_f1),
            "mean_average_precision": _share(result.mean_average_precision),
            "exact": _share(result.exact),
            "n": result.n,
            "per_class": {
                name: {
                    "n": one.n,
                    "precision": _share(one.precision),
                    "recall": _share(one.recall),
                    "f1": _share(one.f1),
                    "average_precision": _share(one.average_precision),
                }
                for name, one in result.per_class.items()
            },
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    exit_if_failed(bool(result.failed))


def _write_rows(result: MultiLabelEvaluation, out: str) -> None:
    from fewshot.files import replacing
    from fewshot.integrations import csv_cell, formats

    with replacing(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels", "predicted", "correct"])
        for row in result.rows:
            sets = (formats.LABEL_SEPARATOR.join(sorted(one)) for one in (row.labels, row.predicted))
            cells: list[Any] = [csv_cell(row.source), *map(csv_cell, sets), int(row.labels == row.predicted)]
            writer.writerow(cells)


def _share(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
