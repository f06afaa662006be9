"""Opening the registry that a command names, with the encoder of its options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot.registry import ClassRegistry


@contextmanager
def open_registry(
    path: str, encoding: dict[str, Any] | None = None, *, create: bool = False, **settings: Any
) -> Iterator[ClassRegistry]:
    """Open a registry for a block, with the encoder of the options where they name one."""
    from fewshot.registry import ClassRegistry

    _check_kind(path)
    if encoding is not None and any(value is not None for value in encoding.values()):
        stored = {}
        if os.path.exists(path) and os.path.getsize(path):
            with ClassRegistry(path, create=False) as registry:
                stored = registry.info().encoder
        settings["encoder"] = requested_encoder(encoding, stored)
    with ClassRegistry(path, create=create, **settings) as registry:
        yield registry


def _check_kind(path: str) -> None:
    """Raise ValueError for what other commands take in a registry's place, or none does."""
    from fewshot.media import is_url
    from fewshot.runtime import is_bundle

    if is_url(path):
        raise ValueError(f"{path} is a URL, and a registry is a file of this machine: copy it here first")
    # Only by its name: to close a registry's file would drop the locks of another connection to it.
    if path.lower().endswith(".zip") and is_bundle(path):
        raise ValueError(
            f"{path} is a bundle, which is for fewshot predict FILE... and fewshot serve: give the registry that it "
            "was exported from"
        )


def requested_encoder(encoding: dict[str, Any], stored: dict[str, Any]) -> Any:
    """Load the encoder of the options; without a name, the registry's own (``stored``) with the other options."""
    from fewshot.encoders import EmbeddingCache, load_encoder

    given = {key: value for key, value in encoding.items() if value is not None}
    cache = given.pop("cache", None)
    base = {} if "name" in given else (stored or {"name": "pocket"})
    encoder = load_encoder(**{**base, **given})
    return encoder if cache is None else EmbeddingCache(encoder, cache)
