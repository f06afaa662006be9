"""Damaged and nonsensical inputs at every door of the library, and what becomes of them.

Hypothesis makes them. Each gets an answer or one of our errors; anything else is a failure: another error, a process
that dies, one that takes over 20 seconds, or more than 2 GiB beyond what it started with.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from click.testing import CliRunner
from crash import ENCODERS, picture
from hypothesis import strategies as st
from PIL import Image

from fewshot import (
    ClassRegistry,
    EncoderNotFound,
    FewShotError,
    ImageError,
    PrototypeClassifier,
    VectorIndex,
    load_encoder,
    open_image,
)
from fewshot.calibration import read_calibration, shipped_calibration, write_calibration
from fewshot.cli import main as fewshot
from fewshot.encoders.timm_network import load_network
from fewshot.media import labelled_images
from fewshot.registry.repair import repair_registry
from fewshot.training.encoder_folder import write_config, write_weights
from fewshot.vectors.feature_files import read_features

SECONDS, MEMORY = 20.0, 2 * 2**30
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
_WORDS = (
    *"add predict evaluate classes remove rename merge export import reindex info backup repair encoders bench".split(),
    *"train demo threshold calibrate tune --help --version --top --out --nearest --encoder --from-folder".split(),
    *"--into --metric --example --methods --ways --shots --classifier --negative --max-false-accept --forget".split(),
    *"r.fewshot new.fewshot a.png broken.png photos z.zip missing x.npz . .. cat dog 0 1 -1 nan 1,5 0.05".split(),
    *"999999999999999999999 cosine nearest prototype pocket [ * **/* %s {} - --".split(),
    *("local-dir:missing", "resnet18", "", "\0", "a\nb", "\ud800", "\u00e4" * 300),
)
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def damages(draw: Draw, data: bytes) -> bytes:
    """Cut, flip, overwrite, repeat or remove some of it; now and then it is noise altogether."""
    made = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 2, 4, 16)))):
        at, length = draw(st.integers(0, len(made))), draw(st.sampled_from((1, 1, 2, 4, 64, 4096)))
        kind = draw(st.sampled_from("cut remove repeat overwrite fill flip noise".split()))
        if kind == "cut":
            del made[at:]
        elif kind == "remove":
            del made[at : at + length]
        elif kind == "repeat":
            made[at:at] = made[at : at + length]
        elif kind == "overwrite":
            new = draw(st.binary(min_size=1, max_size=64))
            made[at : at + len(new)] = new[: len(made) - at]
        elif kind == "fill":
            made[at : at + length] = draw(st.sampled_from((b"\0", b"\xff", b"\x7f"))) * min(length, len(made) - at)
        elif kind == "flip" and at < len(made):
            made[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "noise" and draw(st.integers(0, 9)) == 0:
            made[:] = draw(st.binary(max_size=300))
    return bytes(made)


@st.composite
def changed_json(draw: Draw, value: Any) -> Any:
    """Put something else in one or more places of a JSON value, or leave them out."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 7)) == 0:
        return draw(_JSON)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    made: Any = dict(value) if isinstance(value, dict) else list(value)
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 3)) == 0:
        del made[key]
    else:
        made[key] = draw(changed_json(made[key]))
    return made


class Doors:
    """What is tried, in a folder of its own; each draws its input, and raises what the library raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        self.pictures = []
        for name in _FORMATS:
            out = io.BytesIO()
            Image.fromarray(noise).save(out, format=name)
            self.pictures.append(out.getvalue())
        with ClassRegistry(folder / "whole.fewshot", encoder=ENCODERS[0]) as registry:
            for n in range(8):
                registry.add(f"class {n % 3}", [picture(n)])
            registry.rejection.add_negatives([picture(9)])
            registry.export(folder / "whole.npz")
        index = VectorIndex(4, metric="cosine")
        index.add(np.eye(4, dtype=np.float32), list(range(4)))
        index.save(folder / "whole.index")
        with zipfile.ZipFile(folder / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for n, data in enumerate(self.pictures):
                archive.writestr(f"kind {n % 2}/{n}.png", data)
        self._make_encoder(folder / "encoder")
        self.whole = {path.suffix: path.read_bytes() for path in folder.glob("whole.*")}
        self.config = json.loads((folder / "encoder" / "config.json").read_text())
        self.weights = (folder / "encoder" / "model.safetensors").read_bytes()
        write_calibration(shipped_calibration(), folder / "calibration.json")
        self.table = json.loads((folder / "calibration.json").read_text())
        (folder / "a.png").write_bytes(self.pictures[0])
        (folder / "broken.png").write_bytes(self.pictures[0][:90])
        (folder / "photos" / "b").mkdir(parents=True)
        (folder / "photos" / "b" / "c.png").write_bytes(self.pictures[0])

    @staticmethod
    def _make_encoder(folder: Path) -> None:
        folder.mkdir()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            network = load_network("fewshot_conv4", pretrained=False)
        write_config(network, 16, {}, folder)
        write_weights(network, folder)

    def images(self, draw: Draw) -> None:
        """A damaged picture, from bytes."""
        open_image(draw(damages(draw(st.sampled_from(self.pictures)))))

    def zips(self, draw: Draw) -> None:
        """A damaged zip of pictures, listed and read."""
        path = self.folder / f"damaged {draw(st.integers(0, 3))}.zip"
        path.write_bytes(draw(damages(self.whole[".zip"])))
        for image in labelled_images(path).images:
            with suppress(ImageError):
                open_image(image)

    def registries(self, draw: Draw) -> None:
        """A damaged registry: listed, asked, and repaired."""
        path, new = self.folder / "damaged.fewshot", self.folder / "repaired.fewshot"
        path.write_bytes(draw(damages(self.whole[".fewshot"])))
        new.unlink(missing_ok=True)
        try:
            with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
                registry.classes()
                registry.predict([picture(1)])
                registry.backup(self.folder / "copy")
        finally:
            with suppress(FewShotError):
                repair_registry(path, new)
                with ClassRegistry(new, encoder=ENCODERS[0]) as registry:
                    registry.classes()

    def settings(self, draw: Draw) -> None:
        """A registry whose settings say something else: described, and its encoder loaded."""
        path = self.folder / "settings.fewshot"
        path.write_bytes(self.whole[".fewshot"])
        said = draw(st.sampled_from(({"name": "pocket", "layer": None, "pool": None}, {"name": "local-dir:missing"})))
        kinds = {"encoder": changed_json(said).map(json.dumps), "dim": _PLAIN, "metric": _PLAIN, "fingerprint": _PLAIN}
        with closing(sqlite3.connect(path)) as connection:
            for key in draw(st.sets(st.sampled_from(sorted(kinds)), min_size=1)):
                value = draw(kinds[key] | st.text(max_size=8))
                if isinstance(value, int):
                    value = max(min(value, 2**63 - 1), -(2**63))
                with suppress(UnicodeEncodeError):
                    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
            connection.commit()
        with ClassRegistry(path) as registry:
            registry.info()
            registry.encoder.fingerprint  # noqa: B018  loads it

    def exports(self, draw: Draw) -> None:
        """A damaged exported file, or one of other columns, imported into a new registry and read as features."""
        path, new = self.folder / "damaged.npz", self.folder / "imported.fewshot"
        if draw(st.booleans()):
            path.write_bytes(draw(damages(self.whole[".npz"])))
        else:
            with np.load(self.folder / "whole.npz", allow_pickle=False) as found:
                columns = {name: found[name] for name in found.files}
            name = draw(st.sampled_from(sorted(columns)))
            columns[name] = np.array(draw(st.lists(_PLAIN, max_size=9) | _PLAIN | st.just(json.dumps(draw(_JSON)))))
            if columns[name].dtype == object:
                columns[name] = columns[name].astype(str)
            np.savez(path, **columns)
        new.unlink(missing_ok=True)
        with suppress(ValueError):
            read_features(path)
        with ClassRegistry(new, encoder=ENCODERS[0]) as registry:
            registry.import_examples(path)

    def indexes(self, draw: Draw) -> None:
        """A damaged index file."""
        path = self.folder / "damaged.index"
        path.write_bytes(draw(damages(self.whole[".index"])))
        VectorIndex.load(path).search(np.ones((1, 4), np.float32), 2)

    def encoders(self, draw: Draw) -> None:
        """A folder of weights whose config.json says something else, or whose weights are damaged."""
        place = self.folder / "encoder"
        config = draw(changed_json(self.config)) if draw(st.integers(0, 2)) else self.config
        weights = draw(damages(self.weights)) if config is self.config else self.weights
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (place / "model.safetensors").write_bytes(weights)
        load_encoder(str(place), device="cpu").encode([picture(1)])

    def tables(self, draw: Draw) -> None:
        """A calibration table, as `fewshot calibrate` writes it, that says something else."""
        path = self.folder / "calibration.json"
        text = json.dumps(draw(changed_json(self.table))).encode()
        path.write_bytes(draw(damages(text)) if draw(st.integers(0, 3)) == 0 else text)
        classifier = PrototypeClassifier().fit(np.eye(4, dtype=np.float32), list("abcd"))
        classifier.predict_proba(np.ones((1, 4), np.float32), calibration=read_calibration(path))

    def commands(self, draw: Draw) -> None:
        """Words in any order after `fewshot`."""
        words = draw(st.lists(st.sampled_from(_WORDS) | st.text(max_size=6), min_size=1, max_size=6))
        with tempfile.TemporaryDirectory(dir=self.folder) as own, _inside(own):
            Path("r.fewshot").write_bytes(self.whole[".fewshot"])
            Path("z.zip").write_bytes(self.whole[".zip"])
            for name in ("a.png", "broken.png", "photos"):
                os.symlink(self.folder / name, name)
            result = CliRunner().invoke(fewshot, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"{words}: {result.exception!r}") from result.exception
        if result.exit_code not in (0, 1, 2):
            raise AssertionError(f"{words}: exit status {result.exit_code}")
        if result.exit_code:
            raise FewShotError(result.stderr)


@contextmanager
def _inside(folder: str) -> Any:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# What may be raised at each door.
DOORS: dict[str, tuple[type[Exception], ...]] = {
    "images": (ImageError,),
    "zips": (ValueError,),
    "registries": (FewShotError,),
    "settings": (FewShotError, ValueError),  # a layer that its network does not have
    "exports": (FewShotError, ValueError),
    "indexes": (ValueError,),
    "encoders": (EncoderNotFound,),
    "tables": (ValueError,),
    "commands": (FewShotError,),
}


def inputs_of(door: str, doors: Any, examples: int, seed: int, each: Callable[[Callable[[], None]], None]) -> None:
    """Call ``each`` with as many inputs of a door as are asked for, ready to be tried; the same for the same seed."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def one(data: st.DataObject) -> None:
        each(lambda: getattr(doors, door)(data.draw))

    one()


def work(door: str, seed: int, inputs: int, told: Any, doors: Callable[[Path], Any]) -> None:
    """Try so many inputs, telling of each before and after."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    held, number = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0

    def each(action: Callable[[], None]) -> None:
        nonlocal number
        told.send(("begun", number, ""))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        started = time.perf_counter()
        try:
            action()
            outcome = "answered"
        except DOORS[door]:
            outcome = "refused"
        except BaseException as error:
            if type(error).__module__.startswith("hypothesis"):
                raise  # its own way of giving an input up
            outcome = f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held
        if grown > MEMORY:
            outcome = f"took {grown / 2**30:.1f} GiB"
        told.send((outcome, number, time.perf_counter() - started))
        number += 1

    with tempfile.TemporaryDirectory() as folder:
        inputs_of(door, doors(Path(folder)), inputs, seed, each)
    told.send(("done", number, ""))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS:g} s")


def try_door(door: str, inputs: int, seed: int, doors: Callable[[Path], Any] = Doors) -> dict[str, Any]:
    """Try a door in a process of its own, a new one, with another seed, after each death."""
    context = multiprocessing.get_context("fork")
    counts: Counter[str] = Counter()
    failures: list[str] = []
    slowest, tried, deaths, started = 0.0, 0, 0, time.perf_counter()
    while tried < inputs:
        hearing, telling = context.Pipe(duplex=False)
        given = (door, seed + 1_000_000 * deaths, inputs - tried, telling, doors)
        process = context.Process(target=work, args=given)
        process.start()
        telling.close()
        at, alive = 0, True
        try:
            while alive:
                outcome, at, seconds = hearing.recv()
                alive = outcome != "done"
                if outcome in ("begun", "done"):
                    continue
                tried, slowest = tried + 1, max(slowest, seconds)
                counts[outcome if outcome in ("answered", "refused") else "failed"] += 1
                if outcome not in ("answered", "refused"):
                    failures.append(f"{door}, seed {given[1]}, input {at}: {outcome}")
            tried = inputs  # hypothesis knows no more
        except EOFError:
            process.join()
            failures.append(f"{door}, seed {given[1]}, input {at}: the process died ({process.exitcode})")
            tried, deaths = tried + 1, deaths + 1
        process.join()
    for failure in failures:
        print(failure, file=sys.stderr)
    return {
        "inputs": counts.total() + deaths,
        "answered": counts["answered"],
        "refused": counts["refused"],
        "failures": len(failures),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def run(inputs: int, seed: int, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Try so many inputs in all, at all doors or those named."""
    names = names or tuple(DOORS)
    result: dict[str, Any] = {name: try_door(name, inputs // len(names), seed) for name in names}
    return {**result, **{k: sum(found[k] for found in result.values()) for k in ("inputs", "failures")}}
