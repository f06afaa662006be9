"""The command that fits calibration tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewshot.cli.interrupt import keep_on_interrupt
from fewshot.cli.output import check_writable, note, print_result
from fewshot.cli.text_rows import labelled_table, table_options


@click.command(epilog="Example: fewshot calibrate my-photos/ --encoder pocket --out calibration.json")
@click.argument("data", metavar="[DATA]", required=False)
@click.option("--encoder", metavar="NAME", help="Embeds the data: pocket (bundled, default), or another name.")
@click.option("--methods", default="whitened", show_default=True, help="m1,m2,... or all, inductive, transductive.")
@click.option("--queries", type=click.IntRange(1), help="Queries of each class; by default 15, or what the data allow.")
@click.option("--episodes", type=click.IntRange(1), default=300, show_default=True, help="Episodes of each setting.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the halves and the episodes."
)
@table_options("In place of DATA, the texts")
@click.option("--base", metavar="DATA", help="Examples or vectors of base classes, for methods that need them.")
@click.option("--split", help="Of data that have splits; by default train.")
@click.option("--cache", metavar="FILE", help="Embedding cache; by default FILE.vectors beside --out.")
@click.option("--device", help="For the encoder: cuda, mps or cpu; by default the first available.")
@click.option("--picture", metavar="PNG", help="Draw reliability diagrams.")
@click.option("--out", required=True, metavar="FILE", help="The table, for predict_proba(X, calibration=...).")
def calibrate(
    data: str | None,
    from_csv: str | None,
    text: str | None,
    label: str | None,
    methods: str,
    cache: str | None,
    picture: str | None,
    out: str,
    **settings: Any,
) -> None:
    """Calibrate the probabilities of methods on your own data.

    They are fitted at 1 to 5 examples of each class. DATA is a folder or zip of class folders, a registry, a feature
    file (.npz or .parquet with vectors and labels), or a data set's name. The reliability is that of a fit to half of
    the classes, measured on the other half; FILE is fitted to all.
    """
    table = labelled_table(from_csv, text, label)
    given = data or table
    if given is None or (data and table):
        raise click.UsageError("give either DATA, or --from-csv FILE --text COLUMN --label COLUMN")
    from fewshot.benchmark import check_matplotlib, run_calibration
    from fewshot.calibration import write_calibration

    for path in (out, picture):
        if path is not None:
            check_writable(path)
    if picture is not None:
        check_matplotlib()
    cache = cache or f"{out}.vectors"
    keep_on_interrupt(f"no table was written; the embeddings so far are in {cache}, for the same command")
    report = run_calibration(
        given,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        cache=cache,
        note=note,
        **settings,
    )
    write_calibration(report.table, out)
    if picture is not None:
        from fewshot.benchmark import draw_reliability

        panels = {f"{row.method}, {row.ways}-way {row.shots}-shot": (row.before, row.after) for row in report.rows}
        draw_reliability(panels, Path(picture))
    fields = ("accuracy", "ece", "nll")
    print_result(
        {
            "out": out,
            "data": report.data,
            "encoder": report.encoder,
            "fit_classes": report.fit_classes,
            "test_classes": report.test_classes,
            "rows": [
                {
                    "method": row.method,
                    "ways": row.ways,
                    "shots": row.shots,
                    "before": {name: round(getattr(row.before, name), 4) for name in fields},
                    "after": {name: round(getattr(row.after, name), 4) for name in fields},
                }
                for row in report.rows
            ],
        }
    )
