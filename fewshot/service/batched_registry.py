"""A registry whose predictions are batched: many vectors are scored in little more time than one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.registry import ClassRegistry, Prediction
from fewshot.service.batching import Batch, MicroBatcher, set_torch_threads
from fewshot.validation import check_vectors

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

# Their scores with thousands of classes are held in memory at once.
_BATCH_SIZE = 256
# What reads for longer while the registry is closed is interrupted.
_PATIENCE_SECONDS = 5.0


class BatchedRegistry(ClassRegistry):
    """A registry that any number of threads may ask at once: the vectors of those that wait are scored together."""

    def __init__(self, path: str | os.PathLike[str], *, encoder: Encoder, **waiting: Any) -> None:
        super().__init__(path, encoder=encoder, create=False, **waiting)
        self._batcher = MicroBatcher(self._predict_batch, batch_size=_BATCH_SIZE, name="predictions")

    def predict_vectors(self, vectors: ArrayLike, **options: Any) -> list[Prediction]:
        """Predict as any registry does; examples added before the call are known to it."""
        return self._batcher.submit(check_vectors(vectors, self.encoder.dim), options)

    def close(self, *, patience: float | None = _PATIENCE_SECONDS) -> None:
        """Finish the predictions that wait, and close the file; what takes long to read is interrupted."""
        self._batcher.close()
        super().close(patience=patience)

    def _predict_batch(self, batch: Batch[NDArray[np.float32]]) -> Iterable[Prediction]:
        set_torch_threads(1)  # the encoder has all cores already
        return super().predict_vectors(np.stack(batch.items), **batch.options)
