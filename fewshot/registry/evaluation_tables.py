"""An evaluation as small HTML tables: what a notebook shows, and a part of the report."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.registry.evaluation_results import Evaluation
    from fewshot.registry.results import Prediction

MOST_CLASSES = 20
"""Up to so many classes a confusion matrix is shown; of more the pairs that are confused most."""


def evaluation_html(found: Evaluation) -> str:
    """Return the accuracy with its interval, and the confusion matrix; for notebooks."""
    if not found.rows:
        return "<p>Nothing was evaluated.</p>"
    low, high = found.interval
    head = f"<b>{100 * found.accuracy:.1f} %</b> of {found.n:,} right (95 %: {100 * low:.1f} to {100 * high:.1f} %)"
    if found.rejected:
        head += f"; {100 * found.rejected:.1f} % rejected, of the others {100 * found.accepted_accuracy:.1f} % right"
    return f"<div><p>{head}</p>{confusion_table(found)}</div>"


def confusion_table(found: Evaluation) -> str:
    """Return the confusion matrix, a row for each true class; of many classes the pairs confused most."""
    counts = Counter((row.label, row.predicted) for row in found.rows)
    labels = sorted({label for pair in counts for label in pair})
    if len(labels) > MOST_CLASSES:
        return _pairs(found)
    totals = Counter(row.label for row in found.rows)
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row">{escape(true)}</th>'
        + "".join(_cell(counts[true, other], totals[true], right=true == other) for other in labels)
        + "</tr>"
        for true in labels
        if totals[true]
    )
    return (
        f'<table class="confusion"><thead><tr><th scope="col">true \\ predicted</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(count: int, total: int, *, right: bool) -> str:
    if not count:
        return '<td style="text-align:center">·</td>'
    colour = "26,107,53" if right else "179,38,30"
    return (
        f'<td style="text-align:center;background:rgba({colour},{0.12 + 0.5 * count / total:.2f})" '
        f'title="{100 * count / total:.0f} %">{count}</td>'
    )


def _pairs(found: Evaluation) -> str:
    totals = Counter(row.label for row in found.rows)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{escape(taken)}</td><td class="number">{count} of {totals[label]}'
        "</td></tr>"
        for (label, taken), count in list(found.confusions.items())[:MOST_CLASSES]
    )
    head = '<tr><th scope="col">class</th><th scope="col">taken for</th><th scope="col">how often</th></tr>'
    return f'<table class="confusion"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def prediction_html(found: Prediction) -> str:
    """Return the answer, the next classes with bars of their scores, and the nearest examples; for notebooks."""
    label = "none of the known classes" if found.label is None else found.label
    sure = "" if found.probability is None else f" · {100 * found.probability:.0f} %"
    note = "" if found.note is None else f"<p><i>{escape(found.note)}</i></p>"
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:right">{score:.3f}</td>'
        f'<td style="text-align:left"><div style="height:.7em;width:{60 * max(0.0, min(1.0, score)):.0f}px;'
        'background:#4f6bed"></div></td></tr>'
        for name, score in found.top
    )
    near = "".join(
        f"<li>{escape(one.label)} · {escape(one.source)} · {one.score:.3f} (example {one.example})</li>"
        for one in found.nearest
    )
    nearest = f"<p>nearest examples:</p><ol>{near}</ol>" if near else ""
    return f"<div><p><b>{escape(label)}</b>{sure}</p>{note}<table><tbody>{rows}</tbody></table>{nearest}</div>"
