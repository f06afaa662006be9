import sys

import pytest
import torch
from box_examples import picture

from fewshot.detection import TorchvisionProposer


@pytest.fixture(scope="module")
def proposer():
    """A detector of random weights, which finds boxes at random, on small images."""
    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    return TorchvisionProposer(name, weights=None, min_score=0.0, device="cpu", box_score_thresh=0.0, min_size=64)


def test_a_detector_of_torchvision_proposes_boxes_inside_the_image(proposer):
    found = proposer.propose(picture(), "a.png")
    assert found
    assert all(0 <= one.score <= 1 for one in found)
    for one in found:
        left, top, right, bottom = one.box.xyxy
        assert 0 <= left <= right <= 100
        assert 0 <= top <= bottom <= 90


def test_boxes_of_a_low_score_are_left_out(proposer, monkeypatch):
    monkeypatch.setattr(proposer, "min_score", 1.1)
    assert proposer.propose(picture(), "a.png") == []


def test_what_torchvision_tells_of_a_download_is_no_part_of_a_result(monkeypatch, capsys):
    from torchvision import models

    def get_model(name, **settings):
        sys.stdout.write("Downloading")
        raise OSError("no network")

    monkeypatch.setattr(models, "get_model", get_model)
    with pytest.raises(OSError, match=r"could not load the weights of .*: no network\. Without a network, put them"):
        TorchvisionProposer("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert capsys.readouterr() == ("", "Downloading")
