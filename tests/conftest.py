"""Where the real data lies, and small pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# On the tests' small tensors, threads of one operator only wait for each other, the longer the busier the cores are.
# Before torch, scikit-learn and faiss start theirs. What spreads its work itself is given two where it is tested: these
# sleep while they wait, as else they take the cores that they wait for.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWSHOT_SHARED", ROOT.parent / "shared"))
os.environ["FEWSHOT_DATA"] = str(SHARED / "data")  # where named data sets are looked for

# A registry's every commit waits for the disk, and the tests make thousands: their files lie in memory, where there is
# some and programs may be started from it, unless TMPDIR says where.
MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK | os.X_OK):
    volume = os.statvfs(MEMORY)
    if volume.f_bavail * volume.f_frsize >= 2**30 and not volume.f_flag & os.ST_NOEXEC:
        tempfile.tempdir = os.environ["TMPDIR"] = MEMORY


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the options
def pytest_cmdline_main(config) -> None:
    """Spread a run of all tests over the cores, four at most; with ``-n 0``, ``--pdb`` or a path it is one process.

    Here and not in ``addopts``, so that pytest runs without pytest-xdist too, and one file without starting workers.
    """
    option = config.option
    if getattr(option, "numprocesses", 0) is not None or hasattr(config, "workerinput"):
        return  # no pytest-xdist, a number that was asked for, or one of its workers
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if everything and cores > 1 and not option.usepdb:
        option.numprocesses, option.dist = min(cores, 4), "worksteal"  # neighbours stay together, with their fixtures


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "weights").is_dir() or not (SHARED / "data").is_dir():
        pytest.skip("no real data: neither $FEWSHOT_SHARED nor ../shared holds data/ and weights/")
    return SHARED


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Two classes of real photographs: windows of the two that scikit-learn ships, 5 to learn from and 6 to test."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for part, count in (("photos", 5), ("new-photos", 6)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                top, left = rng.integers(0, photo.shape[0] - 250), rng.integers(0, photo.shape[1] - 250)
                Image.fromarray(photo[top : top + 250, left : left + 250]).save(folder / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def pocket_stays() -> Iterator[None]:
    """Load the bundled network once for all modules that ask for this."""
    from shared_pocket import shared_pocket

    with shared_pocket():
        yield


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory) -> Iterator[list[str]]:
    """The words before ``-m`` or ``-c`` that start a Python with its libraries loaded; elsewhere than on Linux, any."""
    if sys.platform != "linux":
        yield [sys.executable]
        return
    script = str(ROOT / "tests" / "warm_python.py")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    place = tmp_path_factory.mktemp("warm") / "socket"
    command = [sys.executable, script, str(place)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, **streams) as server:
        assert server.stdout.readline() == b"ready\n"
        yield [sys.executable, "-S", script, str(place)]


@pytest.fixture
def project(tmp_path) -> Path:
    """The file of an empty registry, as annotations find one."""
    from fewshot import ClassRegistry

    place = tmp_path / "project.fewshot"
    ClassRegistry(place).close()
    return place


@pytest.fixture
def writer(project):
    """The writer of annotations to that registry."""
    from fewshot.registry import AnnotationWriter

    with AnnotationWriter(project) as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's store in memory, memory://..., empty."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
