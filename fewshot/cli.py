"""The command line: one JSON value on stdout, everything meant for people on stderr."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from fewshot import __version__
from fewshot.commandline import (
    Commands,
    check_writable,
    classifier_asked,
    classifier_options,
    counted,
    counts,
    encoder_options,
    expanded,
    finish,
    load_asked,
    note,
    note_ignored,
    opened_registry,
    say,
    training_options,
)

if TYPE_CHECKING:
    from fewshot.registry import ClassRegistry
    from fewshot.reports import AddReport

_METRICS = ("cosine", "sqeuclidean", "inner_product")


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg, then: fewshot predict parts.fewshot new.jpg",
)
@click.version_option(__version__)
def main() -> None:
    """Learn a new image class from one to five pictures.

    A REGISTRY is one file that holds the classes. Every command prints one JSON value on one line; exit status 0 is
    done, 1 an error or some inputs failed (the JSON lists them), 2 wrong usage.
    """


def _report(report: AddReport, registry: ClassRegistry, **first: Any) -> None:
    answer = {**first, "added": report.added, "duplicates": report.duplicates, "classes": registry.info().classes}
    if report.conflicts:
        answer["conflicts"] = [
            {"path": c.source, "label": c.label, "held_by": list(c.held_by)} for c in report.conflicts
        ]
        note(
            f"not added: {counted(len(report.conflicts), 'picture')} registered under another label already; "
            "remove them there, or accept both with --allow-conflict"
        )
    if report.failed:
        answer["failed"] = [{"path": f.source, "reason": f.reason} for f in report.failed]
        for failure in report.failed:
            note(f"not added: {failure.source}: {failure.reason}")
    say(answer)
    finish(bool(report.conflicts or report.failed))


@main.command(epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg b3.jpg")
@click.argument("registry")
@click.argument("label", required=False)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--from-folder", metavar="DIR", help="Add a folder, or zip, that holds one subfolder a class.")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
@click.option("--metric", type=click.Choice(_METRICS), help="For a new registry; by default cosine.")
@click.option("--keep-images/--no-keep-images", default=None, help="Keep the pictures' bytes, or only their paths.")
@encoder_options
def add(
    registry: str,
    label: str | None,
    images: tuple[str, ...],
    from_folder: str | None,
    allow_conflict: bool,
    metric: str | None,
    keep_images: bool | None,
    encoding: dict[str, Any],
) -> None:
    """Register pictures as examples of a class, new or known. REGISTRY is made if it does not exist.

    IMAGE is a file, folder or pattern; - reads paths from standard input.
    """
    if (from_folder is None) == (label is None):
        raise click.UsageError("give either LABEL IMAGE... or --from-folder DIR")
    if label is not None and not images:
        raise click.UsageError(f"give the pictures of {label!r}: fewshot add {registry} {label} IMAGE...")
    if label is not None:
        from fewshot.validation import check_label

        check_label(label)
    found = None
    if from_folder is not None:
        from fewshot.images import labelled_images

        found = labelled_images(from_folder)
        note_ignored(found.ignored)
    with opened_registry(registry, encoding, create=True, metric=metric, keep_images=keep_images) as opened:
        if found is not None:
            pairs = list(zip(found.images, found.labels, strict=True))
            _report(opened.add_labelled(pairs, allow_conflict=allow_conflict), opened, folder=from_folder)
        else:
            assert label is not None
            report = opened.add(label, expanded(images), allow_conflict=allow_conflict)
            _report(report, opened, label=label)


@main.command(epilog="Example: fewshot predict parts.fewshot new.jpg more/ 'scans/*.png' --top 3")
@click.argument("registry")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to rank.")
@click.option("--nearest", type=click.IntRange(0), default=3, show_default=True, help="Closest examples to name.")
@classifier_options
@encoder_options
def predict(
    registry: str,
    images: tuple[str, ...],
    top: int,
    nearest: int,
    classifier: str,
    neighbors: int,
    encoding: dict[str, Any],
) -> None:
    """Recognise pictures: one answer for each, in the order given.

    IMAGE is a file, folder or pattern; - reads paths from standard input. A picture that cannot be read is answered
    with "failed" and the reason.
    """
    names = expanded(images)
    reader = classifier_asked(registry, classifier, neighbors) if os.path.exists(registry) else None
    with opened_registry(registry, encoding, classifier=reader) as opened:
        answered = opened.predict_valid(names, top=top, nearest=nearest)
    known = iter(zip(answered.sources, answered.predictions, strict=True))
    reasons = {failure.source: failure.reason for failure in answered.failed}
    answers: list[dict[str, Any]] = []
    for name in names:
        if name in reasons:
            note(f"not recognised: {name}: {reasons[name]}")
            answers.append({"path": name, "failed": reasons[name]})
            continue
        _, prediction = next(known)
        answer: dict[str, Any] = {
            "path": name,
            "label": prediction.label,
            "score": round(prediction.score, 4),
            "top": [[label, round(score, 4)] for label, score in prediction.top],
        }
        if nearest:
            answer["nearest"] = [
                {"example": n.example, "label": n.label, "source": n.source, "score": round(n.score, 4)}
                for n in prediction.nearest
            ]
        answers.append(answer)
    say(answers)
    finish(bool(answered.failed))


@main.command(epilog="Example: fewshot evaluate parts.fewshot test-photos/ --out results.csv")
@click.argument("registry")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="FILE", help="Write a CSV with one row a picture.")
@classifier_options
@encoder_options
def evaluate(
    registry: str, folder: str, out: str | None, classifier: str, neighbors: int, encoding: dict[str, Any]
) -> None:
    """Recognise every picture of DIR, a folder or zip with one subfolder a class, and count."""
    if out is not None:
        check_writable(out)
    reader = classifier_asked(registry, classifier, neighbors) if os.path.exists(registry) else None
    with opened_registry(registry, encoding, classifier=reader) as opened:
        result = opened.evaluate(folder)
    note_ignored(result.ignored)
    if result.unregistered:
        note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
    if result.also_registered:
        note(f"registered examples among the {result.n} pictures: {result.also_registered}; they flatter the accuracy")
    if out is not None:
        import csv

        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "predicted", "score", "correct"])
            writer.writerows([r.source, r.label, r.predicted, f"{r.score:.6f}", int(r.correct)] for r in result.rows)
    say(
        {
            "accuracy": round(result.accuracy, 6) if result.n else None,
            "n": result.n,
            "per_class": {label: round(share, 6) for label, share in result.per_class.items()},
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    finish(bool(result.failed))


@main.command(epilog="Example: fewshot classes parts.fewshot")
@click.argument("registry")
@click.argument("label", required=False)
def classes(registry: str, label: str | None) -> None:
    """List the classes with their number of examples, or the examples of one class with their ids."""
    with opened_registry(registry) as opened:
        if label is None:
            say(opened.classes())
        else:
            say([{"example": id_, "source": source} for id_, source in opened.examples(label)])


@main.command(epilog="Example: fewshot remove parts.fewshot bolt; or: fewshot remove parts.fewshot --example 17")
@click.argument("registry")
@click.argument("label", required=False)
@click.option("--example", type=int, help="Remove one example, by the id that `fewshot classes REGISTRY LABEL` shows.")
def remove(registry: str, label: str | None, example: int | None) -> None:
    """Remove a class, or one example."""
    if (label is None) == (example is None):
        raise click.UsageError("give either LABEL or --example ID")
    with opened_registry(registry) as opened:
        if label is not None:
            count = opened.remove(label)
        else:
            assert example is not None
            label, count = opened.remove_example(example), 1
        say({"label": label, "removed": count, "classes": opened.info().classes})


@main.command(epilog="Example: fewshot rename parts.fewshot blot bolt")
@click.argument("registry")
@click.argument("label")
@click.argument("new")
def rename(registry: str, label: str, new: str) -> None:
    """Give a class another name."""
    with opened_registry(registry) as opened:
        opened.rename(label, new)
        say({"label": new, "was": label, "examples": opened.classes()[new]})


@main.command(epilog="Example: fewshot merge parts.fewshot bolt-m6 bolt-m8 --into bolt")
@click.argument("registry")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@click.option("--into", required=True, metavar="LABEL", help="The class that takes the examples; it may be new.")
def merge(registry: str, labels: tuple[str, ...], into: str) -> None:
    """Join classes into one."""
    with opened_registry(registry) as opened:
        count = opened.merge(labels, into)
        say({"label": into, "examples": count, "classes": opened.info().classes})


@main.command(name="export", epilog="Example: fewshot export parts.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
def export_(registry: str, file: str) -> None:
    """Write ids, labels and vectors to FILE, .npz or .parquet."""
    with opened_registry(registry) as opened:
        say({"file": file, "examples": opened.export(file)})


@main.command(name="import", epilog="Example: fewshot import new.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
def import_(registry: str, file: str, allow_conflict: bool) -> None:
    """Add the examples of an exported FILE, made with the same encoder."""
    from fewshot import exchange

    exchange.check(file)
    with opened_registry(registry, create=True) as opened:
        _report(opened.import_examples(file, allow_conflict=allow_conflict), opened, file=file)


@main.command(epilog="Example: fewshot reindex parts.fewshot --encoder vit_small_patch14_dinov2.lvd142m")
@click.argument("registry")
@encoder_options
def reindex(registry: str, encoding: dict[str, Any]) -> None:
    """Embed every picture again with another encoder; all or none."""
    if encoding["name"] is None:
        raise click.UsageError("give the new encoder: --encoder NAME")
    with opened_registry(registry) as opened:
        count = opened.reindex(load_asked(encoding, {}))
        say({"examples": count, "encoder": opened.info().encoder})


@main.command(epilog="Example: fewshot info parts.fewshot")
@click.argument("registry")
def info(registry: str) -> None:
    """Describe a registry: its encoder, metric and sizes."""
    from dataclasses import asdict

    with opened_registry(registry) as opened:
        say(asdict(opened.info()))


@main.command(epilog="Example: fewshot encoders dinov2")
@click.argument("pattern", default="")
def encoders(pattern: str) -> None:
    """List the encoders that can be loaded by name; PATTERN is part of a name, or holds * and ?."""
    from fewshot.encoders.network import list_encoders

    say(list_encoders(pattern))


@main.command(epilog="Example: fewshot bench photos/ --encoder pocket --methods prototype,ridge --out results/")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--encoder", "encoders", multiple=True, metavar="NAME", help="For pictures; may be given several times.")
@click.option("--methods", default="all", show_default=True, help="m1,m2,... or all, inductive, transductive.")
@click.option("--ways", default="5", show_default=True, callback=counts, help="Classes of an episode: 5,20.")
@click.option("--shots", default="1,5", show_default=True, callback=counts, help="Examples of each to learn from.")
@click.option("--queries", type=click.IntRange(1), default=15, show_default=True, help="Of each class.")
@click.option("--episodes", type=click.IntRange(1), default=10_000, show_default=True, help="Of each setting.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides the episodes.")
@click.option("--base", metavar="DATA", help="Pictures or vectors of other classes, for what learns from them.")
@click.option("--within-groups", is_flag=True, help="The classes of an episode come from one group, as an alphabet.")
@click.option("--query-imbalance", type=float, metavar="A", help="Class shares of the queries: Dirichlet(A).")
@click.option("--no-replacement", is_flag=True, help="No picture in two episodes: honest intervals, fewer episodes.")
@click.option("--split", default="test", show_default=True, help="Of a named data set.")
@click.option("--cache", metavar="FILE", help="Where vectors are kept; by default vectors.sqlite in DIR.")
@click.option("--device", help="cuda, mps or cpu; by default the first there is.")
@click.option("--out", required=True, metavar="DIR", help="Where the results go; what is there is not done again.")
def bench(
    data: tuple[str, ...],
    out: str,
    methods: str,
    queries: int,
    episodes: int,
    seed: int,
    within_groups: bool,
    query_imbalance: float | None,
    no_replacement: bool,
    **settings: Any,
) -> None:
    """Compare methods over thousands of episodes; tables, pictures and every single answer go to a folder.

    DATA is a folder or zip of class folders, a feature file (.npz or .parquet with vectors and labels, as `fewshot
    export` writes), or a data set's name. Interrupt it when you like: the same command goes on where it was.
    """
    from fewshot.bench import Protocol, run_bench

    report = run_bench(
        data,
        out,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        protocol=Protocol(queries, episodes, seed, query_imbalance, not no_replacement, within_groups),
        note=note,
        **settings,
    )
    named = ("data", "encoder", "ways", "shots", "transductive", "method", "accuracy")
    answer: dict[str, Any] = {
        "out": out,
        "rows": len(report.rows),
        "computed": report.computed,
        "skipped": report.skipped,
        "best": [{name: getattr(row, name) for name in named} for row in report.best()],
    }
    if report.failed:
        answer["failed"] = [{"setting": f.setting, "method": f.method, "reason": f.reason} for f in report.failed]
    say(answer)
    finish(bool(report.failed))


@main.command(epilog="Example: fewshot train my-photos/ --arch resnet12 --size 64 --epochs 40 --out my-encoder")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--out", required=True, metavar="DIR", help="Where the encoder goes; DIR.training holds it meanwhile.")
@click.option("--validation", multiple=True, metavar="DATA", help="Other classes; by default DATA's own, or held out.")
@click.option("--split", help="Of named data sets; by default train.")
@click.option("--device", help="cuda, mps or cpu; by default the first there is.")
@training_options
def train(
    data: tuple[str, ...], out: str, validation: tuple[str, ...], recipe: dict[str, Any], **settings: Any
) -> None:
    """Train an encoder for pictures that no other encoder knows.

    DATA is a folder or zip of class folders, or a data set's name; several share one network. The same command goes on
    after a kill at any moment. The result is a folder that --encoder takes.
    """
    from fewshot.training import Recipe, train_encoder

    result = train_encoder(data, out, Recipe(**recipe), validation=validation or None, note=note, **settings)
    say({**vars(result), "folder": str(result.folder), "validation": list(result.validation)})


@main.command(epilog="Example: fewshot demo --picture demo.png")
@click.option("--picture", metavar="FILE", help="Draw some of the queries with their labels and scores.")
@click.option("--shots", type=click.IntRange(1, 50), default=5, show_default=True, help="Examples of each digit.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the examples.")
def demo(picture: str | None, shots: int, seed: int) -> None:
    """Register ten handwritten digits from a few real scans each, and recognise the other 1,750; offline."""
    from fewshot.demo import run_demo

    if picture is not None:
        check_writable(picture)
    say(run_demo(shots=shots, seed=seed, picture=picture))
