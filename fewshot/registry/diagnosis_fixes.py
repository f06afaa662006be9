"""Commands that would mend what a diagnosis has found; none is run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fewshot.registry.diagnosis_results import Diagnosis


@dataclass(frozen=True)
class ProposedCommand:
    """A command for a POSIX shell, quoted, and why, on one line; to be looked at before it is run."""

    command: str
    why: str


def proposed_commands(diagnosis: Diagnosis, path: str) -> tuple[ProposedCommand, ...]:
    """Propose, for the registry at a path, to move what is likely mislabelled and to remove what repeats or hurts.

    Each example is in one command at most, and none removes the last of a class.
    """
    registry = shlex.quote(f"./{path}" if path.startswith("-") else path)
    used: set[int] = set()
    left = {one.label: one.examples for one in diagnosis.per_class}
    found = []
    for example, label, command, why in _proposals(diagnosis, registry):
        if example not in used and left[label] > 1:
            used.add(example)
            left[label] -= 1
            found.append(ProposedCommand(command, " ".join(why.split())))
    return tuple(found)


def _proposals(diagnosis: Diagnosis, registry: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield (example, its label, command, why), the surest first."""
    for suspect in diagnosis.mislabelled:
        one = suspect.example
        label = shlex.quote(suspect.closest)
        apart = "-- " if suspect.closest.startswith("-") else ""
        why = f"{one.source} is registered as {one.label!r} and is closest to {suspect.closest!r}"
        yield one.id, one.label, f"fewshot move {registry} --example {one.id} {apart}{label}", why
    for pair in diagnosis.duplicates:
        if pair.across_classes:
            continue  # which of the two is wrong is not known
        second = pair.second
        why = f"{second.source} is nearly the same as {pair.first.source} (cosine {pair.cosine:.3f})"
        yield second.id, second.label, f"fewshot remove {registry} --example {second.id}", why
    for harmful in diagnosis.harmful:
        one = harmful.example
        why = (
            f"without {one.source} ({one.label!r}) {harmful.mended - harmful.broken} more of the others are recognised"
        )
        yield one.id, one.label, f"fewshot remove {registry} --example {one.id}", why
