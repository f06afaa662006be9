"""Registering the boxes of annotated images, for ``fewshot add --from-boxes``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot.cli.output import counted, note

if TYPE_CHECKING:
    from fewshot.detection import BoxAnnotations
    from fewshot.registry import AddReport, ClassRegistry

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 3


@dataclass(frozen=True)
class BoxOptions:
    """The options of ``fewshot add`` that are about boxes."""

    place: str | None
    negatives: int
    padding: float | None
    seed: int

    def check_alone(self) -> None:
        """Raise UsageError where an option is given that needs ``--from-boxes``, which is not."""
        if self.place is None and (self.negatives or self.padding is not None or self.seed):
            raise click.UsageError("--negatives-from-background, --padding and --seed are for --from-boxes FILE IMAGES")

    def check_excluded(self, *others: object) -> None:
        """Raise UsageError where an option is given that names other examples, or views of them."""
        if any(others):
            raise click.UsageError("--from-boxes goes with a folder of images alone: REGISTRY --from-boxes FILE IMAGES")


def box_options(command: F) -> F:
    """Add the options that are about boxes, as one ``BoxOptions``."""
    options = [
        click.option(
            "--from-boxes",
            metavar="FILE",
            help="Add the boxes of a COCO .json, a folder of VOC .xml or of YOLO .txt: --from-boxes FILE IMAGES_DIR.",
        ),
        click.option(
            "--negatives-from-background",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="With --from-boxes: add N random boxes that overlap no other as none of the classes.",
        ),
        click.option(
            "--padding",
            type=click.FloatRange(0, 2),
            help="With --from-boxes: share of a box's longer side added around it; of a new registry 0.1.",
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=0, help="With --from-boxes: seed of the background's boxes."
        ),
    ]
    names = ("from_boxes", "negatives_from_background", "padding", "seed")

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        return command(*args, boxes=BoxOptions(*(kwargs.pop(name) for name in names)), **kwargs)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def read_annotations(place: str, images: tuple[str | None, ...]) -> BoxAnnotations:
    """Read the file of boxes, and check that one folder of images was given; the classes are told."""
    if len(images) != 1 or images[0] is None:
        raise click.UsageError("--from-boxes takes the folder or zip of the images: REGISTRY --from-boxes FILE IMAGES")
    from fewshot.detection import read_boxes

    read = read_boxes(place)
    counts = ", ".join(f"{label} {n:,}" for label, n in list(read.counts.items())[:20])
    note(f"boxes in {counted(len(read.images), 'image')}: {counts or 'none'}{', ...' if len(read.counts) > 20 else ''}")
    if read.repeated:
        note(f"listed more than once, their boxes put together: {_first(read.repeated)}")
    return read


def add_annotated_boxes(
    registry: ClassRegistry, read: BoxAnnotations, images: str, options: BoxOptions, *, allow_conflict: bool
) -> tuple[AddReport, dict[str, Any]]:
    """Register the boxes; what became of them, and what is told beside it."""
    from dataclasses import replace

    from fewshot.detection import add_boxes

    added = add_boxes(
        registry,
        read,
        images,
        padding=options.padding,
        negatives=options.negatives,
        allow_conflict=allow_conflict,
        random_state=options.seed,
    )
    examples, negatives = added.examples, added.negatives
    if examples.ignored:
        note(f"boxes left out: {len(examples.ignored):,}: {_first(examples.ignored)}")
    told: dict[str, Any] = {"file": options.place, "images": added.images, "padding": added.padding}
    if options.negatives:
        given = negatives.added + negatives.duplicates
        if given < options.negatives:
            note(f"the background had room for {given} of {options.negatives} boxes that overlap no other")
        told["negatives"] = negatives.added
    both = replace(
        examples, conflicts=examples.conflicts + negatives.conflicts, failed=examples.failed + negatives.failed
    )
    return both, {**told, "left_out": len(examples.ignored)}


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
