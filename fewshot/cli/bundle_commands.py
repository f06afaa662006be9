"""Exporting a registry, and what ``fewshot predict`` does with a bundle in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import example_paths
from fewshot.cli.output import check_writable, exit_if_failed, note, print_result
from fewshot.cli.prediction_output import OutputFormat, check_fits, write_predictions
from fewshot.cli.registry_access import open_registry
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions
    from fewshot.runtime import BundleReport

# So many are answered before the next are read.
_IMAGES_AT_ONCE = 256


def predict_with_bundle(
    path: str, images: tuple[str, ...], encoding: dict[str, Any], output: OutputFormat, **asked: Any
) -> None:
    """Predict the classes of images as ``fewshot predict`` does with a registry; ``asked`` is ``predict_valid``'s."""
    from fewshot.media import describe, medium_of
    from fewshot.runtime import Recognizer

    given = [name for name, value in encoding.items() if value is not None]
    if given:
        option = "encoder" if given[0] == "name" else given[0].replace("_", "-")
        raise click.UsageError(f"--{option} is of an encoder, and {path} is a bundle, which holds its own")
    recognizer, medium = Recognizer(path), medium_of("image")
    sources: list[Any] = example_paths(images, medium)
    check_fits(output, sources, medium)
    asked["top"] = asked["top"] if output.ranked else 2  # the class and the runner-up

    def answers() -> Iterator[ImagePredictions]:
        with Progress(len(sources), "predict") as bar:
            for start in range(0, len(sources), _IMAGES_AT_ONCE):
                part = sources[start : start + _IMAGES_AT_ONCE]
                answered = recognizer.predict_valid(part, **asked)
                found = dict(zip(answered.positions, answered.predictions, strict=True))
                failed = iter(answered.failed)
                yield [(describe(one), found[n] if n in found else next(failed)) for n, one in enumerate(part)]
                bar.advance(len(part))

    exit_if_failed(write_predictions(answers(), output, registry=path, classes=lambda: list(recognizer.classes())))


@click.command(name="export", epilog="Example: fewshot export parts.fewshot parts.npz")
@click.argument("registry")
@click.argument("file")
@click.option("--onnx", is_flag=True, help="Write a bundle, which recognises images without torch.")
@click.option("--opset", type=click.IntRange(18), metavar="N", help="With --onnx: version of ONNX's operators.")
@click.option("--int8", is_flag=True, help="With --onnx: weights in 8 bits, a quarter of the size.")
@click.option("--web", metavar="DIR", help="With --onnx: write a page, too, which recognises in the browser.")
@click.option(
    "--onnxruntime-web", "package", metavar="PATH", help="With --web: the .tgz of `npm pack onnxruntime-web`."
)
def export_(
    registry: str, file: str, onnx: bool, opset: int | None, int8: bool, web: str | None, package: str | None
) -> None:
    """Export ids, labels and vectors, or what recognises.

    FILE is a .npz or .parquet. Texts and descriptions are part of it, images and sounds are not: `fewshot backup`
    copies these, too. With --onnx FILE is a .zip, a bundle. That holds the encoder, the classes, and the threshold of
    `fewshot threshold`, but no images, and is given to `fewshot predict`, `fewshot serve` or fewshot.runtime.Recognizer
    in place of the registry. With --int8 the leave-one-out accuracy on the registry's examples is printed before and
    after.

    DIR is put on any web server, or tried with `python -m http.server -d DIR`: pictures stay in the browser. What runs
    the network there is Microsoft's onnxruntime-web, whose package from npm is given by --onnxruntime-web, as the .tgz
    or unpacked; without it the page says which two files it needs.
    """
    if onnx:
        _export_bundle(registry, file, web, package, opset=opset, int8=int8)
        return
    for name, given in (("opset", opset), ("int8", int8 or None), ("web", web), ("onnxruntime-web", package)):
        if given is not None:
            raise click.UsageError(f"--{name} is for --onnx")
    from fewshot.vectors import feature_files

    feature_files.check_suffix(file)
    with open_registry(registry) as opened:
        print_result({"file": file, "examples": opened.export(file)})


def _export_bundle(
    registry: str, file: str, web: str | None, package: str | None, *, opset: int | None, int8: bool
) -> None:
    if not file.endswith(".zip"):
        raise click.UsageError(f"a bundle is a .zip, not {file!r}")
    from fewshot.validation import check_extra

    check_extra("onnx", "exporting needs", "onnx", "onnxscript", "onnxruntime")  # before a registry is opened
    check_writable(file)
    from fewshot.runtime import check_web_page, export_bundle, write_web_page

    if web is not None:
        check_web_page(file, web, onnxruntime_web=package)
    elif package is not None:
        raise click.UsageError("--onnxruntime-web is for --web")
    with open_registry(registry) as opened:
        report = export_bundle(opened, file, opset=opset, int8=int8)
        found: dict[str, Any] = {"file": file, "classes": len(opened), "bytes": report.size}
    if int8:
        found |= _leave_one_out(report)
    if web is not None:
        found |= {"web": web, "web_files": list(write_web_page(file, web, onnxruntime_web=package))}
    print_result(found)


def _leave_one_out(report: BundleReport) -> dict[str, Any]:
    """Say what int8 has cost."""
    found = report.leave_one_out
    if found is None:
        note(f"what int8 costs was not measured: {report.unmeasured}")
        return {"leave_one_out": None}
    before, after = (f"{100 * share:.1f} %" for share in (found.own, found.other))
    lost = 100 * (found.own - found.other)
    more = "" if lost <= 1 else f": {lost:.1f} points are lost; without --int8 none are"
    note(f"leave-one-out accuracy on {found.n} of the registry's examples: {before} before, {after} in int8{more}")
    return {"leave_one_out": {"float32": found.own, "int8": found.other, "examples": found.n}}
