"""README and docstrings do what they say: their code runs, their names exist, their files are there."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import fewshot
from fewshot import FewShotClassifier
from fewshot.cli import main
from fewshot.integrations.formats import to_csv
from fewshot.openset import Background, Center, LeaveOneOutScores, Threshold, UnknownScore
from fewshot.registry import Failure, Prediction
from fewshot.registry.rejection import Rejection

pytestmark = pytest.mark.usefixtures("pocket_stays")
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    path: path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *sorted((ROOT / "docs/pages").rglob("*.md")),
    )
}
LABELS_AND_PROBABILITIES = (("NA", 0.75), ("01", 0.5), ("1.0", 0.25))


def page(name):
    return PAGES[ROOT / "docs/pages" / name]


def test_the_line_for_pandas_keeps_every_label(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    (code,) = re.findall(r'^python -c "(import pandas;[^"]*)"$', page("how-to/export.md"), re.MULTILINE)
    answers = [(label, Prediction(label, 0.5, ((label, 0.5),), probability=p)) for label, p in LABELS_AND_PROBABILITIES]
    monkeypatch.chdir(tmp_path)
    Path("answers.csv").write_text(to_csv([*answers, ("gone.jpg", Failure("gone.jpg", "no such file"))]))
    exec(code, {})
    means = dict(re.findall(r"^(\S+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE))
    assert means == {"01": "0.50", "1.0": "0.25", "NA": "0.75"}


def test_the_first_commands_name_what_the_project_declares():
    assert re.findall(r"^```console\n(.*?)\n```$", README, re.DOTALL | re.MULTILINE) == [
        "pip install . && fewshot demo",
        "pip install -e '.[dev]' && pytest",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
    ]
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # which pytest needs there
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["fewshot"] == "fewshot.cli:main"
    assert "pytest" in " ".join(project["optional-dependencies"]["dev"])


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_command_and_encoder_that_a_page_names_exists():
    from fewshot.encoders.timm_network import list_encoders

    for path, text in PAGES.items():
        for command in re.findall(r"`fewshot ([a-z]+)", text):
            assert command in main.commands, (path, command)
    known = set(list_encoders())
    named = set(re.findall(r"`([\w.]+_[\w]+\.[a-z]\w+_\w+|[\w.]+\.lvd142m|[\w.]+\.openai)`", "".join(PAGES.values())))
    assert len(named) >= 3
    assert named <= known


def test_every_command_is_told_of_in_the_how_to_pages_or_the_tutorials():
    told = "".join(text for path, text in PAGES.items() if "docs" in path.parts)
    assert [name for name in main.commands if f"fewshot {name}" not in told] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(path):
    made = ("python/", "rest.md", "measured.md", "assets/")  # when the site is built, which checks them
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", PAGES[path]):
        assert (path.parent / target).exists() or any(part in target for part in made if "docs" in path.parts), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_left_to_fill_in(path):
    assert "@@" not in PAGES[path]
    assert "TODO" not in PAGES[path]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
    for path in (ROOT / "fewshot").rglob("*.py")
}
ROOMS = ("classifiers", "datasets", "detection", "domain_adaptation", "encoders", "finetuning", "openset", "registry")


@pytest.mark.parametrize("name", sorted(name for name, text in MODULES.items() if ">>>" in text))
def test_the_examples_of_a_module_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (found.failed, found.attempted > 0) == (0, True)


def public_classes():
    for name in fewshot.__all__:
        value = getattr(fewshot, name)
        if isinstance(value, type) and not issubclass(value, Exception) and value.__module__.split(".")[1] in ROOMS:
            yield value
    yield from (Rejection, Background, Center, LeaveOneOutScores, Threshold, UnknownScore)


@pytest.mark.parametrize("one", [one for one in public_classes() if one is not FewShotClassifier])
def test_every_public_class_has_an_example(one):
    assert ">>> " in one.__doc__
