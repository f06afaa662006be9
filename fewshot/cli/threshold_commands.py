"""The command that sets a registry's rejection threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import registry_medium
from fewshot.cli.options import encoder_options
from fewshot.cli.output import counted, exit_if_failed, note, print_result
from fewshot.cli.registry_access import open_registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fewshot.encoders import Encoder
    from fewshot.media import Source
    from fewshot.openset import Threshold
    from fewshot.registry import Failure


@click.command(epilog="Example: fewshot threshold parts.fewshot --max-false-accept 0.05 --background other-photos/")
@click.argument("registry")
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="Largest share of unknown ones that get a label; without it, show the current threshold.",
)
@click.option("--background", metavar="DATA", help="Examples or vectors of other classes, like the unknown ones.")
@click.option("--forget", is_flag=True, help="Delete the threshold and the background: everything gets a label.")
@click.option("--forget-negatives", is_flag=True, help="Delete the negatives added with `fewshot add --negative`.")
@encoder_options
def threshold(
    registry: str,
    max_false_accept: float | None,
    background: str | None,
    forget: bool,
    forget_negatives: bool,
    encoding: dict[str, Any],
) -> None:
    """Reject what is of no class: set the largest false accept rate.

    `fewshot predict` then answers null for them. The threshold is estimated from the registered examples, and
    re-estimated when they change. A rate of 0.05 can be guaranteed with 19 classes, with a background of 19 classes (a
    folder with a subfolder for each, or a feature file), or with 19 negatives (`fewshot add --negative`), which are
    enough beside a single class.
    """
    if forget and (max_false_accept is not None or background is not None):
        raise click.UsageError("give either --forget, or --max-false-accept and --background")
    failed: list[Failure] = []
    with open_registry(registry, encoding) as opened:
        rejection = opened.rejection
        if forget_negatives:
            note(f"deleted: {counted(rejection.forget_negatives(), 'negative')}")
        if background is not None and max_false_accept is None and rejection.max_false_accept is None:
            raise click.UsageError("give the rate that the background is for: --max-false-accept 0.05")
        level = rejection.max_false_accept if max_false_accept is None else max_false_accept
        if forget:
            found = rejection.set(None)
        elif background is not None:
            vectors, labels, failed = _background(background, registry, opened.encoder)
            found = rejection.set(level, background=vectors, labels=labels)
        elif max_false_accept is not None:
            found = rejection.set(max_false_accept)
        else:
            found = rejection.threshold()
        negatives, noun = rejection.n_negatives, registry_medium(opened).noun
        shared = rejection.n_shared if found is not None and found.source == "background" else 0
    if found is None:
        print_result({"max_false_accept": None, "negatives": negatives})
        return
    if shared:
        note(f"ignored: {counted(shared, noun)} of the background that a class holds as well")
    if not found.met:
        note(found.describe(noun))
    _print_threshold(found, negatives, failed)


def _print_threshold(threshold: Threshold, negatives: int, failed: list[Failure]) -> None:
    rejected = threshold.estimated_false_reject
    answer: dict[str, Any] = {
        "max_false_accept": threshold.max_false_accept,
        "false_accept_bound": round(threshold.false_accept_bound, 6),
        "estimated_false_reject": None if rejected is None else round(rejected, 4),
        "threshold": round(threshold.value, 6),
        "estimated_from": threshold.source,
        "unknown_classes": threshold.n_unknown,
        "center_classes": threshold.center,
        "negatives": negatives,
    }
    if failed:
        answer["failed"] = [{"path": failure.source, "reason": failure.reason} for failure in failed]
        for failure in failed:
            note(f"ignored: {failure.source}: {failure.reason}")
    print_result(answer)
    exit_if_failed(bool(failed))


def _background(
    place: str, registry: str, encoder: Encoder
) -> tuple[NDArray[np.float32], list[str] | None, list[Failure]]:
    """Embed the background; returns a sample of its vectors, their labels where known, and unreadable ones."""
    import numpy as np

    from fewshot.benchmark import check_reads, open_base
    from fewshot.media import medium_of
    from fewshot.openset import stratified_sample
    from fewshot.vectors import FeatureFile

    source = open_base(place)
    content = source.content
    n = len(content.vectors if isinstance(content, FeatureFile) else content)
    labels = None if source.labels is None else np.array(source.labels, str)
    groups = np.arange(n) if labels is None else np.unique(labels, return_inverse=True)[1].reshape(-1)
    some = stratified_sample(groups, np.random.default_rng(0))
    failed: list[Failure] = []
    if isinstance(content, FeatureFile):
        name = str(getattr(encoder, "spec", {}).get("name", "the registry's encoder"))
        source.check_encoder(registry, name, encoder.fingerprint, encoder.dim)
        vectors = content.vectors[some]
    else:
        noun = medium_of(source.modality).noun
        check_reads(encoder, "the registry's encoder", source.modality, place)
        if len(some) < n:
            note(f"using {len(some)} of the {n} {noun}s, spread evenly over the classes")
        vectors, kept, failed = _embedded([content[position] for position in some.tolist()], encoder)
        if not len(kept):
            raise ValueError(f"none of the {len(some)} {noun}s of {place} can be read; the first: {failed[0].reason}")
        some = some[kept]
    return vectors, None if labels is None else labels[some].tolist(), failed


def _embedded(images: list[Source], encoder: Encoder) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Failure]]:
    """Embed examples; returns the vectors and positions of those that can be read, and the failures."""
    from fewshot.encoders import encode_valid, modality_of
    from fewshot.media import medium_of
    from fewshot.registry import Failure

    encoded = encode_valid(encoder, images)
    describe = medium_of(modality_of(encoder)).describe
    failed = [Failure(describe(images[position]), error.reason) for position, error in encoded.failed]
    return encoded.vectors, encoded.kept, failed
