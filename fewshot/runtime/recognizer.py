"""Recognising images with a bundle."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewshot.errors import ExampleError, ImageError
from fewshot.media import ImagePreparation, Sources, attempt, describe, map_ahead, medium_of
from fewshot.registry import ONE_CLASS, Failure, Prediction, Predictions
from fewshot.runtime.bundle_file import Bundle, read_bundle, write_bundle
from fewshot.runtime.graph_session import GraphSession
from fewshot.runtime.numpy_head import NumpyHead
from fewshot.runtime.numpy_unknown import NumpyUnknown
from fewshot.runtime.self_test import check_self_test, self_test_images
from fewshot.runtime.vector_map import Vectors, unit
from fewshot.validation import check_count, check_label, normalised_label

# Images of a forward pass.
_BATCH = 8


@dataclass(frozen=True)
class _State:
    """What a prediction reads: replaced as a whole, so that none sees the labels of one and the vectors of another."""

    bundle: Bundle
    head: NumpyHead
    unknown: NumpyUnknown
    limit: tuple[float, float] | None  # the unknown score from which an image gets no label, and the bound

    @classmethod
    def of(cls, bundle: Bundle) -> _State:
        limit = bundle.about["rejection"]
        numbers = None if limit is None else (float(limit["value"]), float(limit["false_accept_bound"]))
        return cls(bundle, NumpyHead(bundle), NumpyUnknown(bundle), numbers)


class Recognizer:
    """Recognises images with a bundle that ``fewshot export REGISTRY FILE --onnx`` wrote.

    It answers as the registry does, up to rounding, with onnxruntime, NumPy and Pillow alone. Threads may share it.

    Parameters
    ----------
    path : path
    threads : int, optional
        Of onnxruntime; by default one for each core.

    Raises
    ------
    MissingExtra : where onnxruntime is not installed.
    FileNotFoundError : if there is no such file.
    ValueError : for a file that is no bundle, is damaged or of a newer version, or whose self-test gives other numbers
        on this machine.

    Notes
    -----
    Classes that are added here are means of their images' embeddings. What a registry learns from all examples together
    (the whitening, the calibration, the threshold) stays as it was exported: after many additions export the registry
    again.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import ClassRegistry
    >>> from fewshot.runtime import Recognizer, export_bundle
    >>> red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ((250, 20, 20), (20, 20, 250)))
    >>> with ClassRegistry("colours.fewshot") as registry:
    ...     added = registry.add("red", red) + registry.add("blue", blue)
    ...     report = export_bundle(registry, "colours.zip")
    >>> recognizer = Recognizer("colours.zip")
    >>> recognizer.predict([blue])[0].label
    'blue'
    >>> recognizer.add("green", [np.full((32, 32, 3), (20, 250, 20), np.uint8)])
    1
    >>> recognizer.classes()
    {'red': 1, 'blue': 1, 'green': 1}
    """

    modality = "image"

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = os.fspath(path)
        self._stamp, self._changing = _stamp(self.path), threading.Lock()
        bundle = read_bundle(path)
        try:
            if bundle.about["modality"] != self.modality:
                raise ValueError(f"it recognises {bundle.about['modality']}s, not {self.modality}s")
            self._dim = bundle.arrays["head_vectors"].shape[1]
            self._prepare = _preparation(bundle.about["preparation"])
            self._session = GraphSession(bundle.graph, threads=threads)
            self._state = _State.of(bundle)
            self._of_one_thread: GraphSession | None = None
            self._making = threading.Lock()
            pixels = [self._prepare(image) for image in self_test_images()]
            found = self._session.embed(np.stack(pixels), self._dim)
            check_self_test(found, bundle.arrays["self_test"], float(bundle.about["self_test"]["least_cosine"]))
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{self.path} cannot be used here: {what}") from error

    @property
    def about(self) -> dict[str, Any]:
        """The bundle's description: encoder, preprocessing, versions; not a copy."""
        return self._state.bundle.about

    @property
    def max_false_accept(self) -> float | None:
        """The limit on false accepts that the registry had stored; None without one."""
        limit = self.about["rejection"]
        return None if limit is None else float(limit["max_false_accept"])

    def classes(self) -> dict[str, int]:
        """Return the labels, in the order they came, with the number of examples of each."""
        about = self.about
        return dict(zip(about["labels"], about["counts"], strict=True))

    def predict(self, images: Sources, *, top: int = 5, max_false_accept: float | None = None) -> list[Prediction]:
        """Recognise images; as ``ClassRegistry.predict``, but that ``nearest`` is empty: a bundle holds no examples.

        Parameters
        ----------
        images : iterable of image sources, or one
        top : int, default 5
            How many classes to rank.
        max_false_accept : float, optional
            By default the stored limit, if any; 1 gives all a label.

        Raises
        ------
        ImageError : naming the first that cannot be read; ``predict_valid`` goes on instead.
        ValueError : for another limit than the stored one, whose threshold only the registry can estimate.
        """
        answered = self.predict_valid(images, top=top, max_false_accept=max_false_accept)
        if answered.failed:
            raise ImageError(answered.failed[0].source, answered.failed[0].reason)
        return list(answered.predictions)

    def predict_valid(self, images: Sources, *, top: int = 5, max_false_accept: float | None = None) -> Predictions:
        """Recognise the images that can be read, and list the others."""
        check_count("top", top)
        state = self._state  # the same for all, whatever other threads add
        limit = self._threshold(state, max_false_accept)
        names: list[str] = []
        kept: list[int] = []
        failed: list[Failure] = []
        predictions: list[Prediction] = []
        for sources, outcomes, vectors in self._batches(images):
            good = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, ExampleError)]
            start = len(names) + len(failed)
            kept += [start + n for n in good]
            names += [describe(sources[n]) for n in good]
            failed += [Failure(one.source, one.reason) for one in outcomes if isinstance(one, ExampleError)]
            if good:
                predictions += _judged(state, vectors, top, limit)
        return Predictions(tuple(names), tuple(predictions), tuple(failed), tuple(kept))

    def add(self, label: str, images: Sources) -> int:
        """Add images to a class, known or new, and save the bundle; returns how many there were.

        Raises
        ------
        ImageError : naming the first that cannot be read; nothing has changed then.
        ValueError : for a label that can be none, no images, a classifier whose classes are no means, or a bundle that
            another program has changed since it was opened.
        """
        label = check_label(label)
        if not self.about["head"]["means"]:
            raise ValueError(
                f"{self.path} cannot learn {label!r}: the classes of its classifier are weights that are learned from "
                "all examples together, no means; add the images to the registry and export it again"
            )
        vectors = self._all_embedded(images)
        if not len(vectors):
            raise ValueError(f"no images of {label!r} were given")
        with self._changing:
            self._extend(label, vectors)
        return len(vectors)

    def _extend(self, label: str, vectors: Vectors) -> None:
        state = self._state
        about, arrays = state.bundle.about, dict(state.bundle.arrays)
        labels, counts = list(about["labels"]), list(about["counts"])
        if label not in labels:
            labels.append(label)
            counts.append(0)
        at, n = labels.index(label), len(vectors)
        for name, made in (("head_vectors", state.head.prepared(vectors)), ("unknown_prototypes", unit(vectors))):
            if name in arrays:
                held = arrays[name] if at < len(arrays[name]) else np.vstack([arrays[name], np.zeros_like(made[:1])])
                mean = (counts[at] * held[at] + made.sum(axis=0)) / (counts[at] + n)
                arrays[name] = np.concatenate([held[:at], mean[None], held[at + 1 :]]).astype(np.float32)
        counts[at] += n
        self._save(about | {"labels": labels, "counts": counts}, arrays)

    def remove(self, label: str) -> int:
        """Remove a class and save the bundle; returns how many examples it had.

        Raises
        ------
        KeyError : if there is no such class.
        ValueError : for the only class, or a bundle that another program has changed since it was opened.
        """
        with self._changing:
            return self._without(normalised_label(label))

    def _without(self, label: str) -> int:
        about, arrays = self.about, dict(self._state.bundle.arrays)
        labels = about["labels"]
        if label not in labels:
            raise KeyError(f"no class {label!r} in {self.path}; there are {', '.join(labels[:10])}")
        if len(labels) == 1:
            raise ValueError(f"{label!r} is the only class of {self.path}: a bundle without classes recognises nothing")
        at = labels.index(label)
        for name in ("head_vectors", "head_bias", "unknown_prototypes"):
            if name in arrays:
                arrays[name] = np.delete(arrays[name], at, axis=0)
        count = int(about["counts"][at])
        left = {key: [one for n, one in enumerate(about[key]) if n != at] for key in ("labels", "counts")}
        self._save(about | left, arrays)
        return count

    def _save(self, about: dict[str, Any], arrays: dict[str, Vectors]) -> None:
        if _stamp(self.path) != self._stamp:
            raise ValueError(f"{self.path} was changed by another program since it was opened here; open it again")
        changed = _State.of(replace(self._state.bundle, about=about, arrays=arrays))
        write_bundle(changed.bundle, self.path)
        self._state, self._stamp = changed, _stamp(self.path)

    def _threshold(self, state: _State, max_false_accept: float | None) -> tuple[float, float] | None:
        """The score from which an image gets no label, and the bound; None where all get one."""
        if max_false_accept == 1:
            return None
        if max_false_accept is not None and max_false_accept != self.max_false_accept:
            holds = "no threshold" if state.limit is None else f"that of max_false_accept={self.max_false_accept}"
            raise ValueError(
                f"{self.path} holds {holds}, not the threshold of {max_false_accept}: store that limit in the registry "
                "(fewshot threshold) and export it again"
            )
        return state.limit

    def _batches(self, images: Sources) -> Iterator[tuple[list[Any], list[Any], Vectors]]:
        """Batches of sources, their pixels or errors, and the embeddings of those that have pixels."""
        sources = list(medium_of("image").sources(images))
        batches = [sources[start : start + _BATCH] for start in range(0, len(sources), _BATCH)]
        if self._session.threads == 1 or len(batches) < self._session.threads:
            for batch in batches:
                outcomes = list(map_ahead(self._prepare, batch))
                yield batch, outcomes, self._embedded(outcomes, self._session)
            return
        # A core for each batch keeps them all busy; together on one batch they wait for each other.
        session = self._session_of_one_thread()

        def read(batch: list[Any]) -> tuple[list[Any], Vectors]:
            outcomes = [attempt(self._prepare, source) for source in batch]
            return outcomes, self._embedded(outcomes, session)

        done = map_ahead(read, batches, workers=self._session.threads, ahead=2 * self._session.threads)
        for batch, found in zip(batches, done, strict=True):
            assert not isinstance(found, ExampleError)
            yield batch, *found

    def _session_of_one_thread(self) -> GraphSession:
        with self._making:
            if self._of_one_thread is None:
                self._of_one_thread = GraphSession(self._state.bundle.graph, threads=1)
            return self._of_one_thread

    def _embedded(self, outcomes: list[Any], session: GraphSession) -> Vectors:
        pixels = [one for one in outcomes if not isinstance(one, ExampleError)]
        return session.embed(np.stack(pixels), self._dim) if pixels else np.empty((0, self._dim), np.float32)

    def _all_embedded(self, images: Sources) -> Vectors:
        found = [np.empty((0, self._dim), np.float32)]
        for _, outcomes, vectors in self._batches(images):
            for one in outcomes:
                if isinstance(one, ExampleError):
                    raise one
            found.append(vectors)
        return np.concatenate(found)


def _judged(state: _State, vectors: Vectors, top: int, limit: tuple[float, float] | None) -> list[Prediction]:
    scores, labels = state.head.scores(vectors), state.bundle.about["labels"]
    probability = state.head.best_probability(scores)
    unknown = state.unknown.scores(vectors)
    found = []
    for n, order in enumerate(np.argsort(-scores, axis=1, kind="stable")[:, :top]):
        best = tuple((labels[k], float(scores[n, k])) for k in order.tolist())
        rejected = limit is not None and unknown[n] >= limit[0]
        found.append(
            Prediction(
                None if rejected else best[0][0],
                best[0][1],
                best,
                unknown_score=float(unknown[n]),
                false_accept_bound=None if limit is None else limit[1],
                probability=None if probability is None else float(probability[n]),
                note=ONE_CLASS if len(labels) == 1 else None,
            )
        )
    return found


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Tell whether a file is still the one that was read; None where there is none."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _preparation(about: dict[str, Any]) -> ImagePreparation:
    resize, crop = about["resize"], about["crop"]
    sizes = [*crop, *([resize] if isinstance(resize, int) else resize)]
    if len(crop) != 2 or not all(isinstance(one, int) and 0 < one <= 4096 for one in sizes):
        raise ValueError(f"its preprocessing to {resize} and {crop} pixels is none")
    return ImagePreparation(
        resize if isinstance(resize, int) else (resize[0], resize[1]), tuple(crop), about["interpolation"]
    )
