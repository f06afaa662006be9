"""Kill `fewshot tune` at random moments, and check what it left.

A tiny network is fine-tuned on a registry's images over and over, each time from the one before: the encoder is
written to a folder beside the registry, and all images are embedded again with it. After each kill the registry must
open with the encoder that was acknowledged last, or with the one after it, whole: its folder loads as the encoder that
the registry names, and every vector is that encoder's.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crash import forked, kill

from fewshot import ClassRegistry, load_encoder
from fewshot.encoders.timm_network import load_network
from fewshot.finetuning import tune_registry
from fewshot.registry.backup import problems_of
from fewshot.registry.store import RegistryStore
from fewshot.training.encoder_folder import write_config, write_weights

SIDE, CLASSES, EACH = 16, 3, 2
SETTINGS: dict[str, Any] = {"trainable": "last", "steps": 1, "learning_rate": 0.01, "views": 1}
_FRESH_EVERY = 10  # kills per registry, as each tuning leaves a folder
_FINGERPRINT = 32


def picture(label: int, number: int) -> np.ndarray:
    """A noisy square of one colour."""
    noise = np.random.default_rng(10 * label + number).integers(0, 90, (SIDE, SIDE, 3))
    noise[:, :, label % 3] += 160
    return noise.astype(np.uint8)


def prepare(folder: Path, pipe: int) -> None:
    """Make a network of random weights and a registry embedded by it; write its fingerprint to the pipe."""
    place = folder / "network"
    place.mkdir()
    torch.manual_seed(0)
    network = load_network("fewshot_conv4", pretrained=False)
    write_config(network, SIDE, {}, place)
    write_weights(network, place)
    with ClassRegistry(folder / "r.fewshot", encoder=load_encoder(str(place), device="cpu")) as registry:
        for label in range(CLASSES):
            registry.add(f"class {label}", [picture(label, n) for n in range(EACH)])
        os.write(pipe, registry.info().fingerprint.encode())


def tune_on(path: Path, seed: int, pipe: int) -> None:
    """Fine-tune for ever, writing the fingerprint of each new encoder to the pipe; for a process to be killed."""
    with ClassRegistry(path) as registry:
        while True:
            tune_registry(registry, random_state=seed, **SETTINGS)
            os.write(pipe, registry.info().fingerprint.encode())
            seed += 1


def inspect(path: Path, pipe: int) -> None:
    """Write, as JSON, the registry's fingerprint and what is damaged or missing to the pipe."""
    wrong = []
    with ClassRegistry(path) as registry:
        fingerprint = registry.info().fingerprint
        counts = registry.classes()
        if counts != {f"class {label}": EACH for label in range(CLASSES)}:
            wrong.append(f"it holds {counts}")
        registry.export(path.with_name("v.npz"))
        with np.load(path.with_name("v.npz"), allow_pickle=False) as found:
            held, ids = found["vectors"], found["ids"].tolist()
        anew = registry.encoder.encode([registry.image(id_) for id_ in ids])  # refuses another fingerprint
        if not np.allclose(held, anew, rtol=0.02, atol=0.02 * np.abs(anew).max()):
            wrong.append(f"its vectors are not those of {fingerprint[:8]}")
    store = RegistryStore(path, create=False)
    wrong += problems_of(store)
    store.close()
    for folder in path.parent.glob(f"{path.name}.encoder-*"):
        if not load_encoder(str(folder), device="cpu").fingerprint.startswith(folder.name[-8:]):
            wrong.append(f"{folder.name} holds another encoder")
    os.write(pipe, json.dumps([fingerprint, wrong]).encode())


def asked(job: Any, path: Path) -> str:
    """Return what a job in a child process writes, so that this process never computes and can be forked."""
    child, reading = forked(job, path)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data.decode()


def seconds_of_a_tuning(folder: Path) -> float:
    """Return the time of one fine-tuning after others."""
    asked(prepare, folder)
    child, reading = forked(tune_on, folder / "r.fewshot", 0)
    os.read(reading, _FINGERPRINT)
    started = time.perf_counter()
    for _ in range(3):
        os.read(reading, _FINGERPRINT)
    seconds = (time.perf_counter() - started) / 3
    kill(child, reading)
    return seconds


def run(kills: int, seed: int) -> dict[str, Any]:
    """Kill so many fine-tunings and count what was damaged or missing."""
    chance = random.Random(seed)
    lost, half, acknowledged, new, started = 0, 0, 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as timed:
        span = seconds_of_a_tuning(Path(timed))
    folders = [tempfile.TemporaryDirectory() for _ in range(-(-kills // _FRESH_EVERY))]
    for number in range(kills):
        path = Path(folders[number // _FRESH_EVERY].name) / "r.fewshot"
        if number % _FRESH_EVERY == 0:
            before = asked(prepare, path.parent)
        child, reading = forked(tune_on, path, 1000 * (seed + number))
        waited = int(chance.random() < 0.75)  # else the kill falls on the loading, most often
        for _ in range(waited):
            before = os.read(reading, _FINGERPRINT).decode()
        time.sleep(chance.uniform(0, (1 if waited else 1.5) * span))
        rest = kill(child, reading).decode()
        acknowledged += waited + len(rest) // _FINGERPRINT
        before = rest[-_FINGERPRINT:] or before
        answer = asked(inspect, path)
        found, wrong = json.loads(answer) if answer else ("", ["the registry cannot be opened any more"])
        new += found != before
        for problem in wrong:
            print(f"kill {number}, in tune: {problem}", file=sys.stderr)
        lost, half, before = lost + (not answer), half + len(wrong), found
    for folder in folders:
        folder.cleanup()
    return {
        "kills": kills,
        "acknowledged": acknowledged,
        "lost": lost,
        "half_written": half,
        "changed_though_not_acknowledged": new,
        "seconds": round(time.perf_counter() - started, 1),
    }
