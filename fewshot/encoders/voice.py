"""The speaker encoder of the resemblyzer package, whose weights come with it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.encoders.device import best_device, usable_device
from fewshot.encoders.sound_windows import SoundEncoder
from fewshot.encoders.transformers_hub import values_hash
from fewshot.errors import MissingExtra
from fewshot.media import Sound
from fewshot.validation import check_extra

_RATE, _HOP, _FFT, _MELS = 16_000, 160, 400, 40
# Frames of 10 ms that the network reads at a time, and by how many windows are apart: 1.3 a second.
_FRAMES, _APART = 160, 77
# A last window is filled up with silence where the sound covers so much of it, else left out.
_COVERED = 0.75
_LOUDNESS = 10 ** (-30 / 20)  # quieter sounds are amplified to this root mean square
_STRETCH_SECONDS = 77.0  # held in memory at a time


class VoiceEncoder(SoundEncoder):
    """A frozen encoder of voices: two sounds of one speaker are close; also a scikit-learn transformer.

    The network and weights of the resemblyzer package (a three-layer LSTM of 1.6 s of mel spectrogram, trained to tell
    speakers apart), which need no hub. Quiet sounds are amplified. The vector is the mean of those of windows 0.77 s
    apart, of unit length. Unlike that package, silences are not cut out.

    Parameters
    ----------
    device : str, optional
        By default CUDA, then MPS, then CPU.

    Raises
    ------
    MissingExtra : at first use, without resemblyzer, or without transformers, whose mel filters are taken.

    References
    ----------
    Wan et al. 2018, arXiv:1710.10467, section 2 and 3.2 (the sliding windows).

    Examples
    --------
    >>> from fewshot import VoiceEncoder
    >>> VoiceEncoder().encode(["anna.wav", "otto.wav"]).shape  # doctest: +SKIP
    (2, 256)
    """

    def __init__(self, *, device: str | None = None) -> None:
        self.device = device

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return 256

    @property
    def fingerprint(self) -> str:
        """Made of the weights, and of how a sound is cut into windows."""
        return _fingerprint()

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the same encoder again: ``load_encoder(**spec)``."""
        return {"name": "voice"}

    def windows(self, sound: Sound) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yield windows of mel spectrogram, flattened."""
        energy, count = 0.0, 0
        for stretch in sound.windows(_STRETCH_SECONDS, _RATE):
            energy, count = energy + float(np.square(stretch, dtype=np.float64).sum()), count + len(stretch)
        gain = max(1.0, _LOUDNESS / max((energy / count) ** 0.5, 1e-9))
        for number, stretch in enumerate(sound.windows(_STRETCH_SECONDS, _RATE)):
            for window in _mel_windows(stretch * np.float32(gain), alone=number == 0):
                yield window, 1.0

    def embed(self, windows: NDArray[np.float32]) -> Tensor:
        """Embed windows (m, 6400): (m, 256), of unit length."""
        device = usable_device(self.device) if self.device is not None else best_device()
        mels = torch.from_numpy(windows).to(device).view(len(windows), _FRAMES, _MELS)
        found: Tensor = _network(device)(mels)
        return found

    def finished(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale to unit length."""
        scaled: NDArray[np.float32] = mean / np.float32(max(float(np.linalg.norm(mean)), 1e-9))
        return scaled


class _SpeakerLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        return normalize(self.linear(hidden[-1]).relu(), dim=1)


@cache
def _network(device: torch.device) -> nn.Module:
    """Return the network on a device, in eval mode, float32."""
    found = find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise MissingExtra("VoiceEncoder needs the weights of resemblyzer: pip install --no-deps resemblyzer")
    weights = torch.load(Path(found.origin).with_name("pretrained.pt"), map_location="cpu", weights_only=True)
    network = _SpeakerLSTM()
    held = {name: value for name, value in weights["model_state"].items() if name.startswith(("lstm.", "linear."))}
    network.load_state_dict(held)
    return network.eval().requires_grad_(False).to(device)


@cache
def _fingerprint() -> str:
    return f"voice-1-{values_hash(_network(torch.device('cpu')))[:24]}"


@cache
def _filters() -> Tensor:
    """Return Slaney's mel filters (201, 40), as librosa's."""
    check_extra("audio", "VoiceEncoder needs", "transformers")
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=_FFT // 2 + 1,
        num_mel_filters=_MELS,
        min_frequency=0.0,
        max_frequency=_RATE / 2,
        sampling_rate=_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.asarray(bank, np.float32))


def _mel_windows(samples: NDArray[np.float32], *, alone: bool) -> Iterator[NDArray[np.float32]]:
    """Cut a mel spectrogram of samples (n,) into windows (6400,); at least one where nothing else is of the sound."""
    n_frames = len(samples) // _HOP + 1
    starts = list(range(0, max(1, n_frames - _FRAMES + _APART + 1), _APART))
    covered = (len(samples) - starts[-1] * _HOP) / (_FRAMES * _HOP)
    if covered < _COVERED and (len(starts) > 1 or not alone):
        starts.pop()
    if not starts:
        return
    padded = np.pad(samples, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(samples))))
    spectrum = torch.stft(
        torch.from_numpy(padded),
        _FFT,
        _HOP,
        window=torch.hann_window(_FFT),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    mels = (spectrum.abs().square().mT @ _filters()).numpy()
    for start in starts:
        yield mels[start : start + _FRAMES].reshape(-1)
