"""Short names of the methods, for the command line and tables."""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.classifiers import (
    AlphaTIMClassifier,
    BDCSPNClassifier,
    CacheClassifier,
    CosineHeadClassifier,
    DistributionCalibrationClassifier,
    FewShotClassifier,
    LaplacianShotClassifier,
    LinearDiscriminantClassifier,
    LogisticRegressionClassifier,
    MahalanobisClassifier,
    MatchingClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    PTMAPClassifier,
    RidgeClassifier,
    SimpleShotClassifier,
    SoftKMeansClassifier,
    TIMClassifier,
    TransductiveFineTuningClassifier,
    WhitenedPrototypeClassifier,
)
from fewshot.domain_adaptation import EPISODE_ADAPTATIONS, AdaptedClassifier, EpisodeAdaptation

_GROUPS = ("all", "inductive", "transductive")


@dataclass(frozen=True)
class BaseData:
    """Embeddings of base classes, others than those of the episodes, by the same encoder.

    Attributes
    ----------
    vectors : ndarray of shape (n, d), float32
    labels : ndarray of n str, or None
        "" where the class is not known.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.str_] | None = None

    @cached_property
    def center(self) -> NDArray[np.float32]:
        """The mean (d,) of all vectors, labelled or not."""
        return np.asarray(self.vectors.mean(axis=0, dtype=np.float64), np.float32)


@dataclass(frozen=True)
class Method:
    """How to make a classifier: its class and hyper-parameters; called with the base data, or None.

    With an ``adaptation`` it reads embeddings adapted to each episode: see ``AdaptedClassifier``.
    """

    kind: type[FewShotClassifier]
    params: dict[str, Any] = field(default_factory=dict)
    adaptation: EpisodeAdaptation | None = None

    @property
    def transductive(self) -> bool:
        """Whether the prediction of a query depends on the other queries of its episode."""
        return self.kind.transductive or self.adaptation is not None

    @property
    def takes_center(self) -> bool:
        """Whether it takes the mean of base data."""
        return "center" in inspect.signature(self.kind).parameters

    @property
    def needs_base(self) -> bool:
        """Whether it learns from labelled base data."""
        return "base_labels" in inspect.signature(self.kind).parameters

    def __call__(self, base: BaseData | None = None) -> FewShotClassifier:
        """Make the classifier, with the centre or the labelled vectors of the base data where it takes them."""
        given: dict[str, Any] = {}
        if base is not None and self.takes_center:
            given["center"] = base.center
        if base is not None and base.labels is not None and self.needs_base:
            known = base.labels != ""
            given["base"], given["base_labels"] = base.vectors[known], base.labels[known]
        classifier = self.kind(**self.params, **given)
        return classifier if self.adaptation is None else AdaptedClassifier(classifier, adaptation=self.adaptation)


METHODS: dict[str, Method] = {
    "prototype": Method(PrototypeClassifier),
    "prototype-euclidean": Method(PrototypeClassifier, {"metric": "sqeuclidean"}),
    "whitened": Method(WhitenedPrototypeClassifier),
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
    "alpha-tim": Method(AlphaTIMClassifier),
    "bd-cspn": Method(BDCSPNClassifier),
    "distribution-calibration": Method(DistributionCalibrationClassifier),
    "laplacian-shot": Method(LaplacianShotClassifier),
    "pt-map": Method(PTMAPClassifier),
    "soft-k-means": Method(SoftKMeansClassifier),
    "tim": Method(TIMClassifier),
    "transductive-fine-tuning": Method(TransductiveFineTuningClassifier),
}


def _adapted(name: str) -> Method | None:
    """The method of a name such as "prototype+center"; None where there is none."""
    plain, _, adaptation = name.partition("+")
    if plain not in METHODS or adaptation not in EPISODE_ADAPTATIONS:
        return None
    return replace(METHODS[plain], adaptation=adaptation)


def select_methods(names: Sequence[str], *, base_classes: bool = True) -> dict[str, Method]:
    """Return the methods of these names, each once; "all", "inductive" and "transductive" name many.

    Parameters
    ----------
    names : sequence of str
        "+center" or "+whiten" after a method's name adapts the embeddings to each episode; no group holds such ones.
    base_classes : bool, default True
        Whether there are labelled base data. Without them no group holds a method that needs them.

    Raises
    ------
    ValueError : for another name, listing the valid ones; or for one that needs base data where there are none.
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
            raise ValueError(f"no method is called {name!r}{hint}; {_available()}")
    if not found:
        raise ValueError(f"no method is named; {_available()}")
    return found


def _available() -> str:
    adapted = " or ".join(f"+{adaptation}" for adaptation in EPISODE_ADAPTATIONS)
    return f"there are {', '.join(METHODS)}, each also with {adapted}; and {', '.join(_GROUPS)} for many at once"


def describe_classifier(classifier: FewShotClassifier) -> str:
    """Write a classifier with all its hyper-parameters, an array as its shape and the start of its SHA-256."""
    params = ", ".join(f"{name}={_text(value)}" for name, value in sorted(classifier.get_params().items()))
    return f"{type(classifier).__name__}({params})"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"<{value.dtype} {value.shape} {digest[:12]}>"
    # A classifier within a classifier: its parameters are among the outer one's, as "classifier__metric".
    return type(value).__name__ if isinstance(value, FewShotClassifier) else repr(value)
