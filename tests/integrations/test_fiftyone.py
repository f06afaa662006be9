"""A registry is a model of FiftyOne: with its own classes where it is installed, else with the least of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_array_equal

from fewshot import ClassRegistry
from fewshot.errors import MissingExtra

NAME = "fewshot.integrations.fiftyone"


def fake_modules() -> dict[str, types.ModuleType]:
    """What the model needs of FiftyOne, without its behaviour."""
    modules = {name: types.ModuleType(name) for name in ("fiftyone", "fiftyone.core")}
    modules["fiftyone.core.labels"] = labels = types.ModuleType("fiftyone.core.labels")
    modules["fiftyone.core.models"] = models = types.ModuleType("fiftyone.core.models")
    labels.Classification = labels.Classifications = types.SimpleNamespace
    models.Model, models.EmbeddingsMixin = type("Model", (), {}), type("EmbeddingsMixin", (), {})
    return modules


@pytest.fixture(params=["fake", "real"])
def model_of(request, monkeypatch):
    """The class ``Model``, beside a fake FiftyOne and beside the real one."""
    if request.param == "real":
        pytest.importorskip("fiftyone", reason="pip install fiftyone")
    else:
        for name, module in fake_modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME).Model
    sys.modules.pop(NAME, None)


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as opened:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            opened.add(label, [png(colour), png(colour, 5)])
        yield opened


def image(colour, size=4):
    return np.full((size, size, 3), colour, np.uint8)


def test_an_image_gets_its_class_with_the_probability_as_confidence(model_of, registry):
    found = model_of(registry).predict(image(BLUE))
    assert (found.label, found.confidence) == ("blue", registry.predict(image(BLUE))[0].probability)


@pytest.mark.parametrize(
    "images", [[image(RED), image(BLUE, 7)], np.stack([image(RED), image(BLUE)])], ids=["sizes", "array"]
)
def test_images_of_a_batch_are_answered_in_their_order(model_of, registry, images):
    model = model_of(registry)
    assert [found.label for found in model.predict_all(images)] == ["red", "blue"]
    assert_array_equal(model.get_embeddings(), [[1, 0, 0], [0, 0, 1]])


def test_an_image_that_is_rejected_gets_no_label(model_of, registry):
    registry.rejection.set(0.05, background=np.random.default_rng(0).random((60, 3)).astype(np.float32))
    orange = image((204, 102, 0))
    assert model_of(registry).predict(orange) is None
    known = model_of(registry).predict(image(RED))
    assert known.label == "red"
    assert known.unknown_score == registry.predict(image(RED))[0].unknown_score
    assert model_of(registry, max_false_accept=1).predict(orange).label == "red"


def test_embeddings_are_those_of_the_registrys_encoder(model_of, registry):
    model = model_of(registry)
    with pytest.raises(ValueError, match="no image was given yet"):
        model.get_embeddings()
    assert_array_equal(model.embed(image(GREEN)), [0, 1, 0])
    assert_array_equal(model.embed_all([image(GREEN), image(RED)]), [[0, 1, 0], [1, 0, 0]])
    assert (model.media_type, model.has_embeddings, model.ragged_batches) == ("image", True, False)


def test_a_class_that_is_registered_later_is_known_at_the_next_image(model_of, registry):
    model = model_of(registry)
    model.predict(image(RED))
    registry.add("cyan", [png((0, 255, 255))])
    assert model.predict(image((0, 255, 255))).label == "cyan"


def test_a_registry_is_opened_by_its_path_and_one_of_texts_is_refused(model_of, registry, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda *_, **__: FakeEncoder(name="pocket"))
    with ClassRegistry(tmp_path / "named.fewshot", encoder=FakeEncoder(name="pocket")) as named:
        named.add("red", [png(RED)])
    assert model_of(tmp_path / "named.fewshot").predict(image(RED)).label == "red"
    texts = types.SimpleNamespace(dim=1, fingerprint="t", modality="text", encode=lambda given: np.ones((1, 1)))
    with ClassRegistry(tmp_path / "texts.fewshot", encoder=texts) as opened:
        with pytest.raises(ValueError, match=r"texts\.fewshot holds texts, and FiftyOne gives images"):
            model_of(opened)


def test_without_fiftyone_its_one_line_names_the_package(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    for name in ("fiftyone", "fiftyone.core.labels"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"^FiftyOne is needed: pip install fiftyone \("):
        importlib.import_module(NAME)


@pytest.fixture
def samples(tmp_path):
    """Samples of FiftyOne without a dataset, which would need its database: what its loops ask of a collection."""
    fiftyone = pytest.importorskip("fiftyone", reason="pip install fiftyone")

    class Samples(list):
        media_type = "image"

        def select_fields(self, *_):
            return self

    found = Samples()
    for name, colour in (("b", BLUE), ("r", RED), ("o", (204, 102, 0))):
        (tmp_path / f"{name}.png").write_bytes(png(colour, 8))
        found.append(fiftyone.Sample(filepath=str(tmp_path / f"{name}.png")))
    return found


@pytest.mark.parametrize("batch_size", [None, 2])
def test_fiftyones_own_loops_label_and_embed_samples(samples, registry, monkeypatch, batch_size):
    from contextlib import nullcontext

    import fiftyone.core.models as models

    from fewshot.integrations.fiftyone import Model

    # Private: apply_model itself takes nothing but a dataset's collection, and saves to its database.
    monkeypatch.setattr(models.foc, "SaveContext", lambda _: nullcontext(types.SimpleNamespace(save=lambda _: None)))
    registry.rejection.set(0.05, background=np.random.default_rng(0).random((60, 3)).astype(np.float32))
    model = Model(registry)
    assert isinstance(model, models.Model)
    if batch_size is None:
        models._apply_image_model_single(samples, model, "part", None, None, False, None, False)
        vectors = models._compute_image_embeddings_single(samples, model, None, False, False)
    else:
        assert models._parse_batch_size(batch_size, model, False) == batch_size
        models._apply_image_model_batch(samples, model, "part", 0.1, {"red", "blue"}, batch_size, False, None, False)
        vectors = models._compute_image_embeddings_batch(samples, model, None, batch_size, False, False)
    assert [one["part"].label if one.has_field("part") else None for one in samples] == ["blue", "red", None]
    assert_array_equal(np.round(vectors, 1), np.array([[0, 0, 1], [1, 0, 0], [0.8, 0.4, 0]], np.float32))


def test_an_image_of_several_classes_gets_all_of_them(model_of, tmp_path):
    with ClassRegistry(tmp_path / "m.fewshot", encoder=FakeEncoder(), multi_label=True) as registry:
        both = [png((250, 250, blue)) for blue in (0, 10, 20)]
        registry.add("red", [*both, *(png((250, 0, blue)) for blue in (0, 10, 20))])
        registry.add("green", [*both, *(png((0, 250, blue)) for blue in (0, 10, 20))])
        (answer,) = registry.predict([png((250, 250, 5))])
        found = model_of(registry).predict(image((250, 250, 5)))
        assert [(one.label, one.confidence) for one in found.classifications] == list(answer.labels)
        assert {one.label for one in found.classifications} == {"red", "green"}
