from __future__ import annotations

import io

import numpy as np
import pytest
from fakes import RED, png
from PIL import Image

from fewshot.errors import ExampleError
from fewshot.media import medium_of, open_sound, wav_bytes


def test_an_image_is_shown_small_and_in_its_shape():
    preview = medium_of("image").preview(png(RED, 640))
    image = Image.open(io.BytesIO(preview.data))
    assert (preview.media_type, image.format, image.size) == ("image/jpeg", "JPEG", (160, 160))
    assert np.asarray(image).mean(axis=(0, 1)) == pytest.approx(RED, abs=3)


def test_a_text_is_shown_by_its_beginning():
    assert medium_of("text").preview(b"a fine film").data == b"a fine film"
    long = medium_of("text").preview("word " * 1000).data.decode()
    assert len(long) < 410
    assert long.endswith("word ...")


def test_a_sound_is_heard_for_four_seconds():
    wave = np.sin(np.arange(8000 * 6) / 5).astype(np.float32)
    preview = medium_of("audio").preview(wav_bytes(wave, 8000))
    heard = open_sound(preview.data)
    assert (preview.media_type, heard.sampling_rate, heard.seconds) == ("audio/wav", 8000, 4.0)
    assert heard.samples() == pytest.approx(wave[:32000], abs=1e-4)
    assert len(preview.data) < 2 * 32000 + 100  # of 16 bits


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_what_cannot_be_read_is_refused_as_elsewhere(modality):
    with pytest.raises(ExampleError):
        medium_of(modality).preview(b"\x00\xff")
