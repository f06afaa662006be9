"""Suggestions of labels that have examples, and of those that have none."""

from __future__ import annotations

import numpy as np
from fakes import FakeEncoder
from label_studio_fakes import CHOICES
from numpy.testing import assert_allclose

from fewshot import WhitenedPrototypeClassifier
from fewshot.integrations import parse_config
from fewshot.integrations.label_studio.suggestions import LabelSuggester
from fewshot.integrations.label_studio.tasks import QueryImage, prediction_of
from fewshot.registry import AnnotationSnapshot
from fewshot.registry.annotations.annotation_records import AppliedLabel
from fewshot.registry.snapshot import Snapshot


def snapshot_of(*examples):
    """Annotated examples, a label and a colour each."""
    labels = list(dict.fromkeys(label for label, _ in examples))
    vectors = np.array([vector for _, vector in examples], np.float32)
    ids = np.arange(1, len(examples) + 1)
    codes = np.array([labels.index(label) for label, _ in examples])
    settings = {"metric": "cosine", "revision": 1, "rewrites": 1}
    held = Snapshot(
        settings, ids, vectors, np.linalg.norm(vectors, axis=1), ids, codes, labels, np.arange(1, len(labels) + 1)
    )
    applied = [AppliedLabel(n, "choice", "", label, n, None) for n, (label, _) in enumerate(examples, start=1)]
    return AnnotationSnapshot(held, applied, {})


def test_a_score_leaves_a_chance_to_labels_without_examples():
    # Three examples of "Red" and one of "Blue", of five labels. Without examples: 3 of 5; by Good's estimate with one
    # added, (1 + 1) / (1 + 4) = 0.4, which is less.
    snapshot = snapshot_of(("Red", (1, 0, 0)), ("Red", (0.9, 0.1, 0)), ("Red", (0.9, 0, 0.1)), ("Blue", (0, 0, 1)))
    (two,), (five,) = (
        parse_config(CHOICES.replace("<Choice ", more + "<Choice ", 1))
        for more in ("", '<Choice value="A"/><Choice value="B"/><Choice value="C"/>')
    )
    query = np.array([(1, 0.1, 0.2)], np.float32)
    (sure,), (unsure,) = LabelSuggester(two, snapshot).suggest(query), LabelSuggester(five, snapshot).suggest(query)
    classifier = WhitenedPrototypeClassifier().fit(
        snapshot.examples.vectors, [snapshot.examples.labels[code] for code in snapshot.examples.codes]
    )
    probability = classifier.predict_proba(query).max()
    assert (sure.labels, unsure.labels) == (("Red",), ("Red",))
    assert_allclose([sure.score, unsure.score], [probability, 0.6 * probability], rtol=1e-6)


def test_the_parts_of_an_encoders_embeddings_are_weighted_as_when_predicting():
    # With two examples the second part has no weight: by the first, the query is of "Blue", by all numbers of "Red".
    snapshot = snapshot_of(("Red", (1, 0, 0)), ("Blue", (0.9, 0.2, 1)))
    (control,) = parse_config(CHOICES)
    encoder, query = FakeEncoder(), np.array([(0.9, 0.2, 0)], np.float32)
    assert LabelSuggester(control, snapshot, encoder).suggest(query)[0].labels == ("Red",)
    encoder.parts = (2, 1)
    assert LabelSuggester(control, snapshot, encoder).suggest(query)[0].labels == ("Blue",)


def test_a_label_without_any_other_has_no_score_and_is_left_out_of_what_is_confident():
    (control,) = parse_config('<View><Image name="i" value="$image"/><Choices name="choice" toName="i"/></View>')
    (suggestion,) = LabelSuggester(control, snapshot_of(("Red", (1, 0, 0)))).suggest(np.array([(0, 1, 0)], np.float32))
    assert (suggestion.labels, suggestion.score) == (("Red",), None)
    suggested = [(QueryImage(control, "a.png"), suggestion)]
    found = prediction_of(suggested, "1")
    assert (found["score"], [result["value"] for result in found["result"]]) == (None, [{"choices": ["Red"]}])
    assert "score" not in found["result"][0]
    assert prediction_of(suggested, "1", 0.1)["result"] == []


def test_with_many_examples_a_label_without_any_is_unlikely():
    snapshot = snapshot_of(*[("Red", (1, 0, 0)), ("Blue", (0, 0, 1))] * 20)
    (control,) = parse_config(CHOICES.replace("<Choice ", '<Choice value="A"/>' + "<Choice ", 1))
    (suggestion,) = LabelSuggester(control, snapshot).suggest(np.array([(1, 0, 0)], np.float32))
    assert 0.7 < suggestion.score <= 40 / 41  # one of the three labels did not come in 40 pictures
