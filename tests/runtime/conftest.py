"""A registry of four digits with a limit on false accepts, and the bundle of it."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
from digit_scans import scan

from fewshot import ClassRegistry, TimmEncoder

pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")


@pytest.fixture(scope="session")
def float32():
    return TimmEncoder("pocket", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def queries():
    """Of known digits and of two others."""
    return [scan(digit, n) for digit in range(6) for n in range(20, 26)]


@pytest.fixture(scope="session")
def exported(float32, tmp_path_factory):
    """The paths of a registry and of its bundle."""
    from fewshot.runtime import export_bundle

    folder = tmp_path_factory.mktemp("exported")
    with ClassRegistry(folder / "digits.fewshot", encoder=float32) as registry:
        for digit in range(4):
            registry.add(f"digit {digit}", [scan(digit, n) for n in range(5)])
        registry.rejection.set(max_false_accept=0.25)
        export_bundle(registry, folder / "digits.zip")
    return SimpleNamespace(registry=folder / "digits.fewshot", bundle=folder / "digits.zip")


@pytest.fixture(scope="session")
def with_head():
    """Write the bundle of a registry of the same encoder, without exporting that again, which takes seconds."""
    from fewshot.encoders import export_encoder
    from fewshot.runtime import export_bundle

    once = cache(lambda fingerprint: export_encoder(TimmEncoder("pocket")))

    def write(registry, path, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fewshot.encoders.export_encoder", lambda encoder, opset: once(encoder.fingerprint))
            return export_bundle(registry, path, **options)

    return write
