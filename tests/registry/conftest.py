"""What tests of a registry's parts share."""

from __future__ import annotations

from contextlib import closing

import pytest

from fewshot.registry.store import RegistryStore


@pytest.fixture
def store(tmp_path, request):
    """A registry's empty file, for vectors of as many numbers as the test's module has in ``D``."""
    with closing(RegistryStore(tmp_path / "r.fewshot", create=True)) as made:
        with made.write():
            made.set_meta(metric="cosine", keep_images=0, dim=request.module.D, fingerprint="f", encoder="{}")
        yield made
