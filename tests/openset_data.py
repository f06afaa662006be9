"""Episodes of open-set tests."""

from __future__ import annotations

from fewshot import EpisodeSampler


def sampler(y, **changes):
    return EpisodeSampler(y, **{"n_way": 6, "n_shot": 2, "n_query": 5, "n_episodes": 60, **changes})
