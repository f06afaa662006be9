"""The plain install, without extras: every command works in it, or names the extra it needs before any work is done.

``.ci/run`` runs these tests on the wheel alone; anywhere else the extras' libraries are hidden from them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

import fewshot
from fewshot import errors, validation
from fewshot.cli import main
from fewshot.media import heif, open_sound

pytestmark = [pytest.mark.plain, pytest.mark.usefixtures("pocket_stays", "no_extras")]

EXTRAS = {
    "serve": ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client", "cachetools"),
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
    "cvat": ("cvat_sdk",),
    "heic": ("pillow_heif",),
    "text": ("sentence_transformers",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "runtime": ("onnxruntime",),
    "audio": ("soundfile", "soxr", "transformers"),
    "clip": ("open_clip",),
    "cloud": ("s3fs",),  # torch needs fsspec itself
    "watch": ("watchfiles",),
}


HIDDEN = frozenset(library for libraries in EXTRAS.values() for library in libraries)


class Without(MetaPathFinder):
    """Finds what another finder does, but for the libraries of the extras."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)  # such as find_distributions, of importlib.metadata

    def find_spec(self, name, path, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)


@pytest.fixture
def no_extras(monkeypatch):
    """As if no extra were installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] in HIDDEN:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(finder) for finder in sys.meta_path])
    for asked in (validation, heif):
        monkeypatch.setattr(asked, "find_spec", lambda name: None if name in HIDDEN else find_spec(name))


def call(*arguments, status=0):
    """Run a command; what it prints as JSON, or None, and what it says to people."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return json.loads(result.stdout) if result.stdout else None, result.stderr


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of six scans of each of four digits."""
    folder = tmp_path_factory.mktemp("scans")
    pixels, digits = load_digits(return_X_y=True)
    for digit in range(4):
        (folder / str(digit)).mkdir()
        for n, scan in enumerate(pixels[digits == digit][:6]):
            Image.fromarray((255 - scan.reshape(8, 8) * (255 / 16)).astype(np.uint8)).save(folder / f"{digit}/{n}.png")
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A feature file of all scans, pixel by pixel."""
    path = tmp_path_factory.mktemp("vectors") / "digits.npz"
    pixels, digits = load_digits(return_X_y=True)
    np.savez(path, vectors=pixels, labels=digits.astype(str))
    return path


@pytest.fixture(scope="module")
def made(scans, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "r.fewshot"
    assert call("add", path, "--from-folder", scans)[0]["added"] == 24
    return path


@pytest.fixture
def registry(made, tmp_path):
    return shutil.copy(made, tmp_path / "r.fewshot")


def test_every_public_name_can_be_loaded():
    for name in fewshot.__all__:
        assert getattr(fewshot, name).__name__ == name


def test_every_command_shows_its_help_with_an_example():
    for name in main.commands:
        assert f"Example: fewshot {name}" in CliRunner().invoke(main, [name, "--help"]).stdout


def test_the_list_of_commands_says_in_a_whole_sentence_what_each_does():
    listed = CliRunner().invoke(main, ["--help"]).stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(main.commands)
    assert [line for line in listed if line.endswith("...") or not line.endswith(".")] == []


def test_the_demo_beats_raw_pixels_and_draws_a_sheet(tmp_path):
    report, _ = call("demo", "--picture", tmp_path / "demo.png")
    assert (report["classes"], report["shots"], report["images"]) == (10, 5, 1747)
    assert report["accuracy"] > report["baseline_accuracy"] > 0.7
    sheet = Image.open(tmp_path / "demo.png")
    assert sheet.size == (960, 708)
    assert len(sheet.convert("RGB").getcolors(100_000)) > 20


def test_classes_are_added_predicted_evaluated_exported_and_imported(registry, scans, tmp_path):
    assert call("add", registry, "four", scans / "0" / "5.png", "--allow-conflict")[0]["classes"] == 5
    assert call("remove", registry, "four")[0]["classes"] == 4
    rows, _ = call("predict", registry, scans / "2" / "0.png", scans / "3")
    assert [row["label"] for row in rows] == ["2", *6 * ["3"]]
    assert call("evaluate", registry, scans)[0]["accuracy"] == 1.0
    call("export", registry, tmp_path / "r.npz")
    assert call("import", tmp_path / "copy.fewshot", tmp_path / "r.npz")[0]["added"] == 24


def test_a_benchmark_writes_its_tables_and_says_what_the_plots_need(vectors, tmp_path):
    protocol = ("--methods", "prototype,ridge", "--queries", 3, "--episodes", 10, "--shots", 1)
    report, notes = call("bench", vectors, *protocol, "--out", tmp_path / "out")
    assert report["rows"] == 2
    assert (tmp_path / "out" / "results.md").stat().st_size
    assert "pip install 'fewshot[plot]'" in notes


def test_probabilities_are_calibrated(vectors, tmp_path):
    report, _ = call("calibrate", vectors, "--queries", 3, "--episodes", 5, "--out", tmp_path / "table.json")
    assert len(report["rows"]) == 2
    assert (tmp_path / "table.json").stat().st_size


def test_an_encoder_is_trained_for_an_epoch_and_says_what_the_curves_need(scans, tmp_path):
    recipe = "--arch conv4 --size 16 --epochs 1 --ways 2 --queries 2 --batch-size 12 --hold-out 0.5 --augment none"
    report, notes = call("train", scans, "--out", tmp_path / "out", *recipe.split(), "--device", "cpu")
    assert (report["epochs"], report["computed"]) == (1, True)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size
    assert "pip install 'fewshot[plot]'" in notes


def test_a_registrys_encoder_is_tuned_for_a_step(registry):
    report, _ = call("tune", registry, "--trainable", "last", "--steps", 1, "--learning-rate", 0.001, "--views", 1)
    assert report["examples"] == 24


@pytest.mark.parametrize(
    ("extra", "library", "command"),
    [
        ("serve", "fastapi", "serve new.fewshot --port 0"),
        ("parquet", "pyarrow", "export none.fewshot new.parquet"),
        ("parquet", "pyarrow", "import new.fewshot none.parquet"),
        ("parquet", "pyarrow", "bench none.parquet --out out"),
        ("clip", "open_clip", "describe new.fewshot beans --encoder clip:ViT-B-32/openai"),
        ("plot", "matplotlib", "calibrate none.npz --out new.json --picture new.png"),
        ("text", "sentence_transformers", "add new.fewshot a --text b --encoder st:all-MiniLM-L6-v2"),
        ("onnx", "onnx", "export none.fewshot new.zip --onnx"),
        ("audio", "transformers", "add new.fewshot a b.wav --encoder audio:laion/clap-htsat-unfused"),
        ("cloud", "s3fs", "add new.fewshot a s3://bucket/a.jpg"),
        ("cloud", "s3fs", "add new.fewshot --from-folder s3://bucket/photos"),
        ("cloud", "s3fs", "predict none.fewshot s3://bucket/a.jpg"),
        ("cloud", "s3fs", "evaluate none.fewshot s3://bucket/photos"),
        ("cloud", "s3fs", "bench s3://bucket/photos --out out"),
        ("cloud", "s3fs", "train s3://bucket/photos --out out"),
    ],
)
def test_a_missing_extra_is_one_line_before_any_work(extra, library, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer, error = call(*command.split(), status=1)
    assert answer is None
    (line,) = error.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(f"{library}: pip install 'fewshot[{extra}]'")
    assert list(tmp_path.iterdir()) == []


def test_cvat_asks_for_its_sdk_before_it_opens_a_registry(tmp_path):
    from fewshot.integrations.cvat import create

    with pytest.raises(errors.MissingExtra, match=r"pip install 'fewshot\[cvat\]'"):
        create(tmp_path / "none.fewshot")


def test_a_heic_image_fails_with_the_extra_it_needs(registry, tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiafMiHBheic" + b"\0" * 4000)
    report, _ = call("add", registry, "0", tmp_path / "a.heic", status=1)
    assert report["failed"][0]["reason"].endswith("needs pillow_heif: pip install 'fewshot[heic]'")


def test_a_flac_file_fails_with_the_extra_it_needs_and_a_plain_wav_is_read():
    with pytest.raises(
        errors.MissingExtra, match=r"is a FLAC file, which needs soundfile: pip install 'fewshot\[audio\]'"
    ):
        open_sound(b"fLaC" + b"\0" * 100)
    sound = open_sound((np.sin(np.arange(8000.0)), 16_000))
    assert len(sound.samples()) == 8000
    with pytest.raises(
        errors.MissingExtra, match=r"the encoder reads 8,000.* needs soxr: pip install 'fewshot\[audio\]'"
    ):
        sound.samples(8000)


@pytest.mark.parametrize("name", ["st:none", "audio:none"])
def test_an_encoder_of_texts_or_sounds_names_the_extra_it_needs(name, tmp_path):
    _, error = call("add", tmp_path / "new.fewshot", "x", "--text", "a", "--encoder", name, status=1)
    assert "pip install 'fewshot[" in error
    assert list(tmp_path.iterdir()) == []


def test_every_extra_of_the_project_is_named_here():
    declared = (
        (Path(__file__).parents[1] / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    )
    assert set(re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], re.MULTILINE)) - {"dev", "docs"} == set(EXTRAS)


def test_an_extra_that_is_there_is_not_asked_for():
    validation.check_extra("nothing", "these need", "numpy", "click")
