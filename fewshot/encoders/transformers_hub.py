"""Models of the transformers family, by a name on the Hub or from a folder, and what identifies their weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from fewshot.encoders.hub import hub_reachable, why_not_fetched
from fewshot.encoders.timm_network import first_line
from fewshot.errors import EncoderNotFound

T = TypeVar("T")


def from_transformers(name: str, load: Callable[[str, bool], T]) -> T:
    """Load what a name stands for, from the local cache alone where the Hub cannot be reached.

    Parameters
    ----------
    name : str
        The path of a folder, or a name on the Hub.
    load : callable
        From the name, as it is to be given, and ``local_files_only``.

    Raises
    ------
    EncoderNotFound : in one line, saying what is wrong and what to do.
    """
    folder = os.path.isdir(name)
    offline = folder or not hub_reachable()
    try:
        with _quiet():
            return load(os.path.abspath(name) if folder else name, offline)
    except Exception as error:
        raise EncoderNotFound(_reason(name, error, folder=folder, offline=offline)) from error


def values_hash(network: nn.Module) -> str:
    """Return a SHA-256 over the shapes and values of all floating-point weights and buffers.

    Their names, which differ between versions of the libraries, do not count.
    """
    digests = []
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            digests.append(hashlib.sha256(f"{tuple(tensor.shape)}".encode() + values).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no bar of the transformers library while weights of some milliseconds are read."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _reason(name: str, error: Exception, *, folder: bool, offline: bool) -> str:
    if folder:
        return f"no encoder in the folder {name!r}: {first_line(error)}"
    if os.path.isabs(name) or name.startswith((".", "~")):
        return f"no encoder {name!r}: there is no such folder"
    if refused := why_not_fetched(name, error):
        return refused
    if offline:
        return (
            f"the model {name!r} is not in the local cache and could not be fetched: the hub cannot be reached from "
            "here. Connect once, or give the path of a folder that it was saved to"
        )
    return f"no encoder {name!r}: {first_line(error)}"
