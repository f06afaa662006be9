"""What training is made of: data, losses, shares of gradients, settings; each against numbers by hand or by loops."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from training_data import digits, log, train

from fewshot import Dataset, EncoderNotFound, FewShotError, ImageError
from fewshot.encoders import set_train_mode, thread_count, trainable_network
from fewshot.training.augmentation import Augment, resized
from fewshot.training.checkpoint import check_same
from fewshot.training.data_splits import limit_per_class, split_classes
from fewshot.training.decoded_images import DecodedImages, Decoding
from fewshot.training.objectives import Classical, ContrastiveLoss, Prototypical, TrainingSet
from fewshot.training.recipe import Recipe
from fewshot.training.steps import FeatureStep, Preprocessor
from fewshot.training.validation_episodes import sampler_for, within_groups
from fewshot.training.workers import Workers, worker_count

CPU = torch.device("cpu")


def pictures(sizes=(4, 4, 4), side=8, channels=3, groups=None):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    pixels = torch.randint(
        0, 256, (len(labels), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return DecodedImages("noise", pixels, labels, tuple(f"class {i}" for i in range(len(sizes))), groups)


def training_set(
    sizes=(4, 4, 4), *, batch=4, rotated=False, contrastive=0.0, ways=2, weight=1.0, augment="none", **more
):
    return TrainingSet(pictures(sizes, **more), augment, rotated, batch, ways, weight, contrastive)


# ---------------------------------------------------------------------------------------------------------- the data


def test_a_picture_is_squeezed_to_a_square_and_grey_ones_are_dark_on_light():
    dark = np.zeros((20, 40, 3), np.uint8)
    dark[8:12, 18:22] = 255
    data = Dataset("two", (dark, 255 - dark), ("a", "b"))
    assert Decoding.of(data, 10).run().pixels.shape == (2, 3, 10, 10)
    grey = Decoding.of(data, 10, grey=True).run().pixels
    assert grey.shape == (2, 1, 10, 10)
    assert torch.equal(grey[0], grey[1])
    assert grey[0, 0, 0, 0] == 255


def test_pictures_to_be_cropped_are_kept_larger_but_never_enlarged_for_that():
    large = Dataset("large", tuple(np.zeros((100, 90, 3), np.uint8) for _ in range(3)), ("a",) * 3)
    small = Dataset("small", tuple(np.zeros((35, 34, 3), np.uint8) for _ in range(3)), ("a",) * 3)
    assert Decoding.of(large, 32, margin=True).run().pixels.shape[-1] == 40
    assert Decoding.of(small, 32, margin=True).run().pixels.shape[-1] == 34
    assert Decoding.of(small, 64, margin=True).run().pixels.shape[-1] == 64


def test_unreadable_pictures_are_named_and_counted():
    data = Dataset("mixed", (b"no", np.zeros((4, 4, 3), np.uint8), b""), ("a", "a", "b"))
    with pytest.raises(ImageError, match=r"<2 bytes>: not an image.*\(2 of the 3 images of mixed cannot be read"):
        Decoding.of(data, 8).run()


def test_data_sets_that_do_not_fit_in_memory_together_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 100_000}[name])
    monkeypatch.setattr(Decoding, "run", None)
    learn, validation = digits(5, range(10)), digits(5, range(10), name="others")  # 50 x 16 x 16 x 3 = 38,400 bytes
    for sets in ({"data": (learn, validation, validation)}, {"data": (learn, validation), "validation": [validation]}):
        data = sets.pop("data")
        with pytest.raises(FewShotError, match=r"the images of digits \(50\), others .*take 0\.0 GiB at 16 .*: lower"):
            train(tmp_path / "out", *data, hold_out=0.0, batch_size=(10,), **sets)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # two of them fit
        train(tmp_path / "out", learn, validation, hold_out=0.0, batch_size=(10,))


def test_whole_groups_are_held_out():
    labels = tuple(f"{group}{c}" for group in "abcdefghij" for c in range(3) for _ in range(2))
    data = Dataset("grouped", tuple(b"" for _ in labels), labels, tuple(label[0] for label in labels))
    learn, held = split_classes(data, 0.2, ways=5, examples=2, seed=0)
    assert len(set(held.groups)) == 2
    assert len(set(held.labels)) == 6
    assert not set(held.groups) & set(learn.groups)
    assert len(learn) + len(held) == len(data)
    assert split_classes(data, 0.2, ways=5, examples=2, seed=0)[1].labels == held.labels
    assert any(split_classes(data, 0.2, ways=5, examples=2, seed=s)[1].labels != held.labels for s in (1, 2, 3))


def test_more_is_held_out_where_an_episode_needs_more_classes():
    data = digits(3)
    assert len(split_classes(data, 0.1, ways=4, examples=2, seed=0)[1].classes) == 4


def test_too_few_classes_to_hold_some_out_says_so():
    with pytest.raises(ValueError, match=r"digits has 3 classes, 3 of them with the 2 images.*--hold-out 0"):
        split_classes(digits(3, range(3)), 0.1, ways=2, examples=2, seed=0)


def test_validation_pictures_are_thinned_evenly():
    thin = limit_per_class(Dataset("d", tuple(range(12)), ("a",) * 9 + ("b",) * 3), 3)
    assert thin.images == (0, 4, 8, 9, 10, 11)


def test_a_sets_own_validation_part_is_taken_and_nothing_held_out(tmp_path):
    from PIL import Image

    for part, names in (("train", "abc"), ("val", "de")):
        for name in names:
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for n in range(4):
                Image.fromarray(digits(4, [ord(name) - 97]).images[n]).save(tmp_path / "set" / part / name / f"{n}.png")
    notes = []
    result = train(
        tmp_path / "out", str(tmp_path / "set"), ways=(2,), queries=2, epochs=1, batch_size=(6,), note=notes.append
    )
    assert result.validation[0]["measure"].startswith("2-way 1-shot")
    about = (tmp_path / "out" / "training.json").read_text()
    assert '"use": "training",\n    "images": 12,' in about
    assert '"split": "val",\n    "use": "validation",\n    "images": 8,' in about


def test_validation_stays_within_groups_where_one_has_the_classes(tmp_path):
    classes = range(8)
    data = digits(8, classes, groups=tuple("few" if c < 3 else "many" for c in classes for _ in range(8)))
    for ways, within in ((3, True), (5, True), (6, False)):
        assert within_groups(data, ways) == within
        groups = [
            {data.groups[i] for i in row} for some in sampler_for(data, ways, Recipe(queries=2)) for row in some.support
        ]
        assert {len(found) for found in groups} == ({1} if within else {1, 2} - ({1} if ways > 5 else set()))
    straddling = digits(2, range(3), groups=("a", "b", "a", "a", "a", "a"))
    assert not within_groups(straddling, 2)
    assert not within_groups(digits(2), 2)
    result = train(tmp_path / "out", digits(8, (8, 9)), validation=[data], ways=(4,), epochs=1, batch_size=(8,))
    assert result.validation[0]["measure"] == "4-way 1-shot within groups, cosine prototypes"


def test_classes_both_trained_on_and_validated_on_are_reported(tmp_path):
    notes = []
    train(tmp_path / "out", digits(8), validation=[digits(8, range(4))], epochs=1, note=notes.append)
    assert notes[0].startswith("4 of the 4 validation classes of digits have the names of training classes of digits")


# ------------------------------------------------------------------------------------------------- errors by the data


def test_sets_of_one_name_are_told_apart(tmp_path):
    train(tmp_path / "out", digits(), digits(8), epochs=1, hold_out=0.0)
    (line,) = log(tmp_path / "out")
    assert list(line["accuracy"]) == ["digits", "digits (2)"]


def test_a_class_with_one_picture_is_named(tmp_path):
    lonely = Dataset(
        "set", (*digits(4, range(5)).images, digits(1).images[9]), (*digits(4, range(5)).labels, "odd one")
    )
    with pytest.raises(ValueError, match=r"class 'odd one' of set has 1 image, but an\s+episode needs 2 of each"):
        train(tmp_path / "out", lonely, method="prototypical", batch_size=(1,), hold_out=0.0)
    with pytest.raises(ValueError, match=r"class 'odd one' of set, for validation, has 1 of the images .*2 of each"):
        train(tmp_path / "out", digits(), validation=[lonely])
    with pytest.raises(ValueError, match=r"class 'odd one' of set has 1 image, but .*two images of each"):
        train(tmp_path / "out", lonely, contrastive=(1.0,), hold_out=0.0, batch_size=(4,))


def test_too_few_classes_for_the_ways_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"digits has 2 classes for validation, too few for --ways 3: lower it"):
        train(tmp_path / "out", digits(), validation=[digits(4, range(2))])
    with pytest.raises(ValueError, match=r"digits has 2 classes for training, too few for --ways 3: lower"):
        train(tmp_path / "out", digits(4, range(2)), method="prototypical", batch_size=(1,), hold_out=0.0)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"digits has 10 images for training, too few for a batch of 32: lower"):
        train(tmp_path / "out", digits(1), hold_out=0.0)
    assert list(tmp_path.iterdir()) == []


def test_one_class_and_one_picture_a_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="digits has 1 class for training, where 2 are needed"):
        train(tmp_path / "out", digits(40, [0]), hold_out=0.0)
    with pytest.raises(ValueError, match="a batch of one image cannot be normalised: raise --batch-size"):
        train(tmp_path / "out", digits(4), batch_size=(1,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method must be one of 'classical', 'prototypical', 'maml', 'anil', not 'magic'"),
        ({"augment": ("photos", "shapes")}, "augment must be one of .*, not 'shapes'"),
        ({"ways": (1,)}, "ways must be a whole number of at least 2, not 1"),
        ({"rotations": True}, "rotations are classes of glyphs"),
        ({"contrastive": (1.0,), "method": "maml"}, "contrastive is for classical training, not maml"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"weights": (-1.0,)}, "weights must not be negative"),
        ({"hold_out": 1.0}, "hold_out is a share"),
        ({"seed": 2**32}, "seed must be below"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_a_value_for_each_set_must_match_their_number():
    with pytest.raises(
        ValueError, match="batch_size holds 2 values, for 3 data sets: give one for all, or one for each"
    ):
        Recipe(batch_size=(3, 4)).batches(3)
    assert Recipe(batch_size=(3,)).batches(3) == (3, 3, 3)


def test_a_network_that_would_be_starved_or_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"16 x 16 pixels are too small for test_resnet: its layer layer4\.0\.conv1"):
        trainable_network("test_resnet", 16, seed=0)
    with pytest.raises(ValueError, match=r"conv4 does not take images of 9 x 9 pixels: Conv-4 halves .* 16 pixels"):
        trainable_network("conv4", 9, seed=0)
    with pytest.raises(EncoderNotFound, match="no encoder is called 'resnet13'"):
        trainable_network("resnet13", None, seed=0)


def test_one_value_without_its_tuple_is_told_how_to_be_given():
    with pytest.raises(TypeError, match=r"ways holds a value for all data sets, .*: give \(5,\), not 5"):
        Recipe(ways=5)
    with pytest.raises(TypeError, match=r"give \('glyphs',\), not 'glyphs'"):
        Recipe(augment="glyphs")


def test_differing_settings_are_listed_with_both_values(tmp_path):
    asked = {"recipe": {"epochs": 2, "seed": 0, "size": 64}, "data": []}
    with pytest.raises(ValueError, match=r"epochs was 1 and is now 2; size was 32 and is now 64\. Repeat it"):
        check_same(asked, {"recipe": {"epochs": 1, "seed": 0, "size": 32}, "data": []}, tmp_path)
    check_same(asked, asked, tmp_path)


def test_batch_norms_folded_into_their_weights_are_not_learned_in_training_mode(tmp_path):
    import timm
    from safetensors.torch import save_file

    from fewshot.training.encoder_folder import write_config, write_weights

    network = timm.create_model("test_resnet", num_classes=0)
    torch.nn.init.ones_(network.bn1.bias)
    write_config(network, 64, {"act_layer": "gelu"}, tmp_path)
    write_weights(network, tmp_path)
    for arch in (str(tmp_path), f"local-dir:{tmp_path}"):
        net = trainable_network(arch, None, seed=0)
        assert net.settings == {"act_layer": "gelu"}  # else the result would be built without it
        set_train_mode(net.network)
        assert not net.network.bn1.training
        assert net.network.layer1[0].bn1.training  # as new as it was drawn
    network.bn1.running_mean += 1
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    net = trainable_network(str(tmp_path), None, seed=0)
    set_train_mode(net.network)
    assert net.network.bn1.training


# ------------------------------------------------------------------------------------------------- the augmentation


@pytest.mark.parametrize(("kind", "channels"), [("photos", 3), ("glyphs", 1), ("none", 3)])
def test_altered_pictures_have_the_size_asked_for_and_repeat_from_their_generator(kind, channels):
    pixels = pictures((20,), side=16, channels=channels).pixels
    turns = torch.zeros(20, dtype=torch.int64)
    made = [Augment(torch.Generator().manual_seed(seed))(kind, pixels, turns, 12) for seed in (3, 3, 4)]
    assert made[0].shape == (20, 3, 12, 12)
    assert 0.0 <= made[0].min()
    assert made[0].max() <= 1.0
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2]) == (kind == "none")


def test_a_turned_glyph_is_turned_and_its_class_another():
    stroke = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    stroke[:, :, 15:17, 4:28] = 0
    at = torch.arange(32.0)
    for turn in range(4):
        turns = torch.full((100,), turn)
        x = Augment(torch.Generator().manual_seed(0))("glyphs", stroke.expand(100, -1, -1, -1), turns, 32)
        ink = (x - x.flatten(2).median(2).values[:, :, None, None]).abs().mean(1)  # most of a picture is paper
        ink = torch.where(ink > 0.2, ink, 0.0)
        across, down = (torch.einsum("nk,k->n", ink.sum(axis), at) / ink.sum((1, 2)) for axis in (1, 2))
        wide = (ink.sum(1) * (at - across[:, None]) ** 2).sum(1)
        high = (ink.sum(2) * (at - down[:, None]) ** 2).sum(1)
        assert ((wide > high) == (turn % 2 == 0)).float().mean() > 0.95
    some = training_set((2, 1), rotated=True, augment="glyphs", channels=1)
    assert some.size == 12
    assert some.labels().tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    pixels, turns = some.pixels_of(torch.tensor([0, 4, 11]))
    assert turns.tolist() == [0, 1, 3]
    assert torch.equal(pixels, some.images.pixels[[0, 1, 2]])


# ------------------------------------------------------------------------------------------------------- the losses


def test_the_contrastive_loss_is_the_papers():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 0, 2, 1, 1]  # 2 has no partner
    unit = x / x.norm(dim=1, keepdim=True)
    losses = []
    for i in range(6):
        partners = [p for p in range(6) if p != i and labels[p] == labels[i]]
        below = sum(math.exp(16 * float(unit[i] @ unit[a])) for a in range(6) if a != i)
        terms = [-math.log(math.exp(16 * float(unit[i] @ unit[p])) / below) for p in partners]
        losses += [sum(terms) / len(terms)] if terms else []
    found = ContrastiveLoss()(x, torch.tensor(labels))
    assert_allclose(float(found.detach()), np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_the_prototypical_loss_is_the_papers(metric):
    recipe = Recipe(method="prototypical", metric=metric, shots=2, queries=3, batch_size=(2,))
    some = training_set((6, 6, 6), batch=2, ways=3)
    objective = Prototypical([some], 4, recipe)
    (plan,) = objective.plan(0)
    assert plan.shape == (1, 2 * 3 * (2 + 3))
    x = torch.randn(plan.shape[1], 4, generator=torch.Generator().manual_seed(0))
    loss, right = objective([x.requires_grad_()], [plan[0]])
    losses, hits = [], []
    labels = some.labels()[plan[0]]
    for episode in range(2):
        rows = range(episode * 15, episode * 15 + 15)
        support, query = rows[:6], rows[6:]
        means = {int(labels[r]): x[[i for i in support if labels[i] == labels[r]]].mean(0) for r in support}
        assert len(means) == 3
        for q in query:
            if metric == "cosine":
                scores = {c: 10 * torch.cosine_similarity(x[q], m, dim=0) for c, m in means.items()}
            else:
                scores = {c: -((x[q] - m) ** 2).sum() for c, m in means.items()}
            log_sum = torch.logsumexp(torch.stack(list(scores.values())), 0)
            losses.append(float((log_sum - scores[int(labels[q])]).detach()))
            hits.append(max(scores, key=lambda c: scores[c]) == int(labels[q]))
    assert_allclose(float(loss.detach()), np.mean(losses), rtol=1e-4)
    assert_allclose(float(right[0]), np.mean(hits), atol=1e-6)
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_an_epoch_shows_every_picture_of_the_first_set_once():
    first, second = training_set((7, 5), batch=4), training_set((3, 2), batch=2)
    plans = Classical([first, second], 4, Recipe()).plan(0)
    assert [tuple(plan.shape) for plan in plans] == [(3, 4), (3, 2)]
    assert sorted(plans[0].flatten().tolist()) == list(range(12))
    assert len(set(plans[1].flatten()[:5].tolist())) == 5


def test_contrastive_batches_hold_two_different_pictures_of_each_class():
    some = training_set((3, 2, 5, 4), batch=4, contrastive=1.0)
    (plan,) = Classical([some], 4, Recipe(contrastive=(1.0,))).plan(0)
    assert plan.shape == (3, 4)
    for batch in plan:
        assert len(set(batch.tolist())) == 4
        assert sorted(Counter(some.labels()[batch].tolist()).values()) == [2, 2]
        assert some.labels()[batch[:2]].tolist() == some.labels()[batch[2:]].tolist()


# ------------------------------------------------------------------------------------------------------ the workers


class Plain(nn.Module):
    """A trunk without batch norm: its gradients do not depend on how a batch is shared."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("n", [2, 3])
def test_gradients_of_shares_add_up_to_those_of_the_whole_batch(n):
    training_sets = [training_set(batch=7), training_set((3, 3), batch=4, weight=0.5)]
    found = []
    for workers in (1, n):
        trunk = Plain()
        torch.manual_seed(1)
        objective = Classical(training_sets, 4, Recipe())
        step = FeatureStep(training_sets, objective, Preprocessor((0.5,) * 3, (0.25,) * 3, CPU, "float32"), 0)
        with Workers(trunk, workers) as pool:
            positions = [plan[0] for plan in step.plan(0)]
            loss, right = step(pool, positions, 0, 8)
        found.append(
            [loss, right, *(p.grad for p in trunk.parameters()), *(p.grad for p in objective.heads.parameters())]
        )
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert found[0][2].abs().max() > 1e-3


def test_an_update_of_the_network_is_its_replicas_too():
    trunk = Plain()
    workers = Workers(trunk, 2)
    with torch.no_grad():
        trunk.conv.weight.zero_()
    assert workers.replicas[1].conv.weight.abs().max() == 0
    assert workers.replicas[1].conv.weight is not trunk.conv.weight


def test_workers_compute_on_one_core_each_and_other_threads_are_unaffected():
    def new_thread_has():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(thread_count).result()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with Workers(Plain(), 2) as workers:
            assert workers.map(lambda _: torch.get_num_threads(), range(2)) == [1, 1]
            assert torch.get_num_threads() == 1
            assert new_thread_has() == 2
        assert torch.get_num_threads() == new_thread_has() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_follow_torchs_threads_but_leave_each_a_share(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert worker_count(CPU, 192, least=16) == 8
    assert worker_count(CPU, 40, least=16) == 2
    assert worker_count(CPU, 3, least=16) == 1
    assert worker_count(torch.device("cuda"), 192, least=16) == 1


def test_pictures_are_read_as_the_encoder_reads_them():
    pixels = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    assert_allclose(resized(pixels, 2)[0, 2], [[0.0, 1.0], [0.2, 0.4]], atol=1e-6)
