"""Short names of the methods, as a command line or a table has them."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

_SPELT = {"BDCSPN": "bd-cspn", "PTMAP": "pt-map", "SoftKMeans": "soft-k-means"}
_GROUPS = ("all", "inductive", "transductive")


@dataclass(frozen=True)
class Method:
    """How to make a classifier: its class and its settings; called with the base data's mean (d,), or None."""

    kind: type[FewShotClassifier]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def transductive(self) -> bool:
        """Whether it reads all queries of an episode before it answers one."""
        return self.kind.transductive

    def __call__(self, center: NDArray[np.float32] | None = None) -> FewShotClassifier:
        """Make the classifier; one that takes a centre gets it."""
        given = {"center": center} if "center" in inspect.signature(self.kind).parameters else {}
        return self.kind(**self.settings, **given)


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


def chosen(names: Sequence[str]) -> dict[str, Callable[[NDArray[np.float32] | None], FewShotClassifier]]:
    """Return the methods of these names, each once; "all", "inductive" and "transductive" name many.

    Raises
    ------
    ValueError : for another name, listing those there are.
    """
    found: dict[str, Callable[[NDArray[np.float32] | None], FewShotClassifier]] = {}
    for name in names:
        if name in _GROUPS:
            of_kind = {n: m for n, m in METHODS.items() if name == "all" or m.transductive == (name == "transductive")}
            found.update(of_kind)
        elif name in METHODS:
            found[name] = METHODS[name]
        else:
            close = difflib.get_close_matches(name, METHODS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"no method is called {name!r}{hint}; {_there_are()}")
    if not found:
        raise ValueError(f"no method is named; {_there_are()}")
    return found


def _there_are() -> str:
    return f"there are {', '.join(METHODS)}; and {', '.join(_GROUPS)} for many at once"


def described(classifier: FewShotClassifier) -> str:
    """Write a classifier with all its settings, an array as its shape and the start of its SHA-256."""
    settings = ", ".join(f"{name}={_text(value)}" for name, value in sorted(classifier.get_params().items()))
    return f"{type(classifier).__name__}({settings})"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"<{value.dtype} {value.shape} {digest[:12]}>"
    return repr(value)
