"""A registry annotates in CVAT: with the SDK's own types, and past its own checks of what a function says."""

from __future__ import annotations

import gc
import logging
import math
import sys
import types

import numpy as np
import pytest
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png
from PIL import Image

from fewshot import ClassRegistry, RegistryError
from fewshot.encoders.encoder import Encoded
from fewshot.errors import ImageError, MissingExtra
from fewshot.integrations.cvat import RegistryFunction, create

ORANGE = (204, 102, 0)
sdk = pytest.importorskip("cvat_sdk.auto_annotation", reason="pip install 'fewshot[cvat]'")


class Context(sdk.DetectionFunctionContext):
    """What CVAT tells of a frame."""

    frame_name = "frame.png"
    conv_mask_to_poly = False

    def __init__(self, conf_threshold=None):
        self._conf_threshold = conf_threshold

    @property
    def conf_threshold(self):
        return self._conf_threshold


class Detector:
    """A detector that finds the shapes it is told."""

    def __init__(self, *shapes, kinds=("rectangle",)):
        self.shapes = shapes
        self.spec = sdk.DetectionFunctionSpec(
            labels=[sdk.label_spec(f"thing {n}", n, type=kind) for n, kind in enumerate(kinds)]
        )

    def detect(self, context, image):
        self.asked = (context, image)
        return list(self.shapes)


OLIVE = (140, 130, 0)  # half red, half green


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as opened:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            opened.add(label, [png(colour), png(colour, 5)])
        yield opened


@pytest.fixture
def halves():
    """A picture whose left half is red and whose right half is blue, 20 x 10 pixels."""
    image = Image.new("RGB", (20, 10), RED)
    image.paste(BLUE, (10, 0, 20, 10))
    return image


def plain(colour):
    return Image.new("RGB", (8, 8), colour)


def names(function, annotations):
    labels = {label.id: label.name for label in function.spec.labels}
    return [labels[annotation.label_id] for annotation in annotations]


def rectangle(*points, **more):
    return sdk.rectangle(0, list(points), **more)


def test_a_whole_picture_gets_one_tag_of_its_class(registry):
    function = RegistryFunction(registry)
    assert [(label.name, label.type) for label in function.spec.labels] == [
        ("red", "tag"), ("green", "tag"), ("blue", "tag"),
    ]  # fmt: skip
    (tag,) = function.detect(Context(), plain(BLUE))
    assert type(tag) is sdk.tag(0).__class__
    assert (tag.frame, names(function, [tag])) == (0, ["blue"])


def test_none_of_these_gets_no_tag_by_the_max_false_accept_given_or_set(registry):
    registry.rejection.set(0.05, background=np.random.default_rng(0).random((60, 3)).astype(np.float32))
    assert RegistryFunction(registry).detect(Context(), plain(ORANGE)) == []
    assert len(RegistryFunction(registry).detect(Context(), plain(RED))) == 1
    assert len(RegistryFunction(registry, max_false_accept=1).detect(Context(), plain(ORANGE))) == 1


def test_a_max_false_accept_without_threshold_is_refused_before_the_first_image(tmp_path):
    with ClassRegistry(tmp_path / "one.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        with pytest.raises(ValueError, match="class"):
            RegistryFunction(registry, max_false_accept=0.05)


def test_a_max_false_accept_that_has_lost_its_threshold_is_logged_and_rejects_nothing(registry, caplog):
    registry.rejection.set(0.4)
    registry.remove("green")
    registry.remove("blue")
    with caplog.at_level(logging.WARNING):
        assert len(RegistryFunction(registry).detect(Context(), plain(ORANGE))) == 1
    assert caplog.messages[0].startswith("no picture is refused: ")


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_a_probability_below_the_confidence_threshold_is_not_annotated(tmp_path, metric):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), metric=metric) as registry:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            registry.add(label, [png(colour), png(colour, 5)])
        function = RegistryFunction(registry)
        probability = registry.predict([plain(ORANGE)])[0].probability
        assert names(function, function.detect(Context(probability - 0.01), plain(ORANGE))) == ["red"]
        assert function.detect(Context(probability + 0.01), plain(ORANGE)) == []
        assert len(function.detect(Context(0.0), plain(ORANGE))) == 1


def test_one_class_has_no_probability_to_be_below_a_threshold(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        assert len(RegistryFunction(registry).detect(Context(0.9), plain(RED))) == 1


def test_the_id_of_a_label_stays_when_others_are_added_or_removed(registry):
    before = {label.name: label.id for label in RegistryFunction(registry).spec.labels}
    registry.remove("red")
    registry.add("cyan", [png((0, 255, 255))])
    after = {label.name: label.id for label in RegistryFunction(registry).spec.labels}
    assert list(after) == ["green", "blue", "cyan"]
    assert {name: after[name] for name in ("green", "blue")} == {name: before[name] for name in ("green", "blue")}


def test_two_names_never_share_an_id(registry, monkeypatch):
    monkeypatch.setattr(
        "fewshot.integrations.cvat.hashlib.sha256", lambda _: types.SimpleNamespace(digest=lambda: b"\xff" * 32)
    )
    ids = [label.id for label in RegistryFunction(registry).spec.labels]
    assert ids == [2**31 - 1, 0, 1]


def test_a_class_registered_after_the_function_was_made_is_left_out_and_logged_once(registry, caplog):
    function = RegistryFunction(registry)
    registry.add("black", [png(ORANGE)])
    with caplog.at_level(logging.WARNING):
        assert function.detect(Context(), plain(ORANGE)) == []
        assert function.detect(Context(), plain(ORANGE)) == []
    assert caplog.messages == ["class 'black' was registered after this function was made and is left out"]


def test_an_image_that_cannot_be_read_is_logged_and_does_not_stop_the_task(registry, caplog, tmp_path):
    file = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    with caplog.at_level(logging.WARNING), Image.open(file) as image:
        assert RegistryFunction(registry).detect(Context(), image) == []
    assert caplog.messages[0].startswith("frame.png: not recognised: the file is truncated or damaged")


def test_the_shapes_of_a_detector_get_the_classes_of_the_registry(registry, halves):
    detector = Detector(
        rectangle(0, 0, 10, 10), rectangle(10.2, 0.5, 19.7, 9.5, z_order=3, attributes=[{"spec_id": 1, "value": "x"}])
    )
    function = RegistryFunction(registry, detector=detector)
    assert {label.type for label in function.spec.labels} == {"rectangle"}
    context = Context(0.5)
    left, right = function.detect(context, halves)
    assert names(function, [left, right]) == ["red", "blue"]
    assert detector.asked == (context, halves)
    assert (right.type.value, right.points, right.z_order) == ("rectangle", [10.2, 0.5, 19.7, 9.5], 3)
    assert not hasattr(right, "attributes")


def test_a_shape_of_none_of_these_is_left_out_and_the_others_stay(registry, halves):
    halves.paste(OLIVE, (0, 0, 10, 10))
    function = RegistryFunction(registry, detector=Detector(rectangle(0, 0, 9, 9), rectangle(11, 0, 20, 10)))
    assert names(function, function.detect(Context(0.95), halves)) == ["blue"]


def test_polygons_masks_and_turned_boxes_are_cut_out_where_they_lie(registry):
    image = Image.new("RGB", (40, 40), GREEN)
    image.paste(RED, (18, 5, 22, 35))  # upright: 4 wide, 30 high
    image.paste(BLUE, (2, 2, 8, 8))
    polygon = sdk.polygon(0, [2, 2, 8, 2, 8, 8, 2, 8])
    mask = sdk.mask(0, [36, 2, 2, 7, 7])  # the run lengths are not read; the last pixel is part of the box
    lying = rectangle(5, 18, 35, 22, rotation=90.0)  # a lying box, turned by a quarter about (20, 20)
    function = RegistryFunction(registry, detector=Detector(polygon, mask, lying, kinds=("polygon", "mask")))
    assert {label.type for label in function.spec.labels} == {"any"}
    found = function.detect(Context(0.99), image)
    assert names(function, found) == ["blue", "blue", "red"]
    assert [shape.type.value for shape in found] == ["polygon", "mask", "rectangle"]
    assert found[2].rotation == 90.0


def test_a_box_turned_a_little_is_turned_back_the_right_way(registry):
    image = Image.new("RGB", (100, 100), GREEN)
    bar = Image.new("RGB", (100, 100), GREEN)
    bar.paste(RED, (20, 46, 80, 54))
    image.paste(bar.rotate(-30))  # clockwise, as CVAT counts
    function = RegistryFunction(registry, detector=Detector(rectangle(24, 48, 76, 52, rotation=30.0)))
    assert names(function, function.detect(Context(0.9), image)) == ["red"]
    other_way = RegistryFunction(registry, detector=Detector(rectangle(24, 48, 76, 52, rotation=330.0)))
    assert names(other_way, other_way.detect(Context(0.5), image)) == ["green"]


def test_boxes_reach_no_further_than_the_picture(registry, halves, caplog):
    function = RegistryFunction(registry, detector=Detector(rectangle(-5, -5, 8, 30), rectangle(30, 0, 40, 10)))
    with caplog.at_level(logging.WARNING):
        assert names(function, function.detect(Context(), halves)) == ["red"]
    assert caplog.messages == [
        "frame.png: shape 2 was left out: it lies outside the picture of 20 x 10 pixels",
    ]


@pytest.mark.parametrize(
    "bad", [rectangle(math.nan, 0, 5, 5), rectangle(0, 0, math.inf, 5), sdk.polygon(0, []), sdk.mask(0, [1, 2])],
    ids=["nan", "infinity", "no points", "no box"],
)  # fmt: skip
def test_a_shape_that_cannot_be_cut_out_leaves_the_others(registry, halves, caplog, bad):
    kinds = ("rectangle", "polygon", "mask")
    function = RegistryFunction(registry, detector=Detector(bad, rectangle(12, 0, 20, 10), kinds=kinds))
    with caplog.at_level(logging.WARNING):
        assert names(function, function.detect(Context(), halves)) == ["blue"]
    assert [message.partition(": ")[2][:20] for message in caplog.messages] == ["shape 1 was left out"]


def test_a_crop_that_the_encoder_fails_at_leaves_the_others(tmp_path, halves, caplog):
    class Picky(FakeEncoder):
        def encode_valid(self, images):
            images = list(images)
            failed = tuple((n, ImageError("x", "no sevens")) for n, i in enumerate(images) if i.size == (7, 7))
            kept = [n for n, i in enumerate(images) if i.size != (7, 7)]
            return Encoded(self.encode([images[n] for n in kept]), np.array(kept, np.int64), failed)

    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
    with ClassRegistry(tmp_path / "r.fewshot", encoder=Picky()) as registry, caplog.at_level(logging.WARNING):
        function = RegistryFunction(registry, detector=Detector(rectangle(0, 0, 7, 7), rectangle(12, 0, 20, 10)))
        (shape,) = function.detect(Context(), halves)
        assert (names(function, [shape]), shape.points) == (["blue"], [12, 0, 20, 10])
    assert caplog.messages == ["frame.png: not recognised: no sevens"]


@pytest.mark.parametrize(
    "given", [sdk.tag(0), sdk.shape(0, type="polyline", points=[0, 0, 1, 1])], ids=["tag", "polyline"]
)
def test_a_shape_without_inside_is_refused(registry, halves, given):
    function = RegistryFunction(registry, detector=Detector(given))
    with pytest.raises(ValueError, match="only rectangle, polygon, mask, ellipse can be cut out of a picture"):
        function.detect(Context(), halves)


@pytest.mark.parametrize("kind", ["skeleton", "points", "polyline", "tag"])
def test_a_detector_of_shapes_without_inside_is_refused_before_the_first_image(registry, kind):
    keypoints = Detector()
    person = sdk.label_spec("person", 1, type=kind)
    if kind == "skeleton":
        person = sdk.skeleton_label_spec("person", 1, [sdk.keypoint_spec("nose", 0)])
    keypoints.spec = sdk.DetectionFunctionSpec(labels=[sdk.label_spec("box", 0, type="rectangle"), person])
    message = (
        f"the detector's label 'person' is a {kind}, which has no inside .*; give a detector of rectangle, polygon"
    )
    with pytest.raises(ValueError, match=message):
        RegistryFunction(registry, detector=keypoints)


def test_an_image_without_shapes_is_not_encoded(registry, halves):
    encoder = registry.encoder
    function, before = RegistryFunction(registry, detector=Detector()), encoder.encoded
    assert function.detect(Context(), halves) == []
    assert encoder.encoded == before


def test_the_sdk_accepts_every_annotation(registry, halves, monkeypatch):
    """Through ``annotate_task`` with its real checks; only the server's data and answer are made up."""
    from cvat_sdk import models
    from cvat_sdk.auto_annotation import driver

    sent = []

    class Media:
        def __init__(self, image):
            self.load_image = lambda: image

    samples = [
        types.SimpleNamespace(frame_name=f"{n}.png", frame_index=n, media=Media(image))
        for n, image in enumerate([plain(RED), plain(OLIVE), halves])
    ]
    client = types.SimpleNamespace(
        logger=logging.getLogger("cvat"),
        tasks=types.SimpleNamespace(
            api=types.SimpleNamespace(
                partial_update_annotations=lambda _, __, patched_labeled_data_request: sent.append(
                    patched_labeled_data_request
                )
            )
        ),
    )

    def annotate(function, kind):
        labels = [
            models.Label(name=label, id=n, type=kind, attributes=[], sublabels=[])
            for n, label in enumerate(("blue", "red", "green"))
        ]
        dataset = types.SimpleNamespace(labels=labels, samples=samples)
        monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: dataset)
        sdk.annotate_task(client, 1, function, conf_threshold=0.95)
        return sent.pop()

    tagged = annotate(RegistryFunction(registry), "tag")
    assert [(tag.frame, tag.label_id, tag.source) for tag in tagged.tags] == [(0, 1, "auto")]
    boxed = annotate(RegistryFunction(registry, detector=Detector(rectangle(0, 0, 8, 8))), "rectangle")
    assert [(box.frame, box.label_id, box.points) for box in boxed.shapes] == [
        (0, 1, [0, 0, 8, 8]), (2, 1, [0, 0, 8, 8]),
    ]  # fmt: skip
    with pytest.raises(sdk.BadFunctionError, match="has type 'tag' in the function, but 'rectangle' in the dataset"):
        annotate(RegistryFunction(registry), "rectangle")


@pytest.fixture
def path(registry, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda *_, **__: FakeEncoder(name="fake"))
    with ClassRegistry(registry.path.replace("r.fewshot", "named.fewshot"), encoder=FakeEncoder(name="fake")) as other:
        other.add("red", [png(RED)])
        other.add("blue", [png(BLUE)])
        return other.path


def test_it_is_made_from_a_path_and_a_detectors_file_with_parameters(path, tmp_path, halves):
    (tmp_path / "finder.py").write_text(
        "import cvat_sdk.auto_annotation as a\n"
        "class Finder:\n"
        "    def __init__(self, width): self.width = width\n"
        "    spec = a.DetectionFunctionSpec(labels=[a.label_spec('x', 0, type='rectangle')])\n"
        "    def detect(self, context, image): return [a.rectangle(0, [0, 0, self.width, 10])]\n"
        "create = Finder\n"
    )
    function = create(path, detector=str(tmp_path / "finder.py"), max_false_accept=1.0, width=6)
    (shape,) = function.detect(Context(), halves)
    assert (names(function, [shape]), shape.points) == (["red"], [0, 0, 6, 10])


def test_the_registry_it_opened_is_closed_with_it(path):
    function = create(path)
    opened = function._registry
    del function
    gc.collect()
    with pytest.raises(RegistryError, match="has been closed"):
        opened.classes()


def test_a_module_or_an_object_may_be_the_detector(path, monkeypatch, halves):
    module = types.ModuleType("finders")
    module.spec, module.detect = Detector().spec, Detector(rectangle(12, 0, 20, 10)).detect
    monkeypatch.setitem(sys.modules, "finders", module)
    for detector in ("finders", module, Detector(rectangle(12, 0, 20, 10))):
        function = create(path, detector=detector)
        assert names(function, function.detect(Context(), halves)) == ["blue"]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (
            {"max_false_acept": 0.1},
            TypeError,
            "unknown parameter: max_false_acept; fewshot.integrations.cvat takes registry, det",
        ),
        ({"detector": "math"}, TypeError, "math.* is no auto-annotation function: it needs spec and detect"),
        ({"detector": "math", "x": 1}, TypeError, "unknown parameter: x; the detector takes none"),
        ({"detector": "gone.py"}, FileNotFoundError, r"no such detector: gone\.py"),
        ({"detector": "no_such_module"}, ModuleNotFoundError, "no_such_module"),
        ({"max_false_accept": 7.0}, ValueError, "7"),
    ],
    ids=["misspelt", "not a detector", "takes none", "no file", "no module", "no share"],
)
def test_a_wrong_parameter_is_refused_with_its_name(path, asked, error, message):
    with pytest.raises(error, match=message):
        create(path, **asked)


def test_a_registry_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(RegistryError, match=r"none\.fewshot"):
        create(str(tmp_path / "none.fewshot"))
    with ClassRegistry(tmp_path / "empty.fewshot", encoder=FakeEncoder()) as empty:
        with pytest.raises(RegistryError, match="holds no classes yet; register some with: fewshot add"):
            RegistryFunction(empty)


def test_without_the_sdk_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fewshot\[cvat\]'"):
        create(path)


def test_a_black_picture_is_annotated_like_any_other(registry):
    assert len(RegistryFunction(registry).detect(Context(), plain(BLACK))) == 1


def test_a_picture_of_several_classes_gets_a_tag_of_each_and_shapes_of_one_are_refused(tmp_path):
    with ClassRegistry(tmp_path / "m.fewshot", encoder=FakeEncoder(), multi_label=True) as registry:
        both = [png((250, 250, blue)) for blue in (0, 10, 20)]
        registry.add("red", [*both, *(png((250, 0, blue)) for blue in (0, 10, 20))])
        registry.add("green", [*both, *(png((0, 250, blue)) for blue in (0, 10, 20))])
        function = RegistryFunction(registry)
        assert sorted(names(function, function.detect(Context(), plain((250, 250, 5))))) == ["green", "red"]
        assert names(function, function.detect(Context(), plain((250, 0, 5)))) == ["red"]
        assert function.detect(Context(1.0), plain((250, 250, 5))) == []
        with pytest.raises(ValueError, match="there is no class of a shape"):
            RegistryFunction(registry, detector=Detector())


def test_shapes_are_cut_out_as_the_registrys_crops_were(registry, halves):
    seen = []
    registry.set_crop_padding(0.25)
    function = RegistryFunction(registry, detector=Detector(rectangle(2, 2, 6, 4)))
    real = registry.predict_valid
    registry.predict_valid = lambda images, **asked: seen.extend(images) or real(images, **asked)
    function.detect(Context(), halves)
    assert [one.size for one in seen] == [(6, 6)]  # the longer side of 4, and a quarter of it on each side
