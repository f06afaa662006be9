"""Weights come from the Hub or its cache; loading them changes nothing of the process and runs no foreign program."""

from __future__ import annotations

import os
import threading
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
