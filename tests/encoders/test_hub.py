"""Weights come from the Hub or its cache; loading them changes nothing of the process and runs no foreign program."""

from __future__ import annotations

import json
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import timm
import torch
from numpy.testing import assert_array_equal
from torch import nn

from fewshot import EncoderNotFound, load_encoder
from fewshot.encoders import hub, timm_network

SMALL = "test_resnet.r160_in1k"


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "hf-hub:someone/something"])
def test_a_hub_that_cannot_be_reached_is_one_clear_line(name, monkeypatch, tmp_path, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderNotFound) as caught:
        load_encoder(name)
    message = str(caught.value)
    assert "the hub cannot be reached from here" in message
    assert "local-dir:PATH" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A Hub that cannot be reached, and a network in its local cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    folder = repository / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    torch.manual_seed(0)
    return timm.create_model(SMALL), folder


@pytest.mark.parametrize("name", [SMALL, "hf-hub:timm/" + SMALL])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_weights_in_the_local_cache_are_found_without_the_hub(name, kind, cached):
    network, folder = cached
    timm.models.save_for_hf(network, folder, safe_serialization=kind == "safetensors")
    encoder = load_encoder(name, precision="float32")
    found = encoder.exact_network()
    assert "state_dict" not in found.pretrained_cfg
    for key, weight in found.state_dict().items():
        assert_array_equal(weight, network.state_dict()[key])


def test_a_program_in_a_hubs_pickle_is_not_run(cached, tmp_path):
    class Program:
        def __reduce__(self):
            return (tmp_path / "ran").write_text, ("it",)

    torch.save({"weight": Program()}, cached[1] / "pytorch_model.bin")
    with pytest.raises(EncoderNotFound, match=r"'test_resnet.r160_in1k' .*could not be fetched: Weights only"):
        load_encoder(SMALL)
    assert not (tmp_path / "ran").exists()


def test_loading_without_a_hub_changes_nothing_of_the_process(cached, monkeypatch):
    from huggingface_hub import constants

    timm.models.save_for_hf(cached[0], cached[1], safe_serialization=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    both, first_left = threading.Barrier(2), threading.Event()
    create, seen = timm.create_model, []

    def overlapping(*names, **settings):
        number = both.wait(60)
        seen.append((constants.HF_HUB_OFFLINE, dict(os.environ)))
        if number == 1:
            first_left.wait(60)
        return create(*names, **settings)

    monkeypatch.setattr(timm, "create_model", overlapping)
    before = (False, dict(os.environ))
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(timm_network.load_network, SMALL, pretrained=True) for _ in range(2)]
        wait(loads, return_when="FIRST_COMPLETED")
        first_left.set()
        assert [isinstance(load.result(), nn.Module) for load in loads] == [True, True]
    assert [*seen, (constants.HF_HUB_OFFLINE, dict(os.environ))] == [before] * 3


def test_an_unreachable_hub_is_noticed_without_waiting(monkeypatch):
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    assert hub.hub_reachable() is False


@pytest.mark.parametrize("name", ["timm/" + SMALL, "hf_hub:timm/" + SMALL])
def test_names_as_they_stand_on_model_pages_are_those_of_the_hub(name, cached):
    network, folder = cached
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    assert load_encoder(name).fingerprint == load_encoder("hf-hub:timm/" + SMALL).fingerprint


def refusal(name):
    with pytest.raises(EncoderNotFound) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", r"owner/net is gated: ask for access on https://huggingface.co/owner/net, then log in"),
        ("RepositoryNotFoundError", r"there is no owner/net on the Hub, or it is private: look at https://"),
        ("RevisionNotFoundError", r"owner/net has no revision 'v2': look at https://"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(kind, message, monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        error = getattr(huggingface_hub.errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert message in refusal("hf-hub:owner/net@v2")


def test_a_repository_of_transformers_is_called_one(cached):
    _, folder = cached
    (folder / "config.json").write_text(json.dumps({"architectures": ["Dinov2Model"], "model_type": "dinov2"}))
    (folder / "model.safetensors").write_bytes(b"")
    for name in ("hf-hub:timm/" + SMALL, f"local-dir:{folder}"):
        message = refusal(name)
        assert (
            "it is a model of the transformers library (Dinov2Model): its config.json names no timm architecture"
            in (message)
        )
        assert "Connect once" not in message


def vit(folder, input_size=224, **settings):
    from safetensors.torch import save_file

    folder.mkdir()
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2, **settings)
    save_file(network.state_dict(), str(folder / "model.safetensors"))
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0, "input_size": [3, input_size, input_size]}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {"depth": 2}}))
    return f"local-dir:{folder}"


def test_weights_with_other_keys_are_told_from_what_the_config_says(tmp_path):
    message = refusal(vit(tmp_path / "w", init_values=1e-5))
    assert (
        "do not fit its config.json, which says vit_tiny_patch16_224: of its 30 tensors, model.safetensors has"
        in message
    )
    assert "has besides 4 (blocks.0.ls1.gamma, ...)" in message


def test_weights_for_another_size_are_told_from_the_networks(tmp_path):
    message = refusal(vit(tmp_path / "w", input_size=448, img_size=448))
    assert "says images of 448 x 448 pixels, but the network it names takes 224 x 224" in message
    assert "pos_embed: (1, 785, 192), not (1, 197, 192)" in message
    assert 'put "model_args": {"img_size": 448} into config.json' in message


def test_a_hub_name_without_its_prefix_is_told_of_it():
    assert "given as hf-hub:facebook/dinov2-small" in refusal("facebook/dinov2-small")


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_quickgelu_224.openai"),
        ("hf-hub:timm/vit_large_patch14_clip_224.openai", "vit_large_patch14_clip_quickgelu_224.openai"),
        ("vit_base_patch16_clip_224.laion2b", None),
        ("vit_base_patch16_clip_quickgelu_224.openai", None),
    ],
)
def test_clip_weights_of_the_other_activation_are_warned_of(name, twin):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        timm_network.warn_of_activation(name)
    assert [str(warning.message) for warning in seen] == (
        [f"{name} computes with GELU, but its weights were trained with QuickGELU: take {twin}"] if twin else []
    )
