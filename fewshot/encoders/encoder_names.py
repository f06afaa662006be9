"""Encoders by name."""

from __future__ import annotations

import inspect
import os
from typing import Any

from fewshot.encoders.clip import ClipEncoder
from fewshot.encoders.sentence_transformer import SentenceTransformerEncoder
from fewshot.encoders.timm_encoder import TimmEncoder
from fewshot.encoders.transformers_audio import TransformersAudioEncoder
from fewshot.encoders.voice import VoiceEncoder

_PREFIXES = {"clip:": ClipEncoder, "st:": SentenceTransformerEncoder, "audio:": TransformersAudioEncoder}


def load_encoder(name: str = "pocket", **settings: Any) -> Any:
    """Load an encoder now, by its name.

    Parameters
    ----------
    name : str
        Of images: "pocket", a timm name, or a path to a folder with config.json and model.safetensors; or "clip:NAME",
        a CLIP of open_clip, which reads descriptions, too. Of texts: "st:NAME", a model of sentence-transformers. Of
        sounds: "audio:NAME", a model of transformers, or "voice". NAME is on the Hub, or the path of a folder.
    **settings
        Other parameters of ``TimmEncoder``, ``ClipEncoder``, ``SentenceTransformerEncoder``,
        ``TransformersAudioEncoder`` or ``VoiceEncoder``.

    Returns
    -------
    TimmEncoder, ClipEncoder, SentenceTransformerEncoder, TransformersAudioEncoder or VoiceEncoder

    Raises
    ------
    EncoderNotFound : in one line: close matches, or what to do where no hub can be reached.
    MissingExtra : without the library that computes it.
    ValueError : for settings that such an encoder does not have.

    Examples
    --------
    >>> from fewshot import load_encoder
    >>> load_encoder("pocket").dim
    384
    """
    prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
    if prefix is None and name != "voice":
        return _timm_encoder(name, settings)
    kind: Any = VoiceEncoder if prefix is None else _PREFIXES[prefix]
    able = inspect.signature(kind).parameters
    if unknown := [key for key, value in settings.items() if key not in able and value not in (None, False)]:
        raise ValueError(f"the encoder {name!r} takes no {' and no '.join(unknown)}; leave it out")
    own = {key: value for key, value in settings.items() if key in able}
    encoder = kind(**own) if prefix is None else kind(name.removeprefix(prefix), **own)
    _ = encoder.dim
    return encoder


def _timm_encoder(name: str, settings: dict[str, Any]) -> TimmEncoder:
    if name.startswith("local-dir:"):
        name = f"local-dir:{os.path.abspath(name.partition(':')[2])}"
    elif os.path.isdir(name):
        name = f"local-dir:{os.path.abspath(name)}"
    encoder = TimmEncoder(name, **settings)
    _ = encoder.loaded
    return encoder
