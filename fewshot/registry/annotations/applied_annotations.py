"""The annotations of a registry as they are applied to its examples and negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewshot.registry import negative_examples
from fewshot.registry.annotations.annotation_records import AnnotationSnapshot, AppliedLabel
from fewshot.registry.encoder_identity import check_encoder
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


def read_annotations(store: RegistryStore, snapshots: SnapshotCache, encoder: Encoder) -> AnnotationSnapshot:
    """Read examples, negatives and the annotations that give them, in one state of the registry."""
    negative_examples.load(store, encoder, "negative")  # embeds anew those that another encoder made
    with store.read() as connection:
        examples = snapshots.current()
        check_encoder(store, encoder, examples.settings)
        applied = connection.execute(
            "SELECT annotation, control, region, label, example, negative FROM lessons ORDER BY id"
        )
        negatives = connection.execute(
            "SELECT id, vector FROM outsiders WHERE fingerprint = ? AND id IN (SELECT negative FROM lessons)",
            (encoder.fingerprint,),
        )
        return AnnotationSnapshot(
            examples,
            [AppliedLabel(*row) for row in applied],
            {id_: np.frombuffer(vector, "<f4") for id_, vector in negatives},
        )
