"""Unknown scores and thresholds beside very many classes, against their formula and against what is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import FakeEncoder, png
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

import fewshot.openset
from fewshot import ClassRegistry
from fewshot.classifiers import Membership
from fewshot.openset import many_classes
from fewshot.openset.background import Background
from fewshot.openset.center import Center
from fewshot.openset.many_classes import LabelledExamples, ManyClasses, sampled_leave_one_out_scores
from fewshot.openset.unknown_scores import DEFAULT, SCORES, KnownClasses

D, C = 12, 300


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def classes(c, shots, seed=0, noise=0.6):
    """Vectors (c, shots, d) around c directions."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(c, 1, D)) + 1.5
    return (means + noise * rng.normal(size=(c, shots, D))).astype(np.float32)


@pytest.fixture(params=["sample", "center", "background"])
def given(request):
    """Examples (C, 3, d), prototypes, what is known of them, its background, and m and W as matrices."""
    X = classes(C, 3)
    prototypes = unit(X).mean(axis=1).astype(np.float32)
    background = None
    if request.param == "background":
        background = Background.of(classes(80, 2, seed=5).reshape(-1, D), [str(n // 2) for n in range(160)])
        known = ManyClasses.around(background)
        m = unit(classes(80, 2, seed=5).reshape(-1, D)).mean(axis=0)
    else:
        center = Center(torch.full((D,), 0.2), 40) if request.param == "center" else None
        known = ManyClasses.of(prototypes[:200], X[:90, 0], center)
        m = prototypes[:200].mean(axis=0)
        if center is not None:
            weight = float(center.weight(torch.from_numpy(prototypes[None, :200])))
            m = (200 * m + weight * 0.2) / (200 + weight)
    W = known.whitening.turned(torch.eye(D)).numpy()
    return X, prototypes, known, background, m, W


def formula(query, prototypes, m, W):
    """-(1/40) log sum_k exp(40 cos(W'(q - m), W'(p_k - m)))."""
    cosines = unit((unit(query) - m) @ W) @ unit((prototypes - m) @ W).T
    return -logsumexp(40 * cosines, axis=1) / 40


def test_the_score_is_its_formula_block_by_block(given, monkeypatch):
    _, prototypes, known, _, m, W = given
    query = np.random.default_rng(1).normal(size=(7, D)).astype(np.float32)
    monkeypatch.setattr(many_classes, "_AT_ONCE", 2 * C)
    found = known.scores(query, known.lengths(prototypes), lambda asked: asked @ prototypes.T)
    assert_allclose(found, formula(query, prototypes, m, W), rtol=1e-4, atol=1e-5)


def test_examples_are_scored_without_their_class_and_without_themselves(given):
    X, prototypes, known, background, m, W = given
    codes, whitened = np.repeat(np.arange(C), 3), np.arange(90)
    found = sampled_leave_one_out_scores(
        known,
        known.lengths(prototypes),
        lambda asked: asked @ prototypes.T,
        LabelledExamples(X.reshape(-1, D), codes, whitened),
        background=background,
        prototypes=[prototypes[:130], prototypes[130:]],
    )
    if background is None:
        asked = np.flatnonzero(codes >= 90)  # the others have a part in the whitening
        assert (found.source, found.groups.tolist()) == ("classes", codes[asked].tolist())
        others = [formula(X.reshape(-1, D)[[n]], np.delete(prototypes, codes[n], 0), m, W)[0] for n in asked]
        assert_allclose(found.unknown, others, rtol=1e-4, atol=1e-5)
    else:
        # As of few classes at once: each group is taken out of the background.
        one = KnownClasses(
            torch.from_numpy(prototypes)[None], torch.from_numpy(prototypes)[None], background, known.whitening
        )
        expected = many_classes.without_group(one, background, np.arange(160))
        assert (found.source, found.groups.tolist()) == ("background", background.groups.tolist())
        assert_allclose(found.unknown, expected, rtol=1e-4, atol=1e-5)
    assert len(found.known) == 500
    held = np.sort(np.random.default_rng(0).permutation(3 * C)[:500])
    for score, n in list(zip(found.known, held, strict=True))[:20]:
        c, row = divmod(n, 3)
        fewer = prototypes.copy()
        fewer[c] = unit(np.delete(X[c], row, 0)).mean(axis=0)
        assert_allclose(score, formula(X[c, [row]], fewer, m, W)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shots", [1, 3])
def test_it_tells_unknown_classes_about_as_well_as_what_is_exact(shots):
    drawn = classes(C + 200, shots + 1, noise=0.25)
    X, inside, outside = drawn[:C, :shots], drawn[:C, shots], drawn[C:, shots]
    query = np.concatenate([inside, outside])
    membership = Membership(torch.arange(C).repeat_interleave(shots)[None], C)
    exact = SCORES[DEFAULT](
        KnownClasses.of(torch.from_numpy(X.reshape(1, -1, D)), membership), torch.from_numpy(query)[None]
    )
    prototypes = unit(X).mean(axis=1).astype(np.float32)
    many = ManyClasses.of(prototypes[:200], X[:200, 0], None)
    sampled = many.scores(query, many.lengths(prototypes), lambda asked: asked @ prototypes.T)
    unknown = np.arange(len(query)) >= C
    assert roc_auc_score(unknown, sampled) > roc_auc_score(unknown, exact[0]) - 0.01
    assert np.corrcoef(sampled, exact[0])[0, 1] > 0.98


# In a registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """100 classes of one or two examples, where 70 are many."""
    monkeypatch.setattr(fewshot.openset, "SAMPLE_CLASSES", 70)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(more=3)) as opened:
        colours = np.random.default_rng(0).integers(0, 255, (140, 3)).tolist()
        opened.add_labelled([(png(colour), f"class {n % 100}") for n, colour in enumerate(colours)])
        yield opened


QUERY = [png((200, 10 * n, 90), 7) for n in range(9)]


def scores(registry):
    return [prediction.unknown_score for prediction in registry.predict(QUERY)]


def test_after_any_changes_unknown_scores_are_those_of_a_registry_opened_anew(registry):
    for change in (
        lambda: registry.add("new", [png((1, 2, 3), 9)]),
        lambda: registry.add("class 3", [png((1, 2, 4), 9)]),
        lambda: registry.remove("class 7"),
        lambda: registry.rename("class 8", "eight"),
        lambda: registry.move_example(registry.examples("class 9")[0][0], "class 10"),
        lambda: registry.rejection.set(0.1, background=np.random.default_rng(1).random((40, 6)).astype(np.float32)),
        lambda: registry.add("newer", [png((9, 2, 3), 9)]),
        lambda: registry.rejection.add_negatives([png((200, 10, 90), 5)]),
        lambda: registry.rejection.set(None),
        lambda: registry.add("newest", [png((9, 2, 30), 9)]),
    ):
        scores(registry)
        change()
        after = scores(registry)
        with ClassRegistry(registry.path, encoder=FakeEncoder(more=3)) as other:
            assert_allclose(after, scores(other), atol=1e-5)


def test_a_threshold_is_valid_until_a_tenth_has_changed_and_is_then_estimated_again(registry, monkeypatch):
    stored = registry.rejection.set(0.2)
    estimated, estimate = [], fewshot.openset.sampled_leave_one_out_scores
    monkeypatch.setattr(
        fewshot.openset, "sampled_leave_one_out_scores", lambda *a, **k: estimated.append(1) or estimate(*a, **k)
    )
    for number in range(9):
        registry.add(f"new {number}", [png((number, 2, 3), 9)])
        assert registry.rejection.threshold() == stored
        with ClassRegistry(registry.path, encoder=FakeEncoder(more=3)) as other:
            assert other.predict(QUERY)[0].false_accept_bound == stored.false_accept_bound
            assert other.rejection.threshold() == stored
    assert estimated == []
    registry.add_labelled([(png((number, 20, 3), 9), f"newer {number}") for number in range(5)])
    again = registry.rejection.threshold()
    assert (len(estimated), again == stored) == (1, False)
    with ClassRegistry(registry.path, encoder=FakeEncoder(more=3)) as other:
        assert other.rejection.threshold() == again
    assert len(estimated) == 1


def test_a_background_makes_every_threshold_anew(registry):
    stored = registry.rejection.set(0.2)
    background = np.random.default_rng(1).random((40, 6)).astype(np.float32)
    found = registry.rejection.set(0.2, background=background)
    assert (stored.source, found.source, found.n_unknown) == ("classes", "background", 40)
    assert registry.rejection.threshold() == found
    assert [p.label is None for p in registry.predict(QUERY)] == [
        p.unknown_score >= found.value for p in registry.predict(QUERY)
    ]
