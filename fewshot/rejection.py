"""None of these, for a registry: the line is kept in its file, and set anew from its examples when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot import outsiders
from fewshot.errors import RegistryError
from fewshot.identity import described, remember_encoder
from fewshot.images import ImageSource
from fewshot.reports import AddReport, Prediction
from fewshot.store import RegistryStore, Rows

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.unknowns import Background, Known, LeftOut, Threshold

_LEVEL = "max_false_accept"


@dataclass
class _Learned:
    """What was made of the registry's examples, in one state of it."""

    state: tuple[int, int]  # revision, rewrites
    known: Known
    rows: Rows
    codes: NDArray[np.int64]
    background: Background | None
    negatives: NDArray[np.float32]  # directions (n, d)
    stale: str | None  # why no line can be drawn before something is done
    left_out: LeftOut | None = None


class Rejection:
    """Tells a registry's unknown pictures; ``ClassRegistry.unknowns``.

    Each picture's unknown score is ``fewshot.unknowns.DEFAULT``'s, around the mean of the background if one was given,
    plus how much closer by cosine it is to the closest negative than to the closest class, where it is.
    """

    def __init__(self, store: RegistryStore, encoder: Callable[[], Encoder]) -> None:
        self._store, self._encoder = store, encoder
        self._lock = threading.RLock()
        self._learned: _Learned | None = None

    def add_negatives(self, images: Iterable[ImageSource]) -> AddReport:
        """Register pictures that are none of the classes, whatever they look like.

        Parameters
        ----------
        images : iterable of paths, bytes, file objects, PIL images or arrays

        Returns
        -------
        AddReport
            Its conflicts are pictures that a class holds.
        """
        from fewshot.encoders.base import check_image_batch

        encoder = self._encoder()
        remember_encoder(self._store, encoder)
        keep = bool(self._store.meta()["keep_images"])
        return outsiders.add_negatives(self._store, encoder, check_image_batch(images), keep_images=keep)

    def renewed(self) -> list[str]:
        """After a reindex, embed negatives anew; say in a sentence each what cannot be used any more."""
        found = [outsiders.load(self._store, self._encoder(), kind).stale for kind in get_args(outsiders.Kind)]
        return [why for why in found if why is not None]

    def forget_negatives(self) -> int:
        """Forget all negatives; returns how many there were."""
        return outsiders.remove_negatives(self._store)

    @property
    def n_negatives(self) -> int:
        """How many negatives there are."""
        return outsiders.count(self._store, "negative")

    @property
    def level(self) -> float | None:
        """The largest share of unknown pictures to accept that is kept in the registry, None if none is."""
        kept = self._store.meta().get(_LEVEL)
        return None if kept is None else float(kept)

    def keep(
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
            Their classes; without, each is one of its own.

        Returns
        -------
        Threshold or None
            The line as it is now; it is set anew whenever examples change.

        Raises
        ------
        RegistryError : for a registry without examples.
        ValueError : for a level outside (0, 1), or one class and no background; nothing is kept then.
        """
        from fewshot.unknowns import Background

        encoder = self._encoder()
        described(self._store)
        outsiders.load(self._store, encoder, "negative")  # outside the transaction, for it may embed some anew
        with self._store.write(append=True) as connection:
            if max_false_accept is None:
                connection.execute("DELETE FROM meta WHERE key = ?", (_LEVEL,))
                connection.execute("DELETE FROM outsiders WHERE kind = 'background'")
                return None
            if background is not None:
                given = None if labels is None else list(labels)
                Background.of(background, given)
                names = [str(n) for n in range(len(background))] if given is None else given
                outsiders.set_background(self._store, encoder, background, names)
            line = self._line(self._read(encoder), float(max_false_accept))
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_LEVEL, float(max_false_accept)))
        return line

    def threshold(self, max_false_accept: float | None = None) -> Threshold | None:
        """Return the line for a level, by default the one kept; None where none is.

        Raises
        ------
        ValueError : for a level outside (0, 1), or one class and no background.
        """
        level = self.level if max_false_accept is None else max_false_accept
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
            By default the level kept, if one is; 1 refuses nothing.
        """
        import torch
        from torch.nn.functional import normalize

        from fewshot.unknowns import DEFAULT, SCORES

        if not predictions:
            return []
        learned = self._current(self._encoder())
        level = self.level if max_false_accept is None else max_false_accept
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
            replace(p, unknown=float(u), label=p.label if line is None or u < line.value else None)
            for p, u in zip(predictions, scores.tolist(), strict=True)
        ]

    def _current(self, encoder: Encoder) -> _Learned:
        with self._lock:
            if self._learned is None or self._learned.state[0] != self._store.state()[0]:
                self._learned = self._read(encoder)
            return self._learned

    def _read(self, encoder: Encoder) -> _Learned:
        import torch
        from torch.nn.functional import normalize

        from fewshot.classifiers.membership import Membership
        from fewshot.unknowns import Background, Known

        state = self._store.state()  # first: what changes meanwhile is read with the next question
        negatives = outsiders.load(self._store, encoder, "negative")
        others = outsiders.load(self._store, encoder, "background")
        rows = self._rows(state[1])
        names = {label: code for code, label in enumerate(dict.fromkeys(rows.labels))}
        codes = np.array([names[label] for label in rows.labels], np.int64)
        background = Background.of(others.vectors, others.labels) if others.labels else None
        membership = Membership(torch.from_numpy(codes)[None], len(names))
        known = Known.of(torch.from_numpy(rows.vectors)[None], membership, background)
        return _Learned(
            state,
            replace(known, support=known.prototypes),  # the score does not ask for every example
            rows,
            codes,
            background,
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
        from fewshot.unknowns import leave_out

        if learned.stale is not None:
            raise RegistryError(learned.stale)
        if learned.left_out is None:
            learned.left_out = leave_out(learned.rows.vectors, learned.codes, background=learned.background)
        return learned.left_out.threshold(level)
