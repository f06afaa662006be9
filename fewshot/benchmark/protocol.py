"""How a suite draws its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fewshot.benchmark.inputs import Features, Source
from fewshot.episodes import EpisodeSampler

Count = int | Literal["various"]


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn, but for ways and shots; the names are ``EpisodeSampler``'s.

    Attributes
    ----------
    queries, episodes, seed : int
        ``queries`` of each class.
    query_imbalance : float, optional
    replacement : bool
    within_groups : bool
        The classes of an episode come from one of the data's groups.
    """

    queries: int = 15
    episodes: int = 10_000
    seed: int = 0
    query_imbalance: float | None = None
    replacement: bool = True
    within_groups: bool = False

    def sampler(self, source: Source | Features, ways: Count, shots: Count) -> EpisodeSampler:
        """Return the sampler of one setting.

        Raises
        ------
        ValueError : if the data cannot serve it, naming the data, the class and its number of examples.
        """
        name = source.name if isinstance(source, Source) else source.data
        if self.within_groups and source.groups is None:
            raise ValueError(f"{name} has no groups, which --within-groups asks for")
        try:
            return EpisodeSampler(
                source.labels,
                n_way=ways,
                n_shot=shots,
                n_query=self.queries,
                n_episodes=self.episodes,
                groups=source.groups if self.within_groups else None,
                query_imbalance=self.query_imbalance,
                replacement=self.replacement,
                random_state=self.seed,
            )
        except ValueError as error:
            raise ValueError(f"{name}, {ways}-way {shots}-shot: {error}") from error


def ways_and_shots(ways: Sequence[Count], shots: Sequence[Count]) -> list[tuple[Count, Count]]:
    """Return each of ``ways`` with each of ``shots``, each pair once."""
    return [(way, shot) for way in dict.fromkeys(ways) for shot in dict.fromkeys(shots)]
