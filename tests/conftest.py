"""Where the real data lies, and small pictures."""

from __future__ import annotations

import os
from pathlib import Path

# On the tests' small tensors, threads of one operator only wait for each other, the longer the busier the cores are.
# Before torch, scikit-learn and faiss start theirs. What spreads its work itself is given two where it is tested.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWSHOT_SHARED", ROOT.parent / "shared"))


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


@pytest.fixture
def project(tmp_path) -> Path:
    """The file of an empty registry, as annotations find one."""
    from fewshot import ClassRegistry

    place = tmp_path / "project.fewshot"
    ClassRegistry(place).close()
    return place


@pytest.fixture
def lessons(project):
    """What annotations teach that registry."""
    from fewshot.lessons import Lessons

    with Lessons(project) as opened:
        yield opened
