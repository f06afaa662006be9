"""The speaker encoder: resemblyzer's own vectors, without its dependencies."""

from __future__ import annotations

import sys
import types
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny_transformers import RATE, chirp

from fewshot import VoiceEncoder
from fewshot.encoders import voice
from fewshot.errors import MissingExtra

pytest.importorskip("transformers", reason="needs the extra audio")
pytest.importorskip("soxr", reason="needs the extra audio")
needs_weights = pytest.mark.skipif(find_spec("resemblyzer") is None, reason="needs pip install --no-deps resemblyzer")


def _noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@needs_weights
@pytest.mark.parametrize("seconds", [0.4, 1.6, 2.9, 7.0, 8.2])
def test_vectors_are_those_of_resemblyzer(seconds, monkeypatch):
    pytest.importorskip("librosa", reason="needs librosa, which resemblyzer computes with")
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))  # cuts silences out; not used here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import resemblyzer

        own = resemblyzer.VoiceEncoder("cpu", verbose=False).embed_utterance(_noise(seconds))
    assert_allclose(VoiceEncoder().encode([(_noise(seconds), RATE)])[0], own, atol=1e-5)


@needs_weights
def test_a_quiet_sound_is_amplified_and_embeds_as_the_loud_one():
    quiet, loud = VoiceEncoder().encode([(_noise(2.0) * scale, RATE) for scale in (1e-3, 0.05)])
    assert_allclose(quiet, loud, atol=1e-4)
    assert np.linalg.norm(quiet) == pytest.approx(1.0, abs=1e-5)


@needs_weights
def test_a_sound_longer_than_a_stretch_is_the_mean_of_all_its_windows(monkeypatch):
    samples = _noise(12.0)
    whole = VoiceEncoder().encode([(samples, RATE)])[0]
    monkeypatch.setattr(voice, "_STRETCH_SECONDS", 7.7)  # ten windows apart: only those over the border are missing
    assert VoiceEncoder().encode([(samples, RATE)])[0] @ whole > 0.99
    monkeypatch.setattr(voice, "_STRETCH_SECONDS", 11.9)  # what is left is too short for a window
    assert VoiceEncoder().encode([(samples, RATE)])[0] @ whole > 0.99


def test_without_the_weights_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(voice, "find_spec", lambda _: None)
    voice._network.cache_clear()
    with pytest.raises(MissingExtra, match="pip install --no-deps resemblyzer"):
        VoiceEncoder().encode([chirp()])
