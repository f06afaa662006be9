"""Small charts of a report, as HTML and SVG that need nothing else."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.diagnosis import LearningCurve, Share

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 680, 222, 44, 34, 26, 20


def meter(share: float) -> str:
    """Return a bar that is filled to a share, for what its caption says."""
    return f'<div class="meter" aria-hidden="true"><span style="width:{100 * share:.0f}%"></span></div>'


def interval_bar(share: Share) -> str:
    """Return a bar from 0 to 1 with a share and its interval, beside the numbers."""
    low, value, high = 100 * share.low, 100 * share.value, 100 * share.high
    return (
        f'<div class="interval" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{value:.1f}%"></b></div>'
    )


def curve_chart(curve: LearningCurve, now: Share, present: float, noun: str) -> str:
    """Return accuracy against examples of each class: what was measured, now, and twice as many.

    Parameters
    ----------
    curve : LearningCurve
    now : Share
        What is expected with all examples.
    present : float
        How many that are of each class, a geometric mean.
    noun : str
    """
    points, error, end = curve.points, 1.0 - now.value, 2 * present
    # Below 1 even where nothing went wrong, so that the axis has a length.
    low = 0.1 * min(9, math.floor(10 * min([point.accuracy for point in points] + [now.value])))

    def x(shots: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(shots) / math.log(end)

    def y(accuracy: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (accuracy - low) / (1.0 - low)

    line = [
        (x(present * times), y(1.0 - error * float(curve.remaining(error, times))))
        for times in (2 ** (number / 20) for number in range(21))
    ]
    here, there = x(present), y(now.value)
    past = " ".join(f"{x(p.shots):.1f},{y(p.accuracy):.1f}" for p in points) + f" {here:.1f},{there:.1f}"
    future = " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
    step = 0.2 if low < 0.5 else 0.1
    rows = [1.0 - step * number for number in range(int((1.0 - low) / step + 1e-6) + 1)]
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(row):.1f}" y2="{y(row):.1f}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 8}" y="{y(row) + 4:.1f}" text-anchor="end">{100 * row:.0f} %</text>'
        for row in rows
    )
    ticks = [shots for shots in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if shots <= end * 1.001]
    marks = "".join(
        f'<text x="{x(shots):.1f}" y="{_HEIGHT - 17}" text-anchor="middle">{shots}</text>' for shots in ticks
    )
    dots = "".join(
        f'<circle cx="{x(p.shots):.1f}" cy="{y(p.accuracy):.1f}" r="3.5" fill="var(--bar)"/>' for p in points
    )
    after = 1.0 - error * float(curve.remaining(error, 2.0))
    said = ", ".join(f"{100 * p.accuracy:.0f} % from {p.shots:.1f}" for p in points)
    title = f"Accuracy by {noun}s of each class: {said}; now {100 * now.value:.0f} %, from twice {100 * after:.0f} %"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{grid}{marks}'
        f'<polyline points="{past}" fill="none" stroke="var(--bar)" stroke-width="2"/>'
        f'<polyline points="{future}" fill="none" stroke="var(--bar)" stroke-width="2" stroke-dasharray="4 4"/>{dots}'
        f'<circle cx="{here:.1f}" cy="{there:.1f}" r="5.5" fill="var(--accent)"/>'
        f'<text x="{here - 8:.1f}" y="{there - 9:.1f}" text-anchor="end">now {100 * now.value:.0f} %</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y(after) - 8:.1f}" text-anchor="end">twice: {100 * after:.0f} %</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(noun)}s of each class</text></svg>'
    )
