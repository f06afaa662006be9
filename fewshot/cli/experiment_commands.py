"""Commands of benchmarks, training and the demonstration, which need no registry."""

from __future__ import annotations

from typing import Any

import click

from fewshot.cli.interrupt import keep_on_interrupt
from fewshot.cli.options import counts, training_options
from fewshot.cli.output import check_writable, exit_if_failed, note, print_result
from fewshot.cli.text_rows import labelled_table, table_options


@click.command(epilog="Example: fewshot encoders dinov2")
@click.argument("pattern", default="")
def encoders(pattern: str) -> None:
    """List the encoders that can be loaded by name.

    PATTERN is part of a name, or holds * and ?.
    """
    from fewshot.encoders import list_encoders

    found = list_encoders(pattern)
    print_result(found, [{"encoder": name} for name in found])


@click.command(epilog="Example: fewshot bench photos/ --encoder pocket --methods prototype,ridge --out results/")
@click.argument("data", nargs=-1, metavar="[DATA]...")
@table_options("Beside DATA, the texts")
@click.option("--encoder", "encoders", multiple=True, metavar="NAME", help="Embeds the data; may be repeated.")
@click.option("--methods", default="all", show_default=True, help="m1,m2,... or all, inductive, transductive.")
@click.option("--ways", callback=counts, metavar="N", help="Classes per episode: 5,20; by default 5, or all there are.")
@click.option("--shots", callback=counts, metavar="N", help="Support examples per class; by default 1,5, or 1.")
@click.option("--queries", type=click.IntRange(1), help="Queries per class; by default 15, or what the data allow.")
@click.option("--episodes", type=click.IntRange(1), help="Episodes per setting; by default 10000.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--base", metavar="DATA", help="Examples or embeddings of base classes, for methods that use them.")
@click.option("--within-groups", is_flag=True, help="The classes of an episode come from one group, as an alphabet.")
@click.option("--query-imbalance", type=float, metavar="A", help="Class shares of the queries: Dirichlet(A).")
@click.option("--no-replacement", is_flag=True, help="No example in two episodes: fewer episodes, honest intervals.")
@click.option("--split", default="test", show_default=True, help="Split of named data sets.")
@click.option("--cache", metavar="FILE", help="File of the embeddings; by default vectors.sqlite in DIR.")
@click.option("--device", help="cuda, mps or cpu; by default the first available.")
@click.option(
    "--open-set", is_flag=True, help="Evaluate unknown scores instead: half of the queries are of unknown classes."
)
@click.option("--out", required=True, metavar="DIR", help="Folder of the results; what is there is not computed again.")
def bench(
    data: tuple[str, ...],
    from_csv: str | None,
    text: str | None,
    label: str | None,
    out: str,
    methods: str,
    queries: int | None,
    episodes: int | None,
    seed: int,
    within_groups: bool,
    query_imbalance: float | None,
    no_replacement: bool,
    open_set: bool,
    **settings: Any,
) -> None:
    """Compare methods over thousands of episodes.

    Tables, plots and every prediction go to a folder. DATA is a folder or zip of class folders, a registry, a feature
    file (.npz or .parquet with vectors and labels, as `fewshot export` writes), or a data set's name. Ways, shots and
    queries that fit the data are chosen, and said. The same command resumes an interrupted run.
    """
    from fewshot.benchmark import Protocol, run_openset_suite, run_suite

    table = labelled_table(from_csv, text, label)
    given: list[Any] = [*data, *([table] if table else [])]
    if not given:
        raise click.UsageError("give DATA..., or --from-csv FILE --text COLUMN --label COLUMN")
    keep_on_interrupt(f"what is finished is in {out}; run the same command again to compute the rest")
    settings["protocol"] = Protocol(queries, episodes, seed, query_imbalance, not no_replacement, within_groups)
    report: Any
    if open_set:
        if methods != "all":
            raise click.UsageError("--open-set compares unknown scores, not methods: leave --methods out")
        report = run_openset_suite(given, out, note=note, **settings)
        best = [_named(row, "score") | {"auroc": round(row.metrics["auroc"][0], 6)} for row in report.best()]
    else:
        names = [name.strip() for name in methods.split(",") if name.strip()]
        report = run_suite(given, out, methods=names, note=note, **settings)
        best = [_named(row, "transductive", "method", "accuracy") for row in report.best()]
    numbers = {"rows": len(report.rows), "computed": report.computed, "skipped": report.skipped}
    answer: dict[str, Any] = {"out": out, **numbers, "best": best}
    if report.failed:
        answer["failed"] = [vars(failure) for failure in report.failed]
    print_result(answer)
    exit_if_failed(bool(report.failed))


def _named(row: Any, *more: str) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in ("data", "encoder", "ways", "shots", *more)}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


@click.command(epilog="Example: fewshot train my-photos/ --arch resnet12 --size 64 --epochs 40 --out my-encoder")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--out", required=True, metavar="DIR", help="Folder of the encoder; its checkpoints go to DIR.training.")
@click.option(
    "--validation", multiple=True, metavar="DATA", help="Other classes; by default DATA's split, or held-out ones."
)
@click.option("--split", help="Split of named data sets; by default train.")
@click.option("--device", help="cuda, mps or cpu; by default the first available.")
@training_options
def train(
    data: tuple[str, ...], out: str, validation: tuple[str, ...], recipe: dict[str, Any], **settings: Any
) -> None:
    """Train an encoder on labelled images.

    It is for images unlike those that the pretrained encoders know. DATA is a folder or zip of class folders, or a data
    set's name; several share one network. The same command resumes an interrupted run. The result is a folder that
    --encoder takes.
    """
    from fewshot.training import Recipe, train_encoder

    result = train_encoder(data, out, Recipe(**recipe), validation=validation or None, note=note, **settings)
    print_result({**vars(result), "folder": str(result.folder), "validation": list(result.validation)})


@click.command(epilog="Example: fewshot demo --picture demo.png")
@click.option("--picture", metavar="FILE", help="Draw some of the queries with their labels and scores.")
@click.option("--shots", type=click.IntRange(1, 50), default=5, show_default=True, help="Examples of each digit.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
def demo(picture: str | None, shots: int, seed: int) -> None:
    """Register handwritten digits, and measure the accuracy.

    Ten digits are registered from a few real scans each, and some 1,750 other scans are predicted; offline.
    """
    from fewshot.cli.demo import run_demo

    if picture is not None:
        check_writable(picture)
    print_result(run_demo(shots=shots, seed=seed, picture=picture))
