"""Data of a benchmark: a registry is read as its embeddings, and long work is announced."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeEncoder, png
from numpy.testing import assert_array_equal

import fewshot.benchmark.inputs
from fewshot import ClassRegistry, EmbeddingCache
from fewshot.benchmark.inputs import Inputs, NamedEncoder, embed_source, open_base, open_source
from fewshot.datasets import Dataset


@pytest.fixture
def registry(tmp_path):
    path = str(tmp_path / "colours.fewshot")
    with ClassRegistry(path, encoder=FakeEncoder()) as opened:
        for label, colours in {"red": (200, 220), "dark": (10, 30, 40)}.items():
            opened.add(label, [png((c, c // 4, 0)) for c in colours])
        opened.export(tmp_path / "colours.npz")
    return path


def test_a_registry_is_read_as_its_export(registry, tmp_path):
    source, exported = open_source(registry, split="test"), open_source(str(tmp_path / "colours.npz"), split="test")
    assert (source.labels, source.needs_encoder) == (exported.labels, False)
    assert sorted(source.labels) == ["dark"] * 3 + ["red"] * 2
    own, other = embed_source(source, None), embed_source(exported, None)
    assert_array_equal(own.vectors, other.vectors)
    assert own.fingerprint == other.fingerprint == FakeEncoder().fingerprint
    assert open_base(registry).labels == source.labels


def test_a_registry_without_examples_is_refused_with_the_command_that_adds_some(tmp_path):
    ClassRegistry(tmp_path / "empty.fewshot").close()
    with pytest.raises(ValueError, match="holds no examples yet; add some with: fewshot add"):
        open_source(str(tmp_path / "empty.fewshot"), split="test")


def test_a_base_of_another_encoder_is_refused_before_an_image_is_embedded(registry, tmp_path, monkeypatch):
    class Unused(FakeEncoder):
        def encode(self, images):
            raise AssertionError("an image was embedded")

    monkeypatch.setattr(fewshot.benchmark.inputs, "load_encoder", lambda *_, **__: Unused(times=2.0))
    for n in range(2):
        (tmp_path / "images" / str(n)).mkdir(parents=True)
        (tmp_path / "images" / str(n) / "a.png").write_bytes(png((n, n, n)))
    given = {"encoders": ["fake"], "base": registry, "split": "test", "device": "cpu"}
    inputs = Inputs.open([str(tmp_path / "images")], **given)
    with pytest.raises(ValueError, match="give a base by the same encoder"):
        next(inputs.embed(cache=str(tmp_path / "cache"), with_base=True))


@pytest.mark.parametrize(("seconds_each", "said"), [(0.05, []), (0.5, ["embedding 1,000 images of many: about 8 min"])])
def test_embedding_that_takes_minutes_is_announced_before_it_begins(seconds_each, said, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(fewshot.benchmark.inputs.time, "perf_counter", lambda: clock[0])

    class Slow(FakeEncoder):
        def encode(self, images):
            assert notes or len(images) < 100
            clock[0] += seconds_each * len(images)
            return super().encode(images)

    notes = [] if said else ["nothing to say"]
    images = tuple(png((n % 250, n // 250, 7)) for n in range(1000))
    dataset = Dataset("many", images, ("a",) * 1000)
    source = fewshot.benchmark.inputs.Source("many", dataset.labels, None, dataset)
    features = embed_source(source, NamedEncoder("slow", EmbeddingCache(Slow(), tmp_path / "cache")), notes.append)
    assert [note.partition(";")[0] for note in notes if note != "nothing to say"] == said
    assert_array_equal(features.vectors, FakeEncoder().encode(images))
    assert np.isclose(clock[0], seconds_each * 1000)  # no image was embedded twice
