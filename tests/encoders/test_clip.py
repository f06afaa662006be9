"""CLIPs of open_clip: its own vectors of images and texts, and one clear line where there is none."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, png
from numpy.testing import assert_allclose
from tiny_clip import clip_folder

from fewshot import ClipEncoder, EncoderNotFound, load_encoder, open_image
from fewshot.errors import MissingExtra

open_clip = pytest.importorskip("open_clip", reason="needs the extra clip")
TEXTS = ["a red tin of beans", "a bolt", "two bolts, and a nut " * 20, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def own(folder):
    """Model, preprocessing and tokenizer as open_clip itself loads them."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_vectors_of_images_and_texts_are_those_of_open_clip(folder, own, batch_size):
    model, preprocess, tokenizer = own
    encoder = ClipEncoder(folder, batch_size=batch_size)
    images = [png(RED), png(BLUE)]
    with torch.inference_mode():
        pixels = torch.stack([preprocess(open_image(image)) for image in images])
        assert_allclose(encoder.encode(images), model.encode_image(pixels), atol=1e-5)
        assert_allclose(encoder.encode_texts(TEXTS), model.encode_text(tokenizer(TEXTS)), atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_one_text_is_no_list_of_letters(folder):
    with pytest.raises(TypeError, match=r"give \['bolt'\]"):
        ClipEncoder(folder).encode_texts("bolt")


def test_what_changes_the_vectors_changes_the_fingerprint_and_nothing_else_does(folder, tmp_path):
    others = [clip_folder(tmp_path / "seed", seed=1), clip_folder(tmp_path / "mean", mean=0.25)]
    assert len({ClipEncoder(place).fingerprint for place in (folder, *others)}) == 3
    again = ClipEncoder(clip_folder(tmp_path / "same"), batch_size=1, device="cpu")
    assert again.fingerprint == ClipEncoder(f"local-dir:{folder}").fingerprint == ClipEncoder(folder).fingerprint


def test_it_is_loaded_by_its_name(folder):
    encoder = load_encoder(f"clip:{folder}", batch_size=3)
    assert isinstance(encoder, ClipEncoder)
    assert (encoder.name, encoder.batch_size, encoder.spec) == (folder, 3, {"name": f"clip:{folder}"})
    with pytest.raises(ValueError, match=r"takes no layer; leave it out"):
        load_encoder(f"clip:{folder}", layer=3)


def test_an_unknown_name_gets_close_matches():
    with pytest.raises(EncoderNotFound, match=r"no CLIP 'ViT-B-32/laion2b': give .*ViT-B-32/laion2b_e16"):
        _ = ClipEncoder("ViT-B-32/laion2b").dim


def test_a_folder_without_weights_is_refused_not_drawn_at_random(folder, tmp_path):
    shutil.copy(f"{folder}/open_clip_config.json", tmp_path)
    with pytest.raises(EncoderNotFound, match=re.escape(f"no CLIP in the folder '{tmp_path}': ")):
        _ = ClipEncoder(str(tmp_path)).dim
    (tmp_path / "open_clip_config.json").write_text(json.dumps({}))
    with pytest.raises(EncoderNotFound, match=r"no CLIP in the folder .* Could not load valid config"):
        _ = ClipEncoder(str(tmp_path)).dim


def test_weights_that_cannot_be_fetched_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("fewshot.encoders.clip.hub_reachable", lambda: False)
    for name in ("ViT-B-32/openai", "hf-hub:nobody/nothing"):
        with pytest.raises(EncoderNotFound, match=rf"^the weights of '{name}' are not in the local cache .*hub"):
            _ = ClipEncoder(name).dim


def _in_cache(monkeypatch, tmp_path, repository):
    """Make a folder of a repository in a cache of the Hub's, which is then the only one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("fewshot.encoders.clip.hub_reachable", lambda: False)
    place = tmp_path / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return place / "snapshots" / ("0" * 40)


def test_what_was_fetched_before_is_there_without_a_network(monkeypatch, tmp_path, folder):
    shutil.copytree(folder, _in_cache(monkeypatch, tmp_path, "tiny/clip"))
    encoder = ClipEncoder("hf-hub:tiny/clip")
    assert encoder.fingerprint == ClipEncoder(folder).fingerprint
    assert encoder.spec == {"name": "clip:hf-hub:tiny/clip"}


def test_cached_weights_of_a_name_are_prepared_for_as_their_tag_says(monkeypatch, tmp_path):
    place = _in_cache(monkeypatch, tmp_path, "timm/ViT-B-16-SigLIP")
    place.mkdir(parents=True)
    (place / "open_clip_model.safetensors").write_bytes(b"weights")
    given = []

    def create(name, **settings):
        given.append((name, settings))
        raise RuntimeError("no weights")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    with pytest.raises(EncoderNotFound, match="no CLIP 'ViT-B-16-SigLIP/webli': no weights"):
        _ = ClipEncoder("ViT-B-16-SigLIP/webli").dim
    ((name, settings),) = given
    assert name == "ViT-B-16-SigLIP"
    assert settings["pretrained"] == str(place / "open_clip_model.safetensors")
    assert (settings["image_mean"], settings["image_resize_mode"]) == ((0.5, 0.5, 0.5), "squash")


def test_without_open_clip_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr("fewshot.validation.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"clip: models need open_clip: pip install 'fewshot\[clip\]'"):
        _ = ClipEncoder(folder).dim


def test_vectors_do_not_change_with_threads(folder):
    encoder, before = ClipEncoder(folder, batch_size=1), torch.get_num_threads()
    alone = encoder.encode([png(RED), png(BLUE)])
    torch.set_num_threads(2)
    try:
        np.testing.assert_allclose(encoder.encode([png(RED), png(BLUE)]), alone, atol=1e-6)
    finally:
        torch.set_num_threads(before)
