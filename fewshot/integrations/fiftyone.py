"""A registry as a model of FiftyOne: ``dataset.apply_model(Model("parts.fewshot"), label_field="part")``."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import MissingExtra
from fewshot.registry import ClassRegistry, Prediction

try:
    from fiftyone.core.labels import Classification, Classifications
    from fiftyone.core.models import EmbeddingsMixin
    from fiftyone.core.models import Model as FiftyOneModel
except ImportError as error:
    raise MissingExtra(f"FiftyOne is needed: pip install fiftyone ({error})") from error


class Model(EmbeddingsMixin, FiftyOneModel):  # type: ignore[misc]  # of a library without types
    """A registry's answers and embeddings, for ``apply_model``, ``compute_embeddings``, ``compute_patch_embeddings``.

    An image gets a ``Classification`` with the class, its probability as the confidence, and ``unknown_score`` where
    the registry has a limit on false accepts; one that the registry rejects gets None, and FiftyOne leaves its field as
    it was. Of a multi-label registry it gets ``Classifications``, possibly none in it. Classes that are registered
    later are known at the next image.

    Parameters
    ----------
    registry : path or ClassRegistry
        Of images. One that was opened stays its owner's, who closes it.
    encoder : str, optional
        Of a path's registry; by default the one it was made with.
    max_false_accept : float, optional
        As for ``ClassRegistry.predict``; by default the one set in the registry.

    Raises
    ------
    RegistryError : if there is no such registry.
    ValueError : for a registry of texts or sounds.
    """

    media_type = "image"
    has_embeddings = True
    ragged_batches = False  # images of several sizes may be one batch
    transforms = None
    preprocess = True
    config = None

    def __init__(
        self,
        registry: str | os.PathLike[str] | ClassRegistry,
        *,
        encoder: str | None = None,
        max_false_accept: float | None = None,
    ) -> None:
        if isinstance(registry, ClassRegistry):
            self._registry = registry
        else:
            self._registry = ClassRegistry(registry, encoder=encoder, create=False)
            weakref.finalize(self, self._registry.close)  # FiftyOne enters and leaves a model at each use
        if self._registry.modality != "image":
            raise ValueError(f"{self._registry.path} holds {self._registry.modality}s, and FiftyOne gives images")
        self._max_false_accept = max_false_accept
        self._vectors: NDArray[np.float32] | None = None

    def predict(self, arg: Any) -> Any:
        """Classify an image, (h, w), (h, w, 3) or (h, w, 4) uint8: its class or classes, or None."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[Any]) -> list[Any]:
        """Classify n images, a list of them or an array (n, h, w, 3): for each its class or classes, or None."""
        vectors = self.embed_all(args)
        answers = self._registry.predict_vectors(vectors, top=1, nearest=0, max_false_accept=self._max_false_accept)
        return list(map(_classification, answers))

    def embed(self, arg: Any) -> NDArray[np.float32]:
        """Embed an image: (d,) float32."""
        found: NDArray[np.float32] = self.embed_all([arg])[0]
        return found

    def embed_all(self, args: Iterable[Any]) -> NDArray[np.float32]:
        """Embed n images: (n, d) float32."""
        self._vectors = self._registry.encoder.encode(list(args))
        return self._vectors

    def get_embeddings(self) -> NDArray[np.float32]:
        """Return the embeddings of the images that came last: (n, d) float32.

        Raises
        ------
        ValueError : before the first.
        """
        if self._vectors is None:
            raise ValueError("no image was given yet: call predict, predict_all, embed or embed_all first")
        return self._vectors


def _classification(answer: Prediction) -> Any:
    if answer.labels is not None:
        several = [Classification(label=label, confidence=probability) for label, probability in answer.labels]
        return Classifications(classifications=several)
    if answer.label is None:
        return None
    more = {} if math.isnan(answer.unknown_score) else {"unknown_score": answer.unknown_score}
    return Classification(label=answer.label, confidence=answer.probability, **more)
