"""Training an encoder from data to folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fewshot import __version__
from fewshot.benchmark import draw_training
from fewshot.datasets import Dataset, load_dataset
from fewshot.encoders import best_device, best_precision, check_sizes, trainable_network, usable_device
from fewshot.errors import FewShotError, MissingExtra
from fewshot.files import exclusive_lock, replacing, unwritable
from fewshot.training import checkpoint
from fewshot.training.checkpoint import State
from fewshot.training.decoded_images import content, decoded, split_off, thinned
from fewshot.training.encoder_folder import write_card, write_config
from fewshot.training.loop import CHECKPOINT, ENCODER, Machine, Training
from fewshot.training.maml import learn2learn_maml
from fewshot.training.objectives import Domain
from fewshot.training.recipe import Recipe, each
from fewshot.training.validation_episodes import Watch, sampler_for, within_groups
from fewshot.training.workers import worker_count

ABOUT, CURVES, LOCK = "training.json", "training.png", "lock"
# Pictures of each class to validate on: more would cost much time, and say little more about which epoch is best.
_WATCHED = 60
# Batch norms over fewer pictures are poor.
_LEAST_SHARE = 16

Data = str | os.PathLike[str] | Dataset
Note = Callable[[str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What ``train_encoder`` has made.

    Attributes
    ----------
    folder : Path
        ``TimmEncoder(f"local-dir:{folder}")`` loads it.
    epochs : int
    best_epoch : int
        Whose weights these are.
    seconds : float
    loss : float
        Of the last epoch.
    validation : tuple of dict
        Of the best epoch: data, measure, accuracy and ci95 of each set.
    computed : bool
        False where the folder held this training already.
    """

    folder: Path
    epochs: int
    best_epoch: int
    seconds: float
    loss: float
    validation: tuple[dict[str, Any], ...]
    computed: bool


@dataclass(frozen=True)
class _Set:
    """A data set to learn from, or to validate on with episodes of so many ways."""

    dataset: Dataset
    ways: int


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

    While it learns, ``OUT.training`` holds a checkpoint, written after every epoch and every two minutes, and in
    "encoder" the log and the best weights so far. The same call goes on from there after a kill at any moment, and
    gives what an uninterrupted one gives (on a CPU, to the last bit). At the end ``out`` appears whole, and
    ``OUT.training`` goes.

    Parameters
    ----------
    data : sequence of names, paths or Dataset
        As ``load_dataset`` takes them; several share one trunk.
    out : path
        A folder that does not exist yet, or is empty, or holds this very training.
    recipe : Recipe, optional
    validation : sequence of names, paths or Dataset, optional
        Of other classes; of a data set that has parts its "val". By default, for each of the data, its own part "val",
        or, where it has none, classes held out as ``recipe.hold_out`` says.
    split : str, optional
        The part of the data to learn from; by default "train" where it has parts, else all.
    device : str, optional
        By default CUDA, then MPS, then the CPU.
    note : callable
        Told in one line of what was passed over, and of each epoch.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError : for data that the recipe does not fit, naming the class and its count; or a folder that holds another
        training, naming what differs.
    ImageError : naming the first picture that cannot be read.
    EncoderNotFound : if there is no such network.
    MissingExtra : for maml and anil without learn2learn.
    FewShotError : if the loss is no longer finite, or memory runs out; what was learned until then stays. If another
        process trains with the same ``out``.
    """
    recipe = recipe or Recipe()
    if recipe.method in ("maml", "anil"):
        learn2learn_maml()
    learn, watch = _opened(data, validation, split, recipe, note)
    samplers = [sampler_for(some.dataset, some.ways, recipe) for some in watch]
    target = Path(out) if Path(out).name not in ("", "..") else Path(os.path.abspath(out))
    work = target.with_name(f"{target.name}.training")
    net = trainable_network(recipe.arch, recipe.size, seed=recipe.seed)
    check_sizes(net, recipe.arch, {net.size} | {recipe.size_in(epoch, net.size) for epoch in range(recipe.epochs)})
    # What was left to defaults is written out: the card then says it, and asking for it by value is the same training.
    recipe = replace(
        recipe,
        size=net.size,
        batch_size=recipe.batches(len(learn)),
        learning_rate=recipe.rate(net.from_weights),
    )
    identity = {"recipe": recipe.plain(), "data": _described(learn, watch)}
    done = _finished(target, identity)
    if done is not None:
        note(f"{target} holds this training already")
        shutil.rmtree(work, ignore_errors=True)
        return done
    machine = _machine(device, recipe, len(learn), work, identity, note)
    domains = _domains(learn, recipe, net.size, machine.device)
    watches = [
        Watch(decoded(some.dataset, net.size), sampler, within_groups(some.dataset, some.ways))
        for some, sampler in zip(watch, samplers, strict=True)
    ]
    training = Training(recipe, net, domains, watches, machine, work, identity, note)
    work.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(work / LOCK) as first:
        if not first:
            raise FewShotError(f"another training is at work in {work}: wait for it, or give another --out")
        (work / ENCODER).mkdir(parents=True, exist_ok=True)
        write_config(net.network, net.size, net.settings, work / ENCODER)
        if (work / CHECKPOINT).exists():
            state = training.resume()
            note(f"going on after epoch {state.epoch}, step {state.step}, as {work} holds it")
        try:
            state = training.run()
            _finish(target, work, identity, state, note)
        except KeyboardInterrupt:
            note(f"interrupted; the same command goes on from what {work} holds")
            raise
        except (OSError, SafetensorError) as error:
            told = error if str(error).startswith("cannot write") else unwritable(work, error)
            raise FewShotError(f"{told}: the same command then goes on from the last checkpoint") from error
    shutil.rmtree(work)
    return _result(target, state, computed=True)


def _opened(
    data: Sequence[Data], validation: Sequence[Data] | None, split: str | None, recipe: Recipe, note: Note
) -> tuple[list[_Set], list[_Set]]:
    """What to learn from, and what to validate on."""
    if not data:
        raise ValueError("give data to learn from")
    learn: list[_Set] = []
    watch: list[_Set] = []
    for given, ways in zip(data, each("ways", recipe.ways, len(data)), strict=True):
        own = _loaded(given, split, "train")
        held = None
        if validation is None:
            own, held = _held_out(given, own, ways, recipe)
        # Accuracies are told by name.
        if any(own.name == other.dataset.name for other in learn):
            own = replace(own, name=f"{own.name} ({len(learn) + 1})")
        learn.append(_Set(own, ways))
        watch += [_Set(held, ways)] if held is not None else []
    if validation:
        pairs = zip(validation, each("ways", recipe.ways, len(validation)), strict=True)
        watch += [_Set(_loaded(given, None, "val"), ways) for given, ways in pairs]
        _note_shared(learn, watch, note)
    watch = [_Set(thinned(some.dataset, _WATCHED), some.ways) for some in watch]
    for some in learn + watch:
        ignored = some.dataset.ignored
        if ignored:
            note(f"{some.dataset.name}: passed over, no picture of a class: {len(ignored)}, as {ignored[0]}")
    return learn, watch


def _note_shared(learn: Sequence[_Set], watch: Sequence[_Set], note: Note) -> None:
    """Tell of classes to validate on that seem to be learned from."""
    for own in learn:
        for held in watch:
            shared = sorted(set(map(str, own.dataset.labels)) & set(map(str, held.dataset.labels)))
            if shared:
                note(
                    f"{len(shared)} of the {len(held.dataset.classes)} classes of {held.dataset.name}, to validate on, "
                    f"are named as classes of {own.dataset.name}, to learn from ({shared[0]!r}): if they are the same, "
                    "the accuracy says nothing of new classes"
                )


def _loaded(given: Data, split: str | None, usual: str) -> Dataset:
    """A data set's part, by default the usual one where it has parts."""
    if isinstance(given, Dataset):
        return given
    try:
        return load_dataset(given, split=split or usual)
    except ValueError:
        whole = load_dataset(given) if split is None and os.path.exists(given) else None
        if whole is None or whole.split is not None:
            raise
        return whole


def _held_out(given: Data, own: Dataset, ways: int, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """What is left to learn from, and the set's own part "val" if its classes are others, or classes held out."""
    if not isinstance(given, Dataset) and own.split is not None:
        try:
            val = load_dataset(given, split="val")
        except (ValueError, FileNotFoundError):
            val = None
        if val is not None and not set(val.labels) & set(own.labels):
            return own, val
    if recipe.hold_out == 0:
        return own, None
    return split_off(own, recipe.hold_out, ways=ways, examples=recipe.shots + 1, seed=recipe.seed)


def _described(learn: Sequence[_Set], watch: Sequence[_Set]) -> list[dict[str, Any]]:
    return [
        {
            "name": some.dataset.name,
            "split": some.dataset.split,
            "use": use,
            "pictures": len(some.dataset),
            "classes": len(some.dataset.classes),
            "content": content(some.dataset),
        }
        for use, sets in (("learn", learn), ("validate", watch))
        for some in sets
    ]


def _machine(
    device: str | None, recipe: Recipe, sets: int, work: Path, identity: dict[str, Any], note: Note
) -> Machine:
    """Where to compute: as the checkpoint did, as far as that can be had here."""
    place = usable_device(device) if device is not None else best_device()
    precision = "float32" if recipe.adapts else best_precision(place)
    if recipe.adapts:
        workers = worker_count(place, sum(recipe.batches(sets)), least=1)
    else:
        workers = worker_count(place, recipe.shown(sets), least=_LEAST_SHARE)
    machine = Machine(place, precision, workers)
    if not (work / CHECKPOINT).exists():
        return machine
    stored = checkpoint.about(work / CHECKPOINT)
    checkpoint.check_same(identity, stored.identity, work)
    before = stored.machine
    if (before["device"], before["precision"]) != (place.type, precision):
        note(f"begun on {before['device']} in {before['precision']}, goes on on {place.type} in {precision}")
        return machine
    return Machine(place, precision, before["workers"])


def _domains(learn: Sequence[_Set], recipe: Recipe, size: int, device: torch.device) -> list[Domain]:
    n = len(learn)
    settings = zip(
        learn,
        each("augment", recipe.augment, n),
        recipe.batches(n),
        each("weights", recipe.weights, n),
        each("contrastive", recipe.contrastive, n),
        strict=True,
    )
    domains = []
    for some, augment, batch, weight, contrastive in settings:
        glyphs = augment == "glyphs"
        pictures = decoded(some.dataset, size, grey=glyphs, spare=augment != "none").to(device)
        domains.append(Domain(pictures, augment, glyphs and recipe.rotations, batch, some.ways, weight, contrastive))
    return domains


def _finish(target: Path, work: Path, identity: dict[str, Any], state: State, note: Note) -> None:
    """Put card, log and curves beside the best weights, and the folder in its place."""
    folder = work / ENCODER
    for half_written in folder.glob(".*"):  # by a run that was killed: ours, or safetensors' own temporary file
        half_written.unlink()
    write_card(folder, target.name, identity, _versions(), state.log, state.best)
    about = {"identity": identity, "versions": _versions(), "best": state.best, "seconds": state.seconds}
    with replacing(folder / ABOUT) as temporary:
        temporary.write_text(json.dumps({**about, "last": state.log[-1]}, indent=1) + "\n", encoding="utf-8")
    try:
        draw_training(state.log, folder / CURVES)
    except MissingExtra as error:
        note(f"no picture of the training: {error}")
    if target.exists():
        target.rmdir()  # an empty folder, or _finished would have refused it
    os.replace(folder, target)


def _finished(target: Path, identity: dict[str, Any]) -> TrainingResult | None:
    """What the folder holds of this training, if it exists.

    Raises
    ------
    ValueError : if it holds another one, or something else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / ABOUT).is_file():
        raise ValueError(f"{target} exists and holds no training: give another --out")
    about = json.loads((target / ABOUT).read_text())
    checkpoint.check_same(identity, about["identity"], target)
    state = State(about["last"]["epoch"], seconds=about["seconds"], best=about["best"], log=[about["last"]])
    return _result(target, state, computed=False)


def _result(target: Path, state: State, *, computed: bool) -> TrainingResult:
    best, last = state.best, state.log[-1]
    assert best is not None
    return TrainingResult(
        target, last["epoch"], best["epoch"], state.seconds, last["loss"], tuple(best["validation"]), computed
    )


def _versions() -> dict[str, str]:
    return {"fewshot": __version__, **{name: version(name) for name in ("torch", "timm", "numpy")}}
