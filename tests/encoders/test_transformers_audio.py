"""Models of sounds of the transformers library: their vectors, windows, and one line where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tiny_transformers import RATE, audio_folder, chirp, sentence_folder

from fewshot import EncoderNotFound, TransformersAudioEncoder, load_encoder
from fewshot.errors import SoundError

pytest.importorskip("transformers", reason="needs the extra audio")
pytest.importorskip("soxr", reason="needs the extra audio")


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    return audio_folder(tmp_path_factory.mktemp("audio") / "w", "wav2vec2")


def _hidden(folder, samples):
    from transformers import AutoFeatureExtractor, AutoModel

    features = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(features["input_values"])


def test_the_vector_is_the_mean_over_time_of_the_last_hidden_states(waves):
    samples, _ = chirp()
    wanted = _hidden(waves, samples).last_hidden_state[0].mean(0)
    assert_allclose(TransformersAudioEncoder(waves).encode([chirp()])[0], wanted, atol=1e-5)


def test_of_a_spectrogram_transformer_it_is_the_pooled_output(tmp_path):
    folder = audio_folder(tmp_path / "a", "ast")
    samples, _ = chirp()
    assert_allclose(
        TransformersAudioEncoder(folder).encode([chirp()])[0], _hidden(folder, samples).pooler_output[0], atol=1e-5
    )


def test_of_clap_it_is_the_projection(tmp_path):
    assert TransformersAudioEncoder(audio_folder(tmp_path / "c", "clap"), seconds=1.0).dim == 8


def test_a_long_sound_is_the_mean_of_its_windows_by_their_length(waves):
    encoder = TransformersAudioEncoder(waves, seconds=0.5)
    samples, rate = chirp(1.25)
    n = rate // 2
    parts = [encoder.encode([(part, rate)])[0] for part in (samples[:n], samples[n : 2 * n], samples[2 * n :])]
    assert_allclose(encoder.encode([(samples, rate)])[0], np.average(parts, axis=0, weights=[2, 2, 1]), atol=1e-5)


def test_an_hour_is_held_a_few_windows_at_a_time(waves, monkeypatch):
    encoder = TransformersAudioEncoder(waves, seconds=2.0)
    largest = []

    def counting(self, windows):
        largest.append(windows.nbytes)
        return torch.zeros(len(windows), self.dim) + 1.0

    monkeypatch.setattr(TransformersAudioEncoder, "embed", counting)
    hour = np.tile(chirp(1.0, rate=8000)[0], 3600)
    assert encoder.encode([(hour, 8000)])[0].tolist() == [1.0] * encoder.dim
    assert len(largest) == 225
    assert max(largest) == 8 * 2 * RATE * 4


def test_stereo_is_averaged_and_another_rate_is_resampled(waves):
    encoder = TransformersAudioEncoder(waves)
    samples, _ = chirp()
    plain = encoder.encode([chirp()])[0]
    assert_allclose(encoder.encode([(np.stack([samples, samples], 1), RATE)])[0], plain, atol=1e-6)
    other = encoder.encode([chirp(rate=44_100)])[0]
    assert other @ plain / np.linalg.norm(other) / np.linalg.norm(plain) > 0.999


def test_silence_and_no_samples_are_refused(waves):
    for samples, message in ((np.zeros(RATE, np.float32), "is silent"), (np.zeros(0, np.float32), "no samples|0 s")):
        with pytest.raises(SoundError, match=message):
            TransformersAudioEncoder(waves).encode([(samples, RATE)])


def test_the_fingerprint_is_of_weights_preprocessing_and_windows(waves, tmp_path):
    other = audio_folder(tmp_path / "h", "hubert")
    prints = {TransformersAudioEncoder(waves).fingerprint, TransformersAudioEncoder(other).fingerprint}
    assert len(prints | {TransformersAudioEncoder(waves, seconds=3.0).fingerprint}) == 3
    assert load_encoder(f"audio:{waves}").fingerprint in prints


def test_a_model_of_something_else_is_refused_in_one_line(tmp_path):
    for folder in (sentence_folder(tmp_path / "s"), str(tmp_path)):
        with pytest.raises(EncoderNotFound) as refused:
            load_encoder(f"audio:{folder}")
        assert "\n" not in str(refused.value)
