"""How well a registry recognises examples whose classes are known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fewshot.media import LabelledImages, Sources, labelled_images, map_ahead, medium_of
from fewshot.registry.evaluation_results import Evaluation, Judged
from fewshot.registry.results import NOT_SURE
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_label

if TYPE_CHECKING:
    from fewshot.registry.registry import ClassRegistry


def evaluate(
    store: RegistryStore,
    registry: ClassRegistry,
    examples: Sources | LabelledImages,
    labels: Iterable[str] | None,
    *,
    roll_up: float | None,
    nearest: int,
) -> Evaluation:
    """Recognise labelled examples, or those of a folder; see ``ClassRegistry.evaluate``."""
    medium = medium_of(registry.modality)
    if isinstance(examples, LabelledImages):
        found = examples
    elif labels is None:
        found = labelled_images(examples, medium.modality)  # type: ignore[arg-type]
    else:
        found = _labelled(registry, examples, labels)
    registered = registry.classes()
    answered = registry.predict_valid(found.images, top=1, nearest=nearest, roll_up=roll_up)
    read = answered.positions
    rows = tuple(
        Judged(
            name,
            found.labels[n],
            p.top[0][0],
            p.score,
            rejected=p.label is None and p.note != NOT_SURE,
            answer=p.label,
            probability=p.probability,
            unknown_score=p.unknown_score,
            nearest=p.nearest,
            example=found.images[n],
        )
        for n, name, p in zip(read, answered.sources, answered.predictions, strict=True)
    )
    contents = map_ahead(medium.content, [found.images[n] for n in read])
    digests = (hashlib.sha256(content).digest() for content in contents if isinstance(content, bytes))
    seen = sum(bool(store.labels_of(digest)) for digest in digests)
    unknown = tuple(sorted({row.label for row in rows} - registered.keys()))
    return Evaluation(rows, answered.failed, unknown, seen, found.ignored)


def _labelled(registry: ClassRegistry, examples: Sources, labels: Iterable[str]) -> LabelledImages:
    from fewshot.encoders import check_image_batch

    medium = medium_of(registry.modality)
    sources = tuple(check_image_batch(medium.sources(examples), medium.modality))
    truths = [labels] if isinstance(labels, str) else list(labels)
    if len(truths) != len(sources):
        raise ValueError(f"{medium.counted(len(sources))} but {len(truths)} labels; each {medium.noun} needs one")
    return LabelledImages(sources, tuple(check_label(label) for label in truths), ())
