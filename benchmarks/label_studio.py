"""An annotator's hour: 40 pictures one after another, each suggested first, then annotated, and learned at once.

    python benchmarks/label_studio.py --work work

The pictures are Tiny ImageNet's test classes, drawn anew for each hour; no Label Studio is needed: what it would send
goes through the same records, fetches and predictions (``pytest -m labelstudio`` does it with the real one). ``--work``
keeps the vectors.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from PIL import Image

from fewshot import ClassRegistry, EmbeddingCache, Encoder, load_encoder
from fewshot.integrations import ProjectPredictor, apply_pending
from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.integrations.label_studio.suggestions import CONFIDENT
from fewshot.registry import AnnotationRecord, AnnotationWriter, ImageLabels

PICTURES, TEN = 40, 10


class FakeClient:
    """Gets the hour's pictures, as from Label Studio."""

    def __init__(self, pictures: Sequence[bytes]) -> None:
        self.pictures = pictures

    def image(self, address: str) -> bytes:
        """Return the picture of a task."""
        return self.pictures[int(address)]


def hour(
    pictures: Sequence[bytes], truths: Sequence[frozenset[str]], control: Control, encoder: Encoder, folder: Path
) -> list[dict[str, Any]]:
    """Annotate the pictures; returns for each what was suggested before, with what score, after how long."""
    client: Any = FakeClient(pictures)
    path = folder / "project.fewshot"
    path.unlink(missing_ok=True)
    predictor, found = ProjectPredictor(), []
    with ClassRegistry(path, encoder=encoder) as registry, AnnotationWriter(path) as writer:
        for number, truth in enumerate(truths):
            start = time.perf_counter()
            apply_pending(writer, encoder, client)
            task = {"id": number + 1, "data": {"image": str(number)}}
            (prediction,) = predictor.model([control], registry).predict([task], encoder, client)
            seconds = time.perf_counter() - start
            labels = prediction["result"][0]["value"]["choices"] if prediction["result"] else []
            found.append({"labels": frozenset(labels), "score": prediction["score"], "seconds": seconds})
            given = ImageLabels(control.name, str(number), "", tuple(sorted(truth)))
            writer.record([AnnotationRecord(number + 1, number + 1, number + 1, (given,))])
    return found


def read_pictures() -> dict[str, list[bytes]]:
    """All pictures of the test classes."""
    found: dict[str, list[bytes]] = {}
    with zipfile.ZipFile(shared_file("data", "tiny_imagenet", "test.zip")) as opened:
        for name in sorted(n for n in opened.namelist() if not n.endswith("/")):
            found.setdefault(name.partition("/")[0], []).append(opened.read(name))
    return found


def single(all_pictures: dict[str, list[bytes]], n_classes: int, rng: np.random.Generator) -> tuple[list, list]:
    """One label a picture, of ``n_classes`` equally frequent ones, in a random order."""
    classes = rng.choice(sorted(all_pictures), n_classes, replace=False)
    drawn = [
        (all_pictures[name][n], frozenset([str(name)]))
        for name in classes
        for n in rng.choice(len(all_pictures[name]), PICTURES // n_classes, replace=False)
    ]
    drawn = [drawn[n] for n in rng.permutation(len(drawn))]
    return [picture for picture, _ in drawn], [truth for _, truth in drawn]


def several(all_pictures: dict[str, list[bytes]], n_classes: int, rng: np.random.Generator) -> tuple[list, list]:
    """Photographs of none, one or two of the classes, equally often, laid on a grey board of two by two."""
    classes = rng.choice(sorted(all_pictures), n_classes, replace=False)
    pictures, truths = [], []
    for _ in range(PICTURES):
        shown = [str(name) for name in rng.choice(classes, rng.integers(3), replace=False)]
        board = Image.new("RGB", (128, 128), (128, 128, 128))
        for name, place in zip(shown, rng.permutation(4), strict=False):
            some = all_pictures[name]
            photograph = Image.open(io.BytesIO(some[rng.integers(len(some))])).convert("RGB")
            board.paste(photograph, (64 * (place % 2), 64 * (place // 2)))
        board.save(out := io.BytesIO(), format="PNG")
        pictures.append(out.getvalue())
        truths.append(frozenset(shown))
    return pictures, truths


def mean(values: Sequence[float]) -> dict[str, float]:
    """Mean and the half width of its 95 % interval, over hours."""
    array = np.asarray(values, float)
    half = 1.96 * array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return {"mean": round(float(array.mean()), 4), "ci95": round(half, 4)}


def by_tens(hours: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Mean over each ten pictures of the hours."""
    return [mean([float(np.mean(one[n : n + TEN])) for one in hours]) for n in range(0, PICTURES, TEN)]


def run(kind: str, n_classes: int, n_hours: int, encoder: Encoder, pictures: dict[str, list[bytes]]) -> dict[str, Any]:
    """Run the hours of one kind of project."""
    right, sure, seconds, half = [], [], [], []
    draw = single if kind == "single" else several
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(n_hours):
            shown, truths = draw(pictures, n_classes, np.random.default_rng(seed))
            labels = tuple(sorted(set().union(*truths)))
            control = Control("choice", "image", "choices", labels, kind == "several", "image")
            found = hour(shown, truths, control, encoder, Path(folder))
            if kind == "single":
                right.append([float(one["labels"] == truth) for one, truth in zip(found, truths, strict=True)])
            else:  # the share of yes and no that are right
                right.append(
                    [1 - len(one["labels"] ^ truth) / len(labels) for one, truth in zip(found, truths, strict=True)]
                )
                last = zip(found[-20:], truths[-20:], strict=True)
                half += [(len(one["labels"] & truth), len(one["labels"]), len(truth)) for one, truth in last]
            sure += [
                (one["score"] >= CONFIDENT, one["labels"] == truth)
                for one, truth in zip(found, truths, strict=True)
                if one["labels"] or kind == "several"
            ]
            seconds += [one["seconds"] for one in found[1:]]
    confident = [correct for is_sure, correct in sure if is_sure]
    result = {
        "kind": kind,
        "classes": n_classes,
        "hours": n_hours,
        "right_by_tens": by_tens(right),
        "confident_share": round(len(confident) / len(sure), 4),
        "confident_right": round(float(np.mean(confident)), 4) if confident else None,
        "seconds_learn_and_predict": {f"p{p}": round(float(np.percentile(seconds, p)), 4) for p in (50, 95)},
    }
    if half:
        both, said, true = np.sum(half, axis=0)
        result["f1_last_20"] = round(float(2 * both / max(1, said + true)), 4)
    return result


def main() -> None:
    """Run what was asked for, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the vectors")
    parser.add_argument("--hours", type=int, default=30)
    parser.add_argument("--encoder", default="pocket")
    options = parser.parse_args()
    options.work.mkdir(exist_ok=True)
    encoder = EmbeddingCache(load_encoder(options.encoder), options.work / "label_studio.sqlite")
    pictures = read_pictures()
    kinds = [("single", 5), ("single", 10), ("several", 5)]
    runs = [run(kind, classes, options.hours, encoder, pictures) for kind, classes in kinds]
    save("label_studio", {"encoder": options.encoder, "pictures_an_hour": PICTURES, "runs": runs})


if __name__ == "__main__":
    main()
