"""Ctrl-C: exit status 130, and one line that says what is left of the work."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fewshot import ClassRegistry
from fewshot.cli import main
from fewshot.errors import AddInterrupted

pytestmark = pytest.mark.usefixtures("pocket_stays")
N = 3000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of twelve classes with many small images, no two alike."""
    folder = tmp_path_factory.mktemp("many")
    for n, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), np.uint8)):
        path = folder / f"class{n % 12}" / f"{n}.bmp"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def interrupted(warm_python, command, started):
    """Run a command, and send it SIGINT once ``started()`` is true; returns its exit status and standard error."""
    line = [*warm_python, "-m", "fewshot", *map(str, command)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not started():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate()
    assert printed == ""
    return process.returncode, told


def count(path):
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM examples").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


def test_add_says_how_many_images_are_registered_and_the_same_command_adds_the_rest(many, tmp_path, warm_python):
    path = tmp_path / "r.fewshot"
    status, told = interrupted(warm_python, ["add", path, "--from-folder", many], lambda: count(path) >= 64)
    done = count(path)
    assert status == 130
    assert 64 <= done < N
    assert told.splitlines()[-1] == (
        f"Interrupted: {done:,} of {N:,} images registered; run the same command again to add the rest"
    )
    assert len(told.splitlines()) == 2  # the classes before it


def test_the_report_of_an_interrupted_add_is_that_of_the_chunks_before(tmp_path):
    def images():
        for n in range(100):
            if n == 90:
                raise KeyboardInterrupt
            yield np.full((4, 4), n, np.uint8)

    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        registry.add("grey", [np.full((4, 4), 7, np.uint8)])
        with pytest.raises(AddInterrupted) as caught:
            registry.add("grey", images())
        assert (caught.value.report.added, caught.value.report.duplicates) == (63, 1)
        assert registry.info().examples == 64


def test_bench_says_where_its_results_are(many, tmp_path, warm_python):
    options = "--encoder pocket --methods prototype --queries 5 --episodes 100000".split()
    started = (tmp_path / "out" / "vectors.sqlite").exists
    status, told = interrupted(warm_python, ["bench", many, "--out", tmp_path / "out", *options], started)
    assert status == 130
    assert told.splitlines()[-1] == (
        f"Interrupted: what is finished is in {tmp_path / 'out'}; run the same command again to compute the rest"
    )


@pytest.mark.parametrize(
    ("command", "left"),
    [
        (
            "train many --arch conv4 --size 16 --ways 2",
            "the same command resumes from the last checkpoint in out.training",
        ),
        (
            "calibrate many --encoder pocket",
            "no table was written; the embeddings so far are in out.vectors, for the same command",
        ),
        ("backup r.fewshot", "nothing was changed"),
    ],
)
def test_what_is_left_is_said_of_each_command(command, left, many, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    ClassRegistry("r.fewshot").close()
    name, *words = command.replace("many", str(many)).split()
    monkeypatch.setattr("fewshot.training.loop.Training.run", interrupt)
    monkeypatch.setattr("fewshot.benchmark.calibrate.embed_source", interrupt)
    monkeypatch.setattr(ClassRegistry, "backup", interrupt)
    result = CliRunner().invoke(main, [name, *words, *(["copy"] if name == "backup" else ["--out", "out"])])
    assert result.exit_code == 130, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"Interrupted: {left}"
