"""Examples on their way into a registry: read, compared with what is known, embedded, stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from fewshot.errors import AddInterrupted, ExampleError, FewShotError, PartlyAdded
from fewshot.media import Source, map_ahead, medium_of, source_path
from fewshot.progress import Progress
from fewshot.registry.encoder_identity import check_encoder
from fewshot.registry.multi_label import is_multi_label
from fewshot.registry.results import NONE_OF_THESE, AddReport, Conflict, Failure
from fewshot.registry.store import NewExample, RegistryStore
from fewshot.registry.synthetic_views import encode_examples
from fewshot.validation import check_label

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

T = TypeVar("T")
# Examples per transaction: what a killed process loses at most, and what is held in memory at once.
CHUNK, _SOUNDS_AT_ONCE = 64, 8  # a sound may be an hour long


def add_in_chunks(
    store: RegistryStore, items: Iterable[T], add: Callable[[list[T]], AddReport], *, all_or_none: bool = False
) -> AddReport:
    """Add items 64 at a time, each chunk as soon as it is embedded, or all in one chunk; with a progress bar.

    Raises
    ------
    PartlyAdded : if an error stops it after examples were added; before, the error itself.
    AddInterrupted : on Ctrl-C.
    """
    total = len(items) if isinstance(items, Sequence) else None
    source, report = iter(items), AddReport()
    size = _SOUNDS_AT_ONCE if store.modality == "audio" else CHUNK
    with Progress(total, "add", unit=medium_of(store.modality).noun) as bar:
        try:
            while chunk := list(islice(source, None if all_or_none else size)):
                report += add(chunk)
                bar.advance(len(chunk))
        except KeyboardInterrupt as error:
            raise AddInterrupted(report) from error
        except (FewShotError, OSError) as error:
            if not report.added:
                raise
            added = medium_of(store.modality).counted(report.added)
            raise PartlyAdded(
                f"{added} were added to {store.path} before this stopped the others: {error}. "
                "Those are kept; add all again to go on",
                report,
            ) from error
    return report


def add_images(
    store: RegistryStore,
    encoder: Encoder,
    pairs: Sequence[tuple[Source, str]],
    *,
    allow_conflict: bool,
    keep_images: bool,
    augment: str | None = None,
) -> AddReport:
    """Embed and store (example, label) pairs in one transaction; what is known already is not embedded again."""
    from fewshot.encoders import modality_of

    medium = medium_of(modality_of(encoder))
    failed: list[Failure] = []
    fresh: list[tuple[Source, str, bytes, bytes]] = []
    skipped = AddReport()
    several = is_multi_label(store.meta())
    for (source, label), data in zip(pairs, map_ahead(medium.content, [s for s, _ in pairs]), strict=True):
        if isinstance(data, ExampleError):
            failed.append(Failure(medium.describe(source), medium.explained(source, data.reason)))
            continue
        try:
            label = check_label(label)
        except ValueError as error:  # the name of one folder of many
            failed.append(Failure(medium.describe(source), str(error)))
            continue
        digest = hashlib.sha256(data).digest()
        refusal = _refusal(store, label, digest, medium.describe(source), allow_conflict, several)
        if refusal is None:
            fresh.append((source, label, digest, data))
        else:
            skipped += refusal
    distinct = {digest: data for _, _, digest, data in fresh}
    encoded = encode_examples(encoder, list(distinct.values()), [augment] * len(distinct))
    digests = list(distinct)
    vectors = {digests[n]: vector for n, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True)}
    reasons = {digests[n]: error.reason for n, error in encoded.failed}
    failed += [
        Failure(medium.describe(source), medium.explained(source, reasons[digest]))
        for source, _, digest, _ in fresh
        if digest in reasons
    ]
    examples = []
    for source, label, digest, data in fresh:
        if digest in reasons:
            continue
        path = source_path(source, medium.modality)
        examples.append(
            NewExample(
                label,
                digest,
                medium.describe(source),
                None if keep_images else path,
                vectors[digest],
                data if keep_images else None,
                augment,
            )
        )
    report = skipped + AddReport(failed=tuple(failed))
    if examples:
        with store.write(append=True):
            check_encoder(store, encoder)  # another process may have reindexed meanwhile
            report += add_examples(store, examples, allow_conflict=allow_conflict)
    return report


def add_examples(store: RegistryStore, examples: Iterable[NewExample], *, allow_conflict: bool) -> AddReport:
    """Store examples that are neither duplicates nor conflicts; inside ``store.write``."""
    report = AddReport()
    several = is_multi_label(store.meta())
    for example in examples:
        # Asked again here, inside the transaction: another process, or an earlier one of these, may have come first.
        refusal = _refusal(store, example.label, example.sha256, example.source, allow_conflict, several)
        if refusal is None:
            store.insert([example])
            refusal = AddReport(added=1)
        report += refusal
    return report


def _refusal(
    store: RegistryStore, label: str, digest: bytes, source: str, allow_conflict: bool, several: bool
) -> AddReport | None:
    held_by = store.labels_of(digest)
    if label in held_by:
        return AddReport(duplicates=1, repeated=(source,))
    held_by = [] if several else held_by  # which an example may have of a multi-label registry
    with store.read() as connection:
        negative = "SELECT 1 FROM outsiders WHERE kind = 'negative' AND sha256 = ?"
        if connection.execute(negative, (digest,)).fetchone():
            held_by = [*held_by, NONE_OF_THESE]
    if held_by and not allow_conflict:
        return AddReport(conflicts=(Conflict(source, label, tuple(held_by)),))
    return None
