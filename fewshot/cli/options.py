"""What the commands share: output, options, opening a registry, names of pictures."""

from __future__ import annotations

import functools
import glob
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot.errors import FewShotError
from fewshot.files import DISK, unwritable
from fewshot.integrations import as_json

if TYPE_CHECKING:
    from fewshot.registry import ClassRegistry

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands in the order a newcomer meets them; our errors in one line, exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, unsorted."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can put right becomes one line on stderr."""
        warnings.filterwarnings("ignore", message=".*decompression bomb")  # Pillow's; we refuse such pictures ourselves
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly where the reader, as `head`, has gone
        except OSError as error:
            if error.errno in DISK and error.filename is not None:
                error = unwritable(error.filename, error)
            raise click.ClickException(harmless(str(error))) from error
        except (FewShotError, ValueError, TypeError) as error:
            raise click.ClickException(harmless(str(error))) from error
        except KeyError as error:
            raise click.ClickException(harmless(str(error.args[0]))) from error


def say(value: Any) -> None:
    """Print a command's one JSON value."""
    click.echo(as_json(value))


def finish(failed: bool) -> None:
    """End with exit status 1 if some inputs failed."""
    if failed:
        raise click.exceptions.Exit(1)


def note(message: str) -> None:
    """Tell the person at the terminal."""
    click.echo(harmless(message), err=True)


def harmless(message: str) -> str:
    """Return a message in which names of files cannot steer the terminal: what does not print is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)


def _number_or_name(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None:
        return None
    return int(value) if value.lstrip("-").isdigit() else value


def counts(_: click.Context, parameter: click.Parameter, value: str) -> tuple[int | str, ...]:
    """Read "1,5" as (1, 5); a part may be "various"."""
    parts = [part.strip() for part in value.split(",")]
    wrong = [part for part in parts if part != "various" and not (part.isdecimal() and int(part))]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is neither a whole number above 0 nor 'various'", param=parameter)
    return tuple(part if part == "various" else int(part) for part in parts)


def encoder_options(command: F) -> F:
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


def classifier_options(command: F) -> F:
    """Add the options that choose the classifier."""
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


def _list_of(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def read(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            return tuple(kind(part.strip()) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(str(error), param=parameter) from None

    return read


def training_options(command: F) -> F:
    """Add the options that make up a recipe, as one dict of those given, in ``fewshot.Recipe``'s words."""
    each = "; one value, or one for each DATA: a,b"
    options = [
        click.option("--arch", metavar="NAME", help="resnet12 (default), conv4, pocket, a folder or a timm name."),
        click.option("--method", type=click.Choice(["classical", "prototypical", "maml", "anil"])),
        click.option("--size", type=click.IntRange(8), help="Pixels a side; by default the network's own."),
        click.option("--epochs", type=click.IntRange(1), help="Passes over the first DATA; 20 by default."),
        click.option("--ways", callback=_list_of(int), metavar="N", help=f"Classes of an episode; 5 by default{each}."),
        click.option("--shots", type=click.IntRange(1), help="Examples of each to learn from; 1 by default."),
        click.option("--queries", type=click.IntRange(1), help="Of each class; 15 by default."),
        click.option(
            "--batch-size", callback=_list_of(int), metavar="N", help=f"Pictures or episodes in a step{each}."
        ),
        click.option(
            "--augment", callback=_list_of(str), metavar="KIND", help=f"photos (default), glyphs, none{each}."
        ),
        click.option("--rotations", is_flag=True, default=None, help="Each quarter turn of a glyph is a class."),
        click.option("--weights", callback=_list_of(float), metavar="W", help=f"Of the losses{each}."),
        click.option(
            "--contrastive", callback=_list_of(float), metavar="W", help=f"Weight of a contrastive loss{each}."
        ),
        click.option("--metric", type=click.Choice(["cosine", "sqeuclidean"]), help="Of the prototypes."),
        click.option("--learning-rate", type=float, help="The highest of the schedule."),
        click.option("--grow", is_flag=True, default=None, help="Small pictures first: half of the computing saved."),
        click.option("--inner-steps", type=click.IntRange(1), help="Of adaptation (maml, anil); 5 by default."),
        click.option("--inner-rate", type=float, help="Of adaptation; 0.1 by default."),
        click.option("--hold-out", type=float, help="Share of the classes to validate on; 0.1 by default, 0: none."),
        click.option("--seed", type=click.IntRange(0), help="Decides all that is drawn; 0 by default."),
    ]
    names = (
        "arch", "method", "size", "epochs", "ways", "shots", "queries", "batch_size", "augment", "rotations", "weights",
        "contrastive", "metric", "learning_rate", "grow", "inner_steps", "inner_rate", "hold_out", "seed",
    )  # fmt: skip

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        asked = {name: kwargs.pop(name) for name in names}
        return command(*args, recipe={name: value for name, value in asked.items() if value is not None}, **kwargs)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def load_asked(encoding: dict[str, Any], remembered: dict[str, Any]) -> Any:
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
def opened_registry(
    path: str, encoding: dict[str, Any] | None = None, *, create: bool = False, **settings: Any
) -> Iterator[ClassRegistry]:
    """Open a registry for a block, with the encoder asked for."""
    from fewshot.registry import ClassRegistry

    if encoding is not None and any(value is not None for value in encoding.values()):
        remembered = {}
        if os.path.exists(path) and os.path.getsize(path):
            with ClassRegistry(path, create=False) as registry:
                remembered = registry.info().encoder
        settings["encoder"] = load_asked(encoding, remembered)
    with ClassRegistry(path, create=create, **settings) as registry:
        yield registry


def classifier_asked(path: str, kind: str, neighbors: int) -> Any:
    """Return the classifier asked for, in the registry's metric, or None for the default one."""
    if kind == "prototype":
        return None
    from fewshot.classifiers import NearestNeighborClassifier
    from fewshot.registry import ClassRegistry

    with ClassRegistry(path, create=False) as registry:
        metric = registry.info().metric
    return NearestNeighborClassifier(n_neighbors=neighbors, metric=metric)  # type: ignore[arg-type]


def counted(n: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def check_writable(path: str) -> None:
    """Refuse a file to be written whose folder does not exist, before the work rather than after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"cannot write {path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise ValueError(f"cannot write {path}: it is a folder; give a file")


def note_ignored(names: tuple[str, ...]) -> None:
    """Tell which files were passed over."""
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        note(f"ignored {counted(len(names), 'file')} that are no pictures, or lie in no class folder: {listed}")


def expanded(names: tuple[str, ...]) -> list[str]:
    """Files, folders (with their subfolders), patterns, and - for paths on standard input; in the order given."""
    from fewshot.media import find_images

    found: list[str] = []
    for name in names:
        if name == "-":
            found += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        elif os.path.isdir(name):
            inside = find_images(name)
            note_ignored(inside.ignored)
            found += [str(image) for image in inside.images]
        elif not os.path.exists(name) and any(c in name for c in "*?["):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    if not found:
        raise ValueError(f"no pictures in {', '.join(names)}")
    return found
