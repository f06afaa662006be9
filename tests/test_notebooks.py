"""The notebooks run from top to bottom, and what a cell ends with has something to show."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("pocket_stays")
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs/notebooks").glob("*.ipynb"))
SHOWN = {"benchmark": {"BenchmarkResult"}, "none_of_these": set(), "recognise": {"Prediction", "Evaluation"}}
"""The types of the results that each shows as HTML."""


def run(code, names):
    """Run a cell; returns the value that it ends with, as a notebook would show it."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_results(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    names = {}
    values = [run("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    shown = {type(value).__name__: value._repr_html_() for value in values if hasattr(value, "_repr_html_")}
    assert set(shown) == SHOWN[path.stem]
    assert all(html.startswith("<") for html in shown.values())


def test_each_has_its_results_named_here():
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWN)
