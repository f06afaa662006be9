"""Sounds: mono, at any rate, in windows; what is no sound is refused with the reason."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from fewshot.errors import SoundError
from fewshot.media import ZippedImage, describe_sound, open_sound, sound_bytes, sounds, wav_bytes

RATE = 16_000


def tone(hertz: float = 440.0, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def encoded(kind: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind)
    return out.getvalue()


def loudest_hertz(samples: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def refusal(source) -> str:
    with pytest.raises(SoundError) as refused:
        open_sound(source)
    return refused.value.reason


def test_samples_paths_bytes_file_objects_and_zips_give_the_same_sound(tmp_path):
    data = wav_bytes(tone(), RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        archive.write(path, "tone/a.wav")

    zipped = ZippedImage(str(tmp_path / "sounds.zip"), "tone/a.wav")
    for source in ((tone(), RATE), path, str(path), data, io.BytesIO(data), zipped):
        assert sound_bytes(source) == data
        sound = open_sound(source)
        assert (sound.sampling_rate, sound.n_samples, sound.seconds) == (RATE, 8000, 0.5)
        np.testing.assert_array_equal(sound.samples(), tone())
    assert open_sound(sound) is sound


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
def test_compressed_files_hold_the_tone_that_was_written(kind):
    sound = open_sound(encoded(kind, tone(880, 1.0)))

    assert sound.seconds == pytest.approx(1.0, abs=0.1)
    assert loudest_hertz(sound.samples(), RATE) == pytest.approx(880, abs=3)


def test_channels_are_averaged():
    left, right = tone(300), tone(500)

    np.testing.assert_allclose(
        open_sound((np.stack([left, right], axis=1), RATE)).samples(), (left + right) / 2, atol=1e-7
    )


def test_another_rate_keeps_the_pitch_and_the_length():
    pytest.importorskip("soxr", reason="the extra audio is not installed")
    sound = open_sound((tone(440, 1.0, 44_100), 44_100))

    lower = sound.samples(16_000)

    assert len(lower) == 16_000
    assert loudest_hertz(lower, 16_000) == pytest.approx(440, abs=2)
    np.testing.assert_allclose(np.concatenate(list(sound.windows(0.3, 16_000))), lower)


def test_windows_are_consecutive_and_the_last_is_shorter():
    sound = open_sound((tone(seconds=1.1), RATE))

    windows = list(sound.windows(0.25))

    assert [len(window) for window in windows] == [4000, 4000, 4000, 4000, 1600]
    np.testing.assert_array_equal(np.concatenate(windows), sound.samples())


def test_an_hour_is_read_in_the_memory_of_a_window():
    pytest.importorskip("soxr", reason="the extra audio is not installed")
    data = encoded("FLAC", np.tile(tone(seconds=1.0, rate=8000), 3600), 8000)

    tracemalloc.start()
    sound = open_sound(data)
    count = sum(len(window) for window in sound.windows(10, 16_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 3600 * 16_000
    assert peak < 20e6  # the whole at 16 kHz would take 230 MB


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ((np.zeros(100), RATE), "is silent: its 0.0 s hold one value only"),
        ((np.zeros(0), RATE), "holds no samples (0 s)"),
        ((np.full(10, np.nan), RATE), "samples are floats in [-1, 1]; these hold NaN or far larger values"),
        ((tone() * 32768, RATE), "samples are floats in [-1, 1]; these hold NaN or far larger values"),
        ((np.arange(10), RATE), "samples are int16, or floats in [-1, 1], not int64"),
        ((np.zeros((2, 16_000)), RATE), "samples have shape (n,) or (n, channels), as soundfile reads them"),
        ((tone(), 16.5), "the sampling rate is a whole number of Hz from 1,000 to 768,000, not 16.5"),
        (b"", "the file is empty (0 bytes)"),
        (b"\xff\xd8\xff\xe0 a picture", "not a sound; WAV, FLAC, OGG and MP3 can be read"),
        ("nowhere.wav", "no such file"),
        ("/", "is a folder, not a sound file"),
    ],
)
def test_what_is_no_sound_is_refused_with_the_reason(source, reason):
    assert refusal(source) == reason


def test_a_file_cut_short_is_refused():
    assert refusal(wav_bytes(tone(), RATE)[:-1000]) == "the file is cut short: 1,000 bytes of its samples are missing"
    whole = np.random.default_rng(0).uniform(-1, 1, RATE)
    assert "the file is cut short" in refusal(encoded("FLAC", whole)[:20_000])


def test_a_damaged_file_is_refused_without_words_of_python():
    for data in (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + b"\x99" * 40, encoded("FLAC", tone())[:60]):
        assert refusal(data).startswith(("damaged sound file (", "the file is cut short or damaged ("))
        assert "object at 0x" not in refusal(data)


def test_a_wav_of_nan_is_refused():
    assert refusal(wav_bytes(np.full(100, np.inf, np.float32), RATE)) == "its samples hold NaN or infinity"


def test_one_that_unpacks_to_more_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(sounds, "MAX_SECONDS", 3600)

    assert refusal((np.tile(tone(rate=1000), 8000), 1000)) == "it is longer than the limit of 1 hours; cut it"


def test_another_kind_of_thing_is_a_type_error_that_says_what_a_sound_may_be():
    with pytest.raises(
        TypeError, match=r"a sound must be a path, a URL, bytes, .* or \(samples, sampling_rate\), not int"
    ):
        open_sound(3)


def test_samples_are_named_by_their_shape_and_rate():
    assert describe_sound((tone(), RATE)) == "<samples of shape (8000,) at 16000 Hz>"


def test_a_sound_of_which_nothing_is_left_at_another_rate_is_refused():
    pytest.importorskip("soxr", reason="needs the extra audio")
    sound = open_sound((np.array([0.5, -0.5], np.float32), 768_000))

    for read in (lambda: sound.samples(16_000), lambda: list(sound.windows(1.0, 16_000))):
        with pytest.raises(SoundError, match="too short: 768,000 samples a second, and the encoder reads 16,000"):
            read()
