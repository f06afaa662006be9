"""Training an encoder: from data sets to a folder of weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fewshot import __version__
from fewshot.benchmark import draw_training
from fewshot.encoders import best_device, best_precision, check_sizes, trainable_network, usable_device
from fewshot.errors import FewShotError, MissingExtra
from fewshot.files import exclusive_lock, replacing, unwritable
from fewshot.training import checkpoint
from fewshot.training.checkpoint import TrainingState
from fewshot.training.data_splits import Data, Note, Part, described, load_splits
from fewshot.training.decoded_images import DecodedImages, Decoding, check_memory
from fewshot.training.encoder_folder import write_card, write_config
from fewshot.training.loop import CHECKPOINT, ENCODER, Machine, Training
from fewshot.training.maml import learn2learn_maml
from fewshot.training.objectives import TrainingSet
from fewshot.training.recipe import Recipe, per_set
from fewshot.training.validation_episodes import ValidationSet, sampler_for, within_groups
from fewshot.training.workers import worker_count

SUMMARY, CURVES, LOCK = "training.json", "training.png", "lock"
# Images in a worker's share: batch norm statistics over fewer are poor.
_MIN_SHARE = 16


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of ``train_encoder``.

    Attributes
    ----------
    folder : Path
        ``TimmEncoder(f"local-dir:{folder}")`` loads it.
    epochs : int
    best_epoch : int
        The epoch of the weights in the folder.
    seconds : float
    loss : float
        Of the last epoch.
    validation : tuple of dict
        Of the best epoch: data, measure, accuracy and ci95 of each set.
    computed : bool
        False if the folder held this training already.
    """

    folder: Path
    epochs: int
    best_epoch: int
    seconds: float
    loss: float
    validation: tuple[dict[str, Any], ...]
    computed: bool


def train_encoder(
    data: Sequence[Data],
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    validation: Sequence[Data] | None = None,
    split: str | None = None,
    device: str | None = None,
    note: Note = lambda _: None,
) -> TrainingResult:
    """Train an encoder for few-shot use, and write it as a folder that ``TimmEncoder`` loads.

    During training, ``OUT.training`` holds a checkpoint, written after every epoch and every two minutes, and in
    "encoder" the log and the best weights so far. After an interruption the same call resumes from there, and gives
    what an uninterrupted one gives (on a CPU, to the last bit). At the end ``out`` is written at once, and
    ``OUT.training`` deleted.

    Parameters
    ----------
    data : sequence of names, paths or Dataset
        As ``load_dataset`` takes them; several are trained on together, with one trunk.
    out : path
        A folder that does not exist yet, is empty, or holds a training of the same settings.
    recipe : Recipe, optional
    validation : sequence of names, paths or Dataset, optional
        Of other classes than ``data``; of a data set with splits its "val". By default the split "val" of each of
        ``data``, or, where it has none, classes held out of it, by ``recipe.hold_out``.
    split : str, optional
        The split of ``data`` to train on; by default "train" where there are splits, else all.
    device : str, optional
        By default CUDA, then MPS, then the CPU.
    note : callable
        Called with one line of text: for files left out, and after each epoch.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError : for data that the recipe does not fit, naming the class and its count; or a folder that holds another
        training, naming what differs.
    ImageError : naming the first image that cannot be read.
    EncoderNotFound : if there is no such network.
    MissingExtra : for maml and anil without learn2learn.
    FewShotError : if the data does not fit in memory; if the loss is no longer finite, or memory runs out (the weights
        so far remain); if another process trains with the same ``out``.
    """
    recipe = recipe or Recipe()
    if recipe.method in ("maml", "anil"):
        learn2learn_maml()
    train, val = load_splits(data, validation, split, recipe, note)
    samplers = [sampler_for(each.dataset, each.ways, recipe) for each in val]
    target = Path(out) if Path(out).name not in ("", "..") else Path(os.path.abspath(out))
    work = target.with_name(f"{target.name}.training")
    net = trainable_network(recipe.arch, recipe.size, seed=recipe.seed)
    check_sizes(net, recipe.arch, {net.size} | {recipe.size_in(epoch, net.size) for epoch in range(recipe.epochs)})
    # Defaults are resolved, so that the card names them, and giving one explicitly is the same training.
    recipe = replace(
        recipe,
        size=net.size,
        batch_size=recipe.batches(len(train)),
        learning_rate=recipe.rate(net.from_weights),
    )
    identity = {"recipe": recipe.as_json(), "data": described(train, val)}
    done = _finished(target, identity)
    if done is not None:
        note(f"{target} holds this training already")
        shutil.rmtree(work, ignore_errors=True)
        return done
    machine = _machine(device, recipe, len(train), work, identity, note)
    training_sets, validation_images = _decoded(train, val, recipe, net.size, machine.device)
    validation_sets = [
        ValidationSet(images, sampler, within_groups(each.dataset, each.ways))
        for images, each, sampler in zip(validation_images, val, samplers, strict=True)
    ]
    training = Training(recipe, net, training_sets, validation_sets, machine, work, identity, note)
    work.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(work / LOCK) as first:
        if not first:
            raise FewShotError(f"another process is training in {work}: wait for it, or give another --out")
        (work / ENCODER).mkdir(parents=True, exist_ok=True)
        write_config(net.network, net.size, net.settings, work / ENCODER)
        if (work / CHECKPOINT).exists():
            state = training.resume()
            note(f"resumed after epoch {state.epoch}, step {state.step}, from {work}")
        try:
            state = training.run()
            _finish(target, work, identity, state, note)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command resumes from the last checkpoint in {work}") from None
        except (OSError, SafetensorError) as error:
            reason = error if str(error).startswith("cannot write") else unwritable(work, error)
            raise FewShotError(f"{reason}: the same command then resumes from the last checkpoint") from error
    shutil.rmtree(work)
    return _result(target, state, computed=True)


def _machine(
    device: str | None, recipe: Recipe, sets: int, work: Path, identity: dict[str, Any], note: Note
) -> Machine:
    """Where to compute: as the checkpoint did, as far as this machine can."""
    place = usable_device(device) if device is not None else best_device()
    precision = "float32" if recipe.adapts else best_precision(place)
    if recipe.adapts:
        workers = worker_count(place, sum(recipe.batches(sets)), least=1)
    else:
        workers = worker_count(place, recipe.images_per_step(sets), least=_MIN_SHARE)
    machine = Machine(place, precision, workers)
    if not (work / CHECKPOINT).exists():
        return machine
    stored = checkpoint.read_header(work / CHECKPOINT)
    checkpoint.check_same(identity, stored.identity, work)
    before = stored.machine
    if (before["device"], before["precision"]) != (place.type, precision):
        note(f"started on {before['device']} in {before['precision']}, continues on {place.type} in {precision}")
        return machine
    return Machine(place, precision, before["workers"])


def _decoded(
    train: Sequence[Part], val: Sequence[Part], recipe: Recipe, size: int, device: torch.device
) -> tuple[list[TrainingSet], list[DecodedImages]]:
    """All images in memory: for training on the device, for validation on the CPU."""
    n = len(train)
    augment = per_set("augment", recipe.augment, n)
    to_train = [
        Decoding.of(part.dataset, size, grey=kind == "glyphs", margin=kind != "none")
        for part, kind in zip(train, augment, strict=True)
    ]
    to_validate = [Decoding.of(part.dataset, size) for part in val]
    if device.type == "cpu":
        check_memory([*to_train, *to_validate])
    else:  # each leaves main memory for the device before the next is decoded
        check_memory([max(to_train, key=lambda decoding: decoding.nbytes)])
        check_memory(to_validate)
    settings = zip(
        to_train,
        train,
        augment,
        recipe.batches(n),
        per_set("weights", recipe.weights, n),
        per_set("contrastive", recipe.contrastive, n),
        strict=True,
    )
    training_sets = [
        TrainingSet(
            decoding.run().to(device),
            kind,
            kind == "glyphs" and recipe.rotations,
            batch,
            part.ways,
            weight,
            contrastive,
        )
        for decoding, part, kind, batch, weight, contrastive in settings
    ]
    return training_sets, [decoding.run() for decoding in to_validate]


def _finish(target: Path, work: Path, identity: dict[str, Any], state: TrainingState, note: Note) -> None:
    """Add card, log and curves to the best weights, and move the folder to its place."""
    folder = work / ENCODER
    for half_written in folder.glob(".*"):  # by a run that was killed: ours, or safetensors' own
        half_written.unlink()
    write_card(folder, target.name, identity, _versions(), state.log, state.best)
    summary = {"identity": identity, "versions": _versions(), "best": state.best, "seconds": state.seconds}
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps({**summary, "last": state.log[-1]}, indent=1) + "\n", encoding="utf-8")
    try:
        draw_training(state.log, folder / CURVES)
    except MissingExtra as error:
        note(f"no plot of the training: {error}")
    if target.exists():
        target.rmdir()  # an empty folder, or _finished would have refused it
    os.replace(folder, target)


def _finished(target: Path, identity: dict[str, Any]) -> TrainingResult | None:
    """Return the result of this training if the folder holds it, None if the folder is new.

    Raises
    ------
    ValueError : if it holds another one, or something else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / SUMMARY).is_file():
        raise ValueError(f"{target} exists and holds no training: give another --out")
    summary = json.loads((target / SUMMARY).read_text())
    checkpoint.check_same(identity, summary["identity"], target)
    state = TrainingState(
        summary["last"]["epoch"], seconds=summary["seconds"], best=summary["best"], log=[summary["last"]]
    )
    return _result(target, state, computed=False)


def _result(target: Path, state: TrainingState, *, computed: bool) -> TrainingResult:
    best, last = state.best, state.log[-1]
    assert best is not None
    return TrainingResult(
        target, last["epoch"], best["epoch"], state.seconds, last["loss"], tuple(best["validation"]), computed
    )


def _versions() -> dict[str, str]:
    return {"fewshot": __version__, **{name: version(name) for name in ("torch", "timm", "numpy")}}
