"""Weights from the Hugging Face Hub, or from its local cache where the Hub cannot be reached."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

_PROBE_SECONDS = 3.0
_CLASSIFIERS = ("head.", "fc.", "classifier.", "head_dist.")  # left out of every network


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
        folder = Path(fetch("config.json")).parent
        check_config(folder)
        name = f"local-dir:{folder}"
    if not pretrained:
        return name, {}
    return name, {"pretrained_cfg_overlay": {"source": "", "custom_load": False, **_weights(fetch)}}


def full_name(name: str) -> str:
    """Return a name as timm takes it: a model page's "timm/NAME", and "hf_hub:", become "hf-hub:timm/NAME"."""
    if name.startswith("timm/"):
        return f"hf-hub:{name}"
    return f"hf-hub:{name.removeprefix('hf_hub:')}" if name.startswith("hf_hub:") else name


def check_config(folder: Path) -> None:
    """Refuse a folder whose config.json names no timm architecture.

    Raises
    ------
    ValueError : saying whose config it seems to be.
    """
    config = json.loads((folder / "config.json").read_text())
    if isinstance(config, dict) and "architecture" not in config:
        others = [str(name) for name in (config.get("architectures") or [])] + [str(config.get("model_type") or "")]
        whose = (
            f"it is a model of the transformers library ({others[0]})" if any(others) else "it is no model of timm's"
        )
        raise ValueError(
            f"{whose}: its config.json names no timm architecture. timm has many of these networks under names of its "
            "own: fewshot encoders PATTERN"
        )


def why_not_fetched(name: str, error: BaseException) -> str | None:
    """Return what the Hub refuses and what to do about it; None if that is no cause of the error."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = name.removeprefix("hf-hub:").partition("@")
    page = f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)}/{repository}"
    log_in = "log in with: hf auth login (or set HF_TOKEN)"
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: ask for access on {page}, then {log_in}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {repository} on the Hub, or it is private: look at {page}; if it is private, {log_in}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: look at {page}"
    cause = error.__cause__ or error.__context__
    return None if cause is None else why_not_fetched(name, cause)


def misfit(folder: Path, network: nn.Module) -> str | None:
    """Return how the tensors of a folder's model.safetensors differ from a network's; None if they do not."""
    with open(folder / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    held = {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    other = [key for key in wanted.keys() & held.keys() if wanted[key] != held[key]]
    lists = {
        "lacks": sorted(wanted.keys() - held.keys()),
        "has besides": sorted(k for k in held.keys() - wanted.keys() if not k.startswith(_CLASSIFIERS)),
        "has in another shape": [f"{k}: {held[k]}, not {wanted[k]}" for k in sorted(other)],
    }
    told = [f"{what} {len(keys)} ({keys[0]}{', ...' if keys[1:] else ''})" for what, keys in lists.items() if keys]
    return f"of its {len(wanted)} tensors, model.safetensors {', '.join(told)}" if told else None


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
