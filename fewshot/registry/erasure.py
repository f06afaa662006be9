"""Examples erased from a registry's file, so that no byte of them is left in it, and proof of that."""

from __future__ import annotations

import json
import os
import random
import shlex
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fewshot.errors import MissingExtra, RegistryBusy, RegistryError
from fewshot.files import why_not
from fewshot.media import is_url
from fewshot.registry.class_descriptions import delete_description
from fewshot.registry.encoder_identity import encoder_folder
from fewshot.registry.erased_annotations import erase_annotations
from fewshot.registry.results import ErasureReport
from fewshot.registry.store import RegistryStore
from fewshot.registry.stored_threshold import delete_threshold
from fewshot.registry.traces import Traces, containers_beside, occurs_as_word
from fewshot.validation import normalised_label
from fewshot.vectors import feature_files

_BEGUN = "erasing"  # in the settings, from the rows' removal until no byte of them was found
_LARGEST = 2**31
_ZEROS = bytes(2**20)
_NOT_KNOWN = (
    "copies elsewhere: of fewshot backup, of other programs, and what the file system or the disk keeps of old blocks",
    "files elsewhere that were written from the registry: exports, bundles, predictions, labels, reports",
    "embedding caches elsewhere (--cache FILE), and what other encoders made beside the registry: a cache can be "
    "deleted, nothing in it is lost for good",
    "the memory of other processes that have the registry open: each drops the examples when it is next asked",
    "labelling tools, which keep their own pictures and annotations",
)


class Erasure:
    """The part of ``ClassRegistry`` that erases."""

    _store: RegistryStore

    def forget(self, *labels: str, examples: Iterable[int] = (), negatives: Iterable[int] = ()) -> ErasureReport:
        """Erase classes, examples and negatives, such that no byte of them is left in the file, and verify it.

        Rows, original bytes, descriptions and what was recorded of annotations are deleted in one transaction and
        overwritten with zeros; the file is rebuilt without free pages, its journal overwritten. Then all of its bytes,
        and databases and zips in its folder, are searched for what was erased. Killed at any moment, all is there or
        the rows are gone, and another call finishes it, as it does without arguments.

        Parameters
        ----------
        *labels : str
            Classes. The name of one is erased where annotations hold it, too.
        examples, negatives : iterable of int
            By their ids.

        Returns
        -------
        ErasureReport
            Also what was found elsewhere and is left to its owner.

        Raises
        ------
        KeyError : if one of them is not there; nothing is erased then.
        RegistryBusy : if others read or write for longer than ``busy_seconds``; the message says what is left to do.
        RegistryError : if bytes are left nevertheless, or the file cannot be rebuilt.
        """
        return forget(self._store, labels, tuple(examples), tuple(negatives))


@dataclass
class _Erased:
    """What a transaction has erased, and by what it would be recognised."""

    examples: int = 0
    negatives: int = 0
    descriptions: int = 0
    annotations: int = 0
    labels: tuple[str, ...] = ()
    hashes: set[bytes] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    remaining: list[str] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)


def forget(
    store: RegistryStore, labels: Iterable[str], examples: Iterable[int], negatives: Iterable[int]
) -> ErasureReport:
    """See ``Erasure.forget``."""
    shared = store.shared
    labels = tuple(dict.fromkeys(map(normalised_label, labels)))
    shared.run_alone("PRAGMA journal_mode = PERSIST")  # so that it can be overwritten
    try:
        with store.write() as connection:
            (before,) = connection.execute("PRAGMA secure_delete").fetchone()
            connection.execute("PRAGMA secure_delete = ON")
            erased = _erase_rows(store, connection, labels, set(examples), set(negatives))
        try:
            shared.run_alone("VACUUM")
            _overwrite_journal(store)
        except (RegistryBusy, sqlite3.Error, OSError) as error:
            raise _unfinished(store, error) from error
    finally:
        shared.run_alone("PRAGMA journal_mode = DELETE")
    _verify(store, erased)
    with store.write(silent=True) as connection:
        connection.execute("DELETE FROM meta WHERE key = ?", (_BEGUN,))
        connection.execute(f"PRAGMA secure_delete = {before}")
    cached, searched = _search_beside(store, erased)
    return ErasureReport(
        erased.examples,
        erased.negatives,
        erased.descriptions,
        erased.annotations,
        cached,
        (store.path, *searched),
        len(erased.traces.words),
        _estimated_again(store, erased),
        _originals(erased.sources | erased.paths),
        (*erased.remaining, *_still_named(store, erased.labels), *_of_encoder(store, erased)),
        (*_NOT_KNOWN, *(f"{word!r}: too short to search bytes for" for word in erased.traces.too_short)),
    )


def _erase_rows(
    store: RegistryStore,
    connection: sqlite3.Connection,
    labels: tuple[str, ...],
    examples: set[int],
    negatives: set[int],
) -> _Erased:
    """Delete the rows, and note that the erasure has begun; inside ``store.write``."""
    erased, begun = _Erased(labels=labels), _BEGUN in store.meta()
    missing = []
    for label in labels:
        found = connection.execute(
            "SELECT examples.id FROM examples JOIN classes ON classes.id = class_id WHERE label = ?", (label,)
        ).fetchall()
        described = delete_description(connection, label)
        erased.descriptions += described
        examples |= {id_ for (id_,) in found}
        if not found and not described:
            missing.append(label)
        erased.traces.add_text(label, f"the label {label!r}")
    _note_examples(connection, examples, erased)
    _note_negatives(connection, negatives, erased)
    outcome = erase_annotations(connection, examples, negatives, labels, erased.sources)
    erased.annotations, erased.remaining = outcome.erased, [*erased.remaining, *outcome.remaining]
    for label in missing:
        if not begun and label not in outcome.labels:
            _no_class(store, label)
    _note_copies(connection, examples, negatives, erased)
    store.delete(sorted(examples))
    connection.executemany("DELETE FROM outsiders WHERE id = ?", [(id_,) for id_ in negatives])
    delete_threshold(connection)
    connection.execute("DELETE FROM changes")
    # Drawn anew: who holds anything computed from all examples begins anew.
    store.set_meta(erased=random.getrandbits(62), **{_BEGUN: 1})
    erased.examples, erased.negatives = len(examples), len(negatives)
    return erased


def _no_class(store: RegistryStore, label: str) -> None:
    try:
        store.class_id(label)
    except KeyError as error:
        raise KeyError(
            f"{error.args[0]}. What was removed before without --forget may lie in free pages; erase these with: "
            f"fewshot remove {shlex.quote(store.path)} --forget"
        ) from error


def _note_examples(connection: sqlite3.Connection, examples: set[int], erased: _Erased) -> None:
    for id_ in examples:
        row = connection.execute(
            "SELECT sha256, source, path, vector, data FROM examples LEFT JOIN images USING (sha256) WHERE id = ?",
            (id_,),
        ).fetchone()
        if row is None:
            raise KeyError(f"no example {id_}; nothing was erased")
        sha256, source, path, vector, data = row
        if path is not None:
            erased.paths.add(os.fsdecode(path))
        _note(erased, f"example {id_}", sha256, source, vector, data)


def _note_negatives(connection: sqlite3.Connection, negatives: set[int], erased: _Erased) -> None:
    for id_ in negatives:
        row = connection.execute(
            "SELECT sha256, source, vector, data FROM outsiders WHERE kind = 'negative' AND id = ?", (id_,)
        ).fetchone()
        if row is None:
            raise KeyError(f"no negative {id_}; nothing was erased")
        _note(erased, f"negative {id_}", *row)


def _note(erased: _Erased, what: str, sha256: bytes | None, source: str, vector: bytes, data: bytes | None) -> None:
    erased.sources.add(source)
    erased.traces.add_text(source, f"the name of {what}")
    erased.traces.add_bytes(vector, f"the vector of {what}")
    if sha256 is not None:
        erased.hashes.add(sha256)
        erased.traces.add_bytes(sha256, f"the hash of {what}")
    if data is not None:
        erased.traces.add_bytes(data, f"the content of {what}")


def _note_copies(connection: sqlite3.Connection, examples: set[int], negatives: set[int], erased: _Erased) -> None:
    """Tell of what is kept of the same bytes under another label."""
    for sha256 in sorted(erased.hashes):
        kept = connection.execute(
            "SELECT examples.id, label FROM examples JOIN classes ON classes.id = class_id WHERE sha256 = ?", (sha256,)
        )
        erased.remaining += [
            f"the same bytes are kept as example {id_} of {label!r}" for id_, label in kept if id_ not in examples
        ]
        outside = connection.execute("SELECT id FROM outsiders WHERE kind = 'negative' AND sha256 = ?", (sha256,))
        erased.remaining += [f"the same bytes are kept as negative {id_}" for (id_,) in outside if id_ not in negatives]


def _overwrite_journal(store: RegistryStore) -> None:
    """Overwrite with zeros what a journal holds of the file as it was; then it can be removed."""
    journal = Path(f"{store.file}-journal")
    with store.shared.transaction("EXCLUSIVE"):  # nobody begins a journal meanwhile
        if journal.exists():
            with open(journal, "r+b") as file:
                for start in range(0, left := journal.stat().st_size, len(_ZEROS)):
                    file.write(_ZEROS[: left - start])
                file.flush()
                os.fsync(file.fileno())


def _unfinished(store: RegistryStore, error: Exception) -> RegistryError:
    kind = RegistryBusy if isinstance(error, RegistryBusy) else RegistryError
    why = str(error) if isinstance(error, RegistryBusy) else why_not(error)
    return kind(
        f"the erasure is incomplete: the rows are gone from {store.path}, but the file could not be rebuilt, so that "
        f"free pages or its journal may hold older copies ({why}). Finish it with: "
        f"fewshot remove {shlex.quote(store.path)} --forget"
    )


def _verify(store: RegistryStore, erased: _Erased) -> None:
    """Search the file for what was erased.

    Raises
    ------
    RegistryError : if there is any of it that no row of the present holds.
    """
    left = [f"{store.file}{end}" for end in ("-journal", "-wal", "-shm") if os.path.exists(f"{store.file}{end}")]
    found = erased.traces.found_in(store.file)
    for other in left:
        found |= erased.traces.found_in(other)
    with store.read() as connection:
        columns = _columns(connection)
        wrong = sorted({what for word, what in found.items() if not _is_kept(connection, columns, word)})
    if wrong:
        raise RegistryError(
            f"the erasure is incomplete: {store.path} still holds bytes of {', '.join(wrong[:3])}. Run it again: "
            f"fewshot remove {shlex.quote(store.path)} --forget"
        )


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c "
        "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY 1, 2"
    ).fetchall()


def _is_kept(connection: sqlite3.Connection, columns: list[tuple[str, str]], word: bytes) -> bool:
    """Whether a row holds these bytes: the same picture under another label, or the beginning that all files share."""
    return any(
        connection.execute(f"SELECT 1 FROM {table} WHERE instr(CAST({name} AS BLOB), ?) LIMIT 1", (word,)).fetchone()
        for table, name in columns
    )


def _still_named(store: RegistryStore, labels: Iterable[str]) -> list[str]:
    """Tell where rows that stay hold a label as a word, as the names of files."""
    found = []
    with store.read() as connection:
        for label in labels:
            for table, name in _columns(connection):
                rows = connection.execute(
                    f"SELECT {name} FROM {table} WHERE typeof({name}) = 'text' AND instr({name}, ?)", (label,)
                )
                texts = [text for (text,) in rows if occurs_as_word(label, text)]
                if texts:
                    found.append(
                        f"the word {label!r} stays in {len(texts)} {name}(s) of {table}, as in {min(texts)[:80]!r}"
                    )
    return found


def _search_beside(store: RegistryStore, erased: _Erased) -> tuple[int, list[str]]:
    """Erase embeddings in caches of the registry's folder; search databases, zips and exports there, and tell."""
    from fewshot.encoders import erase_cached

    fingerprint = str(store.meta().get("fingerprint", ""))
    cached, searched = 0, []
    try:
        beside = containers_beside(store.file) if erased.traces.words else []
    except OSError as error:
        erased.remaining.append(f"files beside the registry were not searched: {error}")
        return 0, []
    for path in beside:
        try:
            if path.stat().st_size > _LARGEST:
                erased.remaining.append(f"{path} was not searched: it is larger than 2 GiB")
                continue
            cached += erase_cached(path, erased.hashes, fingerprint) or 0
            found = erased.traces.found_in(path)
            what = {found[word] for word in found.keys() - erased.traces.common} | _exported(path, erased.hashes)
        except (OSError, ValueError, sqlite3.Error) as error:
            erased.remaining.append(f"{path} was not searched: {error}")
            continue
        searched.append(str(path))
        if what:
            listed = ", ".join(sorted(what)[:3]) + (", ..." if len(what) > 3 else "")
            erased.remaining.append(f"{path} holds {listed}: delete it, or erase there, too")
    return cached, searched


def _exported(path: Path, hashes: set[bytes]) -> set[str]:
    """What an export beside the registry holds; its vectors may be compressed."""
    if path.suffix not in (".npz", ".parquet"):
        return set()
    try:
        held = set(feature_files.read(path).sha256)
    except (ValueError, MissingExtra):
        return set()
    return {f"the export of the example with the hash {one.hex()[:8]}" for one in hashes if one.hex() in held}


def _originals(names: Iterable[str]) -> tuple[str, ...]:
    """Where examples came from: files that are there, each once, and URLs, which may be."""
    files = {os.path.realpath(name): name for name in sorted(names, reverse=True) if os.path.isfile(name)}
    return tuple(sorted([*files.values(), *filter(is_url, names)]))


def _estimated_again(store: RegistryStore, erased: _Erased) -> tuple[str, ...]:
    told = []
    if erased.examples:
        told.append(
            "prototypes, class sums and the whitening's second moment: computed anew from the remaining examples at "
            "the next question, nothing is subtracted; none of them is stored"
        )
    if "max_false_accept" in store.meta():
        told.append(
            "the threshold of the limit on false accepts: it was deleted, and is estimated at the next question"
        )
    told.append("the calibration of probabilities: nothing, it was not learned from a registry")
    return tuple(told)


def _of_encoder(store: RegistryStore, erased: _Erased) -> list[str]:
    """Tell of what may have been learned from the examples and is not in the file."""
    meta, told = store.meta(), []
    folder = encoder_folder(json.loads(meta.get("encoder", "{}"))) if erased.examples else None
    if folder is not None:
        told.append(
            f"the encoder in {folder}, if it was trained on the erased examples (fewshot tune): return to another with "
            f"fewshot reindex {shlex.quote(store.path)} --encoder NAME, and delete it"
        )
    if erased.examples and "center" in json.loads(meta.get("classifier", "{}")).get("params", {}):
        told.append("the center that the classifier was given, if it was computed from the erased examples")
    return told
