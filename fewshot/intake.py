"""Pictures on their way into a registry: read, compared with what is known, embedded, stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fewshot.errors import ImageError
from fewshot.images import ImageSource, describe, image_bytes, map_ahead
from fewshot.reports import AddReport, Conflict, Failure
from fewshot.store import NewExample, RegistryStore

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


def add_pictures(
    store: RegistryStore,
    encoder: Encoder,
    pairs: Sequence[tuple[ImageSource, str]],
    *,
    allow_conflict: bool,
    keep_images: bool,
) -> AddReport:
    """Embed and store (picture, label) pairs in one transaction; what is known already is not embedded again."""
    from fewshot.encoders import encode_valid

    failed: list[Failure] = []
    fresh: list[tuple[ImageSource, str, bytes, bytes]] = []
    skipped = AddReport()
    for (source, label), data in zip(pairs, map_ahead(image_bytes, [s for s, _ in pairs]), strict=True):
        if isinstance(data, ImageError):
            failed.append(Failure(describe(source), data.reason))
            continue
        digest = hashlib.sha256(data).digest()
        refusal = _refusal(store, label, digest, describe(source), allow_conflict)
        if refusal is None:
            fresh.append((source, label, digest, data))
        else:
            skipped += refusal
    encoded = encode_valid(encoder, [data for *_, data in fresh])
    failed += [Failure(describe(fresh[n][0]), error.reason) for n, error in encoded.failed]
    examples = []
    for n, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True):
        source, label, digest, data = fresh[n]
        path = os.path.abspath(source) if isinstance(source, (str, os.PathLike)) else None
        examples.append(
            NewExample(
                label,
                digest,
                describe(source),
                None if keep_images else path,
                vector,
                data if keep_images else None,
            )
        )
    report = skipped + AddReport(failed=tuple(failed))
    if examples:
        with store.write(append=True):
            report += add_examples(store, examples, allow_conflict=allow_conflict)
    return report


def add_examples(store: RegistryStore, examples: Iterable[NewExample], *, allow_conflict: bool) -> AddReport:
    """Store examples that are neither duplicates nor conflicts; inside ``store.write``."""
    report = AddReport()
    for example in examples:
        # Asked again here, inside the transaction: another process, or an earlier one of these, may have come first.
        refusal = _refusal(store, example.label, example.sha256, example.source, allow_conflict)
        if refusal is None:
            store.insert([example])
            report += AddReport(added=1)
        else:
            report += refusal
    return report


def _refusal(store: RegistryStore, label: str, digest: bytes, source: str, allow_conflict: bool) -> AddReport | None:
    held_by = store.labels_of(digest)
    if label in held_by:
        return AddReport(duplicates=1)
    if held_by and not allow_conflict:
        return AddReport(conflicts=(Conflict(source, label, tuple(held_by)),))
    return None
