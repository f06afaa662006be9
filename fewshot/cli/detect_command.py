"""The command that finds objects in images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import example_paths, registry_medium
from fewshot.cli.options import encoder_options
from fewshot.cli.output import (
    chosen_format,
    exit_if_failed,
    format_option,
    make_folder,
    note,
    print_json,
    print_json_list,
    print_result,
    write,
)
from fewshot.cli.prediction_output import LOCAL_FILES
from fewshot.cli.registry_access import open_registry
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.detection import Detector, ImageDetections
    from fewshot.media import ImageSource
    from fewshot.registry import ClassRegistry, Failure

_SHARE = click.FloatRange(0, 1)
_MOST_REJECTED = 0.5


@dataclass(frozen=True)
class _Output:
    """Where the result goes beside standard output."""

    draw: str | None
    out: str | None
    prefix: str | None


@click.command(epilog="Example: fewshot detect cells.fewshot scan.jpg --draw drawn --format coco > found.json")
@click.argument("registry")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--proposer",
    metavar="NAME",
    default="regions",
    show_default=True,
    help="What gives the boxes: regions, torchvision:NAME, MODULE:FUNCTION, or a file or folder of boxes.",
)
@click.option("--padding", type=click.FloatRange(0, 2), help="By default that of the registered crops.")
@click.option(
    "--max-overlap", type=_SHARE, default=0.5, show_default=True, help="Largest IoU of two boxes that are both kept."
)
@click.option("--across-classes", is_flag=True, help="Boxes suppress those of other classes, too.")
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="RATE",
    help="Largest share of boxes of no class that get one; by default that of `fewshot threshold`; 1: all.",
)
@click.option("--min-confidence", type=_SHARE, metavar="C", help="Leave out boxes of less confidence.")
@click.option("--draw", metavar="DIR", help="Write each image with its boxes drawn, as a PNG.")
@click.option("--out", metavar="DIR", help="For yolo: the folder to write.")
@click.option("--prefix", metavar="URL", help="For label-studio: as of fewshot predict.")
@format_option("label-studio", "coco", "cvat", "yolo")
@encoder_options
def detect(
    registry: str,
    images: tuple[str, ...],
    proposer: str,
    draw: str | None,
    out: str | None,
    prefix: str | None,
    encoding: dict[str, Any],
    **settings: Any,
) -> None:
    """Find objects of the registry's classes in images.

    A proposer gives boxes, the registry says what lies in each: its classes are learned from a few crops, see `fewshot
    add --from-boxes`. Boxes of none of the classes are left out, see `fewshot threshold`, and of boxes of a class that
    overlap the most confident is kept.

    Proposers: regions (what stands out of a background; no weights), torchvision:NAME (a detector of torchvision, as
    fasterrcnn_mobilenet_v3_large_320_fpn, whose weights are downloaded), MODULE:FUNCTION (takes a PIL image, returns
    boxes left, top, right, bottom in pixels), COCO .json, VOC .xml or a folder of YOLO .txt (the boxes therein).

    Formats: table (counts, an image a row), json, jsonl, csv (a box a row), coco, label-studio, cvat (XML for images),
    yolo (a folder, --out DIR). A box is left, top, right, bottom in pixels of the upright image; its confidence is the
    probability of the class, times the proposer's score if it gives one.
    """
    output = _Output(draw, out, prefix)
    _check(output)
    from fewshot.detection import Detector

    with open_registry(registry, encoding) as opened:
        detector = Detector(opened, proposer, **settings)
        sources: list[Any] = example_paths(images, registry_medium(opened))
        if chosen_format() in ("label-studio", "coco", "cvat", "yolo"):
            _check_files(sources)
        _note_limit(opened, settings)
        failed = _write(_found(detector, sources, draw), output, opened)
    exit_if_failed(failed)


def _check(output: _Output) -> None:
    name = chosen_format()
    if (output.out is None) == (name == "yolo"):
        raise click.UsageError("--format yolo writes a folder: --out DIR" if name == "yolo" else "--out is for yolo")
    if output.prefix is not None and name != "label-studio":
        raise click.UsageError(f"--prefix is for --format label-studio, not {name}")
    for folder in (output.draw, output.out):
        if folder is not None:
            make_folder(folder)


def _check_files(sources: Iterable[Any]) -> None:
    inside = next((source for source in sources if not isinstance(source, str)), None)
    if inside is not None:
        raise ValueError(f"--format {chosen_format()} names files, and {inside} is none: unpack or save it")


def _note_limit(registry: ClassRegistry, settings: dict[str, Any]) -> None:
    """Say what to do where each box gets a class, or where most objects are expected to get none."""
    limit = settings["max_false_accept"]
    if all(value is None for value in (limit, registry.rejection.max_false_accept, settings["min_confidence"])):
        note(
            "every box gets a class, for the registry has no limit on false accepts: set one with fewshot threshold, "
            "or give --min-confidence"
        )
    if limit == 1:
        return
    try:
        threshold = registry.rejection.threshold(limit)
    except ValueError as error:
        note(f"no box is rejected: {error}")
    else:
        rejected = None if threshold is None else threshold.estimated_false_reject
        if threshold is not None and rejected is not None and rejected > _MOST_REJECTED:
            note(
                f"the limit of {threshold.max_false_accept:g} false accepts is expected to leave out {rejected:.0%} of "
                "the objects themselves; --max-false-accept 1 leaves out none"
            )


def _found(detector: Detector, sources: list[ImageSource], draw: str | None) -> Iterator[ImageDetections | Failure]:
    from fewshot.registry import Failure

    taken: set[str] = set()
    with Progress(len(sources), "detect") as bar:
        for source, one in zip(sources, detector.detect_valid(sources), strict=True):
            if draw is not None and not isinstance(one, Failure):
                _draw(source, one, draw, taken)
            yield one
            bar.advance(1)


def _draw(source: ImageSource, found: ImageDetections, folder: str, taken: set[str]) -> None:
    from fewshot.detection import draw_detections
    from fewshot.files import replacing
    from fewshot.media import open_image

    stem = Path(found.source).stem or "image"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    with replacing(Path(folder, f"{name}.png")) as temporary:
        draw_detections(open_image(source), found).save(temporary, format="PNG")


def _write(found: Iterator[ImageDetections | Failure], output: _Output, registry: ClassRegistry) -> bool:
    """Write in the chosen format; returns whether an image failed."""
    from fewshot.integrations import detection_formats as formats
    from fewshot.registry import Failure

    failures: list[Failure] = []

    def seen() -> Iterator[ImageDetections | Failure]:
        for one in found:
            if isinstance(one, Failure):
                failures.append(one)
            yield one

    name = chosen_format()
    if name == "json":
        print_json_list(map(formats.detection_row, seen()))
    elif name == "jsonl":
        from fewshot.integrations import as_json

        for one in seen():
            write(as_json(formats.detection_row(one)) + "\n")
    elif name == "csv":
        for n, one in enumerate(seen()):
            text = formats.detections_to_csv([one])
            write(text.partition("\n")[2] if n else text)  # one header
    else:
        _write_whole(list(seen()), output, registry)
    for failure in failures:
        note(f"nothing found in {failure.source}: {failure.reason}")
    return bool(failures)


def _write_whole(found: list[ImageDetections | Failure], output: _Output, registry: ClassRegistry) -> None:
    from fewshot.integrations import detection_formats as formats
    from fewshot.registry import Failure

    name = chosen_format()
    labels = [box.label for one in found if not isinstance(one, Failure) for box in one.detections]
    classes = list(dict.fromkeys([*registry.classes(), *labels]))  # some may have been removed meanwhile
    if name == "table":
        print_result([_table_row(one) for one in found])
    elif name == "coco":
        print_json(formats.detections_to_coco(found, classes=classes))
    elif name == "cvat":
        write(formats.detections_to_cvat(found, classes=classes))
    elif name == "label-studio":
        prefix = LOCAL_FILES if output.prefix is None else output.prefix
        version = Path(registry.path).name
        print_json(formats.detections_to_label_studio(found, prefix=prefix, model_version=version))
        note(f"a labelling configuration for these predictions: {formats.box_config(classes)}")
    else:
        assert output.out is not None
        images = formats.write_yolo(found, output.out, classes=classes)
        print_json({"folder": output.out, "images": images, "classes": classes})


def _table_row(found: ImageDetections | Failure) -> dict[str, Any]:
    from fewshot.registry import Failure

    if isinstance(found, Failure):
        return {"path": found.source, "error": found.reason}
    return {"path": found.source, **found.counts, "none of these": found.rejected}
