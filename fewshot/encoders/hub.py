"""Weights from the Hugging Face Hub, or from its local cache where the Hub cannot be reached."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

_PROBE_SECONDS = 3.0


def from_hub(name: str, *, pretrained: bool) -> tuple[str, dict[str, Any]]:
    """Fetch what a timm network needs from the Hub.

    timm itself can be told neither to stay offline nor, in its older versions, to refuse pickled programs, but by
    settings of the whole process.

    Parameters
    ----------
    name : str
        A timm name, or "hf-hub:owner/repo", "hf-hub:owner/repo@revision".
    pretrained : bool
        Whether the weights are wanted too.

    Returns
    -------
    str, dict
        What ``timm.create_model`` takes, as its name and further settings. A name whose weights are not on the Hub is
        returned as it is, without settings.
    """
    import timm
    from huggingface_hub import hf_hub_download

    source, _, repository = name.partition(":")
    if source != "hf-hub":
        config = timm.get_pretrained_cfg(name) if pretrained and not repository else None
        if config is None or not config.hf_hub_id:
            return name, {}
        repository = config.hf_hub_id
    repository, _, revision = repository.partition("@")
    # The probe spares the client's minute of retries, and its log of them, where there is no network.
    fetch = partial(hf_hub_download, repository, revision=revision or None, local_files_only=not hub_reachable())
    if source == "hf-hub":
        name = f"local-dir:{Path(fetch('config.json')).parent}"
    if not pretrained:
        return name, {}
    return name, {"pretrained_cfg_overlay": {"source": "", "custom_load": False, **_weights(fetch)}}


def _weights(fetch: Callable[[str], str]) -> dict[str, Any]:
    """The safetensors of a repository, or its older pickled weights, of which only tensors are read."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return {"file": fetch("model.safetensors")}
    except EntryNotFoundError:
        return {"state_dict": torch.load(fetch("pytorch_model.bin"), map_location="cpu", weights_only=True)}


def hub_reachable() -> bool:
    """Whether the Hub answers, or may answer behind a proxy; False where the user set ``HF_HUB_OFFLINE``."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # a proxy resolves names for us: only the real request can tell
    address = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False
