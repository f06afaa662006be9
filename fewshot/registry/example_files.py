"""A registry's examples written to a feature file, and read from one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.errors import EncoderMismatch
from fewshot.files import check_is_another
from fewshot.registry.class_descriptions import exported_descriptions, missing_descriptions, write_descriptions
from fewshot.registry.encoder_identity import described, encoder_meta, name_of
from fewshot.registry.ingest import add_examples
from fewshot.registry.results import AddReport
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import NewExample, RegistryStore
from fewshot.validation import check_label
from fewshot.vectors import feature_files

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


def export_examples(store: RegistryStore, snapshots: SnapshotCache, place: str | os.PathLike[str]) -> int:
    """Write all examples, texts with what they are, images and sounds without; returns how many.

    Raises
    ------
    ValueError : for the registry's own file.
    """
    check_is_another(place, store.path)
    with store.read():
        meta = described(store)
        snapshot = snapshots.current()
        origins, descriptions = store.origins(), exported_descriptions(store)
        texts = _texts(store) if store.modality == "text" else None
    feature_files.write(
        Path(place),
        feature_files.Exported(
            ids=snapshot.ids,
            labels=[snapshot.labels[code] for code in snapshot.codes.tolist()],
            vectors=snapshot.vectors,
            sha256=[sha256.hex() for sha256, _ in origins],
            sources=[source for _, source in origins],
            fingerprint=meta["fingerprint"],
            encoder=meta["encoder"],
            metric=meta["metric"],
            modality=store.modality,
            descriptions=descriptions,
            texts=texts,
        ),
    )
    return len(snapshot)


def import_examples(
    store: RegistryStore, place: str | os.PathLike[str], encoder: Encoder | None, *, allow_conflict: bool
) -> AddReport:
    """Store the examples of an exported file in one transaction; a new registry takes on its encoder and metric.

    An encoder given must be the file's; a metric asked for when the registry was made stays. Texts come with their
    vectors, and are kept where the registry keeps examples; images and sounds do not.

    Raises
    ------
    EncoderMismatch : if the file's vectors come from another encoder.
    ValueError : for another file, or a damaged one.
    """
    read = feature_files.read(Path(place))
    keep = bool(store.meta()["keep_images"])
    kept = [text.encode() if keep and text else None for text in read.texts or [""] * len(read.labels)]
    examples = [
        NewExample(check_label(label), bytes.fromhex(sha256), source, None, vector, data)
        for label, sha256, source, vector, data in zip(
            read.labels, read.sha256, read.sources, read.vectors, kept, strict=True
        )
    ]
    for one in examples:
        if one.data is not None and hashlib.sha256(one.data).digest() != one.sha256:
            raise ValueError(f"{place} is damaged: the text of {one.source} is not what was exported")
    dim = read.vectors.shape[1]
    with store.write(append=True) as connection:
        held = store.meta()
        new = "fingerprint" not in held
        meta = encoder_meta(encoder) if new and encoder is not None else held
        if "fingerprint" in meta and (meta["fingerprint"], meta["dim"]) != (read.fingerprint, dim):
            raise EncoderMismatch(
                f"{place} holds embeddings from {name_of(read.encoder)} (d={dim}, fingerprint {read.fingerprint[:8]}), "
                f"but registry {store.path!r} those from {name_of(str(meta['encoder']))} (d={meta['dim']}, fingerprint "
                f"{str(meta['fingerprint'])[:8]}). They cannot be compared: import into a new registry"
            )
        if new:
            store.set_meta(encoder=read.encoder, fingerprint=read.fingerprint, dim=dim, modality=read.modality)
            if "metric_asked" not in held:
                store.set_meta(metric=read.metric)
        try:
            described = missing_descriptions(store, read.descriptions, dim)
        except ValueError as error:
            raise ValueError(f"{place} is not an export of a registry: {error}") from error
        write_descriptions(connection, described)
        return add_examples(store, examples, allow_conflict=allow_conflict)


def _texts(store: RegistryStore) -> list[str]:
    """Return the text of each example, by rising id; "" where the registry does not keep it."""
    with store.read() as connection:
        rows = connection.execute("SELECT data FROM examples LEFT JOIN images USING (sha256) ORDER BY examples.id")
        return ["" if data is None else bytes(data).decode() for (data,) in rows]
