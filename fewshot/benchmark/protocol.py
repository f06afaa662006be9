"""How a suite draws its episodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fewshot.benchmark.inputs import Features, Source
from fewshot.episodes import EpisodeSampler

Count = int | Literal["various"]
WAYS, SHOTS, QUERIES, EPISODES = 5, (1, 5), 15, 10_000

# The command line's names of a sampler's parameters.
_FLAGS = {
    "n_way": "--ways", "n_shot": "--shots", "n_query": "--queries", "n_episodes": "--episodes",
    "query_imbalance": "--query-imbalance", "replacement=False": "--no-replacement",
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn, but for ways and shots; the names are ``EpisodeSampler``'s.

    Attributes
    ----------
    queries, episodes : int, optional
        ``queries`` of each class. By default 15 and 10,000, or as many as the data allow: see ``fitted``.
    seed : int
    query_imbalance : float, optional
    replacement : bool
    within_groups : bool
        The classes of an episode come from one of the data's groups.
    """

    queries: int | None = None
    episodes: int | None = None
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
        return self.sampler_of(name, source.labels, ways, shots, groups=source.groups if self.within_groups else None)

    def sampler_of(
        self, name: str, labels: Sequence[str], ways: Count, shots: Count, *, groups: Sequence[str] | None = None
    ) -> EpisodeSampler:
        """Return the sampler of one setting for labels of a name, as ``sampler``."""
        try:
            return EpisodeSampler(
                labels,
                n_way=ways,
                n_shot=shots,
                n_query=QUERIES if self.queries is None else self.queries,
                n_episodes=EPISODES if self.episodes is None else self.episodes,
                groups=groups,
                query_imbalance=self.query_imbalance,
                replacement=self.replacement,
                random_state=self.seed,
            )
        except ValueError as error:
            reason = re.sub("|".join(_FLAGS), lambda found: _FLAGS[found[0]], str(error))
            raise ValueError(f"{name}, {ways}-way {shots}-shot: {reason}") from error

    def fitted(
        self,
        sources: Sequence[Source],
        ways: Sequence[Count] | None,
        shots: Sequence[Count] | None,
        note: Callable[[str], None],
        *,
        unknown: bool = False,
    ) -> tuple[Protocol, list[tuple[Count, Count]]]:
        """Choose what was not given so that the data can serve it, and say so where it is not the default.

        Ways are 5, or all classes if there are fewer; shots 1 and 5, if each class has more examples; queries of each
        class 15, or what the smallest class has beside the shots; episodes 10,000, or as many as can be drawn without
        a common example where there may be none.

        Parameters
        ----------
        unknown : bool, default False
            Episodes have as many unknown classes as known ones.

        Returns
        -------
        Protocol
            With its number of queries and episodes.
        settings : list of (ways, shots)
            Each of the ways with each of the shots.

        Raises
        ------
        ValueError : as ``sampler``, for any of the data and settings.
        """
        counted = [(n, label, source.name) for source in sources for label, n in Counter(source.labels).items()]
        smallest, label, name = min(counted, default=(0, "", ""))
        classes = min(map(self._classes, sources))
        chosen_ways = ways or (max(2, min(WAYS, classes // (1 + unknown))),)
        chosen_shots = shots or tuple(count for count in SHOTS if count < smallest) or SHOTS[:1]
        settings = [(way, shot) for way in dict.fromkeys(chosen_ways) for shot in dict.fromkeys(chosen_shots)]
        queries = self.queries or self._queries(smallest, settings)
        fitted = replace(self, queries=queries, episodes=self.episodes or EPISODES)
        of_all = [(source, way if way == "various" else way * (1 + unknown), shot)
                  for source in sources for way, shot in settings]  # fmt: skip
        if self.episodes is None and not self.replacement:
            apart = [replace(fitted, replacement=True).sampler(*setting).disjoint() for setting in of_all]
            fitted = replace(fitted, episodes=min(1 if some is None else some.n_episodes for some in apart))
        for source, way, shot in of_all:
            try:
                fitted.sampler(source, way, shot)
            except ValueError as error:
                more = f" (an open-set episode has as many unknown classes as its {int(way) // 2})" if unknown else ""
                raise ValueError(f"{error}{more}") from error
        values = {
            "--ways": None if ways or chosen_ways == (WAYS,) else chosen_ways[0],
            "--shots": None if shots or chosen_shots == SHOTS else chosen_shots[0],
            "--queries": None if self.queries or queries == QUERIES else queries,
            "--episodes": None if self.episodes or fitted.episodes == EPISODES else fitted.episodes,
        }
        if chosen := " ".join(f"{flag} {value}" for flag, value in values.items() if value is not None):
            note(
                f"chosen to fit the data: {chosen}; an episode has {classes} classes to draw from, and the smallest "
                f"class, {label!r} of {name}, has {smallest} examples"
            )
        return fitted, settings

    def _queries(self, smallest: int, settings: Sequence[tuple[Count, Count]]) -> int:
        """How many queries of each class the smallest class has beside its shots, 1 to 15."""
        if self.query_imbalance is None:
            most = [QUERIES if shot == "various" else smallest - shot for _, shot in settings]
        else:  # all queries may be of one class
            most = [(smallest - int(shot)) // int(way) for way, shot in settings if "various" not in (way, shot)]
        return max(1, min([QUERIES, *most]))

    def _classes(self, source: Source) -> int:
        """The most classes that an episode of a source may have."""
        if not self.within_groups or source.groups is None:
            return len(set(source.labels))
        return max(Counter(dict(zip(source.labels, source.groups, strict=True)).values()).values())
