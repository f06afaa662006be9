"""Where an encoder's pictures lie at large: how often it counts, and that lines and tables heed it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_allclose
from unknown_data import drawn, line_of, scores_of

from fewshot import ClassRegistry, EpisodeSampler
from fewshot.benchmark.openset_runner import run_openset_benchmark
from fewshot.cli import main
from fewshot.encoders import load_encoder
from fewshot.openset import center as center_module
from fewshot.openset.background import Background
from fewshot.openset.center import Center, shipped_center, write_center
from fewshot.openset.threshold import estimate_threshold, leave_one_out_scores
from fewshot.openset.unknown_scores import DEFAULT


def test_a_centre_far_from_the_classes_counts_less():
    center = Center(torch.tensor([0.0, 0.0, -1.0]), 7)
    assert_allclose(center.weight(torch.eye(3)[None, :2]), [[[1 / (1.5 - 0.5)]]], rtol=1e-6)
    assert_allclose(center.weight(torch.eye(3)[None]), [[[1 / (2.0 - 1 / 3)]]], rtol=1e-6)
    same = torch.ones(1, 4, 3)
    assert 0.0 < float(center.weight(same)) < 1e-6
    assert float(Center(torch.ones(3), 7).weight(same)) == pytest.approx(7.0)


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_its_weights_without_each_class_are_those_beside_the_others(classes):
    p = torch.tensor(drawn(classes, 0, np.random.default_rng(classes))[:, 0])
    for at in (0.0, 1.0):
        center = Center(torch.full((24,), at), 5)
        others = [float(center.weight(p[None, torch.arange(classes) != j])) for j in range(classes)]
        assert_allclose(center.weights_without(p), others, rtol=1e-4)


def test_a_centre_of_another_size_is_refused():
    center = Center(torch.ones(5), 9)
    with pytest.raises(ValueError, match="the centre has 5 numbers, but the vectors 8: give the centre of the encoder"):
        leave_one_out_scores(np.eye(8), np.arange(8), center=center)
    with pytest.raises(ValueError, match="the centre has 5 numbers, but the vectors 8"):
        scores_of(np.ones((2, 1, 8), np.float32), 1, np.ones((1, 8), np.float32), center=center)


@pytest.mark.parametrize("shots", [1, 40])
@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("close", [0.0, 1e-4, 0.02])
def test_classes_that_are_next_to_one_another_have_scores_and_a_line(close, classes, shots):
    """Pictures twice in a registry: what is divided by is next to nothing."""
    rng = np.random.default_rng(3)
    at = rng.normal(size=16)
    for where in (at, 0.0 * at):
        X = (where + close * rng.normal(size=(classes, shots, 16))).astype(np.float32)
        for center in (Center(torch.tensor(rng.normal(size=16) / 4, dtype=torch.float32), 120),
                       Center(torch.tensor(at / np.linalg.norm(at), dtype=torch.float32), 120)):  # fmt: skip
            scores = scores_of(X, shots, rng.normal(size=(9, 16)).astype(np.float32), center=center)
            assert np.isfinite(scores).all()
            if classes > 1:
                assert -1.5 < line_of(X, shots, 0.3, center=center).value < 1.0 + 1e-6


def test_of_two_close_classes_each_is_scored_around_the_centre_without_the_other():
    """In float64, by hand."""
    rng = np.random.default_rng(5)
    center = Center(torch.tensor(rng.normal(size=16) / 4, dtype=torch.float32), 120)
    first = rng.normal(size=16)
    for apart in (1e-3, 0.02, 0.5):
        X = np.stack([first, first + apart * rng.normal(size=16)]).astype(np.float32)
        unit = X / np.linalg.norm(X.astype(float), axis=1, keepdims=True) - center.vector.numpy().astype(float)
        a, b = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        assert_allclose(leave_one_out_scores(X, np.arange(2), center=center).unknown, [-(a @ b)] * 2, atol=1e-5)


@pytest.mark.parametrize("centred", [False, True], ids=["no centre", "centre"])
@pytest.mark.parametrize(("classes", "level"), [(3, 0.25), (4, 0.2), (9, 0.1)])
def test_the_fewest_classes_that_a_level_is_promised_for_keep_it(centred, classes, level):
    rng, accepted = np.random.default_rng(11), []
    center = Center(torch.tensor(drawn(400, 0, rng, d=12)[:, 0].mean(0) / 5), 40) if centred else None
    for _ in range(60):
        X, outside = drawn(classes, 1, rng, d=12), drawn(40, 0, rng, d=12)
        threshold = line_of(X, 1, level, center=center)
        assert threshold.met
        accepted.append((scores_of(X, 1, outside, center=center) < threshold.value).mean())
    assert np.mean(accepted) <= level + 1.96 * np.std(accepted, ddof=1) / np.sqrt(len(accepted))


@pytest.fixture
def ships(tmp_path, monkeypatch):
    """A centre that ships, for this test, for the encoder of ``FakeEncoder()``."""
    center = Center(torch.tensor([0.25, 0.5, 0.125]), 30)
    place = tmp_path / "centers"
    place.mkdir()
    write_center(center, FakeEncoder().fingerprint, place / "one.json")
    monkeypatch.setattr(center_module, "_SHIPPED", place)
    shipped_center.cache_clear()
    yield center
    shipped_center.cache_clear()


def test_a_centre_is_the_mean_of_its_classes_however_many_pictures_they_have():
    center = Center.of(np.array([[2, 0], [0, 3], [0, 5]], np.float32), ["a", "b", "b"])
    assert center.vector.tolist() == [0.5, 0.5]
    assert center.n_classes == 2


def test_the_centre_of_an_encoder_is_found_by_its_fingerprint(ships):
    found = shipped_center(FakeEncoder().fingerprint)
    assert found is not None
    assert (found.vector.tolist(), found.n_classes) == (ships.vector.tolist(), 30)
    assert shipped_center("another's") is None


COLOURS = {"red": RED, "green": GREEN, "blue": BLUE, "grey": (90, 99, 90)}


@pytest.fixture
def registry(tmp_path, ships):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as opened:
        for label, colour in COLOURS.items():
            opened.add(label, [png(colour), png(colour, 5)])
        yield opened


def vectors_of(encoder):
    return encoder.encode([png(colour, size) for colour in COLOURS.values() for size in (4, 5)])


def test_a_registry_heeds_the_centre_of_its_encoder_until_there_is_a_background(registry, ships):
    vectors, codes = vectors_of(FakeEncoder()), np.repeat(np.arange(4), 2)
    threshold = registry.rejection.set(0.3)
    assert threshold == estimate_threshold(vectors, codes, max_false_accept=0.3, center=ships)
    assert threshold.value != estimate_threshold(vectors, codes, max_false_accept=0.3).value
    assert threshold.center == 30
    asked = np.array([[0.5, 0.5, 0.1]], np.float32)
    X = vectors.reshape(4, 2, 3)
    (answer,) = registry.predict_vectors(asked)
    assert answer.unknown_score == pytest.approx(float(scores_of(X, 2, asked, center=ships)[0]), abs=1e-6)
    assert answer.unknown_score != pytest.approx(float(scores_of(X, 2, asked)[0]), abs=1e-3)
    assert registry.rejection.set(0.3, background=np.random.default_rng(0).random((30, 3), np.float32)).center is None
    assert registry.rejection.set(None) is None
    assert registry.rejection.set(0.3) == threshold


def test_after_a_reindex_it_is_the_new_encoders_centre_or_none(registry):
    other = FakeEncoder(more=2)
    assert registry.rejection.set(0.3).center == 30
    registry.reindex(other)
    threshold = registry.rejection.threshold()
    assert threshold == estimate_threshold(vectors_of(other), np.repeat(np.arange(4), 2), max_false_accept=0.3)
    assert threshold.center is None


def test_a_threshold_that_was_estimated_in_an_older_way_is_estimated_again(registry):
    threshold = registry.rejection.set(0.3)
    with registry._store.write() as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = 'threshold'").fetchone()
        stored = json.loads(text)
        stored["basis"]["version"] -= 1
        older = json.dumps(stored | {"value": 0.5})
        connection.execute("UPDATE meta SET value = ? WHERE key = 'threshold'", (older,))
    with ClassRegistry(registry._store.path, encoder=FakeEncoder()) as other:
        assert other.rejection.threshold() == threshold


def test_open_set_episodes_are_scored_with_the_centre_that_is_given():
    X = drawn(12, 8, np.random.default_rng(0), noise=1.6).reshape(-1, 24)
    y, center = np.repeat(np.arange(12), 12), Center(torch.ones(24) / 8, 50)

    def judged(**given):
        episodes = EpisodeSampler(y, n_way=6, n_shot=1, n_query=5, n_episodes=40)
        return run_openset_benchmark([DEFAULT, "softmax"], X, episodes, **given)

    with_it, without = judged(center=center), judged()
    assert with_it[DEFAULT].auroc.mean() > without[DEFAULT].auroc.mean() + 0.01
    assert_allclose(with_it["softmax"].auroc, without["softmax"].auroc)
    others = Background.of(drawn(30, 0, np.random.default_rng(1))[:, 0])
    assert_allclose(judged(center=center, background=others)[DEFAULT].auroc, judged(background=others)[DEFAULT].auroc)


def test_bench_open_set_takes_the_centre_that_ships_and_says_so(ships, tmp_path):
    rng = np.random.default_rng(0)
    X, y = np.abs(drawn(12, 8, rng, d=3)).reshape(-1, 3), np.repeat(np.arange(12), 12).astype(str)
    for name, fingerprint in (("known", FakeEncoder().fingerprint), ("unknown", "another's")):
        np.savez(tmp_path / f"{name}.npz", vectors=X, labels=y, fingerprint=fingerprint)
    out = tmp_path / "out"
    words = ["bench", tmp_path / "known.npz", tmp_path / "unknown.npz", "--open-set", "--shots", 1, "--episodes", 20]
    result = CliRunner().invoke(main, [*map(str, words), "--ways", "5", "--queries", "4", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads((out / "open-set.json").read_text())["rows"] if row["score"] == DEFAULT]
    assert [row["center"] for row in rows] == [30, None]
    assert rows[0]["metrics"]["auroc"] != rows[1]["metrics"]["auroc"]
    page = (out / "open-set.md").read_text()
    assert page.count("; no background, but the centre of 30 classes that ships for the encoder.") == 1
    assert page.count("; no background.") == 1


def test_the_bundled_encoder_has_a_centre():
    encoder = load_encoder("pocket")
    center = shipped_center(encoder.fingerprint)
    assert center is not None
    assert center.vector.shape == (encoder.dim,)
    assert 0.1 < float(center.vector.norm()) < 1.0
    assert center.n_classes == 120
    assert shipped_center(None) is None


@pytest.mark.parametrize("name", ["mobilenetv2_100.tf_in1k", "mobilenetv1_100.tf_in1k"])
def test_the_imagenet_encoders_of_the_benchmarks_have_one(name, shared):
    encoder = load_encoder(f"local-dir:{shared / 'weights' / name}")
    center = shipped_center(encoder.fingerprint)
    assert center is not None
    assert center.vector.shape == (encoder.dim,)
