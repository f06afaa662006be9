"""The command that says which examples hurt, and what to add next."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.output import chosen_format, make_folder, note, print_json, print_result, print_table
from fewshot.cli.registry_access import open_registry
from fewshot.cli.text_table import as_table, printable

if TYPE_CHECKING:
    from fewshot.diagnosis import Share
    from fewshot.registry import DiagnosedExample, Diagnosis, ProposedCommand

_ROWS = 10
"""So many of each list are shown on a terminal."""


@click.command(epilog="Example: fewshot doctor parts.fewshot --report report/")
@click.argument("registry")
@click.option("--report", metavar="DIR", help="Write a page with thumbnails, DIR/doctor.html; DIR is made if missing.")
@click.option("--fix", is_flag=True, help="Propose commands that mend what was found; none is run.")
def doctor(registry: str, report: str | None, fix: bool) -> None:
    """Find the examples that hurt, and what to add next.

    Each example is recognised by the others: the accuracy to be expected, likely wrong labels, and classes that will
    be confused come of that. Nothing is embedded again, and nothing is changed.
    """
    from fewshot.registry import proposed_commands, write_diagnosis_report

    with open_registry(registry) as opened:
        if report is not None:
            make_folder(report)
        found = opened.diagnose()
        page = None if report is None else write_diagnosis_report(opened, found, report)
    commands = proposed_commands(found, registry) if fix else ()
    if page is not None:
        note(f"report: {page}")
    for sentence in found.notes:
        note(sentence)
    shown = chosen_format()
    if shown == "table":
        print_table(_summary(found) + _command_lines(commands, fix=fix))
    elif shown == "json":
        value = _rounded({"registry": registry, "advice": found.advice, **asdict(found)})
        if fix:
            value["commands"] = [asdict(one) for one in commands]
        print_json(value if page is None else {**value, "report": page})
    else:
        print_result([asdict(one) for one in commands] if fix else _findings(found))


def _summary(found: Diagnosis) -> str:
    """The lines for a terminal."""
    parts = []
    if found.accuracy is not None and found.left_out is not None:
        parts.append(f"accuracy   {_percent(found.accuracy)} expected of new ones")
        parts.append(f"left out   {_percent(found.left_out)} of {found.left_out.n:,} recognised by the others")
    parts.append(f"add next   {found.advice}")
    lines = "".join(f"{printable(line)}\n" for line in parts)
    few = [one.label for one in found.per_class if one.too_few]
    tables: list[tuple[str, list[dict[str, Any]]]] = [
        ("likely mislabelled", [_suspect(one) for one in found.mislabelled]),
        ("hurt: without them more of the others are recognised", [_harmful(one) for one in found.harmful]),
        (f"near-duplicates (cosine from {found.duplicate_limit:.3f})", [_pair(one) for one in found.duplicates]),
        ("will be confused", [_confused(one) for one in found.confused]),
        ("one-sided: examples far more alike than those of other classes", [_class(o) for o in found.one_sided]),
        ("too few: one example that differs", [{"class": label} for label in few]),
        ("to add", [{"class": label, "examples": count} for label, count in found.plan.classes] if found.plan else []),
    ]
    for title, rows in tables:
        if rows:
            rest = f"  and {len(rows) - _ROWS:,} more, in --format json\n" if len(rows) > _ROWS else ""
            table = "".join(f"  {line}\n" for line in as_table(rows[:_ROWS]).splitlines())
            lines += f"\n{title} ({len(rows):,}):\n{table}{rest}"
    return lines


def _command_lines(commands: tuple[ProposedCommand, ...], *, fix: bool) -> str:
    if not fix:
        return ""
    lines = "".join(f"# {printable(one.why)}\n{printable(one.command)}\n" for one in commands)
    return f"\nproposed, look before you run them ({len(commands)}):\n{lines or 'none'}"


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _example(one: DiagnosedExample) -> dict[str, Any]:
    return {"example": one.id, "class": one.label, "source": one.source}


def _suspect(one: Any) -> dict[str, Any]:
    return {**_example(one.example), "closest": one.closest, "probability": round(one.closest_probability, 2)}


def _harmful(one: Any) -> dict[str, Any]:
    return {**_example(one.example), "mends": one.mended, "breaks": one.broken}


def _pair(one: Any) -> dict[str, Any]:
    first, second = one.first, one.second
    named = {"example": first.id, "class": first.label, "other": second.id, "its class": second.label}
    return {**named, "cosine": round(one.cosine, 3)}


def _confused(one: Any) -> dict[str, Any]:
    return {"class": one.label, "taken for": one.taken_for, "expected": round(one.rate, 2), "counted": one.counted}


def _class(one: Any) -> dict[str, Any]:
    return {"class": one.label, "examples": one.examples, "distinct": one.distinct}


def _findings(found: Diagnosis) -> list[dict[str, Any]]:
    """One row for each thing found, for jsonl and csv."""
    return [
        *({"finding": "mislabelled", **_suspect(one)} for one in found.mislabelled),
        *({"finding": "hurts", **_harmful(one)} for one in found.harmful),
        *({"finding": "near-duplicate", **_pair(one)} for one in found.duplicates),
        *({"finding": "confused", **_confused(one)} for one in found.confused),
        *({"finding": "one-sided", **_class(one)} for one in found.one_sided),
        *({"finding": "too few", **_class(one)} for one in found.per_class if one.too_few),
        *({"finding": "add", "class": one.label, "examples": one.add} for one in found.per_class if one.add),
    ]


def _rounded(value: Any) -> Any:
    """Round all numbers to six digits behind the point, which is more than they are good for."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value
