"""The command line: one JSON value on stdout, everything meant for people on stderr."""

from __future__ import annotations

import functools
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot import __version__
from fewshot.errors import FewShotError

if TYPE_CHECKING:
    from fewshot.registry import ClassRegistry
    from fewshot.reports import AddReport

F = TypeVar("F", bound=Callable[..., Any])

_METRICS = ("cosine", "sqeuclidean", "inner_product")


class _Commands(click.Group):
    """Commands in the order a newcomer meets them; our errors in one line, exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FewShotError, ValueError, TypeError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except KeyError as error:
            raise click.ClickException(str(error.args[0])) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg, then: fewshot predict parts.fewshot new.jpg",
)
@click.version_option(__version__)
def main() -> None:
    """Learn a new image class from one to five pictures.

    A REGISTRY is one file that holds the classes. Every command prints one JSON value on one line; exit status 0 is
    done, 1 an error or some inputs failed (the JSON lists them), 2 wrong usage.
    """


def _say(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _finish(failed: bool) -> None:
    if failed:
        raise click.exceptions.Exit(1)


def _note(message: str) -> None:
    click.echo(message, err=True)


def _number_or_name(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None:
        return None
    return int(value) if value.lstrip("-").isdigit() else value


def _encoder_options(command: F) -> F:
    """Add the options that say how pictures become vectors, as one dict."""
    options = [
        click.option("--encoder", "name", metavar="NAME", help="pocket (bundled), a timm name, or a folder."),
        click.option("--layer", callback=_number_or_name, help="Take features after this block (number or name)."),
        click.option("--pool", type=click.Choice(["avg", "max", "cls", "cls+avg"]), help="How its map is pooled."),
        click.option("--device", help="cuda, mps or cpu; by default the first there is."),
        click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="By default what is fastest."),
        click.option("--batch-size", type=click.IntRange(1), help="Pictures per forward pass."),
        click.option("--cache", metavar="FILE", help="Keep vectors in this file; no picture is embedded twice."),
    ]
    names = ("name", "layer", "pool", "device", "precision", "batch_size", "cache")

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        return command(*args, encoding={name: kwargs.pop(name) for name in names}, **kwargs)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def _classifier_options(command: F) -> F:
    command = click.option(
        "--neighbors", type=click.IntRange(1), default=1, show_default=True, help="k, for --classifier nearest."
    )(command)
    return click.option(
        "--classifier",
        type=click.Choice(["prototype", "nearest"]),
        default="prototype",
        show_default=True,
        help="The closest class mean, or the votes of the k closest examples.",
    )(command)


def _load(encoding: dict[str, Any], remembered: dict[str, Any]) -> Any:
    """The encoder asked for, or None to leave the choice to the registry."""
    from fewshot.encoders import EmbeddingCache, load_encoder

    given = {key: value for key, value in encoding.items() if value is not None}
    cache = given.pop("cache", None)
    if not given and cache is None:
        return None
    base = {} if "name" in given else (remembered or {"name": "pocket"})
    encoder = load_encoder(**{**base, **given})
    return encoder if cache is None else EmbeddingCache(encoder, cache)


@contextmanager
def _opened(
    path: str, encoding: dict[str, Any] | None = None, *, create: bool = False, **settings: Any
) -> Iterator[ClassRegistry]:
    from fewshot.registry import ClassRegistry

    if encoding is not None and any(value is not None for value in encoding.values()):
        remembered = {}
        if os.path.exists(path) and os.path.getsize(path):
            with ClassRegistry(path, create=False) as registry:
                remembered = registry.info().encoder
        settings["encoder"] = _load(encoding, remembered)
    with ClassRegistry(path, create=create, **settings) as registry:
        yield registry


def _classifier(path: str, kind: str, neighbors: int) -> Any:
    if kind == "prototype":
        return None
    from fewshot.classifiers import NearestNeighborClassifier
    from fewshot.registry import ClassRegistry

    with ClassRegistry(path, create=False) as registry:
        metric = registry.info().metric
    return NearestNeighborClassifier(n_neighbors=neighbors, metric=metric)  # type: ignore[arg-type]


def _report(report: AddReport, registry: ClassRegistry, **first: Any) -> None:
    answer = {**first, "added": report.added, "duplicates": report.duplicates, "classes": registry.info().classes}
    if report.conflicts:
        answer["conflicts"] = [
            {"path": c.source, "label": c.label, "held_by": list(c.held_by)} for c in report.conflicts
        ]
        _note(
            f"not added: {_count(len(report.conflicts), 'picture')} registered under another label already; "
            "remove them there, or accept both with --allow-conflict"
        )
    if report.failed:
        answer["failed"] = [{"path": f.source, "reason": f.reason} for f in report.failed]
        for failure in report.failed:
            _note(f"not added: {failure.source}: {failure.reason}")
    _say(answer)
    _finish(bool(report.conflicts or report.failed))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _ignored(names: tuple[str, ...]) -> None:
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        _note(f"ignored {_count(len(names), 'file')} that are no pictures, or lie in no class folder: {listed}")


@main.command(epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg b3.jpg")
@click.argument("registry")
@click.argument("label", required=False)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--from-folder", metavar="DIR", help="Add a folder, or zip, that holds one subfolder a class.")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
@click.option("--metric", type=click.Choice(_METRICS), help="For a new registry; by default cosine.")
@click.option("--keep-images/--no-keep-images", default=None, help="Keep the pictures' bytes, or only their paths.")
@_encoder_options
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
    found = None
    if from_folder is not None:
        from fewshot.images import labelled_images

        found = labelled_images(from_folder)
        _ignored(found.ignored)
    with _opened(registry, encoding, create=True, metric=metric, keep_images=keep_images) as opened:
        if found is not None:
            pairs = list(zip(found.images, found.labels, strict=True))
            _report(opened.add_labelled(pairs, allow_conflict=allow_conflict), opened, folder=from_folder)
        else:
            assert label is not None
            report = opened.add(label, _expanded(images), allow_conflict=allow_conflict)
            _report(report, opened, label=label)


def _expanded(names: tuple[str, ...]) -> list[str]:
    """Files, folders (with their subfolders), patterns, and - for paths on standard input; in the order given."""
    from fewshot.images import find_images

    found: list[str] = []
    for name in names:
        if name == "-":
            found += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        elif os.path.isdir(name):
            inside = find_images(name)
            _ignored(inside.ignored)
            found += [str(image) for image in inside.images]
        elif not os.path.exists(name) and any(c in name for c in "*?["):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    return found


@main.command(epilog="Example: fewshot predict parts.fewshot new.jpg more/ 'scans/*.png' --top 3")
@click.argument("registry")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to rank.")
@click.option("--nearest", type=click.IntRange(0), default=3, show_default=True, help="Closest examples to name.")
@_classifier_options
@_encoder_options
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
    names = _expanded(images)
    reader = _classifier(registry, classifier, neighbors) if os.path.exists(registry) else None
    with _opened(registry, encoding, classifier=reader) as opened:
        answered = opened.predict_valid(names, top=top, nearest=nearest)
    known = iter(zip(answered.sources, answered.predictions, strict=True))
    reasons = {failure.source: failure.reason for failure in answered.failed}
    answers: list[dict[str, Any]] = []
    for name in names:
        if name in reasons:
            _note(f"not recognised: {name}: {reasons[name]}")
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
    _say(answers)
    _finish(bool(answered.failed))


@main.command(epilog="Example: fewshot evaluate parts.fewshot test-photos/ --out results.csv")
@click.argument("registry")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="FILE", help="Write a CSV with one row a picture.")
@_classifier_options
@_encoder_options
def evaluate(
    registry: str, folder: str, out: str | None, classifier: str, neighbors: int, encoding: dict[str, Any]
) -> None:
    """Recognise every picture of DIR, a folder or zip with one subfolder a class, and count."""
    reader = _classifier(registry, classifier, neighbors) if os.path.exists(registry) else None
    with _opened(registry, encoding, classifier=reader) as opened:
        result = opened.evaluate(folder)
    _ignored(result.ignored)
    if result.unregistered:
        _note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
    if result.also_registered:
        _note(f"registered examples among the {result.n} pictures: {result.also_registered}; they flatter the accuracy")
    if out is not None:
        import csv

        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "predicted", "score", "correct"])
            writer.writerows([r.source, r.label, r.predicted, f"{r.score:.6f}", int(r.correct)] for r in result.rows)
    _say(
        {
            "accuracy": round(result.accuracy, 6) if result.n else None,
            "n": result.n,
            "per_class": {label: round(share, 6) for label, share in result.per_class.items()},
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    _finish(bool(result.failed))


@main.command(epilog="Example: fewshot classes parts.fewshot")
@click.argument("registry")
@click.argument("label", required=False)
def classes(registry: str, label: str | None) -> None:
    """List the classes with their number of examples, or the examples of one class with their ids."""
    with _opened(registry) as opened:
        if label is None:
            _say(opened.classes())
        else:
            _say([{"example": id_, "source": source} for id_, source in opened.examples(label)])


@main.command(epilog="Example: fewshot remove parts.fewshot bolt; or: fewshot remove parts.fewshot --example 17")
@click.argument("registry")
@click.argument("label", required=False)
@click.option("--example", type=int, help="Remove one example, by the id that `fewshot classes REGISTRY LABEL` shows.")
def remove(registry: str, label: str | None, example: int | None) -> None:
    """Remove a class, or one example."""
    if (label is None) == (example is None):
        raise click.UsageError("give either LABEL or --example ID")
    with _opened(registry) as opened:
        if label is not None:
            count = opened.remove(label)
        else:
            assert example is not None
            label, count = opened.remove_example(example), 1
        _say({"label": label, "removed": count, "classes": opened.info().classes})


@main.command(epilog="Example: fewshot rename parts.fewshot blot bolt")
@click.argument("registry")
@click.argument("label")
@click.argument("new")
def rename(registry: str, label: str, new: str) -> None:
    """Give a class another name."""
    with _opened(registry) as opened:
        opened.rename(label, new)
        _say({"label": new, "was": label, "examples": opened.classes()[new]})


@main.command(epilog="Example: fewshot merge parts.fewshot bolt-m6 bolt-m8 --into bolt")
@click.argument("registry")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@click.option("--into", required=True, metavar="LABEL", help="The class that takes the examples; it may be new.")
def merge(registry: str, labels: tuple[str, ...], into: str) -> None:
    """Join classes into one."""
    with _opened(registry) as opened:
        count = opened.merge(labels, into)
        _say({"label": into, "examples": count, "classes": opened.info().classes})


@main.command(name="export", epilog="Example: fewshot export parts.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
def export_(registry: str, file: str) -> None:
    """Write ids, labels and vectors to FILE, .npz or .parquet."""
    with _opened(registry) as opened:
        _say({"file": file, "examples": opened.export(file)})


@main.command(name="import", epilog="Example: fewshot import new.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
@click.option("--allow-conflict", is_flag=True, help="Accept pictures that another class holds already.")
def import_(registry: str, file: str, allow_conflict: bool) -> None:
    """Add the examples of an exported FILE, made with the same encoder."""
    from fewshot import exchange

    exchange.check(file)
    with _opened(registry, create=True) as opened:
        _report(opened.import_examples(file, allow_conflict=allow_conflict), opened, file=file)


@main.command(epilog="Example: fewshot reindex parts.fewshot --encoder vit_small_patch14_dinov2.lvd142m")
@click.argument("registry")
@_encoder_options
def reindex(registry: str, encoding: dict[str, Any]) -> None:
    """Embed every picture again with another encoder; all or none."""
    if encoding["name"] is None:
        raise click.UsageError("give the new encoder: --encoder NAME")
    with _opened(registry) as opened:
        count = opened.reindex(_load(encoding, {}))
        _say({"examples": count, "encoder": opened.info().encoder})


@main.command(epilog="Example: fewshot info parts.fewshot")
@click.argument("registry")
def info(registry: str) -> None:
    """Describe a registry: its encoder, metric and sizes."""
    from dataclasses import asdict

    with _opened(registry) as opened:
        _say(asdict(opened.info()))


@main.command(epilog="Example: fewshot encoders dinov2")
@click.argument("pattern", default="")
def encoders(pattern: str) -> None:
    """List the encoders that can be loaded by name; PATTERN is part of a name, or holds * and ?."""
    from fewshot.encoders.network import list_encoders

    _say(list_encoders(pattern))


@main.command(epilog="Example: fewshot demo --picture demo.png")
@click.option("--picture", metavar="FILE", help="Draw some of the queries with their labels and scores.")
@click.option("--shots", type=click.IntRange(1, 50), default=5, show_default=True, help="Examples of each digit.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the examples.")
def demo(picture: str | None, shots: int, seed: int) -> None:
    """Register ten handwritten digits from a few real scans each, and recognise the other 1,750; offline."""
    from fewshot.demo import run_demo

    _say(run_demo(shots=shots, seed=seed, picture=picture))
