"""Plots of a benchmark's accuracy by shots and against time, of a training's curves, and of reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.benchmark.result_files import MethodRow
from fewshot.calibration import Reliability
from fewshot.files import replacing
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^DvP*X<>ph"
_WIDTH, _HEIGHT, _COLUMNS = 4.2, 3.6, 3


def check_matplotlib() -> None:
    """Raise MissingExtra if nothing can be plotted."""
    check_extra("plot", "plots need", "matplotlib")


def draw_accuracy(rows: Sequence[MethodRow], folder: Path) -> tuple[Path, ...]:
    """Write accuracy_by_shots.png and accuracy_by_time.png into a folder; rows of "various" shots are left out.

    Panels and methods are in the order of the rows.

    Raises
    ------
    MissingExtra : without matplotlib.
    """
    check_matplotlib()
    fixed = [row for row in rows if row.shots != "various"]
    if not fixed:
        return ()
    by_shots, by_time = folder / "accuracy_by_shots.png", folder / "accuracy_by_time.png"
    _write_panels(by_shots, fixed, lambda row: (*row.section, str(row.ways)), _by_shots)
    _write_panels(by_time, fixed, lambda row: (*row.section, str(row.ways), str(row.shots)), _by_time)
    return by_shots, by_time


def draw_training(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot a training's loss, and its training and validation accuracy, by epoch.

    Parameters
    ----------
    log : sequence of mappings
        For each epoch: "epoch", "loss", "accuracy" by data set, and "validation", a list of "data", "measure",
        "accuracy" and "ci95".
    path : Path
        Of the PNG.

    Raises
    ------
    MissingExtra : without matplotlib.
    """
    check_matplotlib()
    figure = _figure(2 * _WIDTH + 2.2, _HEIGHT)
    from matplotlib.ticker import MaxNLocator

    left, right = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in log]
    left.plot(epochs, [line["loss"] for line in log], marker=".", color="black")
    left.set_ylabel("loss")
    colours: dict[str, Any] = {}  # a data set's two curves have one
    for name in log[0]["accuracy"]:
        shares = [100 * line["accuracy"][name] for line in log]
        (curve,) = right.plot(epochs, shares, "--", marker=".", linewidth=1.0, label=f"{name}, training")
        colours[name] = curve.get_color()
    for n, first in enumerate(log[0]["validation"]):
        found = [line["validation"][n] for line in log]
        label = f"{first['data']}, validation\n{first['measure']}"
        means, halves = [100 * f["accuracy"] for f in found], [100 * f["ci95"] for f in found]
        colour = colours.pop(first["data"], None)
        right.errorbar(epochs, means, yerr=halves, marker=".", capsize=2, label=label, color=colour)
    right.set_ylabel("accuracy (%)")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.25)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_reliability(panels: Mapping[str, tuple[Reliability, Reliability]], path: Path) -> None:
    """Plot reliability diagrams before and after calibration, a panel for each setting.

    Below the diagonal predictions are overconfident. A point's area is the number of predictions.

    Parameters
    ----------
    panels : mapping of title to (before, after)
    path : Path
        Of the PNG.

    Raises
    ------
    MissingExtra : without matplotlib.
    """
    check_matplotlib()
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(_HEIGHT * columns, _HEIGHT * lines)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, pair) in zip(axes, panels.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, alpha=0.5)
        for found, name, colour in zip(pair, ("before", "after"), ("tab:orange", "tab:blue"), strict=True):
            confidence, accuracy, number = zip(*found.bins, strict=True)
            axis.plot(confidence, accuracy, color=colour, linewidth=1.0, label=f"{name}: ECE {found.ece:.3f}")
            axis.scatter(confidence, accuracy, s=[4 + 200 * n / found.n for n in number], color=colour, alpha=0.6)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
        axis.set_aspect("equal")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(loc="upper left", fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _write_panels(
    path: Path,
    rows: list[MethodRow],
    key: Callable[[MethodRow], tuple[str, ...]],
    panel: Callable[[Axes, list[MethodRow], dict[str, dict[str, Any]]], None],
) -> None:
    grouped: dict[tuple[str, ...], list[MethodRow]] = {}
    for row in rows:
        grouped.setdefault(key(row), []).append(row)
    panels = list(grouped.values())
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    styles = _styles(rows)
    figure = _figure(_WIDTH * columns + 2.2, max(_HEIGHT * lines, 0.24 * len(styles) + 0.8))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, some in zip(axes, panels, strict=False):
        panel(axis, some, styles)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = {}
    for axis in axes[: len(panels)]:
        handles.update({name: handle for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)})
    ordered = [name for name in styles if name in handles]
    figure.legend([handles[n] for n in ordered], ordered, loc="outside right upper", fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _styles(rows: list[MethodRow]) -> dict[str, dict[str, Any]]:
    """A colour and marker for each method, the same in all panels; transductive ones hollow, with broken lines."""
    from matplotlib import colormaps

    styles = {}
    for transductive, palette in ((False, "tab10"), (True, "Dark2")):
        colours = [*colormaps[palette].colors, "black", "navy", "tan"]  # type: ignore[attr-defined]
        for n, name in enumerate(dict.fromkeys(row.method for row in rows if row.transductive == transductive)):
            colour = colours[n % len(colours)]
            styles[name] = {
                "color": colour,
                "marker": _MARKERS[n % len(_MARKERS)],
                "linestyle": "--" if transductive else "-",
                "markerfacecolor": "white" if transductive else colour,
                "markersize": 5,
                "linewidth": 1.0,
                "capsize": 2,
            }
    return styles


def _title(row: MethodRow, shots: str) -> str:
    return f"{row.data}, {row.encoder}{' †' if row.flag else ''}\n{row.ways}-way{shots}"


def _by_shots(axis: Axes, rows: list[MethodRow], styles: dict[str, dict[str, Any]]) -> None:
    shots = sorted({int(row.shots) for row in rows})
    # A little apart, so that intervals at one number of shots do not cover each other.
    spread = {name: (n - (len(styles) - 1) / 2) * 0.4 / max(1, len(styles)) for n, name in enumerate(styles)}
    for name, style in styles.items():
        of_method = sorted((row for row in rows if row.method == name), key=lambda row: int(row.shots))
        if of_method:
            places = [shots.index(int(row.shots)) + spread[name] for row in of_method]
            _errorbar(axis, places, of_method, style)
    axis.set_xticks(range(len(shots)), [str(number) for number in shots])
    axis.set_xlim(-0.5, len(shots) - 0.5)
    axis.set_xlabel("shots")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(_title(rows[0], ""), fontsize=9)
    _protocol(axis, rows[0])


def _by_time(axis: Axes, rows: list[MethodRow], styles: dict[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name, style in styles.items():
        for row in rows:
            if row.method == name:
                _errorbar(axis, [1000 * row.seconds / row.episodes], [row], {**style, "linestyle": "none"})
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(f"seconds per 1,000 episodes ({', '.join(sorted({row.device for row in rows}))})")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(_title(rows[0], f" {rows[0].shots}-shot"), fontsize=9)
    _protocol(axis, rows[0])


def _errorbar(axis: Axes, places: Sequence[float], rows: list[MethodRow], style: dict[str, Any]) -> None:
    axis.errorbar(
        places,
        [100 * row.accuracy for row in rows],
        yerr=[0.0 if row.ci95 != row.ci95 else 100 * row.ci95 for row in rows],
        label=rows[0].method,
        **style,
    )


def _protocol(axis: Axes, row: MethodRow) -> None:
    axis.text(0.98, 0.02, row.protocol, transform=axis.transAxes, fontsize=5.5, ha="right", va="bottom", alpha=0.6)
