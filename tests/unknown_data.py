"""Classes for tests of what is known and unknown: two along the axes, and many at random."""

from __future__ import annotations

import numpy as np
import torch

from fewshot.classifiers.membership import Membership
from fewshot.openset.threshold import estimate_threshold
from fewshot.openset.unknown_scores import DEFAULT, SCORES, KnownClasses

# Two classes along the axes, and a query between them: its cosines are 0.8 and 0.6.
AXES = [[[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]]
BETWEEN = [[[4.0, 3.0, 0.0]]]


def known_of(support, labels, background=None, center=None):
    """What is known of episodes: support vectors (e, s, d) and the class of each (e, s)."""
    labels = torch.tensor(labels)
    return KnownClasses.of(torch.tensor(support), Membership(labels, int(labels.max()) + 1), background, center)


def drawn(classes, shots, rng, d=24, noise=0.6):
    """Unit-ish classes around a common mean, and their examples: (classes, shots + 4, d)."""
    means = rng.normal(size=(classes, 1, d)) + 1.0
    return (means + noise * rng.normal(size=(classes, shots + 4, d))).astype(np.float32)


def line_of(X, shots, level, background=None, center=None):
    """The line that the first examples of each class draw."""
    support = X[:, :shots].reshape(-1, X.shape[2])
    labels = np.repeat(np.arange(len(X)), shots)
    return estimate_threshold(support, labels, max_false_accept=level, background=background, center=center)


def scores_of(X, shots, query, background=None, center=None):
    """Default scores of queries (..., d), by those examples."""
    support, labels = X[:, :shots].reshape(1, -1, X.shape[2]), np.repeat(np.arange(len(X)), shots)[None]
    known = known_of(support, labels, background, center)
    return SCORES[DEFAULT](known, torch.tensor(query.reshape(1, -1, X.shape[2])))[0].numpy()
