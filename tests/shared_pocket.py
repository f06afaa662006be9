"""The bundled network, loaded once for all encoders of a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from fewshot import TimmEncoder

_POCKETS: dict[object, object] = {}


@contextmanager
def shared_pocket() -> Iterator[None]:
    """Load the bundled network once: commands load it for longer than they then work.

    It needs an internal, ``TimmEncoder._load``: no public door lets encoders share a network.
    """
    load = TimmEncoder._load

    def once(encoder):
        if encoder.name != "pocket" or encoder._given() is not None:
            return load(encoder)
        if encoder._asked() not in _POCKETS:
            _POCKETS[encoder._asked()] = load(encoder)
        return _POCKETS[encoder._asked()]

    with patch.object(TimmEncoder, "_load", once):
        yield
