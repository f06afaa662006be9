"""Short names of the methods, as a command line or a table has them."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot import classifiers
from fewshot.classifiers import (
    CacheClassifier,
    CosineHeadClassifier,
    FewShotClassifier,
    LinearDiscriminantClassifier,
    LogisticRegressionClassifier,
    MahalanobisClassifier,
    MatchingClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RidgeClassifier,
    SimpleShotClassifier,
)
from fewshot.domain_adaptation import EPISODE_ADAPTATIONS, AdaptedClassifier, EpisodeAdaptation

_SPELT = {"BDCSPN": "bd-cspn", "PTMAP": "pt-map", "SoftKMeans": "soft-k-means"}
_GROUPS = ("all", "inductive", "transductive")


@dataclass(frozen=True)
class Base:
    """Base data: vectors of other classes than those to be learned, by the same encoder.

    Attributes
    ----------
    vectors : ndarray of shape (n, d), float32
    labels : ndarray of n str, or None
        "" for a vector whose class is not known.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.str_] | None = None

    @cached_property
    def center(self) -> NDArray[np.float32]:
        """The mean (d,) of all vectors, labelled or not."""
        return np.asarray(self.vectors.mean(axis=0, dtype=np.float64), np.float32)


@dataclass(frozen=True)
class Method:
    """How to make a classifier: its class and its settings; called with the base data, or None.

    With an ``adaptation`` it reads embeddings adapted to each episode: see ``AdaptedClassifier``.
    """

    kind: type[FewShotClassifier]
    settings: dict[str, Any] = field(default_factory=dict)
    adaptation: EpisodeAdaptation | None = None

    @property
    def transductive(self) -> bool:
        """Whether it reads all queries of an episode before it answers one."""
        return self.kind.transductive or self.adaptation is not None

    @property
    def takes_center(self) -> bool:
        """Whether it works better with the mean of base data."""
        return "center" in inspect.signature(self.kind).parameters

    @property
    def needs_base(self) -> bool:
        """Whether, without labelled base data, it would be another method."""
        return "base_labels" in inspect.signature(self.kind).parameters

    def __call__(self, base: Base | None = None) -> FewShotClassifier:
        """Make the classifier, giving it what it asks for of the base: its centre, or its labelled vectors."""
        given: dict[str, Any] = {}
        if base is not None and self.takes_center:
            given["center"] = base.center
        if base is not None and base.labels is not None and self.needs_base:
            known = base.labels != ""
            given["base"], given["base_labels"] = base.vectors[known], base.labels[known]
        classifier = self.kind(**self.settings, **given)
        return classifier if self.adaptation is None else AdaptedClassifier(classifier, adaptation=self.adaptation)


def _table() -> dict[str, Method]:
    table = {
        "prototype": Method(PrototypeClassifier),
        "prototype-euclidean": Method(PrototypeClassifier, {"metric": "sqeuclidean"}),
        "simpleshot": Method(SimpleShotClassifier),
        "nearest": Method(NearestNeighborClassifier),
        # Weighted, for at 1 shot five plain votes go to five classes, and the first would win.
        "nearest-5": Method(NearestNeighborClassifier, {"n_neighbors": 5, "weights": "distance"}),
        "matching": Method(MatchingClassifier),
        "cache": Method(CacheClassifier),
        "ridge": Method(RidgeClassifier),
        "logistic": Method(LogisticRegressionClassifier),
        "discriminant": Method(LinearDiscriminantClassifier),
        "mahalanobis": Method(MahalanobisClassifier),
        "cosine-head": Method(CosineHeadClassifier),
    }
    named = {method.kind for method in table.values()} | {FewShotClassifier}
    for name in classifiers.__all__:
        kind = getattr(classifiers, name)
        if isinstance(kind, type) and issubclass(kind, FewShotClassifier) and kind not in named and _complete(kind):
            table[_kebab(name.removesuffix("Classifier"))] = Method(kind)
    return table


def _complete(kind: type) -> bool:
    """Whether it can be made without arguments."""
    return all(p.default is not p.empty for p in inspect.signature(kind).parameters.values())


def _kebab(name: str) -> str:
    """From AlphaTIM to alpha-tim; what stands in ``_SPELT`` as its paper writes it."""
    return _SPELT.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())


METHODS: dict[str, Method] = _table()


def _adapted(name: str) -> Method | None:
    """The method of a name such as "prototype+center"; None where there is none."""
    plain, _, adaptation = name.partition("+")
    if plain not in METHODS or adaptation not in EPISODE_ADAPTATIONS:
        return None
    return replace(METHODS[plain], adaptation=adaptation)


def chosen(names: Sequence[str], *, base_classes: bool = True) -> dict[str, Method]:
    """Return the methods of these names, each once; "all", "inductive" and "transductive" name many.

    Parameters
    ----------
    names : sequence of str
        "+center" or "+whiten" after a method's name adapts the embeddings to each episode first, which no group does.
    base_classes : bool, default True
        Whether there are labelled base data. Without them no group holds a method that needs them.

    Raises
    ------
    ValueError : for another name, listing those there are; or for one that needs the base data that there are not.
    """
    found: dict[str, Method] = {}
    for name in names:
        if name in _GROUPS:
            of_kind = {n: m for n, m in METHODS.items() if name == "all" or m.transductive == (name == "transductive")}
            found.update({n: m for n, m in of_kind.items() if base_classes or not m.needs_base})
        elif method := METHODS.get(name) or _adapted(name):
            if method.needs_base and not base_classes:
                raise ValueError(f"{name} learns from base data with labels; give some of other classes with --base")
            found[name] = method
        else:
            close = difflib.get_close_matches(name, METHODS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"no method is called {name!r}{hint}; {_there_are()}")
    if not found:
        raise ValueError(f"no method is named; {_there_are()}")
    return found


def _there_are() -> str:
    adapted = " or ".join(f"+{adaptation}" for adaptation in EPISODE_ADAPTATIONS)
    return f"there are {', '.join(METHODS)}, each also with {adapted}; and {', '.join(_GROUPS)} for many at once"


def described(classifier: FewShotClassifier) -> str:
    """Write a classifier with all its settings, an array as its shape and the start of its SHA-256."""
    settings = ", ".join(f"{name}={_text(value)}" for name, value in sorted(classifier.get_params().items()))
    return f"{type(classifier).__name__}({settings})"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"<{value.dtype} {value.shape} {digest[:12]}>"
    # A classifier within a classifier: its settings are among the outer one's, as "classifier__metric".
    return type(value).__name__ if isinstance(value, FewShotClassifier) else repr(value)
