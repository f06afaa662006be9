"""The notebooks run from top to bottom, and what a cell ends with has something to show."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("pocket_stays")
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs/notebooks").glob("*.ipynb"))
SHOWN = {"Prediction", "Evaluation", "BenchmarkResult"}
"""Types that a notebook shows as HTML."""


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
    for value in values:
        if type(value).__name__ in SHOWN:
            assert value._repr_html_().startswith("<")


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["benchmark", "none_of_these", "recognise"]
