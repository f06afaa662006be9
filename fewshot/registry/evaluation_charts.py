"""Charts of an evaluation: how far its probabilities are right, and what rejecting the least known would bring."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewshot.registry.evaluation_results import Judged

_SIDE, _LEFT, _BOTTOM, _TOP, _RIGHT = 300, 46, 36, 26, 20
_BINS = 10


def reliability_bins(rows: Sequence[Judged]) -> list[tuple[float, float, int]]:
    """Return (mean probability, share right, count) of each of ten bins that is not empty.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, eq. 2-3.
    """
    bins: dict[int, list[Judged]] = {}
    for row in rows:
        if row.probability is not None:
            bins.setdefault(min(_BINS - 1, int(row.probability * _BINS)), []).append(row)
    return [
        (sum(r.probability or 0.0 for r in held) / len(held), sum(r.correct for r in held) / len(held), len(held))
        for _, held in sorted(bins.items())
    ]


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 5); NaN of no bins."""
    n = sum(count for *_, count in bins)
    return sum(count * abs(stated - right) for stated, right, count in bins) / n if n else math.nan


def reliability_chart(bins: Sequence[tuple[float, float, int]]) -> str:
    """Return the reliability diagram: the share right over the stated probability, dots as large as their bins."""
    most = max(count for *_, count in bins)
    dots = "".join(
        f'<circle cx="{_x(stated):.1f}" cy="{_y(right):.1f}" r="{3 + 7 * math.sqrt(count / most):.1f}" '
        'fill="var(--bar)" stroke="var(--accent)"/>'
        for stated, right, count in bins
    )
    said = "; ".join(f"{100 * stated:.0f} % stated, {100 * right:.0f} % right of {n}" for stated, right, n in bins)
    line = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="var(--quiet)" stroke-dasharray="4 4"/>'
    return _chart(f"Reliability: {said}", line + dots, "stated probability", "share right")


def rejection_curve(rows: Sequence[Judged]) -> list[tuple[float, float]]:
    """Return (share accepted, share right of them) as ever more are accepted, the best known ones first.

    By the unknown score or, where there is none, by the probability.

    References
    ----------
    El-Yaniv & Wiener 2010, JMLR 11 (risk-coverage curves).
    """

    def doubt(row: Judged) -> float:
        return -(row.probability or 0.0) if math.isnan(row.unknown_score) else row.unknown_score

    points, right = [], 0
    for accepted, row in enumerate(sorted(rows, key=doubt), start=1):
        right += row.correct
        points.append((accepted / len(rows), right / accepted))
    return points


def rejection_chart(points: Sequence[tuple[float, float]], accepted: float | None) -> str:
    """Return the curve, and a mark at the share that the stored limit accepts."""
    step = max(1, len(points) // 200)
    shown = [*points[::step], points[-1]]
    line = " ".join(f"{_x(share):.1f},{_y(right):.1f}" for share, right in shown)
    mark = ""
    if accepted is not None:
        mark = (
            f'<line x1="{_x(accepted):.1f}" x2="{_x(accepted):.1f}" y1="{_y(0)}" y2="{_y(1)}" stroke="var(--accent)" '
            f'stroke-dasharray="4 4"/><text x="{_x(accepted) - 5:.1f}" y="{_y(0) - 8}" text-anchor="end">limit</text>'
        )
    best = [points[max(1, round(len(points) * share)) - 1] for share in (0.25, 0.5, 0.75, 1.0)]
    said = ", ".join(f"{100 * right:.0f} % of {100 * share:.0f} % accepted" for share, right in best)
    curve = f'<polyline points="{line}" fill="none" stroke="var(--bar)" stroke-width="2.5"/>'
    return _chart(f"Right among the accepted: {said}", curve + mark, "share accepted", "share right of them")


def _x(share: float) -> float:
    return _LEFT + (_SIDE - _LEFT - _RIGHT) * share


def _y(share: float) -> float:
    return _SIDE - _BOTTOM - (_SIDE - _BOTTOM - _TOP) * share


def _chart(title: str, body: str, below: str, beside: str) -> str:
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_SIDE - _RIGHT}" y1="{_y(tick):.1f}" y2="{_y(tick):.1f}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 7}" y="{_y(tick) + 4:.1f}" text-anchor="end">{100 * tick:.0f} %</text>'
        f'<text x="{_x(tick):.1f}" y="{_SIDE - 20}" text-anchor="middle">{100 * tick:.0f} %</text>'
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    names = (
        f'<text x="{_x(0.5):.1f}" y="{_SIDE - 4}" text-anchor="middle">{below}</text><text x="4" y="12">{beside}</text>'
    )
    return f'<svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{escape(title)}">{grid}{body}{names}</svg>'
