"""Training: it learns, it repeats, a kill costs nothing, and what it leaves is an encoder."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from training_data import digits, log, train, weights

from fewshot import FewShotError, TimmEncoder, open_image
from fewshot.cli import main
from fewshot.errors import MissingExtra
from fewshot.training import loop
from fewshot.training.steps import FeatureStep


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "encoder"
    return out, train(out, epochs=6, picture=True)


def test_classical_training_learns(trained):
    out, result = trained
    lines = log(out)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["accuracy"]["digits"] > 0.7 > 0.5 > lines[0]["accuracy"]["digits"]  # chance is 1 in 7
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    best = max(lines, key=lambda line: line["validation"][0]["accuracy"])
    assert result.best_epoch == best["epoch"]
    assert result.validation == tuple(best["validation"])
    assert result.validation[0]["accuracy"] > 0.7  # of 3 digits that it did not learn from; chance is 1 in 3


def test_prototypical_training_learns(tmp_path):
    train(tmp_path / "out", method="prototypical", batch_size=(2,), epochs=6, metric="sqeuclidean")
    first, last = log(tmp_path / "out")[0], log(tmp_path / "out")[-1]
    assert last["accuracy"]["digits"] > 0.85 > first["accuracy"]["digits"]  # chance is 1 in 3
    assert "sqeuclidean" in last["validation"][0]["measure"]


def test_the_folder_is_an_encoder_that_gives_the_networks_own_vectors(trained):
    out, _ = trained
    pictures = digits(2).images
    encoder = TimmEncoder(f"local-dir:{out}", precision="float32")
    plain = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    squeezed = [open_image(p).resize((16, 16), Image.Resampling.BICUBIC) for p in pictures]
    x = torch.from_numpy(np.stack([np.asarray(s) for s in squeezed])).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        wanted = plain((x - 0.5) / 0.25).numpy()
    assert_allclose(encoder.encode(pictures), wanted, atol=1e-4 * np.abs(wanted).max())
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "training.json", "training.jsonl", "training.png",
    ]  # fmt: skip
    assert not out.with_name("encoder.training").exists()


def test_validation_measures_what_the_folder_gives(trained):
    """The accuracy in the log is the one that prototypes of the folder's vectors have on the same episodes."""
    from fewshot import EpisodeSampler, PrototypeClassifier, run_benchmark

    out, result = trained
    learned = {"digit " + str(c) for c in range(10)}
    about = json.loads((out / "training.json").read_text())
    assert [data["classes"] for data in about["identity"]["data"]] == [7, 3]
    from fewshot.training.data_splits import split_classes

    _, held = split_classes(digits(), 0.3, ways=3, examples=2, seed=0)
    assert set(held.labels) < learned
    vectors = TimmEncoder(f"local-dir:{out}").encode(held.images)
    sampler = EpisodeSampler(held.labels, n_way=3, n_shot=1, n_query=5, n_episodes=600, random_state=0)
    found = run_benchmark([PrototypeClassifier()], vectors, sampler)["PrototypeClassifier()"]
    assert_allclose(found.accuracy, result.validation[0]["accuracy"], atol=0.02)


def test_the_card_names_data_recipe_numbers_and_versions(trained):
    out, result = trained
    card = (out / "README.md").read_text()
    assert "| digits | training | 210 | 7 |" in card
    assert "| digits | validation | 90 | 3 |" in card
    assert '"seed": 0' in card
    assert f"{100 * result.validation[0]['accuracy']:.2f} ±" in card
    assert f"torch {version('torch')}" in card


def test_a_training_repeats_from_its_seed(trained, tmp_path):
    out, _ = trained
    again = train(tmp_path / "again", epochs=6)
    assert log(again.folder) == log(out)
    for name, value in weights(out).items():
        assert_array_equal(weights(again.folder)[name], value)
    other = train(tmp_path / "other", seed=1)
    assert log(other.folder)[0]["loss"] != log(out)[0]["loss"]


@pytest.fixture
def use_threads():
    """Sets torch's number of threads, which is also that of workers."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("changes", "two", "die_at"),
    [
        ({}, False, (8,)),
        ({"rotations": True, "augment": ("none", "glyphs"), "contrastive": (0.0, 1.0), "grow": False}, True, (3, 6, 7)),
        ({"method": "prototypical", "batch_size": (2,)}, False, (5,)),
    ],
    ids=["classical", "two data sets on two workers, killed three times", "prototypical"],
)
def test_a_killed_training_goes_on_to_what_an_uninterrupted_one_gives(
    changes, two, die_at, tmp_path, monkeypatch, use_threads
):
    data = [digits(), digits(10, name="more")] if two else [digits()]
    use_threads(2 if two else 1)
    whole = train(tmp_path / "whole", *data, epochs=2, **changes)

    learn, calls = loop.Training._learn, []

    def mortal(self, *args):
        calls.append(self.state.step)
        if len(calls) in die_at:
            raise Killed
        learn(self, *args)

    monkeypatch.setattr(loop.Training, "_learn", mortal)
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    out = tmp_path / "out"
    for _ in die_at:
        with pytest.raises(Killed):
            train(out, *data, epochs=2, **changes)
        assert not out.exists()
    notes = []
    train(out, *data, epochs=2, note=notes.append, **changes)
    assert any(note.startswith("resumed after epoch") for note in notes)
    assert log(out) == log(whole.folder)
    for name, value in weights(whole.folder).items():
        assert_array_equal(weights(out)[name], value)


def test_a_training_without_a_kill_is_not_what_is_compared(trained, tmp_path, monkeypatch):
    """The test above can fail: a step left out changes the weights."""
    learn, calls = loop.Training._learn, []

    def lazy(self, *args):
        calls.append(1)
        if len(calls) == 3:
            self.state.step += 1
        else:
            learn(self, *args)

    monkeypatch.setattr(loop.Training, "_learn", lazy)
    out, _ = trained
    other = train(tmp_path / "other", epochs=6)
    assert log(other.folder) != log(out)


def test_a_finished_training_is_not_done_again_and_another_does_not_overwrite_it(trained):
    out, result = trained
    again = train(out, epochs=6)
    assert not again.computed
    assert again.validation == result.validation
    assert again.best_epoch == result.best_epoch
    with pytest.raises(ValueError, match=r"epochs was 6 and is now 7.*another --out"):
        train(out, epochs=7)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"out exists and holds no training: give another --out"):
        train(tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"


def test_a_full_disk_is_told_in_one_line_and_half_written_files_do_not_stay(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_):
        (tmp_path / "out.training" / "encoder" / ".tmpX").write_text("half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(loop, "write_weights", full)
    with pytest.raises(FewShotError, match=r"cannot write .*: the disk is full.*resumes from the last checkpoint"):
        train(tmp_path / "out")
    monkeypatch.undo()
    train(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_a_broken_checkpoint_says_what_to_remove(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        interrupted(tmp_path / "out", monkeypatch, Killed())
    (tmp_path / "out.training" / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(FewShotError, match=r"checkpoint.safetensors cannot be read .*: remove .*out.training"):
        train(tmp_path / "out")


def interrupted(out, monkeypatch, error, **changes):
    """Train until the second epoch's first step, which fails."""
    step = FeatureStep.__call__

    def failing(self, workers, positions, number, size):
        if number == 6:
            raise error
        return step(self, workers, positions, number, size)

    monkeypatch.setattr(FeatureStep, "__call__", failing)
    try:
        train(out, **changes)
    finally:
        monkeypatch.undo()


def test_a_second_training_with_the_same_folder_is_turned_away(tmp_path):
    from fewshot.files import exclusive_lock

    (tmp_path / "out.training").mkdir()
    lock = tmp_path / "out.training" / "lock"
    with exclusive_lock(lock) as first, exclusive_lock(lock) as second:
        assert (first, second) == (True, False)
        with pytest.raises(FewShotError, match=r"another process is training in .*out\.training: wait for it"):
            train(tmp_path / "out")
    train(tmp_path / "out")
    assert not (tmp_path / "out.training").exists()


def test_going_on_with_other_settings_is_refused_and_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(Killed):
        interrupted(out, monkeypatch, Killed())
    with pytest.raises(ValueError, match=r"out\.training holds a training of other settings: learning_rate was 0.1"):
        train(out, learning_rate=0.01)
    notes = []
    train(out, note=notes.append)
    assert notes[1].startswith("resumed after epoch 1, step 0")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_lack_of_memory_names_the_batch_and_keeps_what_was_learned(error, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(FewShotError, match=r"memory ran out on cpu .* 16 pixels .* 32 images: lower --batch-size"):
        interrupted(out, monkeypatch, error)
    kept = tmp_path / "out.training" / "encoder"
    assert TimmEncoder(f"local-dir:{kept}").encode(digits(1).images).shape == (10, 64)


def test_another_error_is_not_taken_for_lack_of_memory(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="disk on fire"):
        interrupted(tmp_path / "out", monkeypatch, RuntimeError("disk on fire"))


def test_a_loss_that_is_no_number_names_the_step_and_the_remedy(tmp_path):
    with pytest.raises(
        FewShotError, match=r"the (loss|gradient) became (nan|inf) in epoch \d, step \d of 6.*lower --learning-rate"
    ):
        train(tmp_path / "out", learning_rate=1e30)


def test_training_can_start_from_a_trained_folder(trained, tmp_path):
    out, _ = trained
    more = train(tmp_path / "more", arch=str(out), epochs=1, method="prototypical", batch_size=(2,))
    assert log(more.folder)[0]["accuracy"]["digits"] > 0.75  # from scratch the first epoch is at 0.6
    assert set(weights(more.folder)) == set(weights(out))


def test_without_validation_the_last_weights_are_kept(tmp_path):
    result = train(tmp_path / "out", hold_out=0.0)
    assert result.best_epoch == 3
    assert result.validation == ()
    assert "No classes were held out" in (tmp_path / "out" / "README.md").read_text()


def test_pictures_grow_to_the_size_asked_for(tmp_path):
    train(tmp_path / "out", arch="test_resnet", size=64, grow=True, epochs=4, batch_size=(105,))
    assert [line["size"] for line in log(tmp_path / "out")] == [32, 40, 40, 64]
    with pytest.raises(ValueError, match=r"conv4 gives 64 to 256 features by image size"):
        train(tmp_path / "other", size=32, grow=True)


def test_learn2learn_is_asked_for_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    monkeypatch.setitem(sys.modules, "learn2learn.algorithms", None)
    for method in ("maml", "anil"):
        with pytest.raises(MissingExtra, match=r"learn2learn.*docs/pages/tutorials/train\.md"):
            train(tmp_path / "out", method=method)
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_from_a_folder_and_answers_in_one_line(tmp_path):
    for label in "0123":
        (tmp_path / "data" / label).mkdir(parents=True)
        for n, image in enumerate(digits(6, [int(label)]).images):
            Image.fromarray(image).save(tmp_path / "data" / label / f"{n}.png")
    out = tmp_path / "out"
    arguments = (
        f"train {tmp_path / 'data'} --out {out} --arch conv4 --size 16 --epochs 1 --ways 2 --queries 2 "
        "--batch-size 12 --hold-out 0.5 --augment glyphs --rotations --device cpu"
    ).split()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert answer["folder"] == str(out)
    assert answer["computed"]
    assert "epoch 1 of 1: loss" in result.stderr
    (tmp_path / "data" / "3" / "0.png").write_text("not a picture")
    shutil.rmtree(out)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "3/0.png: not an image" in result.stderr
    assert "of the 12 images of data cannot be read" in result.stderr
    assert not out.exists()
