"""WAV files against soundfile, both ways."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from fewshot.media import wav
from fewshot.media.wav import plain_wav, wav_bytes

soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")

SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


def noise(channels: int, n: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (n, channels))


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_soundfile_writes_is_read_as_soundfile_reads_it(subtype, container, channels):
    out = io.BytesIO()
    soundfile.write(out, noise(channels), 8000, format=container, subtype=subtype)
    expected, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32", always_2d=True)

    read = plain_wav(out.getvalue())

    assert (read.sampling_rate, read.channels, read.n_frames, read.missing) == (8000, channels, 1000, 0)
    np.testing.assert_allclose(np.concatenate(list(read.blocks(300))), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 2])
def test_what_is_written_is_read_by_soundfile_as_it_was(dtype, channels):
    samples = noise(channels or 1)[:, slice(None) if channels else 0]
    samples = (samples * 32767).astype(np.int16) if dtype == np.int16 else samples.astype(dtype)

    read, rate = soundfile.read(
        io.BytesIO(wav_bytes(samples, 16_000)), dtype="int16" if dtype == np.int16 else "float32"
    )

    assert rate == 16_000
    np.testing.assert_array_equal(read, samples if dtype == np.int16 else samples.astype(np.float32))


def test_samples_that_are_no_plain_numbers_are_left_to_others():
    out = io.BytesIO()
    soundfile.write(out, noise(1), 8000, format="WAV", subtype="ULAW")

    assert plain_wav(out.getvalue()) is None


def test_a_file_written_to_a_pipe_has_all_the_samples_there_are():
    data = bytearray(wav_bytes(np.arange(100, dtype=np.int16), 8000))
    data[40:44] = struct.pack("<I", 0xFFFFFFFF)

    assert plain_wav(bytes(data)).n_frames == 100


def test_bytes_that_the_header_tells_of_and_the_file_lacks_are_counted():
    assert plain_wav(wav_bytes(np.arange(100, dtype=np.int16), 8000)[:-30]).missing == 30


def test_a_damaged_header_is_an_error():
    data = wav_bytes(np.arange(100, dtype=np.int16), 8000)

    with pytest.raises(ValueError, match="its format chunk is too short"):
        plain_wav(data[:16] + struct.pack("<I", 4) + data[20:])
    with pytest.raises(ValueError, match="it has no channels"):
        plain_wav(data[:22] + b"\0\0" + data[24:])
    assert wav.plain_wav(data[:12]) is None
