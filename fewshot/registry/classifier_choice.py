"""Which classifier answers for a registry: chosen once and remembered in its file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.registry.class_descriptions import TextReader
from fewshot.registry.encoder_identity import check_metric, check_settings
from fewshot.registry.multi_label import is_multi_label, require_single_label
from fewshot.registry.reindex import embedded
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder

CLASSIFIERS = {
    "whitened": "WhitenedPrototypeClassifier",
    "prototype": "PrototypeClassifier",
    "nearest": "NearestNeighborClassifier",
    "ridge": "RidgeClassifier",
    "logistic": "LogisticRegressionClassifier",
    "discriminant": "LinearDiscriminantClassifier",
}
"""Short names of the types that a registry may use."""
MOST_TEXTS = 2_000
"""Up to so many texts logistic regression, which learns anew after each change, is the default."""
_C = 10.0
_MOST_CLASSES = 500
_MOST_SIZE = 2**16
_ENOUGH_LEFT_OUT = 1_000


@dataclass(frozen=True)
class EncoderComparison:
    """The accuracy of a registry's classifier on examples that were left out, embedded by two encoders.

    Attributes
    ----------
    own, other : float
        Of the registry's encoder, and of the other.
    n : int
        How many examples were left out.
    """

    own: float
    other: float
    n: int


@dataclass(frozen=True)
class ClassifierAccuracy:
    """A classifier's accuracy on examples that were left out.

    Attributes
    ----------
    name : str
    accuracy : float
    ci95 : float
        Half the 95 % interval of the accuracy.
    n : int
        How many examples were left out, of how many ``classes``.
    classes : int
    chosen : bool
        Whether it is the registry's.
    """

    name: str
    accuracy: float
    ci95: float
    n: int
    classes: int
    chosen: bool


class ClassifierChoice:
    """The part of a registry that chooses its classifier."""

    _store: RegistryStore
    _snapshots: SnapshotCache
    _texts: TextReader
    _own_classifier: FewShotClassifier | None

    @property
    def encoder(self) -> Encoder:
        """See ``ClassRegistry``."""
        raise NotImplementedError

    @property
    def classifier(self) -> FewShotClassifier:
        """The classifier that answers, not fitted."""
        if self._own_classifier is not None:
            from sklearn.base import clone

            own: FewShotClassifier = clone(self._own_classifier)
            return own
        with self._store.read():
            return classifier_of(self._store.meta(), self._store.counts()[1])

    def set_classifier(self, classifier: str | FewShotClassifier) -> None:
        """Choose the classifier that answers from now on, everywhere; no image is embedded again.

        Parameters
        ----------
        classifier : str or FewShotClassifier
            "whitened", "prototype", "nearest", "ridge", "logistic" or "discriminant"; or one of fewshot's estimators.

        Raises
        ------
        EncoderMismatch : if the estimator has another metric than the registry.
        ValueError : for another name, or an estimator that the file cannot hold: one of your own type, or with arrays
            among its parameters. Give such a one to ``ClassRegistry(classifier=...)`` each time. Also for parameters
            that a fit refuses, and where the registry was opened with a classifier that the file cannot hold.
        """
        require_single_label(self._store, "choice of a classifier")
        spec, own = remembered_and_own(classifier)
        if self._own_classifier is not None:
            raise ValueError(
                f"{self._store.path} was opened with a classifier of its own, {self._own_classifier!r}, which goes on "
                "answering here; open it again without one to choose another"
            )
        if own is not None:
            raise ValueError(
                f"{classifier!r} cannot be remembered in {self._store.path}: it is not one of fewshot's classifiers, "
                "or has arrays among its parameters; give it as ClassRegistry(..., classifier=) each time"
            )
        if (metric := getattr(classifier, "metric", None)) is not None:
            check_metric(self._store, metric)
        remember(self._store, spec)

    def compare_classifiers(self, encoder: Encoder | None = None) -> list[ClassifierAccuracy]:
        """Return the leave-one-out accuracy of each named classifier, and of the chosen one, best first.

        Each example is left out once, in at most ten rounds, and predicted from the others: one of a class at a time, a
        tenth of a class of more than ten. Classes of one example take part as alternatives, and so do those that have a
        description only: descriptions count as in ``predict``. Of more than 500 classes every n-th is taken.

        Parameters
        ----------
        encoder : Encoder, optional
            Another than the registry's: the images, and descriptions if it reads texts, are embedded with it, for this
            comparison only.

        Raises
        ------
        ValueError : if no class has two examples.
        RegistryError : naming the images that cannot be embedded with another encoder.
        """
        from fewshot.classifiers import towards_texts

        require_single_label(self._store, "choice of a classifier")
        with self._store.read():
            snapshot = self._snapshots.current()
            described = self._texts.described(snapshot)
        check_settings(self._store, snapshot.settings)
        # Of all classes, or of every n-th of many.
        rows = np.flatnonzero(snapshot.codes % max(1, -(-len(snapshot.labels) // _MOST_CLASSES)) == 0)
        codes, vectors = snapshot.codes[rows], snapshot.vectors[rows]
        spec = json.loads(snapshot.settings.get("encoder", "{}"))
        reader = self.encoder if encoder is None and "layers" in spec else encoder
        if encoder is not None:
            anew = dict(embedded(self._store, snapshot.ids[rows].tolist(), encoder))
            there = np.isin(snapshot.ids[rows], list(anew))
            codes, vectors = codes[there], np.stack([anew[id_] for id_ in snapshot.ids[rows][there].tolist()])
        held_out = self._left_out(codes)
        supports = [(vectors[~out], codes[~out]) for out in held_out]
        if (texts := self._texts.compared(snapshot, described, np.unique(codes), encoder)) is not None:
            codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
            supports = [towards_texts(vectors[~out], codes[~out], texts) for out in held_out]
        chosen = classifier_name(snapshot.settings, len(snapshot))
        candidates = {name: _made(kind, {}, snapshot.metric) for name, kind in CLASSIFIERS.items()}
        candidates.setdefault(chosen, classifier_of(snapshot.settings, len(snapshot)))
        for classifier in candidates.values():
            take_parts(classifier, reader)
        found = []
        for name, classifier in candidates.items():
            right = [
                classifier.fit(*support).predict(vectors[out]) == codes[out]
                for support, out in zip(supports, held_out, strict=True)
            ]
            hits = np.concatenate(right)
            share, n = float(hits.mean()), len(hits)
            ci95 = 1.96 * (share * (1 - share) / n) ** 0.5
            found.append(ClassifierAccuracy(name, share, ci95, n, len(np.unique(codes)), name == chosen))
        return sorted(found, key=lambda one: -one.accuracy)

    def compare_encoding(self, encoder: Encoder) -> EncoderComparison:
        """Return the leave-one-out accuracy of the classifier where an encoder that embeds alike embeds the queries.

        What a left-out example is compared with are the stored embeddings of the others. Rounds as of
        ``compare_classifiers`` go on until a thousand are left out. Of more than 500 classes every n-th is taken.

        Parameters
        ----------
        encoder : Encoder
            Of embeddings close to those of the registry's, as the same network in a lower precision.

        Raises
        ------
        ValueError : if no class has two examples.
        RegistryError : naming the images that cannot be embedded again.
        """
        snapshot = self._snapshots.current()
        rows = np.flatnonzero(snapshot.codes % max(1, -(-len(snapshot.labels) // _MOST_CLASSES)) == 0)
        codes, vectors, ids = snapshot.codes[rows], snapshot.vectors[rows], snapshot.ids[rows]
        held_out = self._left_out(codes)
        enough = int(np.searchsorted(np.cumsum([out.sum() for out in held_out]), _ENOUGH_LEFT_OUT)) + 1
        held_out = held_out[:enough]
        anew = dict(embedded(self._store, ids[np.any(held_out, axis=0)].tolist(), encoder))
        there = np.isin(ids, list(anew))
        classifier = self.classifier
        take_parts(classifier, self.encoder)
        right: list[tuple[bool, bool]] = []
        for out in held_out:
            asked = out & there
            classifier.fit(vectors[~out], codes[~out])
            again = np.stack([anew[id_] for id_ in ids[asked].tolist()])
            answers = (classifier.predict(some) == codes[asked] for some in (vectors[asked], again))
            right += zip(*answers, strict=True)
        own, other = np.mean(right, axis=0).tolist()
        return EncoderComparison(own, other, len(right))

    def _left_out(self, codes: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
        from fewshot.diagnosis import leave_out_rounds

        held_out = leave_out_rounds(codes)
        if not held_out:
            raise ValueError(f"no class of {self._store.path} has two examples, so that none can be left out")
        return held_out


def classifier_of(settings: Mapping[str, Any], n_examples: int) -> FewShotClassifier:
    """Make the classifier that a registry's settings name.

    By default whitened prototypes, or prototypes in another metric than the cosine; of up to 2,000 texts logistic
    regression with C=10.

    Raises
    ------
    RegistryError : if the settings name none that this version knows.
    """
    text, metric = (
        settings.get("classifier", default_classifier(settings, n_examples)),
        settings.get("metric", "cosine"),
    )
    try:
        spec = json.loads(text)
        return _made(spec["type"], spec["params"], metric)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RegistryError(f"the settings name a classifier that this version does not know: {text}") from error


def take_parts(classifier: FewShotClassifier, encoder: Encoder | None) -> None:
    """Tell a classifier that weights the parts of embeddings which parts those of an encoder have."""
    parts = getattr(encoder, "parts", ())
    if len(parts) > 1 and classifier.get_params(deep=False).get("parts", ()) is None:
        classifier.set_params(parts=parts)


def check_size(store: RegistryStore, dim: int) -> None:
    """Refuse embeddings of another size than the parameters of the remembered classifier are for.

    Raises
    ------
    RegistryError : naming the parameter, both sizes and the remedy.
    """
    spec = json.loads(store.meta().get("classifier", "{}"))
    for name, size in (("parts", sum), ("center", len)):
        given = spec.get("params", {}).get(name)
        if given and size(given) != dim:
            raise RegistryError(
                f"the classifier of {store.path} has {name} of {size(given)} dimensions, and the encoder's embeddings "
                f"have {dim}: choose another first: fewshot classifier {shlex.quote(str(store.path))} whitened"
            )


def remembered_and_own(
    classifier: str | FewShotClassifier | None,
) -> tuple[str | None, FewShotClassifier | None]:
    """Describe a classifier such that ``classifier_of`` makes it again, or return it where that cannot be done.

    Raises
    ------
    ValueError : for an unknown name, listing the known ones; for parameters that a fit refuses.
    """
    if classifier is None:
        return None, None
    if isinstance(classifier, str):
        if classifier not in CLASSIFIERS:
            raise ValueError(f"no classifier is called {classifier!r}; there are {', '.join(CLASSIFIERS)}")
        return json.dumps({"type": CLASSIFIERS[classifier], "params": {}}), None
    from sklearn.base import clone

    import fewshot.classifiers

    kind = type(classifier)
    if getattr(fewshot.classifiers, kind.__name__, None) is not kind:
        return None, classifier
    params = classifier.get_params(deep=False)
    unchanged = kind().get_params(deep=False)
    try:
        changed = {name: value for name, value in params.items() if value != unchanged[name]}
        spec = json.dumps({"type": kind.__name__, "params": changed}, default=_plain)
    except (TypeError, ValueError):  # an array
        return None, classifier
    two = np.eye(2, _size_of(params))
    fitted = clone(classifier).fit(two, [0, 1])  # refuses parameters that would make every question fail
    if not np.isfinite(fitted.scores(two)).all():
        raise ValueError(f"{classifier!r} gives no finite scores")
    return spec, None


def _size_of(params: Mapping[str, Any]) -> int:
    """Return a size of vectors that a classifier's parameters fit: what is wrong with these is its own to say."""
    parts, center = params.get("parts"), params.get("center")
    try:
        return min(max(2, sum(parts or ()), len(center or ())), _MOST_SIZE)
    except TypeError:
        return 2


def classifier_name(settings: Mapping[str, Any], n_examples: int) -> str:
    """Return the short name of ``classifier_of``, with its parameters; nothing is loaded."""
    if is_multi_label(settings):
        return "multi-label"
    spec = json.loads(settings.get("classifier", default_classifier(settings, n_examples)))
    short: str = {kind: name for name, kind in CLASSIFIERS.items()}.get(spec["type"], spec["type"])
    return short + (f" ({', '.join(f'{k}={v!r}' for k, v in spec['params'].items())})" if spec["params"] else "")


def default_classifier(settings: Mapping[str, Any], n_examples: int) -> str:
    """Return the description of the classifier that answers where none was chosen."""
    if settings.get("metric", "cosine") != "cosine":
        return json.dumps({"type": CLASSIFIERS["prototype"], "params": {}})
    if settings.get("modality") == "text" and n_examples <= MOST_TEXTS:
        return json.dumps({"type": CLASSIFIERS["logistic"], "params": {"C": _C}})
    return json.dumps({"type": CLASSIFIERS["whitened"], "params": {}})


def remember(store: RegistryStore, spec: str | None) -> None:
    """Write a classifier's description, if any, into the file, unless it stands there."""
    if spec is not None and store.meta().get("classifier") != spec:
        with store.write(append=True):
            store.set_meta(classifier=spec)


def _made(kind: str, params: Mapping[str, Any], metric: str) -> FewShotClassifier:
    import fewshot.classifiers

    if kind not in fewshot.classifiers.__all__ or not kind.endswith("Classifier"):
        raise ValueError(f"no classifier is of the type {kind!r}")
    classifier: FewShotClassifier = getattr(fewshot.classifiers, kind)(**params)
    if "metric" in classifier.get_params(deep=False) and "metric" not in params:
        classifier.set_params(metric=metric)
    return classifier


def _plain(value: Any) -> Any:
    """Return the number, truth value or text that a NumPy scalar holds."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError
