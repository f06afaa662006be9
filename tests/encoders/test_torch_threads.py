"""A forked child computes, whatever its parent has computed before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import os, sys
import numpy as np, torch
from fewshot import TimmEncoder
encoder = TimmEncoder("pocket")
images = list(np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8))
torch.set_num_threads(2)
before = encoder.encode(images)
(torch.randn(600, 600) @ torch.randn(600, 600)).sum()
child = os.fork()
if child == 0:
    same = np.allclose(encoder.encode(images[:1]), before[:1], atol=1e-5) and np.allclose(
        encoder.encode(images), before, atol=1e-5
    )
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_after_use_computes_what_its_parent_does_and_the_parent_keeps_its_threads():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.split() == ["0", "2"], run.stderr
