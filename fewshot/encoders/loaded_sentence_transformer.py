"""A model of sentence-transformers as an encoder computes with it."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.nn.functional import normalize as unit

from fewshot.encoders.device import Precision, best_precision
from fewshot.encoders.torch_threads import set_thread_count, thread_count
from fewshot.encoders.transformers_hub import values_hash
from fewshot.errors import ExampleError
from fewshot.media import Modality, Sound, map_ahead, open_sound

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CPU_BATCH, _GPU_BATCH = 32, 256
# Least cosine between bfloat16 and float32 vectors of each of these for bfloat16 to be taken unasked.
_FAITHFUL = 0.99
_TEXTS = ("a", "The parcel has not arrived yet.", "Wie wird das Wetter morgen? " * 8)


@dataclass(frozen=True)
class LoadedSentenceTransformer:
    """A model of sentence-transformers, converted to its device and precision; frozen, and shared by clones.

    Attributes
    ----------
    model : SentenceTransformer
    modality : {"text", "image", "audio"}
    prompt : str or None
    normalize : bool
    device : torch.device
    precision : {"float32", "bfloat16"}
    dim : int
        The embedding size d.
    fingerprint : str
        Of the model before its conversion.
    """

    model: SentenceTransformer
    modality: Modality
    prompt: str | None
    normalize: bool
    device: torch.device
    precision: Precision
    dim: int
    fingerprint: str
    _preparing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def limit(self) -> int | None:
        """Tokens of a text that are read."""
        limit: int | None = self.model.max_seq_length
        return limit

    def embed(self, examples: Sequence[Any], batch_size: int | None) -> tuple[NDArray[np.float32], int]:
        """Embed m opened examples: vectors (m, d), and how many texts reach the limit.

        Batches are of similar length. On a CPU each core takes whole ones.
        """
        if not examples:
            return np.empty((0, self.dim), np.float32), 0
        on_cpu = self.device.type == "cpu"
        size = batch_size or (_CPU_BATCH if on_cpu else _GPU_BATCH)
        threads = thread_count() if on_cpu else 1
        if threads > 1:
            size = max(1, min(size, -(-len(examples) // threads)))
        lengths = [len(one) if isinstance(one, str) else 0 for one in examples]
        order = sorted(range(len(examples)), key=lambda n: -lengths[n])
        batches = [[examples[n] for n in order[at : at + size]] for at in range(0, len(order), size)]
        if threads > 1 and len(batches) > 1:
            few = partial(set_thread_count, 1)
            results = list(map_ahead(self.vectors, batches, workers=threads, initializer=few))
        else:
            results = [self.vectors(batch) for batch in batches]
        found = [result for result in results if not isinstance(result, ExampleError)]
        vectors = np.empty((len(examples), self.dim), np.float32)
        vectors[order] = np.concatenate([some for some, _ in found])
        return vectors, sum(long for _, long in found)

    def vectors(self, batch: Sequence[Any]) -> tuple[NDArray[np.float32], int]:
        """Embed m >= 1 opened examples in one pass, as ``embed``."""
        given = [_as_given(one) for one in batch]
        with self._preparing:  # a tokenizer works for one thread at a time
            features = self.model.preprocess(given, prompt=self.prompt)
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in features.items()}
        with torch.inference_mode():
            out = self.model(moved)["sentence_embedding"].float()
            vectors = (unit(out, dim=-1) if self.normalize else out).cpu().numpy()
        return vectors, self._n_long(features)

    def _n_long(self, features: dict[str, Any]) -> int:
        mask = features.get("attention_mask")
        if self.modality != "text" or self.limit is None or not isinstance(mask, Tensor):
            return 0
        return int((mask.sum(1) >= self.limit).sum())


def load_sentence_transformer(
    model: SentenceTransformer,
    modality: Modality,
    device: torch.device,
    precision: Precision | None,
    *,
    prompt: str | None,
    normalize: bool,
) -> LoadedSentenceTransformer:
    """Convert a float32 model on the CPU, which is changed; without a precision, bfloat16 where it keeps the cosine."""
    settings = {"prompt": prompt, "normalize": normalize, "modality": modality}
    identity = _identity(model, settings)
    loaded = LoadedSentenceTransformer(model, modality, prompt, normalize, torch.device("cpu"), "float32", 0, identity)
    exact = loaded.vectors(_probes(modality))[0]
    chosen: Precision = precision or (best_precision(device) if modality == "text" else "float32")
    final = replace(loaded, device=device, precision=chosen, dim=exact.shape[1])
    if chosen == "bfloat16":
        spare = copy.deepcopy(model) if precision is None else None
        _to_bfloat16(model.to(device))
        quick = torch.from_numpy(final.vectors(_probes(modality))[0])
        faithful = bool((cosine_similarity(quick, torch.from_numpy(exact)) > _FAITHFUL).all())
        if spare is not None and not faithful:
            return replace(final, model=spare.to(device), precision="float32")
    model.to(device)
    return final


def _probes(modality: Modality) -> Sequence[Any]:
    """Return examples by which a model shows the size of its vectors, and what bfloat16 does to them."""
    if modality == "text":
        return _TEXTS
    if modality == "image":
        return [Image.new("RGB", (64, 64), "gray")]
    return [open_sound((np.sin(np.arange(16_000, dtype=np.float32)), 16_000))]


def _to_bfloat16(model: SentenceTransformer) -> None:
    """Compute the network in bfloat16, and what follows it, such as the mean over tokens, in float32."""
    first = model[0]

    def in_float32(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in features.items()
        }

    first.to(torch.bfloat16)
    first.register_forward_hook(in_float32)


def _as_given(example: Any) -> Any:
    """Return an opened example as sentence-transformers takes it."""
    if not isinstance(example, Sound):
        return example
    return {"array": example.samples(), "sampling_rate": example.sampling_rate}


def _identity(model: SentenceTransformer, settings: dict[str, Any]) -> str:
    """Return 32 hexadecimal digits made of all that the vectors depend on."""
    described = {**settings, "weights": values_hash(model), "limit": model.max_seq_length}
    described["modules"] = [_described(one) for one in list(model)[1:]]
    vocabulary: dict[str, int] = getattr(model.tokenizer, "get_vocab", dict)()
    described["vocabulary"] = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    if settings["modality"] != "text":
        described["preprocessing"] = repr(model[0].processor)
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _described(module: Any) -> list[Any]:
    return [type(module).__name__, module.get_config_dict()]
