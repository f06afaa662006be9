"""One encoder for many requests: the examples that they send at the same time are embedded in one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.encoders import Encoded, all_or_raise, check_image_batch, encode_valid, modality_of
from fewshot.errors import EncoderMismatch, ExampleError
from fewshot.media import Modality, Source
from fewshot.service.batching import Batch, MicroBatcher, set_torch_threads

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

# Images of a batch where the encoder does not say.
_BATCH_SIZE = 64
# Images of one caller before it is the next one's turn.
_TURN = 8


@dataclass(frozen=True)
class EncoderInfo:
    """What is known of an encoder before it is loaded: its fingerprint, size d, how to load it, and what it reads."""

    fingerprint: str
    dim: int
    spec: dict[str, Any]
    modality: Modality = "image"


class BatchingEncoder:
    """An encoder that any number of threads may ask at once; worker threads compute what they ask in batches.

    There are as many workers as the encoder has ``lanes``, else one. What cannot be read, or the encoder
    fails at, is an error for its caller only.

    Parameters
    ----------
    load : callable
        Returns the encoder; called when it is first needed.
    info : EncoderInfo, optional
        What the encoder is known to be, until it is loaded.
    queue_size : int
        Images that may wait, see ``Limits``.
    on_batch : callable, optional
        Called after each batch with its number of images and the seconds it took.
    torch_threads : int, optional
        Threads of torch to compute with; by default as many as it uses in the thread that makes this object.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        info: EncoderInfo | None = None,
        *,
        queue_size: int,
        on_batch: Callable[[int, float], None] | None = None,
        torch_threads: int | None = None,
    ) -> None:
        self._load, self._info = load, info
        self._torch_threads = torch_threads or torch.get_num_threads()
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None
        self._lanes: tuple[int, int] | None = None
        self._batcher: MicroBatcher[Source, NDArray[np.float32] | ExampleError] = MicroBatcher(
            self._encode_batch,
            batch_size=_BATCH_SIZE,
            turn=_TURN,
            queue_size=queue_size,
            name="images",
            on_batch=on_batch,
        )

    def loaded(self) -> Encoder:
        """Return the encoder itself, loaded if it was not.

        Raises
        ------
        EncoderMismatch : if it is not what it was known to be.
        """
        with self._loading:
            if self._encoder is None:
                set_torch_threads(self._torch_threads)  # an encoder takes over the number of the thread that loads it
                encoder = self._load()
                known = self._info
                if known is not None and encoder.fingerprint != known.fingerprint:
                    raise EncoderMismatch(
                        f"{known.spec.get('name')} gives other vectors now (fingerprint {encoder.fingerprint[:8]}) "
                        f"than when the registry was made ({known.fingerprint[:8]}). Put back the weights of then, or "
                        "rebuild the registry with: fewshot reindex"
                    )
                spec, modality = getattr(encoder, "spec", {}), modality_of(encoder)
                self._info = EncoderInfo(encoder.fingerprint, encoder.dim, spec, modality)
                self._lanes = getattr(encoder, "lanes", None)
                if self._lanes is not None:
                    self._batcher.workers, self._batcher.batch_size = self._lanes
                self._encoder = encoder
            return self._encoder

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder is not None

    @property
    def info(self) -> EncoderInfo:
        """What the encoder is; loads it where that is not known."""
        if self._info is None:
            self.loaded()
        assert self._info is not None
        return self._info

    @property
    def fingerprint(self) -> str:
        """The encoder's own."""
        return self.info.fingerprint

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self.info.dim

    @property
    def parts(self) -> tuple[int, ...]:
        """The encoder's own, or (d,)."""
        return getattr(self.loaded(), "parts", (self.dim,)) if self.spec.get("layers") else (self.dim,)

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the encoder again."""
        return self.info.spec

    @property
    def modality(self) -> Modality:
        """The encoder's own."""
        return self.info.modality

    @property
    def queued(self) -> int:
        """How many images wait."""
        return self._batcher.queued

    @property
    def encode_texts(self) -> Callable[[Sequence[str]], NDArray[np.float32]]:
        """The encoder's own, where it has one, in the calling thread: descriptions are few."""
        own: Callable[[Sequence[str]], NDArray[np.float32]] = self.loaded().encode_texts  # type: ignore[attr-defined]
        return own

    def encode(self, images: Iterable[Source]) -> NDArray[np.float32]:
        """Embed n images: (n, d) float32; raises ExampleError as the encoder would."""
        return all_or_raise(self.encode_valid(images))

    def encode_valid(self, images: Iterable[Source]) -> Encoded:
        """Embed the examples that can be read, and list the others.

        Raises
        ------
        Overloaded : if too many wait, or they are not computed by ``DEADLINE``.
        ClientDisconnected : if the client has disconnected before all were computed.
        """
        sources = list(check_image_batch(images, self.modality))
        self.loaded()
        found = self._batcher.submit(sources)
        vectors = np.empty((len(found), self.dim), np.float32)
        kept: list[int] = []
        failed: list[tuple[int, ExampleError]] = []
        for n, one in enumerate(found):
            if isinstance(one, ExampleError):
                failed.append((n, one))
            else:
                vectors[len(kept)] = one
                kept.append(n)
        return Encoded(vectors[: len(kept)], np.array(kept, np.int64), tuple(failed))

    def close(self) -> None:
        """Stop, after what waits has been computed."""
        self._batcher.close()

    def _encode_batch(self, batch: Batch[Source]) -> Iterable[NDArray[np.float32] | ExampleError]:
        encoder = self.loaded()
        if self._lanes is None:
            set_torch_threads(self._torch_threads)
            encoded = encode_valid(encoder, batch.items)
        elif batch.alone and len(batch.items) == 1 and self._torch_threads > 2:
            set_torch_threads(self._torch_threads - 1)  # one is left to the requests that come meanwhile
            encoded = encode_valid(encoder, batch.items)
        else:
            encoded = encoder.encode_here(batch.items)  # type: ignore[attr-defined]
        results: dict[int, NDArray[np.float32] | ExampleError] = dict(encoded.failed)
        results.update(zip(encoded.kept.tolist(), encoded.vectors, strict=True))
        return [results[n] for n in range(len(batch.items))]
