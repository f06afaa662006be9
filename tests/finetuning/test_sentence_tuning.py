"""Contrastive tuning of sentence encoders: its loss, the blocks computed once, and that it does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tiny_transformers import sentence_folder
from torch.nn.functional import normalize

from fewshot import ClassRegistry, FineTuneClassifier, SentenceTransformerEncoder, WhitenedPrototypeClassifier
from fewshot.classifiers import LogisticRegressionClassifier
from fewshot.finetuning import tune_registry
from fewshot.finetuning.search import hold_out
from fewshot.finetuning.sentence_tuning import SentenceTrainer, contrastive_loss, drawn_pairs, few_folds

pytest.importorskip("sentence_transformers", reason="needs the extra text")
TEXTS = ["where is my card", "my card is not here", "the card is lost", "where is the parcel now", "play a song"]
TEXTS += ["play music now", "stop the music", "a song like rain", "stop", "the weather is like music now"]
LABELS = ["card"] * 5 + ["music"] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sentence_folder(tmp_path_factory.mktemp("st") / "tiny")


@pytest.fixture
def encoder(folder):
    return SentenceTransformerEncoder(folder, precision="float32")


def test_the_loss_is_the_supervised_contrastive_one_text_by_text():
    vectors, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1, 1, 2])
    unit = normalize(vectors, dim=1)
    each = []
    for i in range(5):  # the last is alone of its class
        others = [a for a in range(6) if a != i]
        total = torch.stack([(unit[i] @ unit[a] / 0.05).exp() for a in others]).sum()
        same = [a for a in others if labels[a] == labels[i]]
        each.append(-torch.stack([((unit[i] @ unit[a] / 0.05).exp() / total).log() for a in same]).mean())
    assert contrastive_loss(vectors, labels) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_a_batch_has_two_of_each_class_and_of_few_classes_more():
    generator = torch.Generator().manual_seed(0)
    many = torch.arange(77).repeat(5)
    shown = drawn_pairs(many, generator)
    assert len(shown) == len(set(shown.tolist())) == 64
    assert torch.bincount(many[shown]).unique().tolist() == [0, 2]
    assert len(drawn_pairs(torch.tensor([0] * 40 + [1] * 3), generator)) == 32 + 3


def test_what_many_splits_hold_out_is_joined_to_three_folds():
    splits = hold_out(torch.arange(2).repeat(8), 2, seed=0)
    assert len(splits) == 8
    folds = few_folds(splits, 16)
    assert [len(held) for _, held in folds] == [6, 6, 4]
    assert sorted(torch.cat([held for _, held in folds]).tolist()) == list(range(16))
    assert all(sorted([*train.tolist(), *held.tolist()]) == list(range(16)) for train, held in folds)
    assert few_folds([], 4) == []


@pytest.mark.parametrize("trainable", ["last", "last-2", "last-3", "all", None])
def test_blocks_that_stay_are_computed_once_and_give_the_same_vectors(encoder, trainable):
    model = encoder.exact_model()
    trainer = SentenceTrainer(encoder, model, TEXTS, torch.arange(10), trainable, WhitenedPrototypeClassifier(), seed=0)
    order = torch.tensor([3, 0, 9, 4])
    assert_allclose(trainer.embed(order).numpy(), encoder.encode([TEXTS[n] for n in order]), atol=1e-5)
    trained = sum(parameter.numel() for parameter in trainer.parameters)
    assert trained == {"last": 2224, "last-2": 4448, "last-3": 6672, None: 6672}.get(trainable, trained)
    assert encoder.with_model(trainer.finished()).fingerprint == encoder.fingerprint  # whole again, nothing trained yet


def test_given_steps_bring_the_classes_apart_and_the_given_encoder_stays(encoder, tmp_path):
    before = encoder.encode(TEXTS), encoder.fingerprint
    tuned = FineTuneClassifier(encoder, trainable="last-2", steps=30, learning_rate=3e-3).fit(TEXTS, LABELS)
    assert (tuned.choice_.steps, tuned.choice_.parameters) == (30, 4448)
    assert encoder.fingerprint == before[1] != tuned.encoder_.fingerprint
    assert_allclose(encoder.encode(TEXTS), before[0], atol=1e-6)

    def gap(vectors):
        unit = normalize(torch.from_numpy(vectors), dim=1)
        same = np.equal.outer(np.array(LABELS), np.array(LABELS))
        cosines = (unit @ unit.T).numpy()
        return cosines[same].mean() - cosines[~same].mean()

    assert gap(tuned.encoder_.encode(TEXTS)) > gap(before[0]) + 0.1
    assert tuned.predict(TEXTS).tolist() == LABELS
    tuned.save_encoder(tmp_path / "tuned")
    again = SentenceTransformerEncoder(str(tmp_path / "tuned"))
    assert again.fingerprint == tuned.encoder_.fingerprint
    assert 'SentenceTransformerEncoder("tuned")' in (tmp_path / "tuned" / "README.md").read_text()


def test_where_nothing_can_be_held_out_or_nothing_does_better_the_encoder_stays(encoder):
    one_each = FineTuneClassifier(encoder).fit([TEXTS[0], TEXTS[5]], ["card", "music"])
    assert (one_each.choice_.steps, one_each.encoder_) == (0, encoder)
    head = FineTuneClassifier(encoder, trainable="head").fit(TEXTS, LABELS)
    assert head.choice_.steps == 0
    own = LogisticRegressionClassifier(C=10.0).fit(encoder.encode(TEXTS), LABELS)  # as a registry of texts answers
    assert_allclose(head.scores(["a card"]), own.scores(encoder.encode(["a card"])), atol=1e-6)
    random = np.random.default_rng(0).permutation(LABELS).tolist()  # what is learned of these says nothing of others
    assert FineTuneClassifier(encoder, steps=2).fit(TEXTS, random).choice_.steps == 0


def test_parts_that_a_model_of_texts_does_not_have_are_refused(encoder):
    for trainable, message in (("last-4", "has 3 blocks: give at most last-3"), ("lora", "not 'lora'")):
        with pytest.raises(ValueError, match=message):
            FineTuneClassifier(encoder, trainable=trainable, steps=1, learning_rate=1e-3).fit(TEXTS, LABELS)


def test_a_registry_of_texts_is_tuned_moved_and_taken_back(folder, tmp_path):
    path = tmp_path / "here" / "r.fewshot"
    path.parent.mkdir()
    with ClassRegistry(path, encoder=f"st:{folder}") as registry:
        registry.add("card", TEXTS[:5])
        registry.add("music", TEXTS[5:])
        report = tune_registry(registry, steps=5, learning_rate=1e-3)
        assert report.examples == 10
        assert report.encoder["name"].startswith(f"st:{path}.encoder-")
    path.parent.rename(tmp_path / "there")
    with ClassRegistry(tmp_path / "there" / "r.fewshot") as registry:
        assert registry.predict([TEXTS[0]])[0].label == "card"
        assert registry.reindex(f"st:{folder}") == 10
