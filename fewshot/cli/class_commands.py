"""Commands that change a registry, or show what it holds."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.options import (
    counted,
    encoder_options,
    expanded,
    finish,
    load_asked,
    note,
    note_ignored,
    opened_registry,
    say,
)

if TYPE_CHECKING:
    from fewshot.registry import AddReport, ClassRegistry

_METRICS = ("cosine", "sqeuclidean", "inner_product")


def _report(report: AddReport, registry: ClassRegistry, **first: Any) -> None:
    answer = {**first, "added": report.added, "duplicates": report.duplicates, "classes": registry.info().classes}
    if report.conflicts:
        answer["conflicts"] = [
            {"path": c.source, "label": c.label, "held_by": list(c.held_by)} for c in report.conflicts
        ]
        _note_conflicts(report, registry, negative=first.get("label", "") is None)
    if report.failed:
        answer["failed"] = [{"path": f.source, "reason": f.reason} for f in report.failed]
        for failure in report.failed:
            note(f"not added: {failure.source}: {failure.reason}")
    say(answer)
    finish(bool(report.conflicts or report.failed))


def _note_conflicts(report: AddReport, registry: ClassRegistry, *, negative: bool) -> None:
    from fewshot.registry import NONE_OF_THESE

    both = "" if negative else ", or accept both with --allow-conflict"
    place = shlex.quote(registry.path)
    negatives = sum(conflict.held_by == (NONE_OF_THESE,) for conflict in report.conflicts)
    if others := len(report.conflicts) - negatives:
        note(f"not added: {counted(others, 'picture')} registered under another label already; remove them there{both}")
    if negatives:
        note(
            f"not added: {counted(negatives, 'picture')} given as none of these before; forget that with: fewshot "
            f"remove {place} --negative ID, its ID from: fewshot classes {place} --negatives{both}"
        )


@click.command(epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg b3.jpg")
@click.argument("registry")
@click.argument("label", required=False)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--from-folder", metavar="DIR", help="Add a folder, or zip, that holds one subfolder a class.")
@click.option("--negative", is_flag=True, help="The pictures are none of the classes: REGISTRY --negative IMAGE...")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
@click.option("--metric", type=click.Choice(_METRICS), help="For a new registry; by default cosine.")
@click.option("--keep-images/--no-keep-images", default=None, help="Keep the pictures' bytes, or only their paths.")
@encoder_options
def add(
    registry: str,
    label: str | None,
    images: tuple[str, ...],
    from_folder: str | None,
    negative: bool,
    allow_conflict: bool,
    metric: str | None,
    keep_images: bool | None,
    encoding: dict[str, Any],
) -> None:
    """Register pictures as examples of a class, new or known. REGISTRY is made if it does not exist.

    IMAGE is a file, folder or pattern; - reads paths from standard input.
    """
    if (from_folder is None) == (label is None):
        raise click.UsageError("give either LABEL IMAGE... or --from-folder DIR, or --negative IMAGE...")
    if negative and label is not None:
        if allow_conflict:
            raise click.UsageError("a picture is of a class or of none: --allow-conflict does not go with --negative")
        _add_negatives(registry, (label, *images), metric=metric, keep_images=keep_images, encoding=encoding)
        return
    if negative:
        raise click.UsageError("--negative takes pictures, not a folder of classes: REGISTRY --negative IMAGE...")
    if label is not None and not images:
        raise click.UsageError(f"give the pictures of {label!r}: fewshot add {registry} {label} IMAGE...")
    if label is not None:
        from fewshot.validation import check_label

        check_label(label)
    found = None
    if from_folder is not None:
        from fewshot.media import labelled_images

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


def _add_negatives(registry: str, images: tuple[str, ...], *, encoding: dict[str, Any], **settings: Any) -> None:
    names = expanded(images)
    with opened_registry(registry, encoding, create=True, **settings) as opened:
        report = opened.rejection.add_negatives(names)
        _report(report, opened, label=None, negatives=opened.rejection.n_negatives)


@click.command(epilog="Example: fewshot classes parts.fewshot")
@click.argument("registry")
@click.argument("label", required=False)
@click.option("--negatives", is_flag=True, help="List the pictures that are none of the classes, with their ids.")
def classes(registry: str, label: str | None, negatives: bool) -> None:
    """List the classes with their number of examples, or the examples of one class with their ids."""
    if negatives and label is not None:
        raise click.UsageError("give either LABEL or --negatives: those are of no class")
    with opened_registry(registry) as opened:
        if negatives:
            found = opened.list_negatives(limit=opened.rejection.n_negatives)
            say([{"negative": one.id, "source": one.source} for one in found])
        elif label is None:
            say(opened.classes())
        else:
            say([{"example": id_, "source": source} for id_, source in opened.examples(label)])


@click.command(epilog="Example: fewshot remove parts.fewshot bolt; or: fewshot remove parts.fewshot --example 17")
@click.argument("registry")
@click.argument("label", required=False)
@click.option("--example", type=int, help="Remove one example, by the id that `fewshot classes REGISTRY LABEL` shows.")
@click.option(
    "--negative",
    type=int,
    help="Forget one picture that is none of the classes, by the id that `fewshot classes REGISTRY --negatives` shows.",
)
def remove(registry: str, label: str | None, example: int | None, negative: int | None) -> None:
    """Remove a class, one example, or one picture that is none of the classes."""
    if sum(given is not None for given in (label, example, negative)) != 1:
        raise click.UsageError("give one of LABEL, --example ID and --negative ID")
    with opened_registry(registry) as opened:
        if label is not None:
            count = opened.remove(label)
        elif example is not None:
            label, count = opened.remove_example(example), 1
        else:
            assert negative is not None
            opened.remove_negative(negative)
            say({"label": None, "removed": 1, "negatives": opened.rejection.n_negatives})
            return
        say({"label": label, "removed": count, "classes": opened.info().classes})


@click.command(epilog="Example: fewshot rename parts.fewshot blot bolt")
@click.argument("registry")
@click.argument("label")
@click.argument("new")
def rename(registry: str, label: str, new: str) -> None:
    """Give a class another name."""
    with opened_registry(registry) as opened:
        opened.rename(label, new)
        say({"label": new, "was": label, "examples": opened.classes()[new]})


@click.command(epilog="Example: fewshot merge parts.fewshot bolt-m6 bolt-m8 --into bolt")
@click.argument("registry")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@click.option("--into", required=True, metavar="LABEL", help="The class that takes the examples; it may be new.")
def merge(registry: str, labels: tuple[str, ...], into: str) -> None:
    """Join classes into one."""
    with opened_registry(registry) as opened:
        count = opened.merge(labels, into)
        say({"label": into, "examples": count, "classes": opened.info().classes})


@click.command(name="export", epilog="Example: fewshot export parts.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
def export_(registry: str, file: str) -> None:
    """Write ids, labels and vectors to FILE, .npz or .parquet."""
    from fewshot.vectors import feature_files

    feature_files.check_suffix(file)
    with opened_registry(registry) as opened:
        say({"file": file, "examples": opened.export(file)})


@click.command(name="import", epilog="Example: fewshot import new.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
def import_(registry: str, file: str, allow_conflict: bool) -> None:
    """Add the examples of an exported FILE, made with the same encoder."""
    from fewshot.vectors import feature_files

    feature_files.check(file)
    with opened_registry(registry, create=True) as opened:
        _report(opened.import_examples(file, allow_conflict=allow_conflict), opened, file=file)


@click.command(epilog="Example: fewshot reindex parts.fewshot --encoder vit_small_patch14_dinov2.lvd142m")
@click.argument("registry")
@encoder_options
def reindex(registry: str, encoding: dict[str, Any]) -> None:
    """Embed every picture again with another encoder; all or none."""
    if encoding["name"] is None:
        raise click.UsageError("give the new encoder: --encoder NAME")
    with opened_registry(registry) as opened:
        count = opened.reindex(load_asked(encoding, {}))
        for why in opened.rejection.renewed():
            note(why)
        say({"examples": count, "encoder": opened.info().encoder})


@click.command(epilog="Example: fewshot info parts.fewshot")
@click.argument("registry")
def info(registry: str) -> None:
    """Describe a registry: its encoder, metric and sizes."""
    from dataclasses import asdict

    with opened_registry(registry) as opened:
        say(asdict(opened.info()))


@click.command(epilog="Example: fewshot tune parts.fewshot; and back: fewshot reindex parts.fewshot --encoder pocket")
@click.argument("registry")
@click.option("--trainable", default="last-2", show_default=True, help="last, last-N, all, norms or lora.")
@click.option(
    "--loss", type=click.Choice(["cross-entropy", "prototypical"]), default="cross-entropy", show_default=True
)
@click.option("--schedule", type=click.Choice(["together", "progressive"]), default="together", show_default=True)
@click.option("--steps", type=click.IntRange(1), help="By default chosen on what is held out, or none.")
@click.option("--learning-rate", type=float, help="By default chosen too.")
@click.option("--views", type=click.IntRange(1), default=8, show_default=True, help="Of each picture.")
@click.option("--rank", type=click.IntRange(1), default=4, show_default=True, help="Of lora.")
@click.option("--flip", is_flag=True, help="Views may be mirrored; not for characters.")
@click.option("--memory", type=float, default=1.0, show_default=True, help="GiB to compute in.")
@click.option("--seed", "random_state", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", "folder", metavar="DIR", help="Where the encoder goes; by default beside the registry.")
def tune(registry: str, folder: str | None, **settings: Any) -> None:
    """Fit a copy of the encoder to a registry's own pictures, and embed these anew with it.

    Where nothing does better on what is held out, nothing is changed. The encoder before stays where it is: `fewshot
    reindex` takes everything back.
    """
    from dataclasses import asdict

    from fewshot.finetuning import tune_registry

    with opened_registry(registry) as opened:
        report = tune_registry(opened, folder=folder, **settings)
        for why in opened.rejection.renewed():
            note(why)
    if report.examples:
        extras = [f"--{key} {report.was[key]}" for key in ("layer", "pool") if report.was.get(key) is not None]
        encoder = " ".join([shlex.quote(report.was["name"]), *extras])
        note(f"to take it back: fewshot reindex {shlex.quote(registry)} --encoder {encoder}")
    else:
        note("nothing did better than the encoder as it is, so nothing was changed")
    say(asdict(report))
