"""What every encoder promises, whatever it embeds: the same vector alone, in any batch, and after any other call."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, png
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from tiny_clip import clip_folder
from tiny_transformers import audio_folder, chirp, sentence_folder

from fewshot import (
    ClipEncoder,
    Encoder,
    FewShotError,
    SentenceTransformerEncoder,
    TimmEncoder,
    TransformersAudioEncoder,
    VoiceEncoder,
    load_encoder,
)
from fewshot.encoders import modality_of

KINDS = ("pocket", "clip", "sentence", "ast", "clap", "wav2vec2", "hubert", "whisper", "voice")
TEXTS = ["where is my card", "a song", "the parcel is not here yet " * 3, "rain", "play music now stop"]


def _photo(side: int) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((90, 80)).save(file, "PNG")
    return file.getvalue()


ITEMS = {
    "image": [png(RED), png(GREEN), png(BLUE), _photo(7), _photo(19)],
    "text": TEXTS,
    "audio": [chirp(), chirp(0.9), chirp(high=3000.0), chirp(2.6), chirp(0.03)],
}


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "pocket":
        return TimmEncoder("pocket", precision="float32")
    if request.param == "clip":
        return ClipEncoder(clip_folder(folder / "clip"), batch_size=2)
    if request.param == "sentence":
        return SentenceTransformerEncoder(sentence_folder(folder / "st"), precision="float32", batch_size=2)
    if request.param == "voice":
        pytest.importorskip("transformers", reason="needs the extra audio")
        pytest.importorskip("soxr", reason="needs the extra audio")
        encoder = VoiceEncoder()
        try:
            _ = encoder.fingerprint
        except FewShotError as error:
            pytest.skip(str(error))
        return encoder
    return TransformersAudioEncoder(audio_folder(folder / "audio", request.param), seconds=1.0)


@pytest.fixture(scope="module")
def items(encoder):
    return ITEMS[modality_of(encoder)]


def test_an_item_embeds_the_same_alone_in_any_batch_and_after_any_call(encoder, items):
    together = encoder.encode(items)
    assert together.shape == (len(items), encoder.dim)
    assert together.dtype == np.float32
    assert len(np.unique(together.round(4), axis=0)) == len(items)  # else the next lines say nothing
    scale = np.abs(together).max()
    for n, item in enumerate(items):
        assert_allclose(encoder.encode([item])[0], together[n], atol=1e-5 * scale)
    assert_allclose(encoder.encode(items[::-1])[::-1], together, atol=1e-5 * scale)
    assert_array_equal(encoder.encode(items), together)


def test_it_is_an_encoder_and_of_nothing_gives_no_vectors(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_what_cannot_be_read_is_listed_and_the_others_go_on(encoder, items):
    found = encoder.encode_valid([items[0], b"\xff\xfe", items[1]])
    assert found.kept.tolist() == [0, 2]
    assert [position for position, _ in found.failed] == [1]
    assert_allclose(found.vectors, encoder.encode(items[:2]), atol=1e-5 * np.abs(found.vectors).max())


def test_clones_pickles_and_what_its_spec_loads_are_the_same_encoder(encoder, items):
    vectors = encoder.encode(items[:2])
    for twin in (clone(encoder), pickle.loads(pickle.dumps(encoder)), load_encoder(**encoder.spec)):
        assert twin.fingerprint == encoder.fingerprint
        again = twin.encode(items[:2])  # in bfloat16, perhaps
        lengths = np.linalg.norm(again, axis=1) * np.linalg.norm(vectors, axis=1)
        assert ((again * vectors).sum(1) / lengths > 0.99).all()
