"""Every classifier of fewshot.classifiers, with each metric and with base data, and episodes for them."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone

import fewshot.classifiers
from fewshot.classifiers import FewShotClassifier
from fewshot.validation import METRICS


def concrete(namespace):
    """The classifiers a module exports that hold a formula."""
    found = [getattr(namespace, name) for name in namespace.__all__]
    return [
        kind
        for kind in found
        if isinstance(kind, type)
        and issubclass(kind, FewShotClassifier)
        and kind._learn is not FewShotClassifier._learn
        and kind._scores is not FewShotClassifier._scores
    ]


def quick(classifier):
    """The classifier with few steps: the contract holds, or is broken, at any number of them."""
    steps = {name: 5 for name in ("n_iter", "steps") if name in classifier.get_params()}
    return classifier.set_params(**steps)


def variants(kind):
    """The classifier with few steps and, where it takes them, with each metric and with base data."""
    plain = quick(kind())
    metrics = METRICS if "metric" in plain.get_params() else ()
    found = [plain, *(clone(plain).set_params(metric=m) for m in metrics if m != plain.metric)]
    if "parts" in plain.get_params():
        found.append(clone(plain).set_params(parts=(7, 3, 2)))
    if "base" in plain.get_params():
        labels = np.repeat(np.arange(4), 6)
        base = np.random.default_rng(1).normal(labels[:, None], 1.0, (24, 12))
        found.append(clone(plain).set_params(base=base, base_labels=labels, n_samples=20))
    return found


def shown(classifier):
    """A short name for a variant, also of one that holds arrays."""
    return repr(classifier) if getattr(classifier, "base", None) is None else f"{type(classifier).__name__}(base)"


# Which of scikit-learn's checks a transductive method fails, and why (on its order by rounding: test_transductive.py).
BATCH_MATTERS = {
    "check_methods_subset_invariance": "a query's scores depend on the queries that come with it",
    "check_methods_sample_order_invariance": "a query's scores are sums over all queries, which round by their order",
}

CLASSES = concrete(fewshot.classifiers)
VARIANTS = [variant for kind in CLASSES for variant in variants(kind)]


def episodes(n_classes, sizes, *, e=4, q=6, d=12, mean=0.0, seed=0):
    """Random episodes whose classes have these support sizes; -1 pads where an episode has fewer."""
    rng = np.random.default_rng(seed)
    n_support = max(sum(size) for size in sizes)
    support = rng.normal(mean, 1.0, (e, n_support, d)).astype(np.float32)
    labels = np.full((e, n_support), -1)
    for number in range(e):
        size = sizes[number % len(sizes)]
        own = np.repeat(np.arange(n_classes), size)
        labels[number, rng.permutation(n_support)[: len(own)]] = rng.permutation(own)
    query = rng.normal(mean, 1.0, (e, q, d)).astype(np.float32)
    return support, labels, query


def clouds(classes=20, each=40, d=16, noise=1.0, seed=0):
    """Gaussian classes of one spread."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    return (rng.normal(size=(classes, d))[y] + noise * rng.normal(size=(len(y), d))).astype(np.float32), y
