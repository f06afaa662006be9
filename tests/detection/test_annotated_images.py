import pytest

from fewshot.detection.annotated_images import PathIndex


@pytest.mark.parametrize(
    ("held", "asked", "found"),
    [
        (["a.jpg"], "x/y/a.jpg", "a.jpg"),
        (["/home/pi/a.jpg"], "photos/a.jpg", "/home/pi/a.jpg"),
        (["train/a.jpg", "val/a.jpg"], "data/val/a.jpg", "val/a.jpg"),
        (["a"], "x/a.jpg", "a"),  # as YOLO names images
        (["x/a.jpg"], "a", "x/a.jpg"),
        (["a.jpg", "a.png"], "a.png", "a.png"),
        (["a.jpg"], "a.png", None),
        (["a.b.jpg"], "a.b", "a.b.jpg"),
        (["a.b"], "x/a.b.jpg", "a.b"),
        ([], "a.jpg", None),
    ],
)
def test_a_path_is_found_by_its_last_parts(held, asked, found):
    assert PathIndex([(path, path) for path in held]).find(asked) == found


@pytest.mark.parametrize(("held", "asked"), [(["x/a.jpg", "y/a.jpg"], "a.jpg"), (["a.jpg", "a.png"], "a")])
def test_a_path_that_may_be_several_is_refused(held, asked):
    with pytest.raises(ValueError, match=f"{asked} may be any of"):
        PathIndex([(path, path) for path in held]).find(asked)
