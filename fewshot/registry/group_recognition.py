"""Recognising groups: several examples of one object, such as frames of a track, give one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fewshot.media import Sources
from fewshot.registry.group_evidence import GroupCombiner, GroupEvidence
from fewshot.registry.label_paths import check_roll_up
from fewshot.registry.recognition import Recognition, tree_of
from fewshot.registry.results import NOT_SURE, Failure, GroupPrediction, Prediction
from fewshot.registry.snapshot import Snapshot
from fewshot.validation import check_count

if TYPE_CHECKING:
    from fewshot.encoders import Encoded


@dataclass(frozen=True)
class _Asked:
    """What ``predict_groups`` was asked for, checked before anything is embedded."""

    top: int
    max_false_accept: float | None
    min_agreement: float
    roll_up: float | None

    def __post_init__(self) -> None:
        check_count("top", self.top)
        check_roll_up(self.roll_up)
        if not 0.0 <= self.min_agreement <= 1.0:
            raise ValueError(f"min_agreement is a share of a group's members, in [0, 1], not {self.min_agreement!r}")


class GroupRecognition(Recognition):
    """The part of ``ClassRegistry`` that predicts groups."""

    def predict_group(
        self,
        images: Sources,
        *,
        top: int = 5,
        max_false_accept: float | None = None,
        min_agreement: float = 0.0,
        roll_up: float | None = None,
    ) -> GroupPrediction:
        """Recognise one object by several images, texts or sounds of it; see ``predict_groups``.

        Raises
        ------
        ExampleError : ImageError, TextError or SoundError, if none of them can be read.
        ValueError : for none.
        """
        self.require_single_label("prediction of groups")
        asked = _Asked(top, max_false_accept, min_agreement, roll_up)
        given = self._embedded(images)
        names, _, failed = given
        if not names:
            raise ValueError(f"a group holds at least one {self._medium.noun}, not none")
        if len(failed) == len(names):
            raise self._medium.error(failed[0].source, failed[0].reason)
        return self._grouped({"": list(range(len(names)))}, *given, asked)[0]

    def predict_groups(
        self,
        images: Sources,
        groups: Iterable[str],
        *,
        top: int = 5,
        max_false_accept: float | None = None,
        min_agreement: float = 0.0,
        roll_up: float | None = None,
    ) -> list[GroupPrediction]:
        """Recognise objects by several images, texts or sounds of each, such as frames of a track, angles of a part.

        The calibrated log-probabilities of a group's members are added, but near-copies count as one, and different
        members as less than independent ones, for they are compared with the same few examples (``effective_size``).
        The group's unknown score is the weighted mean of theirs, and its threshold that of single images brought to
        the lesser spread of such means, so that at most the promised share of groups of no class gets a label.

        Parameters
        ----------
        images : iterable of sources, or one
            As of ``add``. One that cannot be read is listed among its group's members.
        groups : iterable of str
            The group of each.
        top : int, default 5
            How many classes to rank.
        max_false_accept : float, optional
            As of ``predict``, of groups.
        min_agreement : float, default 0
            In [0, 1]: no label where a smaller share of the members that can be read have the group's closest class as
            their own closest one.
        roll_up : float, optional
            As of ``predict``.

        Returns
        -------
        list of GroupPrediction, in the order in which the groups come

        Raises
        ------
        ValueError : for another number of groups than images, or a share outside [0, 1].
        RegistryError : if no class is registered.
        """
        self.require_single_label("prediction of groups")
        asked = _Asked(top, max_false_accept, min_agreement, roll_up)
        given = self._embedded(images)
        members: dict[str, list[int]] = {}
        for n, group in enumerate(groups):
            members.setdefault(group, []).append(n)
        if (count := sum(map(len, members.values()))) != len(given[0]):
            medium = self._medium
            raise ValueError(f"{medium.counted(len(given[0]))} but {count} groups; each {medium.noun} needs one")
        return self._grouped(members, *given, asked)

    def _grouped(
        self,
        members: dict[str, list[int]],
        names: Sequence[str],
        encoded: Encoded,
        failed: dict[int, Failure],
        asked: _Asked,
    ) -> list[GroupPrediction]:
        """Answer for each group of positions in ``names``."""
        place = {n: row for row, n in enumerate(encoded.kept.tolist())}
        rows = {group: [place[n] for n in those if n in place] for group, those in members.items()}
        order = [row for those in rows.values() for row in those]  # one group after the other
        vectors = encoded.vectors[order]
        snapshot, texts = self._state()
        singles = self._judged(snapshot, texts, vectors, 1, 0, asked.max_false_accept)
        answers: dict[int, Prediction | Failure] = dict(zip(encoded.kept[order].tolist(), singles, strict=True))
        answers |= failed
        evidence = {
            group: GroupEvidence.of(encoded.vectors[those], snapshot.class_scatter)
            for group, those in rows.items()
            if those
        }
        labels = snapshot.labels if texts is None else texts.labels
        roll_up = None if asked.roll_up is None else partial(tree_of(snapshot, texts).roll_up, share=asked.roll_up)
        combiner = GroupCombiner(list(evidence.values()), _shots(snapshot), asked.top, roll_up)
        self._predictor.each_probability(snapshot, vectors, self.encoder, combiner.take, texts=texts)
        levels = dict(zip(evidence, combiner.rolled_up, strict=True)) if roll_up else {}
        ranked = {
            group: tuple((labels[code], p) for code, p in zip(codes.tolist(), found.tolist(), strict=True))
            for group, (codes, found) in zip(evidence, combiner.ranked, strict=True)
        }
        threshold = self.rejection.applied_threshold(snapshot, asked.max_false_accept)
        mean = 0.0 if threshold is None else self.rejection.mean_unknown_score(snapshot, threshold)

        def answer(group: str, those: list[int]) -> GroupPrediction:
            listed = tuple((names[n], answers[n]) for n in those)
            read = [one for _, one in listed if isinstance(one, Prediction)]
            if not read:
                return GroupPrediction(group, None, None, (), listed)
            weighed, best = evidence[group], ranked[group]
            unknown = float(weighed.weights @ [one.unknown_score for one in read])
            known = threshold is None or unknown < weighed.threshold(threshold.value, mean)
            agreement = sum(one.top[0][0] == best[0][0] for one in read) / len(read)
            alone = read[0].probability is None  # one class, or none with examples
            level = best[0] if alone or not levels else levels[group]
            label, probability = level or (None, best[0][1])
            accepted = known and agreement >= asked.min_agreement
            return GroupPrediction(
                group,
                label if accepted else None,
                None if alone else probability,
                best,
                listed,
                unknown_score=unknown,
                false_accept_bound=None if threshold is None else threshold.false_accept_bound,
                agreement=agreement,
                effective_size=weighed.effective_size(_shots(snapshot)),
                note=NOT_SURE if accepted and level is None else read[0].note,
            )

        return [answer(group, those) for group, those in members.items()]


def _shots(snapshot: Snapshot) -> float:
    return len(snapshot) / max(len(snapshot.labels), 1)
