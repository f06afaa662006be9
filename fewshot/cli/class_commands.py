"""Commands that change a registry, or show what it holds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.annotated_boxes import BoxOptions, add_annotated_boxes, box_options, read_annotations
from fewshot.cli.example_paths import check_holds_texts, check_urls, given_examples, note_ignored, registry_medium
from fewshot.cli.interrupt import keep_on_interrupt
from fewshot.cli.options import encoder_options
from fewshot.cli.output import counted, exit_if_failed, note, print_result
from fewshot.cli.registry_access import open_registry, requested_encoder
from fewshot.cli.text_rows import listed, read_text_rows
from fewshot.errors import AddInterrupted

if TYPE_CHECKING:
    from fewshot.media import LabelledImages, Medium
    from fewshot.registry import AddReport, ClassRegistry

_METRICS = ("cosine", "sqeuclidean", "inner_product")


def _report(report: AddReport, registry: ClassRegistry, **first: Any) -> None:
    answer = {**first, "added": report.added, "duplicates": report.duplicates, "classes": registry.info().classes}
    if report.conflicts:
        answer["conflicts"] = [
            {"path": c.source, "label": c.label, "held_by": list(c.held_by)} for c in report.conflicts
        ]
        _note_conflicts(report, registry, negative=first.get("label", "") is None)
    if "file" in first and report.repeated:
        note(f"added already: {listed(list(report.repeated))}")
    if report.failed:
        answer["failed"] = [{"path": f.source, "reason": f.reason} for f in report.failed]
        for failure in report.failed:
            note(f"not added: {failure.source}: {failure.reason}")
    print_result(answer)
    exit_if_failed(bool(report.conflicts or report.failed))


@contextmanager
def _told_on_interrupt(total: int, medium: Medium) -> Iterator[None]:
    """Say how many of the examples are registered if Ctrl-C ends the block."""
    registered = 0
    try:
        yield
    except AddInterrupted as error:
        report: Any = error.report
        registered = report.added + report.duplicates
        raise
    finally:
        of_all = f"{registered:,} of {medium.counted(total)} registered"
        keep_on_interrupt(f"{of_all}; run the same command again to add the rest")


def _note_conflicts(report: AddReport, registry: ClassRegistry, *, negative: bool) -> None:
    from fewshot.registry import NONE_OF_THESE

    noun = registry_medium(registry).noun
    both = "" if negative else ", or accept both with --allow-conflict"
    path = shlex.quote(registry.path)
    negatives = sum(conflict.held_by == (NONE_OF_THESE,) for conflict in report.conflicts)
    if others := len(report.conflicts) - negatives:
        note(f"not added: {counted(others, noun)} registered under another label; remove them there{both}")
    if negatives:
        note(
            f"not added: {counted(negatives, noun)} registered as negatives; remove them with: fewshot remove "
            f"{path} --negative ID, the IDs from: fewshot classes {path} --negatives{both}"
        )


@click.command(epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg b3.jpg")
@click.argument("registry")
@click.argument("label", required=False)
@click.argument("images", nargs=-1, metavar="[FILE]...")
@click.option("--from-folder", metavar="DIR", help="Add a folder, zip or URL with one subfolder per class.")
@click.option("--nested", is_flag=True, help="With --from-folder: the path of folders is the label, as drink/canned.")
@click.option("--text", "texts", metavar="TEXT", multiple=True, help="A text itself; with --from-csv its column.")
@click.option("--from-csv", metavar="FILE", help="Add the texts of a .csv, .tsv or .jsonl file, or of - (stdin).")
@click.option("--label", "label_column", metavar="COLUMN", help="The column of labels of --from-csv.")
@click.option(
    "--multi-label",
    is_flag=True,
    default=None,
    help="Of a new registry: an example may be of several classes, each predicted by a yes or no of its own.",
)
@click.option(
    "--and-label", "others", metavar="LABEL", multiple=True, help="Another class that they are of (multi-label)."
)
@click.option("--separator", metavar="TEXT", help="What separates labels in a cell of --from-csv (multi-label).")
@click.option("--negative", is_flag=True, help="They are of none of the classes: REGISTRY --negative FILE...")
@click.option("--allow-conflict", is_flag=True, help="Accept examples that are registered under another label.")
@click.option("--metric", type=click.Choice(_METRICS), help="Of a new registry; by default cosine.")
@click.option(
    "--classifier", metavar="NAME", help="Remembered; see fewshot classifier. By default whitened, of texts logistic."
)
@click.option(
    "--augment",
    type=click.Choice(("catalogue",)),
    help="Images show an object before a plain background: add views of it.",
)
@click.option("--keep-images/--no-keep-images", default=None, help="Store the files (default), or their paths only.")
@box_options
@encoder_options
def add(
    registry: str,
    label: str | None,
    images: tuple[str, ...],
    from_folder: str | None,
    nested: bool,
    texts: tuple[str, ...],
    from_csv: str | None,
    label_column: str | None,
    multi_label: bool | None,
    others: tuple[str, ...],
    separator: str | None,
    negative: bool,
    allow_conflict: bool,
    metric: str | None,
    classifier: str | None,
    augment: Any,
    keep_images: bool | None,
    boxes: BoxOptions,
    encoding: dict[str, Any],
) -> None:
    """Add images, texts or sounds as examples of a class.

    The class is new or known, and REGISTRY is created if it does not exist.

    FILE is a file, folder, zip, pattern, or URL (s3://bucket/folder, with the extra cloud); - reads one image or sound,
    or a path on each line, from standard input, or a text on each line. The encoder decides what a new registry holds;
    the bundled one reads images. A LABEL that begins with - goes after --, as in: fewshot add parts.fewshot -- -lemon
    1.jpg
    """
    from fewshot.media import without_secrets

    check_urls(from_folder, *images)
    _check_columns(nested, from_folder, label_column, separator, from_csv)
    if others and (label is None or boxes.place):
        raise click.UsageError("--and-label names another class of LABEL: LABEL IMAGE... --and-label LABEL")
    settings: dict[str, Any] = {"metric": metric, "keep_images": keep_images, "multi_label": multi_label}
    boxes.check_alone()
    if negative:
        _check_negative(allow_conflict, augment, from_folder or from_csv or boxes.place, bool(label or texts))
        names = () if label is None else (label, *images)
        _add_negatives(registry, names, texts, encoding=encoding, **settings)
        return
    if boxes.place is not None:
        boxes.check_excluded(from_folder, from_csv, texts, augment)
        _add_boxes(registry, boxes, (label, *images), allow_conflict, encoding, classifier=classifier, **settings)
        return
    if sum(given is not None for given in (from_folder, from_csv, label)) != 1:
        raise click.UsageError(
            "give one of LABEL FILE..., --from-folder DIR, --from-csv FILE, --from-boxes FILE and --negative FILE..."
        )
    if label is not None:
        from fewshot.validation import check_label

        if not images and not texts:
            raise click.UsageError(
                f"give the examples of {label!r}: fewshot add {registry} {label} FILE..., or --text TEXT"
            )
        label = check_label(label)
    with open_registry(registry, encoding, create=True, classifier=classifier, **settings) as opened:
        if from_folder is not None:
            found = _class_folders(registry, from_folder, registry_medium(opened), nested)
            with _told_on_interrupt(len(found.images), registry_medium(opened)):
                added = opened.add_folder(found, allow_conflict=allow_conflict, augment=augment)
            _report(added, opened, folder=without_secrets(from_folder))
        elif from_csv is not None:
            how: dict[str, Any] = {"allow_conflict": allow_conflict, "augment": augment}
            _add_rows(opened, from_csv, texts, label_column, separator, **how)
        else:
            assert label is not None
            opened.check_labels([label, *others])
            sources = given_examples(opened, images, texts)
            with _told_on_interrupt(len(sources), registry_medium(opened)):
                added = opened.add([label, *others], sources, allow_conflict=allow_conflict, augment=augment)
            _report(added, opened, label=label, **({"and_labels": list(others)} if others else {}))


def _check_negative(allow_conflict: bool, augment: object, place: str | None, given: bool) -> None:
    if allow_conflict or augment:
        option = "--allow-conflict" if allow_conflict else "--augment"
        raise click.UsageError(f"{option} does not go with --negative: an example is of a class or of none")
    if place is not None or not given:
        raise click.UsageError("--negative takes files, not a folder of classes: REGISTRY --negative FILE...")


def _add_boxes(
    path: str,
    options: BoxOptions,
    images: tuple[str | None, ...],
    allow_conflict: bool,
    encoding: dict[str, Any],
    **settings: Any,
) -> None:
    """Add the boxes of a file of annotations, and boxes of the background as negatives."""
    read = read_annotations(str(options.place), images)
    with open_registry(path, encoding, create=True, **settings) as opened:
        with _told_on_interrupt(sum(read.counts.values()), registry_medium(opened)):
            added, told = add_annotated_boxes(opened, read, str(images[0]), options, allow_conflict=allow_conflict)
        _report(added, opened, **told)


def _check_columns(
    nested: bool, from_folder: str | None, label_column: str | None, separator: str | None, from_csv: str | None
) -> None:
    if nested and from_folder is None:
        raise click.UsageError("--nested is for --from-folder")
    if from_csv is None and label_column is not None:
        raise click.UsageError("--label is a column of --from-csv; a label itself is given as: REGISTRY LABEL FILE...")
    if from_csv is None and separator is not None:
        raise click.UsageError("--separator is of --from-csv; other labels of LABEL's images: --and-label LABEL")


def _add_rows(
    registry: ClassRegistry,
    path: str,
    texts: tuple[str, ...],
    label: str | None,
    separator: str | None,
    **how: Any,
) -> None:
    """Add the texts of a table under the labels of another column; rows that fail are named."""
    from fewshot.registry import AddReport, Failure

    if len(texts) != 1 or label is None:
        raise click.UsageError("--from-csv needs the columns: --text COLUMN --label COLUMN")
    check_holds_texts(registry)
    if separator is not None:
        registry.require_multi_label("--separator")
    rows = read_text_rows(path, texts[0], label)
    medium = registry_medium(registry)
    pairs = [(row.source, part) for row in rows for part in _parts(row.label, separator)]
    with _told_on_interrupt(len(pairs), medium):
        added = registry.add_labelled(pairs, **how)
    failed = [Failure(medium.describe(row.source), "has no label") for row in rows if not row.label.strip()]
    _report(added + AddReport(failed=tuple(failed)), registry, file=path)


def _parts(cell: str, separator: str | None) -> list[str]:
    """The labels of a cell, none of an empty one."""
    return [part for part in ([cell] if separator is None else cell.split(separator)) if part.strip()]


def _class_folders(registry: str, place: str, medium: Medium, nested: bool) -> LabelledImages:
    """The examples of a folder or zip; if it is ambiguous which folders are the classes, the commands for each."""
    from fewshot.errors import AmbiguousFolders
    from fewshot.media import is_folder, labelled_images

    try:
        found = labelled_images(place, medium.modality, nested=nested)
    except AmbiguousFolders as error:
        add = f"fewshot add {shlex.quote(registry)}"
        commands = "".join(f"\n  {add} --from-folder {shlex.quote(inside)}" for inside in error.inside)
        whole = [inside for inside in error.inside if is_folder(inside)]
        labels = [shlex.quote(os.path.basename(inside)) for inside in whole]
        also = "".join(f"\n  {add} {label} {shlex.quote(i)}" for label, i in zip(labels, whole, strict=True))
        also = f"\nor, if these are the classes themselves:{also}" if also and "splits" not in error.reason else ""
        also += f"\nor, with paths as labels:\n  {add} --from-folder {shlex.quote(place)} --nested"
        raise ValueError(f"{error.place} {error.reason}. Add what you mean:{commands}{also}") from error
    note_ignored(found.ignored, medium)
    if found.nested:
        listed = ", ".join(found.nested[:3]) + (", ..." if len(found.nested) > 3 else "")
        unless = "unless --nested makes paths of folders the labels"
        note(f"{medium.noun}s in folders inside a class folder count for the class, {unless}: {listed}")
    classes = sorted(set(found.labels))
    note(f"classes ({len(classes)}): {', '.join(classes[:20])}{', ...' if classes[20:] else ''}")
    return found


def _add_negatives(
    registry: str, names: tuple[str, ...], texts: tuple[str, ...], *, encoding: dict[str, Any], **settings: Any
) -> None:
    with open_registry(registry, encoding, create=True, **settings) as opened:
        sources = given_examples(opened, names, texts)
        with _told_on_interrupt(len(sources), registry_medium(opened)):
            report = opened.rejection.add_negatives(sources)
        _report(report, opened, label=None, negatives=opened.rejection.n_negatives)


@click.command(epilog="Example: fewshot classes parts.fewshot")
@click.argument("registry")
@click.argument("label", required=False)
@click.option("--negatives", is_flag=True, help="List the negatives, of none of the classes, with their ids.")
def classes(registry: str, label: str | None, negatives: bool) -> None:
    """List the classes, or the examples of one class.

    The list of classes has their numbers of examples, the list of examples their ids and sources.
    """
    if negatives and label is not None:
        raise click.UsageError("give either LABEL or --negatives: negatives are of no class")
    with open_registry(registry) as opened:
        if negatives:
            found = opened.list_negatives(limit=opened.rejection.n_negatives)
            print_result([{"negative": one.id, "source": one.source} for one in found])
        elif label is None:
            held = opened.classes()
            print_result(held, [{"class": name, "examples": n} for name, n in held.items()])
        else:
            print_result([{"example": id_, "source": source} for id_, source in opened.examples(label)])


@click.command(epilog="Example: fewshot rename parts.fewshot blot bolt")
@click.argument("registry")
@click.argument("label")
@click.argument("new")
def rename(registry: str, label: str, new: str) -> None:
    """Rename a class."""
    from fewshot.validation import normalised_label

    with open_registry(registry) as opened:
        opened.rename(label, new)
        new = normalised_label(new)
        print_result({"label": new, "previous": label, "examples": opened.classes()[new]})


@click.command(epilog="Example: fewshot merge parts.fewshot bolt-m6 bolt-m8 --into bolt")
@click.argument("registry")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@click.option("--into", required=True, metavar="LABEL", help="The class that gets the examples; it may be new.")
def merge(registry: str, labels: tuple[str, ...], into: str) -> None:
    """Merge classes into one."""
    with open_registry(registry) as opened:
        count = opened.merge(labels, into)
        print_result({"label": into, "examples": count, "classes": opened.info().classes})


@click.command(name="import", epilog="Example: fewshot import new.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
@click.option("--allow-conflict", is_flag=True, help="Accept examples that are registered under another label.")
@click.option(
    "--multi-label", is_flag=True, default=None, help="Of a new registry: FILE is of one made with --multi-label."
)
def import_(registry: str, file: str, allow_conflict: bool, multi_label: bool | None) -> None:
    """Import the examples that `fewshot export` wrote to FILE.

    Their encoder must be that of the registry, which is created if it does not exist.
    """
    from fewshot.vectors import feature_files

    feature_files.check(file)
    with open_registry(registry, create=True, multi_label=multi_label) as opened:
        _report(opened.import_examples(file, allow_conflict=allow_conflict), opened, file=file)


@click.command(epilog="Example: fewshot reindex parts.fewshot --encoder vit_small_patch14_dinov2.lvd142m")
@click.argument("registry")
@encoder_options
def reindex(registry: str, encoding: dict[str, Any]) -> None:
    """Embed every example again with another encoder; all or none."""
    if encoding["name"] is None:
        raise click.UsageError("give the new encoder: --encoder NAME")
    with open_registry(registry) as opened:
        count = opened.reindex(requested_encoder(encoding, {}))
        for why in opened.rejection.renewed():
            note(why)
        print_result({"examples": count, "encoder": opened.info().encoder})


@click.command(epilog="Example: fewshot info parts.fewshot")
@click.argument("registry")
def info(registry: str) -> None:
    """Show a registry's encoder, metric and sizes."""
    from dataclasses import asdict

    with open_registry(registry) as opened:
        print_result(asdict(opened.info()))
