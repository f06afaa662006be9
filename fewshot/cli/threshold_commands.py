"""The command that keeps a limit on false accepts in a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.options import counted, encoder_options, finish, note, opened_registry, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fewshot.encoders import Encoder
    from fewshot.media import ImageSource
    from fewshot.openset import Threshold
    from fewshot.registry import Failure


@click.command(epilog="Example: fewshot threshold parts.fewshot --max-false-accept 0.05 --background other-photos/")
@click.argument("registry")
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Keep this limit on the share of unknown pictures that get a label; without it, show the one kept.",
)
@click.option("--background", metavar="DATA", help="Pictures or vectors of other classes, as unknown ones will be.")
@click.option("--forget", is_flag=True, help="Forget the limit and the background: every picture gets a label again.")
@click.option("--forget-negatives", is_flag=True, help="Forget the pictures given with `fewshot add --negative`.")
@encoder_options
def threshold(
    registry: str,
    max_false_accept: float | None,
    background: str | None,
    forget: bool,
    forget_negatives: bool,
    encoding: dict[str, Any],
) -> None:
    """Keep a limit on false accepts, which `fewshot predict` then follows, and say what it promises.

    The line is set from the registered pictures themselves, and anew whenever they change. To promise 0.05 it takes 19
    classes, or a background of 19 classes or more: a folder with a subfolder for each, or a feature file.
    """
    if forget and (max_false_accept is not None or background is not None):
        raise click.UsageError("give either --forget or what to keep")
    failed: list[Failure] = []
    with opened_registry(registry, encoding) as opened:
        rejection = opened.rejection
        if forget_negatives:
            note(f"forgotten: {rejection.forget_negatives()} negatives")
        if background is not None and max_false_accept is None and rejection.max_false_accept is None:
            raise click.UsageError("give the limit that the background is for: --max-false-accept 0.05")
        level = rejection.max_false_accept if max_false_accept is None else max_false_accept
        if forget:
            line = rejection.set(None)
        elif background is not None:
            vectors, labels, failed = _others(background, registry, opened.encoder)
            line = rejection.set(level, background=vectors, labels=labels)
        elif max_false_accept is not None:
            line = rejection.set(max_false_accept)
        else:
            line = rejection.threshold()
        negatives = rejection.n_negatives
        shared = rejection.n_shared if line is not None and line.source == "background" else 0
    if line is None:
        say({"max_false_accept": None, "negatives": negatives})
        return
    if shared:
        note(f"left out: {counted(shared, 'picture')} of the background that a class holds, too")
    if not line.met:
        note(line.describe())
    _say(line, negatives, failed)


def _say(line: Threshold, negatives: int, failed: list[Failure]) -> None:
    answer: dict[str, Any] = {
        "max_false_accept": line.asked,
        "false_accept_bound": round(line.false_accept_bound, 6),
        "estimated_false_reject": None
        if line.estimated_false_reject is None
        else round(line.estimated_false_reject, 4),
        "threshold": round(line.value, 6),
        "from": line.source,
        "unknown_classes": line.n_unknown,
        "center_classes": line.center,
        "negatives": negatives,
    }
    if failed:
        answer["failed"] = [{"path": failure.source, "reason": failure.reason} for failure in failed]
        for failure in failed:
            note(f"left out: {failure.source}: {failure.reason}")
    say(answer)
    finish(bool(failed))


def _others(place: str, registry: str, encoder: Encoder) -> tuple[NDArray[np.float32], list[str] | None, list[Failure]]:
    """Vectors of the background, as many as are of use, their labels where known, and what could not be read."""
    import numpy as np

    from fewshot.benchmark import Features, embedded_base, open_base
    from fewshot.openset import evenly
    from fewshot.vectors import FeatureFile

    source = open_base(place)
    held, n = source.held, len(source.held.vectors if isinstance(source.held, FeatureFile) else source.held)
    labels = None if source.labels is None else np.array(source.labels, str)
    groups = np.arange(n) if labels is None else np.unique(labels, return_inverse=True)[1].reshape(-1)
    some = evenly(groups, np.random.default_rng(0))
    failed: list[Failure] = []
    if isinstance(held, FeatureFile):
        name = str(getattr(encoder, "spec", {}).get("name", "the registry's encoder"))
        nothing = np.empty((0, encoder.dim), np.float32)
        ours = Features(registry, name, nothing, (), (), None, encoder.fingerprint, None)
        vectors = embedded_base(source, ours, None).vectors[some]
    else:
        if len(some) < n:
            note(f"of the {n} pictures {len(some)} are taken, spread over the classes")
        vectors, kept, failed = _embedded([held[position] for position in some.tolist()], encoder)
        if not len(kept):
            raise ValueError(f"none of the {len(some)} pictures of {place} can be read; the first: {failed[0].reason}")
        some = some[kept]
    return vectors, None if labels is None else labels[some].tolist(), failed


def _embedded(
    pictures: list[ImageSource], encoder: Encoder
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Failure]]:
    """Vectors of the pictures that can be read, their positions, and the others."""
    from fewshot.encoders import encode_valid
    from fewshot.media import describe
    from fewshot.registry import Failure

    encoded = encode_valid(encoder, pictures)
    failed = [Failure(describe(pictures[position]), error.reason) for position, error in encoded.failed]
    return encoded.vectors, encoded.kept, failed
