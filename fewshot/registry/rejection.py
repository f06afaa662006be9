"""None of these, for a registry: the line is kept in its file, and set anew from its examples when they change."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.media import ImageSource
from fewshot.registry import negative_examples
from fewshot.registry.encoder_identity import described, remember_encoder
from fewshot.registry.ingest import add_in_chunks
from fewshot.registry.results import AddReport, Prediction
from fewshot.registry.store import RegistryStore, Rows
from fewshot.validation import check_vectors

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.openset import Background, Known, LeftOut, Threshold

_LEVEL, _LINE = "max_false_accept", "line"
# Counts the ways in which lines have been drawn: one drawn in an older way is drawn anew.
_WAY = 3


class _Changed(Exception):
    """The registry is not as it was read: rolls a transaction back."""


@dataclass
class _Learned:
    """What was made of the registry's examples, in one state of it."""

    state: tuple[int, int]  # revision, rewrites
    known: Known
    rows: Rows
    codes: NDArray[np.int64]
    background: Background | None
    shared: int  # pictures of the background that are registered, so that they were left out
    negatives: NDArray[np.float32]  # directions (n, d)
    stale: str | None  # why no line can be drawn before something is done
    left_out: LeftOut | None = None
    lines: dict[float, Threshold] = field(default_factory=dict)


class Rejection:
    """Tells a registry's unknown pictures; ``ClassRegistry.rejection``.

    Each picture's unknown score is ``fewshot.openset.DEFAULT``'s, around the mean of the background if one was given,
    else with the centre that ships for the encoder, if one does, plus how much closer by cosine it is to the closest
    negative than to the closest class, where it is.
    """

    def __init__(self, store: RegistryStore, encoder: Callable[[], Encoder]) -> None:
        self._store, self._encoder = store, encoder
        self._lock = threading.RLock()
        self._learned: _Learned | None = None

    def add_negatives(self, images: Iterable[ImageSource], *, all_or_none: bool = False) -> AddReport:
        """Register pictures that are none of the classes, whatever they look like.

        Parameters
        ----------
        images : iterable of paths, bytes, file objects, PIL images or arrays
        all_or_none : bool, default False
            As of ``ClassRegistry.add``.

        Returns
        -------
        AddReport
            Its conflicts are pictures that a class holds.
        """
        from fewshot.encoders import check_image_batch

        encoder = self._encoder()
        remember_encoder(self._store, encoder)
        keep = bool(self._store.meta()["keep_images"])

        def add(chunk: list[ImageSource]) -> AddReport:
            return negative_examples.add_negatives(self._store, encoder, chunk, keep_images=keep)

        return add_in_chunks(self._store, check_image_batch(images), add, all_or_none=all_or_none)

    def renewed(self) -> list[str]:
        """After a reindex, embed negatives anew; say in a sentence each what cannot be used any more."""
        found = [
            negative_examples.load(self._store, self._encoder(), kind).stale
            for kind in get_args(negative_examples.Kind)
        ]
        return [why for why in found if why is not None]

    def forget_negatives(self) -> int:
        """Forget all negatives; returns how many there were."""
        return negative_examples.remove_negatives(self._store)

    @property
    def n_negatives(self) -> int:
        """How many negatives there are."""
        return negative_examples.count(self._store, "negative")

    @property
    def n_shared(self) -> int:
        """How many pictures of the background a class holds, too: they do not stand for unknown ones."""
        return self._current(self._encoder()).shared

    @property
    def max_false_accept(self) -> float | None:
        """The largest share of unknown pictures to accept that is kept in the registry, None if none is."""
        kept = self._store.meta().get(_LEVEL)
        return None if kept is None else float(kept)

    def set(
        self,
        max_false_accept: float | None,
        *,
        background: NDArray[np.float32] | None = None,
        labels: Iterable[str] | None = None,
    ) -> Threshold | None:
        """Keep a level that ``predict`` then follows unasked, or with None forget it and the background.

        Parameters
        ----------
        max_false_accept : float or None
            In (0, 1).
        background : ndarray of shape (n, d), optional
            Vectors of other classes by the registry's encoder; the one given before stays otherwise.
        labels : iterable of n str, optional
            Their classes; without, each is one of its own. Those that are registered examples are kept, but stand for
            nothing (``n_shared``).

        Returns
        -------
        Threshold or None
            The line as it is now; it is set anew whenever examples change.

        Raises
        ------
        RegistryError : for a registry without examples.
        ValueError : for a level outside (0, 1), vectors of another size than the registry's, or one class and no
            background; nothing is kept then.
        """
        from fewshot.openset import Background

        encoder = self._encoder()
        dim = int(described(self._store)["dim"])
        given = None
        if background is not None:
            check_vectors(np.asarray(background), dim)
            names = [str(n) for n in range(len(background))] if labels is None else list(labels)
            Background.of(background, names)
            given = negative_examples.Outsiders(background, names)
        while True:
            # Outside the transaction, for it takes a while; begun anew if the registry changes meanwhile.
            line = learned = None
            if max_false_accept is not None:
                learned = self._read(encoder, given)
                line = self._drawn(learned, float(max_false_accept))
            with suppress(_Changed), self._store.write(append=True) as connection:
                if learned is not None and learned.state != self._store.state():
                    raise _Changed
                connection.execute("DELETE FROM meta WHERE key IN (?, ?)", (_LEVEL, _LINE))
                if line is None:
                    connection.execute("DELETE FROM outsiders WHERE kind = 'background'")
                else:
                    if given is not None:
                        negative_examples.set_background(self._store, encoder, given.vectors, given.labels)
                    connection.execute("INSERT INTO meta VALUES (?, ?)", (_LEVEL, line.asked))
                    _note_line(connection, line)
                return line

    def threshold(self, max_false_accept: float | None = None) -> Threshold | None:
        """Return the line for a level, by default the one kept; None where none is.

        Raises
        ------
        ValueError : for a level outside (0, 1), or one class and no background.
        """
        level = self.max_false_accept if max_false_accept is None else max_false_accept
        return None if level is None else self._line(self._current(self._encoder()), level)

    def judge(
        self,
        vectors: NDArray[np.float32],
        predictions: list[Prediction],
        max_false_accept: float | None,
    ) -> list[Prediction]:
        """Give each prediction its unknown score, and no label where that is past the line.

        Parameters
        ----------
        vectors : ndarray of shape (q, d)
        predictions : list of q Prediction
        max_false_accept : float or None
            By default the level kept, if one is; 1 refuses nothing. Nor does a level that was kept when there was more
            to go by, as when one class is left: ``threshold`` says why, and ``false_accept_bound`` is None.
        """
        import torch
        from torch.nn.functional import normalize

        from fewshot.openset import DEFAULT, SCORES

        if not predictions:
            return []
        learned = self._current(self._encoder())
        level = self.max_false_accept if max_false_accept is None else max_false_accept
        line = None
        if level is not None and level != 1.0:
            try:
                line = self._line(learned, level)
            except ValueError:
                if max_false_accept is not None:  # a level that was kept when there was more to go by refuses nothing
                    raise
        query = torch.from_numpy(vectors)
        scores = SCORES[DEFAULT](learned.known, query[None])[0]
        if len(learned.negatives):
            closest = (normalize(query, dim=-1) @ torch.from_numpy(learned.negatives).mT).amax(dim=-1)
            scores = scores + (closest - learned.known.cosines(query[None])[0].amax(dim=-1)).clamp_min(0.0)
        return [
            replace(
                p,
                unknown_score=float(u),
                label=p.label if line is None or u < line.value else None,
                false_accept_bound=None if line is None else line.false_accept_bound,
            )
            for p, u in zip(predictions, scores.tolist(), strict=True)
        ]

    def _current(self, encoder: Encoder) -> _Learned:
        with self._lock:
            if self._learned is None or self._learned.state[0] != self._store.state()[0]:
                self._learned = self._read(encoder)
            return self._learned

    def _read(self, encoder: Encoder, given: negative_examples.Outsiders | None = None) -> _Learned:
        """Learn what the registry holds, with the background given or else its own."""
        import torch
        from torch.nn.functional import normalize

        from fewshot.classifiers import Membership
        from fewshot.openset import Background, Known, shipped_center

        state = self._store.state()  # first: what changes meanwhile is read with the next question
        negatives = negative_examples.load(self._store, encoder, "negative")
        others = given or negative_examples.load(self._store, encoder, "background")
        rows = self._rows(state[1])
        if not rows.labels:
            raise RegistryError(f"{self._store.path} holds no classes; add some first")
        fresh = _not_among(others, rows.vectors)
        names = {label: code for code, label in enumerate(dict.fromkeys(rows.labels))}
        codes = np.array([names[label] for label in rows.labels], np.int64)
        background = Background.of(fresh.vectors, fresh.labels) if fresh.labels else None
        membership = Membership(torch.from_numpy(codes)[None], len(names))
        center = shipped_center(encoder.fingerprint)
        known = Known.of(torch.from_numpy(rows.vectors)[None], membership, background, center)
        return _Learned(
            state,
            replace(known, support=known.prototypes),  # the score does not ask for every example
            rows,
            codes,
            background,
            len(others.labels) - len(fresh.labels),
            normalize(torch.from_numpy(negatives.vectors), dim=-1).numpy(),
            negatives.stale or others.stale,
        )

    def _rows(self, rewrites: int) -> Rows:
        """All examples; those that were only appended since are read on top."""
        dim = int(described(self._store)["dim"])
        if self._learned is None or self._learned.state[1] != rewrites or not len(self._learned.rows.ids):
            return self._store.rows(dim)
        old = self._learned.rows
        new = self._store.rows(dim, after=int(old.ids[-1]))
        return Rows(
            np.concatenate([old.ids, new.ids]), old.labels + new.labels, np.concatenate([old.vectors, new.vectors])
        )

    def _line(self, learned: _Learned, level: float) -> Threshold:
        """Return the line, which is kept in the file for the level that is: to draw it takes longer than to predict."""
        if level in learned.lines:
            return learned.lines[level]
        line = None if learned.left_out is not None or learned.stale is not None else self._kept_line(level)
        if line is None:
            line = self._drawn(learned, level)
            if level == self.max_false_accept:
                self._note(learned, line)
        learned.lines[level] = line
        return line

    def _note(self, learned: _Learned, line: Threshold) -> None:
        # The file may be read-only. Answers do not depend on who draws the line.
        with suppress(RegistryError, _Changed), self._store.write(silent=True) as connection:
            if self._store.state() != learned.state:
                raise _Changed
            _note_line(connection, line)

    def _drawn(self, learned: _Learned, level: float) -> Threshold:
        from fewshot.openset import leave_out

        if learned.stale is not None:
            raise RegistryError(learned.stale)
        if learned.left_out is None:
            learned.left_out = leave_out(
                learned.rows.vectors, learned.codes, background=learned.background, center=learned.known.center
            )
        return learned.left_out.threshold(level)

    def _kept_line(self, level: float) -> Threshold | None:
        from fewshot.openset import Threshold

        with self._store.read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (_LINE,)).fetchone()
            basis = _basis(connection)
        with suppress(ValueError, TypeError):
            noted = {} if row is None else json.loads(row[0])
            if noted.pop("basis", None) == basis and noted.get("asked") == level:
                return Threshold(**noted)
        return None


def _basis(connection: sqlite3.Connection) -> list[object]:
    """Return what changes whenever a line must be drawn anew: the examples, the background, the way it is done."""
    (rewrites,) = connection.execute("SELECT value FROM meta WHERE key = 'rewrites'").fetchone()
    examples = connection.execute("SELECT max(id), count(*) FROM examples").fetchone()
    others = connection.execute("SELECT max(id), sum(checksum) FROM outsiders WHERE kind = 'background'").fetchone()
    return [_WAY, rewrites, *examples, *others]


def _note_line(connection: sqlite3.Connection, line: Threshold) -> None:
    noted = json.dumps({**asdict(line), "basis": _basis(connection)})
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_LINE, noted))


def _not_among(others: negative_examples.Outsiders, registered: NDArray[np.float32]) -> negative_examples.Outsiders:
    """Return the outsiders without those that are registered examples too."""
    theirs = [vector.tobytes() for vector in others.vectors]
    both = set(theirs) & {vector.tobytes() for vector in registered} if theirs else set()
    if not both:
        return others
    left = [n for n, vector in enumerate(theirs) if vector not in both]
    return replace(others, vectors=others.vectors[left], labels=[others.labels[n] for n in left])
