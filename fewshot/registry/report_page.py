"""The frame of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

_STYLE = Path(__file__).with_name("report.css")


def report_page(
    title: str, heading: str, about: str, notes: Sequence[str], main: str, modality: str, footer: str, header: str = ""
) -> str:
    """Return a page; ``main`` and ``header`` are HTML, all else is text."""
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    kind = "" if modality == "image" else ' class="wide"'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body{kind}>"
        f'<header><div><h1>{escape(heading)}</h1><p class="quiet">{escape(about)}</p>{said}{header}</div></header>'
        f"<main>{main}</main><footer><p>{escape(footer)}</p></footer></body></html>\n"
    )
