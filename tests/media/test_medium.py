"""One table of what differs between images, texts and sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import png

from fewshot.errors import ExampleError
from fewshot.media import MODALITIES, medium_of, source_path, wav_bytes

SOUND = (np.sin(np.arange(4000.0)), 8000)
SOURCES = {"image": np.zeros((4, 4, 3), np.uint8), "text": "a fine film", "audio": SOUND}
TYPES = {"image": "image/png", "text": "text/plain", "audio": "audio/wav"}


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_content_of_an_example_is_again_an_example_of_the_same_content(modality):
    medium = medium_of(modality)

    data = medium.content(SOURCES[modality])

    assert medium.modality == modality
    assert medium.content(data) == data
    assert medium.media_type(data) == TYPES[modality]
    assert medium.content(medium.one_or_several(SOURCES[modality])[0]) == data
    assert medium.one_or_several([SOURCES[modality]] * 2) == [SOURCES[modality]] * 2
    medium.open(data)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_file_that_is_missing_or_of_another_kind_is_an_error_of_the_medium(modality, tmp_path):
    medium = medium_of(modality)
    other = tmp_path / f"other{min(medium.suffixes)}"
    other.write_bytes(wav_bytes(*SOUND) if modality == "image" else png())

    for path in (other, tmp_path / "nowhere"):
        with pytest.raises(ExampleError) as refused:
            medium.open(medium.from_path(str(path)))
        assert type(refused.value) is medium.error
        assert refused.value.source == str(path)


def test_only_files_have_a_path():
    assert source_path("a.png", "image") == str(Path("a.png").absolute())
    assert source_path("a fine film", "text") is None
    assert source_path(Path("a.txt"), "text") == str(Path("a.txt").absolute())
    assert source_path(b"RIFF", "audio") is None


def test_numbers_are_counted_in_words():
    assert [medium_of("audio").counted(n) for n in (1, 2000)] == ["1 sound", "2,000 sounds"]


def test_another_modality_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="modality"):
        medium_of("video")
