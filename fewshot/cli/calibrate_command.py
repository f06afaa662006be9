"""The command that fits how sure a method may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewshot.cli.options import check_writable, note, say


@click.command(epilog="Example: fewshot calibrate my-photos/ --encoder pocket --methods prototype --out sure.json")
@click.argument("data", metavar="DATA")
@click.option("--encoder", metavar="NAME", help="For pictures: pocket (bundled), a timm name, or a folder.")
@click.option("--methods", default="prototype", show_default=True, help="m1,m2,... or all, inductive, transductive.")
@click.option("--queries", type=click.IntRange(1), default=15, show_default=True, help="Of each class.")
@click.option("--episodes", type=click.IntRange(1), default=300, show_default=True, help="Of each setting.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides halves and episodes.")
@click.option("--base", metavar="DATA", help="Pictures or vectors of other classes, for what learns from them.")
@click.option("--split", help="Of data that have parts; by default train.")
@click.option("--cache", metavar="FILE", help="Where vectors are kept; by default FILE.vectors beside --out.")
@click.option("--device", help="For the encoder: cuda, mps or cpu; by default the first there is.")
@click.option("--picture", metavar="PNG", help="Draw how often answers are right, by their probability.")
@click.option("--out", required=True, metavar="FILE", help="Where the table goes, for predict_proba(X, sharpness=...).")
def calibrate(data: str, methods: str, cache: str | None, picture: str | None, out: str, **settings: Any) -> None:
    """Fit how sure methods may be to labelled data of your own kind, at 1 and 5 examples of each class.

    DATA is a folder or zip of class folders, a feature file (.npz or .parquet with vectors and labels), or a data set's
    name. A fit to one half of its classes, measured on the other, tells how well it goes; FILE is fitted to all.
    """
    from fewshot.benchmark import run_calibration
    from fewshot.calibration import write_table

    for path in (out, picture):
        if path is not None:
            check_writable(path)
    report = run_calibration(
        data,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        cache=cache or f"{out}.vectors",
        note=note,
        **settings,
    )
    write_table(report.table, out)
    if picture is not None:
        from fewshot.benchmark import draw_reliability

        panels = {f"{row.method}, {row.ways}-way {row.shots}-shot": (row.before, row.after) for row in report.rows}
        draw_reliability(panels, Path(picture))
    kept = ("accuracy", "ece", "nll")
    say(
        {
            "out": out,
            "data": report.data,
            "encoder": report.encoder,
            "fitted_to": report.classes[0],
            "measured_on": report.classes[1],
            "rows": [
                {
                    "method": row.method,
                    "ways": row.ways,
                    "shots": row.shots,
                    "before": {name: round(getattr(row.before, name), 4) for name in kept},
                    "after": {name: round(getattr(row.after, name), 4) for name in kept},
                }
                for row in report.rows
            ],
        }
    )
