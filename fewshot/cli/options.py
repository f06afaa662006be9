"""Options that several commands take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _number_or_name(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None:
        return None
    return int(value) if value.lstrip("-").isdigit() else value


def blocks(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> list[int | str | None] | str | None:
    """Read "1,blocks.2" as [1, "blocks.2"]; "auto" stays."""
    if value is None or value == "auto":
        return value
    return [_number_or_name(context, parameter, part.strip()) for part in value.split(",")]


def counts(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int | str, ...] | None:
    """Read "1,5" as (1, 5); a part may be "various"."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    wrong = [part for part in parts if part != "various" and not (part.isdecimal() and int(part))]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is neither a whole number above 0 nor 'various'", param=parameter)
    return tuple(part if part == "various" else int(part) for part in parts)


def _list_of(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def read(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            return tuple(kind(part.strip()) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(str(error), param=parameter) from None

    return read


def encoder_options(command: F) -> F:
    """Add the options of the encoder, as one dict ``encoding``."""
    options = [
        click.option(
            "--encoder",
            "name",
            metavar="NAME",
            help="pocket (bundled), a timm name, a folder, clip:NAME; of texts st:NAME, of sounds audio:NAME or voice.",
        ),
        click.option("--layer", callback=_number_or_name, help="Use the features of this block (number or name)."),
        click.option("--pool", type=click.Choice(["avg", "max", "cls", "cls+avg"]), help="Pooling of the feature map."),
        click.option("--layers", callback=blocks, metavar="LIST", help="Append the features of these blocks, or auto."),
        click.option("--tta", is_flag=True, default=None, help="Embed mirror images too, for twice the time."),
        click.option("--device", help="cuda, mps or cpu; by default the first available."),
        click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="By default the fastest."),
        click.option("--batch-size", type=click.IntRange(1), help="Examples per forward pass."),
        click.option("--cache", metavar="FILE", help="Cache embeddings in this file."),
    ]
    names = ("name", "layer", "pool", "layers", "tta", "device", "precision", "batch_size", "cache")

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        return command(*args, encoding={name: kwargs.pop(name) for name in names}, **kwargs)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def training_options(command: F) -> F:
    """Add the options of a training recipe, as one dict of those given, named as in ``fewshot.Recipe``."""
    each = "; one value, or one for each DATA: a,b"
    methods, metrics = (
        click.Choice(["classical", "prototypical", "maml", "anil"]),
        click.Choice(["cosine", "sqeuclidean"]),
    )
    options = [
        click.option("--arch", metavar="NAME", help="resnet12 (default), conv4, pocket, a folder or a timm name."),
        click.option("--method", type=methods, help="classical (cross-entropy) by default."),
        click.option("--size", type=click.IntRange(8), help="Image side in pixels; by default the network's own."),
        click.option("--epochs", type=click.IntRange(1), help="Epochs over the first DATA; 20 by default."),
        click.option("--ways", callback=_list_of(int), metavar="N", help=f"Classes per episode; 5 by default{each}."),
        click.option("--shots", type=click.IntRange(1), help="Support images per class; 1 by default."),
        click.option("--queries", type=click.IntRange(1), help="Query images per class; 15 by default."),
        click.option("--batch-size", callback=_list_of(int), metavar="N", help=f"Images or episodes per step{each}."),
        click.option(
            "--augment", callback=_list_of(str), metavar="KIND", help=f"photos (default), glyphs or none{each}."
        ),
        click.option("--rotations", is_flag=True, default=None, help="Each quarter turn of a glyph is a class."),
        click.option("--weights", callback=_list_of(float), metavar="W", help=f"Loss weights{each}."),
        click.option(
            "--contrastive", callback=_list_of(float), metavar="W", help=f"Weight of a contrastive loss{each}."
        ),
        click.option("--metric", type=metrics, help="Metric of the prototypes; cosine by default."),
        click.option("--learning-rate", type=float, help="Peak learning rate of the schedule."),
        click.option("--grow", is_flag=True, default=None, help="Progressive resizing: about half of the computation."),
        click.option("--inner-steps", type=click.IntRange(1), help="Adaptation steps (maml, anil); 5 by default."),
        click.option("--inner-rate", type=float, help="Adaptation learning rate (maml, anil); 0.1 by default."),
        click.option("--hold-out", type=float, help="Share of classes held out for validation; 0.1 by default."),
        click.option("--seed", type=click.IntRange(0), help="Random seed; 0 by default."),
    ]
    names = (
        "arch", "method", "size", "epochs", "ways", "shots", "queries", "batch_size", "augment", "rotations", "weights",
        "contrastive", "metric", "learning_rate", "grow", "inner_steps", "inner_rate", "hold_out", "seed",
    )  # fmt: skip

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in names}
        return command(*args, recipe={name: value for name, value in given.items() if value is not None}, **kwargs)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


roll_up_option = click.option(
    "--roll-up",
    type=click.FloatRange(0.5, 1),
    metavar="P",
    help="Labels are paths, as drink/canned/coke: answer the deepest level of probability P, as drink/canned.",
)
"""Of commands that predict."""
