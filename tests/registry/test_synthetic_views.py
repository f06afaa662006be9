"""Examples embedded with synthetic views: one vector each, which reindexing makes again."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from fakes import BLUE, FakeEncoder, png
from numpy.testing import assert_allclose
from PIL import Image, ImageDraw

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.media import catalogue_views, image_bytes
from fewshot.registry import repair_registry


def catalogue(colour, size=120):
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).ellipse((20, 30, size - 20, size - 30), fill=colour)
    return image


def vectors(registry):
    return {e.label: e.vector for e in registry.export_page(after=0, limit=99)}


def by_hand(encoder, image):
    found = encoder.encode([image, *catalogue_views(image)])
    lengths = np.linalg.norm(found, axis=1)
    direction = (found / lengths[:, None]).sum(0)
    return direction / np.linalg.norm(direction) * lengths.mean()


RED, GREEN = catalogue((220, 20, 20)), catalogue((20, 200, 20))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.fewshot"


def test_an_augmented_example_is_one_example_whose_vector_is_the_mean_direction_of_its_views(path):
    encoder = FakeEncoder()
    with ClassRegistry(path, encoder=encoder) as registry:
        report = registry.add("red", RED, augment="catalogue")
        registry.add("plain red", RED, allow_conflict=True)
        assert (report.added, report.failed) == (1, ())
        assert registry.classes() == {"red": 1, "plain red": 1}
        found = vectors(registry)
        assert_allclose(found["red"], by_hand(encoder, RED), rtol=1e-5)
        assert_allclose(found["plain red"], encoder.encode([RED])[0], rtol=1e-6)
        again = registry.add("red", RED, augment="catalogue")
        assert (again.added, again.duplicates) == (0, 1)
        assert registry.check() == []
        registry.remove("plain red")
        assert registry.classes() == {"red": 1}


def test_reindexing_repeats_it_for_those_examples_alone_and_a_move_keeps_it(path):
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add_labelled([(RED, "red"), (GREEN, "green")], augment="catalogue")
        registry.add("blue", png(BLUE))
        registry.rename("red", "crimson")
        other = FakeEncoder(times=2.0)
        registry.reindex(other)
        found = vectors(registry)
        assert_allclose(found["crimson"], by_hand(other, RED), rtol=1e-5)
        assert_allclose(found["green"], by_hand(other, GREEN), rtol=1e-5)
        assert_allclose(found["blue"], other.encode([png(BLUE)])[0], rtol=1e-6)


def test_pictures_without_a_plain_background_are_listed_and_the_others_added(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        report = registry.add("red", [noise, RED], augment="catalogue")
        assert (report.added, len(report.failed)) == (1, 1)
        assert "no catalogue picture" in report.failed[0].reason
        assert_allclose(vectors(registry)["red"], by_hand(FakeEncoder(), RED), rtol=1e-5)


def test_a_folder_is_augmented_as_its_images_are(path, tmp_path):
    for name, image in (("red", RED), ("green", GREEN)):
        (tmp_path / "shop" / name).mkdir(parents=True)
        image.save(tmp_path / "shop" / name / "1.png")
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.add_folder(tmp_path / "shop", augment="catalogue").added == 2
        assert_allclose(vectors(registry)["green"], by_hand(FakeEncoder(), GREEN), rtol=1e-5)


def test_another_augmentation_and_an_encoder_of_texts_are_refused(path, tmp_path):
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        with pytest.raises(ValueError, match="augment must be one of None, 'catalogue', not 'mirror'"):
            registry.add("red", RED, augment="mirror")
        assert registry.classes() == {}
    words = FunctionEncoder(lambda texts: np.ones((len(texts), 2), np.float32), 2, "words", modality="text")
    with (
        ClassRegistry(tmp_path / "t.fewshot", encoder=words) as registry,
        pytest.raises(ValueError, match="augment='catalogue' is for images, and this encoder reads text"),
    ):
        registry.add("greeting", "hello", augment="catalogue")


def test_a_repaired_registry_still_knows_which_examples_were_augmented(path, tmp_path):
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", RED, augment="catalogue")
        registry.add("green", GREEN)
    assert repair_registry(path, tmp_path / "new.fewshot").lost == ()
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder(), create=False) as registry:
        other = FakeEncoder(times=2.0)
        registry.reindex(other)
        assert_allclose(vectors(registry)["red"], by_hand(other, RED), rtol=1e-5)
        assert_allclose(vectors(registry)["green"], other.encode([GREEN])[0], rtol=1e-5)


def test_a_note_of_augmentation_that_changed_by_itself_is_noticed(path):
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", RED, augment="catalogue")
        assert registry.check() == []
        name = sqlite3.connect(path).execute("SELECT augment FROM examples").fetchone()[0]
    data = path.read_bytes()
    assert data.count(name.encode()) >= 2  # the row and its index
    path.write_bytes(data.replace(name.encode(), b"catalogur", 1))
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.check() != []


def test_the_views_depend_on_the_picture_alone(path):
    file = image_bytes(RED)
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", file, augment="catalogue")
        assert_allclose(vectors(registry)["red"], by_hand(FakeEncoder(), RED), rtol=1e-6)
