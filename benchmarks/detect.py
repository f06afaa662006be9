"""Boxes: the class of true boxes from 1 and 5 crops a class; detection and counting with a proposer without weights.

    python benchmarks/detect.py                        # mobilenetv2 and pocket, 20 draws; some ten minutes of two cores
    python benchmarks/detect.py --images 8 --tuning 3 --detectors 2  # four minutes

BCCD, pictures of blood cells: examples are drawn from its training pictures, figures are of its test pictures, the
confidence from which boxes are counted and the baseline's settings are chosen on pictures of its validation part.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from PIL import Image

from fewshot import ClassRegistry, Detector, load_encoder, open_image
from fewshot.detection import (
    BoxAnnotations,
    BoxFileProposer,
    ImageBoxes,
    ImageDetections,
    Proposal,
    RegionProposer,
    add_boxes,
    crop_box,
    read_boxes,
)
from fewshot.encoders import EmbeddingCache, Encoder

SHOTS = (1, 5)
CELLS = ("RBC", "WBC")
ANNOTATED, NEGATIVES, LIMIT = 5, 100, 0.1
"""Pictures annotated for a detector, boxes of their background, and the share of boxes of no class that may get one."""
CONFIDENCES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="of examples of true boxes")
    parser.add_argument("--detectors", type=int, default=3, help="draws of annotated pictures, for each a detector")
    parser.add_argument("--images", type=int, default=24, help="test pictures that are searched")
    parser.add_argument("--tuning", type=int, default=8, help="validation pictures")
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args()
    encoders = {"pocket": "pocket", "mobilenetv2": f"local-dir:{shared_file('weights', 'mobilenetv2_100.tf_in1k')}"}
    with tempfile.TemporaryDirectory() as temporary:
        data = Data(Path(temporary))
        result: dict[str, Any] = {
            "draws": options.draws,
            "true_boxes": {},
            "annotated": ANNOTATED,
            "negatives": NEGATIVES,
            "max_false_accept": LIMIT,
            "detectors": options.detectors,
            "images": options.images,
            "tuning_images": options.tuning,
        }
        test, tuning = data.some("test", options.images), data.some("val", options.tuning)
        proposer = OnceProposed()
        result["proposals"] = proposals(data, proposer, test)
        result["watershed"] = watershed_counting(data, tuning, test)
        for name, encoder in encoders.items():
            loaded = load_encoder(encoder)
            result["true_boxes"][name] = true_boxes(data, loaded, options.draws)
            cached = EmbeddingCache(loaded, Path(temporary, f"{name}.cache"))
            result.setdefault("detection", {})[name] = detection(
                data, cached, proposer, options.detectors, tuning, test
            )
    if options.no_save:
        print(json.dumps(result))
    else:
        save("detect", result)


class Data:
    """BCCD, unpacked, with its split."""

    def __init__(self, folder: Path) -> None:
        with zipfile.ZipFile(shared_file("data", "detection", "bccd.zip")) as archive:
            archive.extractall(folder)
        self.folder = folder / "JPEGImages"
        read = {image.name: image for image in read_boxes(folder / "Annotations").images}
        lists = {part: (folder / "ImageSets" / "Main" / f"{part}.txt").read_text().split() for part in PARTS}
        self.parts = {part: [read[f"{name}.jpg"] for name in names] for part, names in lists.items()}

    def some(self, part: str, count: int) -> list[ImageBoxes]:
        """Return pictures of a part, evenly spaced."""
        images = self.parts[part]
        return [images[int(n)] for n in np.linspace(0, len(images) - 1, min(count, len(images)))]

    def open(self, image: ImageBoxes) -> Image.Image:
        """Open a picture."""
        return open_image(self.folder / image.name)

    @cache  # noqa: B019  there is one object
    def crops(self, part: str) -> tuple[list[Image.Image], list[str]]:
        """Cut all boxes of a part out; their classes."""
        crops, labels = [], []
        for image in self.parts[part]:
            opened = self.open(image)
            for one in image.boxes:
                if one.box.why_unusable(*opened.size) is None:
                    crops.append(crop_box(opened, one.box))
                    labels.append(one.label)
        return crops, labels


PARTS = ("train", "val", "test")


class OnceProposed:
    """The boxes of ``RegionProposer``, kept for later detectors."""

    def __init__(self) -> None:
        self._proposer = RegionProposer()
        self._held: dict[str, list[Proposal]] = {}

    def propose(self, image: Image.Image, name: str) -> list[Proposal]:
        """Return the boxes of an image by its name."""
        if name not in self._held:
            self._held[name] = self._proposer.propose(image, name)
        return self._held[name]


def true_boxes(data: Data, encoder: Encoder, draws: int) -> dict[str, Any]:
    """How often the class of a true box is right, from so many crops of each class."""
    crops, labels = data.crops("test")
    vectors = encoder.encode(crops)
    train, train_labels = data.crops("train")
    truth = np.array(labels)
    classes = sorted(set(labels))
    rows: dict[str, Any] = {"test_boxes": len(labels), "of": dict(Counter(labels))}
    for shots in SHOTS:
        recalls, accuracies = [], []
        for draw in range(draws):
            rng = np.random.default_rng([draw, shots])
            chosen = [
                n
                for label in classes
                for n in rng.choice(np.flatnonzero(np.array(train_labels) == label), shots, False)
            ]
            with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder, "r"), encoder=encoder) as registry:
                registry.add_labelled([(train[n], train_labels[n]) for n in chosen], allow_conflict=True)
                found = np.array([one.label for one in registry.predict_vectors(vectors, top=1, nearest=0)])
            accuracies.append(float(np.mean(found == truth)))
            recalls.append([float(np.mean(found[truth == label] == label)) for label in classes])
        balanced = np.mean(recalls, axis=1)
        rows[str(shots)] = {
            "accuracy": spread(accuracies),
            "balanced_accuracy": spread(balanced.tolist()),
            "recall": {
                label: round(float(np.mean(r)), 4) for label, r in zip(classes, zip(*recalls, strict=True), strict=True)
            },
        }
    return rows


def proposals(data: Data, proposer: OnceProposed, images: Sequence[ImageBoxes]) -> dict[str, Any]:
    """What share of true boxes the proposer meets, by an intersection over union of a half."""
    import torch
    from torchvision.ops import box_iou

    met: dict[str, list[float]] = {}
    count = 0
    for image in images:
        found = proposer.propose(data.open(image), str(data.folder / image.name))
        count += len(found)
        overlap = box_iou(
            torch.tensor([one.box.xyxy for one in image.boxes]), torch.tensor([one.box.xyxy for one in found])
        ).amax(1)
        for one, best in zip(image.boxes, overlap.tolist(), strict=True):
            met.setdefault(one.label, []).append(best >= 0.5)
    return {
        "boxes_per_image": round(count / len(images), 1),
        "recall_50": {label: round(float(np.mean(found)), 4) for label, found in sorted(met.items())},
    }


def detection(
    data: Data,
    encoder: Encoder,
    proposer: OnceProposed,
    draws: int,
    tuning: Sequence[ImageBoxes],
    test: Sequence[ImageBoxes],
) -> dict[str, Any]:
    """What detectors from a few annotated pictures find; the mean over draws of these pictures."""
    rows: dict[str, list[dict[str, float]]] = {"regions": [], "regions, every box gets a class": [], "true boxes": []}
    for draw in range(draws):
        annotated = drawn(data, draw)
        with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder, "r"), encoder=encoder) as registry:
            add_boxes(registry, annotated, data.folder, negatives=NEGATIVES, random_state=draw, allow_conflict=True)
            registry.rejection.set(max_false_accept=LIMIT)
            truth = BoxAnnotations("truth", tuple(test))
            for name, limit in (("regions", None), ("regions, every box gets a class", 1)):
                detector = Detector(registry, proposer, max_false_accept=limit)
                tuned = detector.detect([str(data.folder / image.name) for image in tuning])
                found = detector.detect([str(data.folder / image.name) for image in test])
                confidence = min(CONFIDENCES, key=lambda c: counting_error(tuned, tuning, c, CELLS))
                rows[name].append(judged(found, test, confidence))
            oracle = Detector(registry, BoxFileProposer(truth), max_false_accept=1, max_overlap=1)
            found = oracle.detect([str(data.folder / image.name) for image in test])
            rows["true boxes"].append(judged(found, test, 0.0))
    return {name: {key: spread([row[key] for row in drawn]) for key in drawn[0]} for name, drawn in rows.items()}


def drawn(data: Data, draw: int) -> BoxAnnotations:
    """Draw training pictures until each class is among them."""
    rng = np.random.default_rng([draw, 7])
    while True:
        images = [data.parts["train"][n] for n in rng.choice(len(data.parts["train"]), ANNOTATED, False)]
        if {one.label for image in images for one in image.boxes} == {"RBC", "WBC", "Platelets"}:
            return BoxAnnotations("drawn", tuple(images))


def judged(found: Sequence[ImageDetections], images: Sequence[ImageBoxes], confidence: float) -> dict[str, float]:
    """mAP50 of all boxes, and the counting errors of those of at least this confidence."""
    figures = average_precision(found, images)
    figures["cells_counting_error"] = counting_error(found, images, confidence, CELLS)
    for label in ("RBC", "WBC", "Platelets"):
        figures[f"{label}_counting_error"] = counting_error(found, images, confidence, (label,))
    return {**figures, "confidence": confidence}


def counting_error(
    found: Sequence[ImageDetections], images: Sequence[ImageBoxes], confidence: float, labels: Sequence[str]
) -> float:
    """The mean absolute error of the number of objects of these classes in an image."""
    errors = []
    for one, image in zip(found, images, strict=True):
        counted = sum(o.label in labels and o.confidence >= confidence for o in one.detections)
        errors.append(abs(counted - number_of(image, labels)))
    return float(np.mean(errors))


def number_of(image: ImageBoxes, labels: Sequence[str]) -> int:
    return sum(one.label in labels for one in image.boxes)


def average_precision(found: Sequence[ImageDetections], images: Sequence[ImageBoxes]) -> dict[str, float]:
    """COCO's average precision at an intersection over union of 0.5, by pycocotools: mean, and of each class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = {"Platelets": 1, "RBC": 2, "WBC": 3}
    truth, results = [], []
    for number, (one, image) in enumerate(zip(found, images, strict=True), start=1):
        for b in image.boxes:
            box = [b.box.left, b.box.top, b.box.width, b.box.height]
            truth.append({"bbox": box, "area": box[2] * box[3], "image_id": number, "category_id": names[b.label]})
        for o in one.detections:
            box = [o.box.left, o.box.top, o.box.width, o.box.height]
            results.append({"bbox": box, "score": o.confidence, "image_id": number, "category_id": names[o.label]})
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(1, len(images) + 1)],
            "categories": [{"id": n, "name": label} for label, n in names.items()],
            "annotations": [{"id": n, "iscrowd": 0, **row} for n, row in enumerate(truth, start=1)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # (recall, class), of all sizes, 100 boxes an image
    per_class = {label: float(np.mean(precision[:, n])) for n, label in enumerate(names)}
    return {
        "mAP50": float(np.mean(list(per_class.values()))),
        **{f"{label}_AP50": ap for label, ap in per_class.items()},
    }


def watershed_counting(data: Data, tuning: Sequence[ImageBoxes], test: Sequence[ImageBoxes]) -> dict[str, Any]:
    """Count cells as usual: Otsu's threshold, holes filled, a watershed of the distance transform; settings tuned."""
    settings = [(channel, distance, area) for channel in "GS" for distance in (10, 15, 20, 30) for area in (1000,)]

    def error(images: Sequence[ImageBoxes], count: Callable[[ImageBoxes], int]) -> float:
        return float(np.mean([abs(count(image) - number_of(image, CELLS)) for image in images]))

    def counter(setting: tuple[str, int, int]) -> Callable[[ImageBoxes], int]:
        return lambda image: watershed_count(data.open(image), *setting)

    best = min(settings, key=lambda setting: error(tuning, counter(setting)))
    mean = round(float(np.mean([number_of(image, CELLS) for image in tuning])))
    return {
        "setting": dict(zip(("channel", "distance", "area"), best, strict=True)),
        "cells_counting_error": round(error(test, counter(best)), 2),
        "always_the_mean": {"cells": mean, "cells_counting_error": round(error(test, lambda _: mean), 2)},
        "cells_per_image": round(float(np.mean([number_of(image, CELLS) for image in test])), 2),
    }


def watershed_count(image: Image.Image, channel: str, distance: int, area: int) -> int:
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    pixels = np.asarray(image)[..., 1] if channel == "G" else np.asarray(image.convert("HSV"))[..., 1]
    smooth = ndimage.gaussian_filter(pixels.astype(float), 1.0)
    level = threshold_otsu(smooth)
    mask = ndimage.binary_fill_holes(smooth < level if channel == "G" else smooth > level)
    depth = ndimage.distance_transform_edt(mask)
    regions, _ = ndimage.label(mask)
    peaks = peak_local_max(depth, min_distance=distance, labels=regions)
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    sizes = np.bincount(watershed(-depth, markers, mask=mask).ravel())[1:]
    return int(np.sum(sizes >= area))


def spread(values: Sequence[float]) -> dict[str, float]:
    """The mean, and its 95 % interval's half width (normal)."""
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "ci95": round(half, 4)}


if __name__ == "__main__":
    main()
