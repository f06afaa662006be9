"""fewshot describe: classes in words, with a CLIP of open_clip from a folder."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fakes import BLUE, RED, png
from tiny_clip import clip_folder

from fewshot import ClipEncoder
from fewshot.cli import main


def call(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return json.loads(result.stdout) if result.stdout else result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def image(tmp_path):
    (tmp_path / "new.png").write_bytes(png(RED))
    return tmp_path / "new.png"


def test_an_image_is_recognised_by_descriptions_alone_as_by_the_clip_itself(folder, tmp_path, image):
    registry, texts = tmp_path / "r.fewshot", {"beans": "a red tin of beans", "pen": "a photo of a pen"}
    assert call("describe", registry, "beans", texts["beans"], "--encoder", f"clip:{folder}") == {
        "beans": "a red tin of beans"
    }
    assert call("describe", registry, "pen") == call("describe", registry) == texts
    assert call("classes", registry) == {"beans": 0, "pen": 0}
    (answer,) = call("predict", registry, image)
    encoder = ClipEncoder(folder)
    closeness = encoder.encode_texts(list(texts.values())) @ encoder.encode([image])[0]
    norms = (encoder.encode_texts(list(texts.values())) ** 2).sum(1) ** 0.5
    assert answer["label"] == list(texts)[int((closeness / norms).argmax())]
    (tmp_path / "blue.png").write_bytes(png(BLUE))
    assert call("add", registry, "pen", tmp_path / "blue.png")["classes"] == 2
    assert call("predict", registry, tmp_path / "blue.png")[0]["label"] == "pen"
    assert call("describe", registry, "pen", "--remove") == {"beans": texts["beans"]}
    assert call("describe", registry, "--names") == texts | {"pen": "a photo of a pen"}
    assert call("describe", registry, "--remove") == {}
    assert call("classes", registry) == {"pen": 1}


def test_an_encoder_without_texts_is_refused_and_no_file_is_left(tmp_path):
    error = call("describe", tmp_path / "r.fewshot", "beans", status=1)
    assert "the encoder pocket reads no texts" in error
    assert "clip:ViT-B-32/laion2b_s34b_b79k (pip install 'fewshot[clip]')" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("beans", "--names"), ("beans", "red", "--remove"), ("--names", "--remove")])
def test_contradicting_options_are_refused(tmp_path, arguments):
    assert "give either" in call("describe", tmp_path / "r.fewshot", *arguments, status=2)
