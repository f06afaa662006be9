import pytest
from box_examples import SQUARES, coco, picture, yolo

from fewshot.detection import Box, BoxFileProposer, FunctionProposer, RegionProposer, load_proposer, read_boxes


def whole(image):
    return [(0, 0, *image.size)]


class Nothing:
    def propose(self, image, name):
        return []


def test_proposers_are_found_by_their_names(tmp_path):
    assert isinstance(load_proposer("regions"), RegionProposer)
    assert isinstance(load_proposer(whole), FunctionProposer)
    assert isinstance(load_proposer(f"{__name__}:whole"), FunctionProposer)
    assert isinstance(load_proposer(f"{__name__}:Nothing"), Nothing)
    assert isinstance(load_proposer(str(coco(tmp_path / "a.json"))), BoxFileProposer)
    assert isinstance(load_proposer(str(yolo(tmp_path / "labels"))), BoxFileProposer)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("boxes", "'boxes' is no proposer, nor a file: give regions, torchvision:NAME, MODULE:FUNCTION"),
        ("no_such_module:f", "there is no module 'no_such_module'.*PYTHONPATH"),
        (f"{__name__}:f", "has no 'f'"),
        (f"{__name__}:SQUARES", "neither a function of an image nor a proposer"),
        ("torchvision:resnet18", "torchvision has no detector 'resnet18'; it has fasterrcnn"),
    ],
)
def test_another_name_is_refused_with_what_there_is(name, reason):
    with pytest.raises(ValueError, match=reason):
        load_proposer(name)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such file or folder of boxes: none\.json"):
        load_proposer("none.json")
    with pytest.raises(TypeError, match=r"a proposer is regions.*not int"):
        load_proposer(7)


def test_a_file_proposes_its_boxes_for_the_image_of_that_name(tmp_path):
    proposer = BoxFileProposer(read_boxes(coco(tmp_path / "a.json")))
    assert [one.box for one in proposer.propose(picture(), "photos/a.png")] == [box for _, _, box in SQUARES]
    with pytest.raises(ValueError, match=r"a\.json has no image of that name"):
        proposer.propose(picture(), "b.png")
    crowds = BoxFileProposer(read_boxes(coco(tmp_path / "a.json", iscrowd=1)))
    assert crowds.propose(picture(), "a.png") == []


def test_boxes_of_yolo_are_proposed_in_pixels(tmp_path):
    found = BoxFileProposer(read_boxes(yolo(tmp_path / "labels"))).propose(picture(), "x/a.jpg")
    assert found[0].box.xyxy == pytest.approx(Box(10, 20, 30, 40).xyxy)


def test_what_a_function_raises_is_told_with_its_name():
    def broken(image):
        return {}["k"]

    with pytest.raises(ValueError, match=r"the proposer raised KeyError: 'k'"):
        load_proposer(broken).propose(picture(), "a.png")


def test_a_url_of_boxes_is_refused_as_one():
    for url in ("s3://bucket/boxes.json", "s3://bucket/labels"):
        with pytest.raises(ValueError, match=f"{url} is a URL: boxes are read from"):
            load_proposer(url)
