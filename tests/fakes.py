"""An encoder whose numbers can be checked by eye, and pictures to give it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fewshot import ClassRegistry
from fewshot.media import open_image

ROOT = Path(__file__).resolve().parents[1]

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


class FakeEncoder:
    """The mean colour of a picture, red, green and blue in [0, 1] times ``times``, then ``more`` ones.

    A red picture is (1, 0, 0); one of colour (204, 102, 0) is (0.8, 0.4, 0).
    """

    def __init__(self, *, times: float = 1.0, more: int = 0, name: str | None = None) -> None:
        self.times, self.more = times, more
        self.dim = 3 + more
        self.fingerprint = f"mean colour times {times}, {more} more"
        if name is not None:
            self.spec = {"name": name}
        self.encoded = 0  # pictures so far

    def encode(self, images):
        images = list(images)
        self.encoded += len(images)
        vectors = np.ones((len(images), self.dim), np.float32)
        for vector, image in zip(vectors, images, strict=True):
            vector[:3] = np.asarray(open_image(image), np.float32).mean(axis=(0, 1)) / 255 * self.times
        return vectors


def png(colour=RED, size=4) -> bytes:
    """A picture of one colour as a file's bytes; another size is another file of the same embedding."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), tuple(colour)).save(out, format="PNG")
    return out.getvalue()


def classes(path) -> dict[str, int]:
    """The classes that a registry's file holds, with their numbers of examples."""
    with ClassRegistry(path, create=False) as registry:
        return registry.classes()


def run_python(
    code: str, *arguments: object, python: Sequence[str] = (sys.executable,)
) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter, a fresh one unless one is given, that finds these fakes and ``benchmarks/``."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")])
    return subprocess.run(
        [*python, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
