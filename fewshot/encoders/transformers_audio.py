"""Models of sounds of the transformers library as frozen encoders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.encoders.device import best_device, usable_device
from fewshot.encoders.sound_windows import SoundEncoder
from fewshot.encoders.transformers_hub import from_transformers, values_hash
from fewshot.errors import EncoderNotFound
from fewshot.media import Sound
from fewshot.validation import check_extra

# What is shorter is filled up with silence: networks that read samples need some hundred.
_LEAST_SECONDS = 0.1


class TransformersAudioEncoder(SoundEncoder):
    """A frozen model of sounds of the transformers library: sounds in, embeddings out; also a scikit-learn transformer.

    CLAP gives its projected embedding; an audio spectrogram transformer its pooled one; wav2vec 2.0, HuBERT, WavLM and
    other models of a sequence the mean over time of their last hidden states; of an encoder with a decoder, as Whisper,
    the encoder is taken. Sounds are resampled to the model's rate; one longer than ``seconds`` is cut into windows of
    that length, whose vectors are averaged, each by its length. Computed in float32.

    Parameters
    ----------
    name : str
        On the Hub, as "laion/clap-htsat-unfused", or the path of a folder.
    seconds : float, default 10.0
        Length of a window; at most what the model takes.
    device : str, optional
        By default CUDA, then MPS, then CPU.

    Raises
    ------
    MissingExtra : at first use, without transformers.
    EncoderNotFound : at first use, if there is no such model, it cannot be had, or it is not one of sounds.

    References
    ----------
    Gong et al. 2021, arXiv:2104.01778 (AST). Wu et al. 2023, arXiv:2211.06687 (CLAP). Baevski et al. 2020,
    arXiv:2006.11477 (wav2vec 2.0).

    Examples
    --------
    >>> from fewshot import TransformersAudioEncoder
    >>> TransformersAudioEncoder("laion/clap-htsat-unfused").encode(["dog.wav"]).shape  # doctest: +SKIP
    (1, 512)
    """

    def __init__(self, name: str, *, seconds: float = 10.0, device: str | None = None) -> None:
        self.name = name
        self.seconds = seconds
        self.device = device

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self._loaded.dim

    @property
    def fingerprint(self) -> str:
        """Made of weights, preprocessing and the length of a window."""
        return self._loaded.fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the same encoder again: ``load_encoder(**spec)``."""
        name = os.path.abspath(self.name) if os.path.isdir(self.name) else self.name
        return {"name": f"audio:{name}", "seconds": self.seconds}

    def windows(self, sound: Sound) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yield consecutive windows; a rest shorter than 0.1 s is left out, a whole sound as short is filled up."""
        rate = self._loaded.sampling_rate
        least = round(_LEAST_SECONDS * rate)
        for number, window in enumerate(sound.windows(self.seconds, rate)):
            if len(window) >= least:
                yield window, float(len(window))
            elif number == 0:
                yield np.pad(window, (0, least - len(window))), 1.0

    def embed(self, windows: NDArray[np.float32]) -> Tensor:
        """Embed windows (m, n) of one length: (m, d)."""
        loaded = self._loaded
        return _embedded(loaded.model, loaded.features(windows))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_kept"}

    @property
    def _loaded(self) -> _Loaded:
        asked = (self.name, self.seconds, self.device)
        if "_kept" not in self.__dict__ or self._kept[0] != asked:
            self._kept: tuple[tuple[Any, ...], _Loaded] = asked, self._load()
        return self._kept[1]

    def _load(self) -> _Loaded:
        check_extra("audio", "audio: models need", "transformers")
        if not (isinstance(self.seconds, (int, float)) and _LEAST_SECONDS <= self.seconds < float("inf")):
            raise ValueError(f"seconds must be a number of at least {_LEAST_SECONDS}, not {self.seconds!r}")
        extractor, model = from_transformers(self.name, _fetched)
        rate = getattr(extractor, "sampling_rate", None)
        if rate is None:
            raise EncoderNotFound(f"{self.name!r} is no model of sounds ({type(model).__name__})")
        device = usable_device(self.device) if self.device is not None else best_device()
        described = {"weights": values_hash(model), "preprocessing": extractor.to_dict(), "seconds": self.seconds}
        identity = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]
        loaded = _Loaded(model.to(device), extractor, int(rate), device, 0, identity)
        noise = np.random.default_rng(0).normal(0, 0.1, (1, round(min(1.0, self.seconds) * rate))).astype(np.float32)
        with torch.inference_mode():
            dim = _embedded(loaded.model, loaded.features(noise)).shape[1]
        return _Loaded(loaded.model, extractor, int(rate), device, dim, identity)


@dataclass(frozen=True)
class _Loaded:
    """A model in eval mode, its feature extractor, the sampling rate that it reads in Hz, and d."""

    model: nn.Module
    extractor: Any
    sampling_rate: int
    device: torch.device
    dim: int
    fingerprint: str

    def features(self, windows: NDArray[np.float32]) -> dict[str, Tensor]:
        found = self.extractor(list(windows), sampling_rate=self.sampling_rate, return_tensors="pt")
        return {name: value.to(self.device) for name, value in found.items() if name != "attention_mask"}


def _fetched(place: str, offline: bool) -> tuple[Any, nn.Module]:
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(place, local_files_only=offline)
    model = AutoModel.from_pretrained(place, local_files_only=offline, dtype=torch.float32)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return extractor, model.eval().requires_grad_(False)


def _embedded(model: nn.Module, features: dict[str, Tensor]) -> Tensor:
    """Return the projected embedding, else the pooled one, else the mean over time: (m, d)."""
    project: Any = getattr(model, "get_audio_features", None)
    out = project(**features) if project is not None else model(**features)
    if isinstance(out, Tensor):
        return out
    pooled: Tensor | None = getattr(out, "pooler_output", None)
    if pooled is not None:
        return pooled
    hidden: Tensor = out.last_hidden_state
    return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
