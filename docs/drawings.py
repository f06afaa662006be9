"""The site's drawings, as SVG, from scikit-learn's scans of digits: ``python docs/drawings.py`` writes README's."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "docs/pages/assets"
# Read on a light page and on a dark one.
_INK, _LINE, _KNOWN, _UNKNOWN = "#6b7280", "#9ca3af", "#4f6bed", "#e0702d"
_FONT = "font-family='system-ui, sans-serif'"


def svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a drawing with a title for screen readers."""
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}' role='img' "
        f"{_FONT} font-size='14' fill='{_INK}'>\n<title>{title}</title>\n{body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, **style: str) -> str:
    """Return a line of text, centred at x."""
    extra = " ".join(
        f"{name.replace('_', '-')}='{value}'" for name, value in {"text_anchor": "middle", **style}.items()
    )
    return f"<text x='{x:g}' y='{y:g}' {extra}>{words}</text>"


def dot(x: float, y: float, radius: float, colour: str, **style: str) -> str:
    """Return a filled circle."""
    extra = "".join(f" {name}='{value}'" for name, value in style.items())
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='{colour}'{extra}/>"


def frame(x: float, y: float, width: float, height: float) -> str:
    """Return the outline of a panel."""
    return f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' fill='none' stroke='{_LINE}'/>"


def scan(x: float, y: float, side: float, pixels: NDArray[np.float64], border: str = _LINE) -> str:
    """Return a digit's scan of 64 numbers from 0 (paper) to 16 (ink), framed."""
    grey = Image.fromarray((255 - pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8))
    data = io.BytesIO()
    grey.resize((32, 32), Image.Resampling.BICUBIC).save(data, "png", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return (
        f"<image x='{x:g}' y='{y:g}' width='{side:g}' height='{side:g}' href='{source}'/>"
        f"<rect x='{x:g}' y='{y:g}' width='{side:g}' height='{side:g}' rx='3' fill='none' stroke='{border}' "
        "stroke-width='1.5'/>"
    )


def recognised() -> str:
    """Examples of four digits, and what the registry answers to others."""
    from fewshot import ClassRegistry

    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(1)
    drawn = {digit: rng.permutation(np.flatnonzero(digits == digit)) for digit in (2, 3, 5, 7)}
    asked = rng.permutation(np.concatenate([rows[3:5] for rows in drawn.values()]))
    pictures = [Image.fromarray((255 - row.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)) for row in pixels]
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder) / "digits.fewshot") as registry:
        for digit, rows in drawn.items():
            registry.add(f"{digit}", [pictures[row] for row in rows[:3]])
        answers = registry.predict([pictures[row] for row in asked])
    parts = [text(14, 22, "Register three examples a class", font_weight="600", text_anchor="start")]
    for line, (digit, rows) in enumerate(drawn.items()):
        y = 38 + 62 * line
        parts += [text(14, y + 33, str(digit), font_weight="600", fill=_KNOWN)]
        parts += [scan(32 + 58 * n, y, 52, pixels[row]) for n, row in enumerate(rows[:3])]
    parts.append(f"<path d='M 226 158 h 44 m -9 -8 l 9 8 l -9 8' fill='none' stroke='{_INK}' stroke-width='3'/>")
    parts.append(text(475, 22, "Recognise others, and say how sure that is", font_weight="600"))
    for n, (row, answer) in enumerate(zip(asked, answers, strict=True)):
        x, y = 296 + 92 * (n % 4), 44 + 124 * (n // 4)
        right = answer.label == str(digits[row])
        assert answer.probability is not None
        parts.append(scan(x, y, 72, pixels[row], _KNOWN if right else _UNKNOWN))
        words = f"{answer.label} · {100 * answer.probability:.0f} %"
        parts.append(text(x + 36, y + 94, words, font_weight="600", fill=_KNOWN if right else _UNKNOWN))
    return svg(660, 292, "Three examples of each of four digits are registered; others are recognised", parts)


def episode() -> str:
    """A 5-way 1-shot episode."""
    pixels, digits = load_digits(return_X_y=True)
    rows = [np.flatnonzero(digits == digit) for digit in (8, 1, 6, 4, 9)]
    parts = [text(60, 46, "support", font_weight="600"), text(60, 66, "5 ways, 1 shot")]
    parts += [scan(130 + 92 * n, 14, 64, pixels[one[0]], _KNOWN) for n, one in enumerate(rows)]
    parts += [text(162 + 92 * n, 98, f"class {name}", fill=_KNOWN) for n, name in enumerate("ABCDE")]
    parts += [text(60, 154, "queries", font_weight="600"), text(60, 174, "which class?")]
    order = np.random.default_rng(0).permutation(10)
    parts += [scan(130 + 46 * n, 132, 40, pixels[rows[one % 5][1 + one // 5]]) for n, one in enumerate(order)]
    return svg(610, 190, "An episode: five classes with one labelled example each, and queries", parts)


def whitening() -> str:
    """Two classes that vary along one direction, before and after that is shrunk."""
    rng = np.random.default_rng(3)
    turn = np.array([[1, -0.35], [0.35, 1]]) / np.hypot(1, 0.35)
    means = np.array([[-0.5, 1.0], [0.5, -1.0]])
    clouds = [(rng.standard_normal((24, 2)) * [2.4, 0.35] + mean) @ turn.T for mean in means]
    within = np.concatenate([cloud - cloud.mean(0) for cloud in clouds])
    values, vectors = np.linalg.eigh(within.T @ within / len(within))
    shrink = vectors / np.sqrt(1 + 4 * values) @ vectors.T * 2.2
    query = turn @ [2.8, 0.55]
    parts = []
    for panel, (title, matrix) in enumerate((("the embeddings", np.eye(2)), ("whitened", shrink))):
        middle = np.array([150 + 300 * panel, 130])
        parts.append(text(middle[0], 22, title, font_weight="600"))
        parts.append(
            f"<rect x='{middle[0] - 140}' y='34' width='280' height='192' rx='6' fill='none' stroke='{_LINE}'/>"
        )
        places = [middle + (cloud @ matrix.T) * [26, -26] for cloud in clouds]
        asked = middle + (matrix @ query) * [26, -26]
        for colour, place in zip((_KNOWN, _UNKNOWN), places, strict=True):
            parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}' opacity='.45'/>" for x, y in place]
            x, y = place.mean(0)
            parts.append(
                f"<path d='M {asked[0]:.1f} {asked[1]:.1f} L {x:.1f} {y:.1f}' stroke='{colour}' stroke-width='1.5'/>"
            )
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='7' fill='{colour}' stroke='white' stroke-width='1.5'/>")
        parts.append(
            f"<rect x='{asked[0] - 6:.1f}' y='{asked[1] - 6:.1f}' width='12' height='12' fill='{_INK}' stroke='white'/>"
        )
    parts.append(text(300, 250, "● prototypes of two classes, and their examples     ■ a query"))
    return svg(
        600,
        262,
        "Two classes vary along one direction; whitening shrinks it, and a query is closer to its own",
        parts,
    )


def unknowns() -> str:
    """How unlike all classes known and unknown digits are, and a threshold."""
    pixels, digits = load_digits(return_X_y=True)
    units = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    known = [np.flatnonzero(digits == digit) for digit in range(5)]
    prototypes = np.stack([units[rows[:5]].mean(0) for rows in known])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    scores = -(units @ prototypes.T).max(axis=1)
    asked, other = scores[np.concatenate([rows[5:] for rows in known])], scores[digits >= 5]
    threshold = np.quantile(other, 0.05)
    bins = np.linspace(scores.min(), scores.max(), 41)
    parts = []
    for values, colour in ((asked, _KNOWN), (other, _UNKNOWN)):
        counts = np.histogram(values, bins)[0] / len(values)
        parts += [
            f"<path d='M {40 + 13 * n} 200 h 12 v -{1000 * share:.1f} h -12 z' fill='{colour}' opacity='.6'/>"
            for n, share in enumerate(counts)
            if share
        ]
    x = 40 + 13 * 40 * (threshold - bins[0]) / (bins[-1] - bins[0])
    parts += [
        f"<path d='M 40 200 h 520' stroke='{_LINE}'/>",
        f"<path d='M {x:.1f} 30 v 170' stroke='{_INK}' stroke-width='2' stroke-dasharray='5 4'/>",
        text(x, 22, "threshold: 5 % of the unknown are left of it"),
        text(140, 222, "like a class"),
        text(480, 222, "unlike all"),
        text(120, 60, "registered classes", fill=_KNOWN, font_weight="600"),
        text(490, 60, "unknown classes", fill=_UNKNOWN, font_weight="600"),
    ]
    return svg(
        600,
        234,
        "Scores of registered and of unknown classes overlap; the threshold lets 5 % of the unknown pass",
        parts,
    )


def reliability() -> str:
    """The expected calibration error of whitened prototypes in each measured cell, before and after."""
    rows = json.loads((ROOT / "benchmarks/results/calibration.json").read_text())["rows"]
    cells = [row for row in rows if (row["method"], row["table"]) == ("whitened", "shipped")]
    step, unit = 11, 1400
    parts = [text(60, 18, "expected calibration error of each encoder, data set, ways and shots", text_anchor="start")]
    for n, row in enumerate(sorted(cells, key=lambda one: -one["ece_before"])):
        y, before, after = 38 + step * n, 60 + unit * row["ece_before"], 60 + unit * row["ece_after"]
        parts += [
            f"<path d='M {before:.1f} {y} L {after:.1f} {y}' stroke='{_LINE}'/>",
            dot(before, y, 4, _UNKNOWN),
            dot(after, y, 4, _KNOWN),
        ]
    bottom = 38 + step * len(cells)
    for tick in (0.0, 0.1, 0.2):
        parts.append(text(60 + unit * tick, bottom + 18, f"{tick:g}"))
    parts.append(f"<path d='M 60 28 V {bottom} H 450' fill='none' stroke='{_LINE}'/>")
    parts.append(text(470, 60, "softmax of the scores", fill=_UNKNOWN, font_weight="600", text_anchor="start"))
    parts.append(text(470, 82, "calibrated", fill=_KNOWN, font_weight="600", text_anchor="start"))
    return svg(640, bottom + 28, "The expected calibration error falls from up to 0.27 to a few hundredths", parts)


DRAWINGS: dict[str, Callable[[], str]] = {
    "episode.svg": episode,
    "whitening.svg": whitening,
    "unknowns.svg": unknowns,
    "reliability.svg": reliability,
}

if __name__ == "__main__":
    ASSETS.mkdir(exist_ok=True)
    (ASSETS / "recognise.svg").write_text(recognised())
