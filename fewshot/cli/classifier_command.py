"""The command that chooses a registry's classifier, and compares those there are."""

from __future__ import annotations

import json
from typing import Any

import click

from fewshot.cli.options import blocks
from fewshot.cli.output import note, print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog="Example: fewshot classifier parts.fewshot --compare")
@click.argument("registry")
@click.argument("name", required=False)
@click.option("--neighbors", type=click.IntRange(1), help="k, for the classifier nearest; by default 1.")
@click.option("--compare", is_flag=True, help="Print the leave-one-out accuracy of each.")
@click.option("--encoder", "encoders", metavar="NAME", multiple=True, help="Compare with this encoder too.")
@click.option("--layers", callback=blocks, metavar="LIST", help="Of that encoder: append these blocks, or auto.")
@click.option("--tta", is_flag=True, help="Of that encoder: embed mirror images too.")
def classifier(
    registry: str,
    name: str | None,
    neighbors: int | None,
    compare: bool,
    encoders: tuple[str, ...],
    layers: Any,
    tta: bool,
) -> None:
    """Show, choose or compare what answers for a registry.

    NAME is whitened (cosine to class means where the variation within classes is whitened; the default), prototype
    (closest class mean), nearest (closest examples), ridge, logistic (the default for up to 2,000 texts) or
    discriminant. It is remembered; nothing is embedded again.
    """
    if name is not None and compare:
        raise click.UsageError("--compare changes nothing: give it without NAME")
    if neighbors is not None and name != "nearest":
        raise click.UsageError("--neighbors is for the classifier nearest: fewshot classifier REGISTRY nearest")
    if encoders and not compare:
        raise click.UsageError("--encoder is for --compare; fewshot reindex changes a registry's encoder")
    if (layers or tta) and not encoders:
        raise click.UsageError("--layers and --tta are of the encoder to compare with: give --encoder")
    with open_registry(registry) as opened:
        if compare:
            _print_comparison(opened, encoders, layers=layers, tta=tta)
            return
        if name == "nearest" and neighbors is not None:
            from fewshot.classifiers import NearestNeighborClassifier

            metric: Any = opened.info().metric
            opened.set_classifier(NearestNeighborClassifier(n_neighbors=neighbors, metric=metric))
        elif name is not None:
            opened.set_classifier(name)
        print_result({"registry": registry, "classifier": opened.info().classifier})


def _print_comparison(opened: Any, encoders: tuple[str, ...], **settings: Any) -> None:
    from fewshot.encoders import load_encoder
    from fewshot.registry import name_of

    rows = []
    for encoder in (None, *(load_encoder(name, **settings) for name in encoders)):
        called = name_of(json.dumps(opened.info().encoder if encoder is None else encoder.spec))
        for one in opened.compare_classifiers(encoder):
            row: dict[str, Any] = {"encoder": called} if encoders else {}
            row |= {"classifier": one.name, "accuracy": round(one.accuracy, 4), "ci95": round(one.ci95, 4), "n": one.n}
            rows.append(row | {"chosen": one.chosen and encoder is None})
    print_result(rows)
    if rows[0]["n"] < 100:
        note(f"{rows[0]['n']} examples were left out: differences within ci95 may be chance")
