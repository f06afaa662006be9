"""CLIP and SigLIP, through open_clip, as frozen encoders of images, and of texts that may be compared with them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.encoders.batches import embedded_batches
from fewshot.encoders.device import best_device, usable_device
from fewshot.encoders.encoder import Encoded, check_image_batch, counted, gathered
from fewshot.encoders.hub import hub_reachable, why_not_fetched
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.encoders.timm_network import first_line
from fewshot.encoders.transformers_hub import values_hash
from fewshot.errors import EncoderNotFound
from fewshot.media import ImageSource, open_image
from fewshot.progress import Progress
from fewshot.validation import check_count, check_extra

_CPU_BATCH, _GPU_BATCH = 16, 128
_FOLDER, _HUB = "local-dir:", "hf-hub:"
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class _Loaded:
    """Both towers on their device, the preprocessing and the tokenizer, d, and the fingerprint."""

    model: nn.Module
    preprocess: Any
    tokenizer: Any
    device: torch.device
    dim: int
    fingerprint: str
    tokenizing: threading.Lock = field(default_factory=threading.Lock)


class ClipEncoder(ImageTransformer):
    """A frozen CLIP or SigLIP of open_clip: images in, embeddings out; also a scikit-learn transformer.

    The model is loaded at first use and computes in float32. An image embeds the same alone, in any batch, after any
    other call, up to rounding. ``encode_texts`` embeds texts in the same space, so that a class can be described:
    ``ClassRegistry.describe``.

    Parameters
    ----------
    name : str
        "ARCHITECTURE/WEIGHTS" of ``open_clip.list_pretrained()``, as "ViT-B-32/laion2b_s34b_b79k"; "hf-hub:OWNER/REPO";
        or the path of a folder with open_clip_config.json and its weights, also written "local-dir:PATH".
    device : str, optional
        By default CUDA, then MPS, then CPU.
    batch_size : int, optional
        By default 16 on a CPU, 128 on a GPU.

    Raises
    ------
    MissingExtra : at first use, without open_clip.
    EncoderNotFound : at first use, if there is no such model or it cannot be had.

    References
    ----------
    Radford et al. 2021, arXiv:2103.00020 (CLIP); Zhai et al. 2023, arXiv:2303.15343 (SigLIP).

    Examples
    --------
    >>> from fewshot import ClipEncoder
    >>> encoder = ClipEncoder("ViT-B-32/laion2b_s34b_b79k")
    >>> encoder.encode_texts(["a red tin of beans"]).shape  # doctest: +SKIP
    (1, 512)
    """

    def __init__(self, name: str, *, device: str | None = None, batch_size: int | None = None) -> None:
        self.name = name
        self.device = device
        self.batch_size = batch_size

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self._loaded().dim

    @property
    def fingerprint(self) -> str:
        """Made of the weights of both towers, the preprocessing and the tokenizer."""
        return self._loaded().fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the same encoder again: ``load_encoder(**spec)``."""
        folder = self._folder()
        return {"name": f"clip:{self.name if folder is None else folder}"}

    def encode_valid(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed the images that can be read, and list the others; images are read while the model computes."""
        loaded = self._loaded()
        source, total = counted(check_image_batch(images))

        def embed(batch: list[Tensor]) -> NDArray[np.float32]:
            if not batch:
                return np.empty((0, loaded.dim), np.float32)
            with torch.inference_mode():
                model = cast(Any, loaded.model)
                found: NDArray[np.float32] = model.encode_image(torch.stack(batch).to(loaded.device)).cpu().numpy()
                return found

        batches = embedded_batches(
            lambda one: loaded.preprocess(open_image(one)),
            embed,
            source,
            total,
            size=self._size(),
            device=loaded.device,
        )
        with Progress(total, "encode") as bar:
            return gathered(batches, loaded.dim, bar.advance)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed n texts in the space of the images.

        Parameters
        ----------
        texts : sequence of n str
            Beyond the model's context, of CLIP 77 tokens, a text is not read.

        Returns
        -------
        ndarray of shape (n, d), float32
            Not normalised.

        Raises
        ------
        TypeError : for a single text.
        """
        if isinstance(texts, str):
            raise TypeError(f"encode_texts takes a sequence of texts; for one, give [{texts!r}]")
        loaded, given, size = self._loaded(), list(texts), self._size()
        found = [np.empty((0, loaded.dim), np.float32)]
        for start in range(0, len(given), size):
            with loaded.tokenizing:  # a tokenizer works for one thread at a time
                tokens = loaded.tokenizer(given[start : start + size])
            with torch.inference_mode():
                found.append(cast(Any, loaded.model).encode_text(tokens.to(loaded.device)).cpu().numpy())
        return np.concatenate(found)

    def __sklearn_clone__(self) -> ClipEncoder:
        twin = type(self)(**self.get_params(deep=False))
        for name in ("_frozen", "_sklearn_output_config"):  # frozen, so it can be shared
            if name in self.__dict__:
                twin.__dict__[name] = copy.copy(self.__dict__[name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_frozen"}

    def _size(self) -> int:
        if self.batch_size is not None:
            return check_count("batch_size", self.batch_size)
        return _CPU_BATCH if self._loaded().device.type == "cpu" else _GPU_BATCH

    def _folder(self) -> str | None:
        place = self.name.removeprefix(_FOLDER)
        return os.path.abspath(place) if place != self.name or os.path.isdir(place) else None

    def _loaded(self) -> _Loaded:
        """Return the model as it computes, loaded at first use and anew when a parameter has changed."""
        asked = self.name, self.device
        if "_frozen" not in self.__dict__ or self._frozen[0] != asked:
            self._frozen: tuple[tuple[Any, ...], _Loaded] = asked, self._load()
        return self._frozen[1]

    def _load(self) -> _Loaded:
        check_extra("clip", "clip: models need", "open_clip")
        import open_clip

        device = usable_device(self.device) if self.device is not None else best_device()
        place, settings = self._place()
        try:
            model, preprocess = open_clip.create_model_from_pretrained(place, **settings)
            tokenizer = open_clip.get_tokenizer(place)
        except Exception as error:
            raise EncoderNotFound(self._reason(error)) from error
        model = model.float().eval().requires_grad_(False)
        identity = json.dumps(
            [values_hash(model), model.visual.preprocess_cfg, _described(tokenizer)], sort_keys=True, default=str
        )
        with torch.inference_mode():
            dim = int(model.encode_text(tokenizer(["a"])).shape[1])
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return _Loaded(model.to(device), preprocess, tokenizer, device, dim, fingerprint)

    def _place(self) -> tuple[str, dict[str, Any]]:
        """The name as open_clip takes it, and what goes with it."""
        import open_clip

        if folder := self._folder():
            return _FOLDER + folder, {}
        # Where there is no network, what was fetched before is looked up here: open_clip would retry for a minute.
        offline = not hub_reachable()
        if self.name.startswith(_HUB):
            cached = _cached(self.name.removeprefix(_HUB), (_CONFIG,)) if offline else None
            if offline and cached is None:
                raise EncoderNotFound(self._unreachable())
            return (self.name if cached is None else _FOLDER + os.path.dirname(cached)), {}
        architecture, _, weights = self.name.rpartition("/")
        config = open_clip.get_pretrained_cfg(architecture, weights) if architecture else None
        if not config:
            raise EncoderNotFound(self._unknown())
        # OpenAI's weights were trained with another GELU than open_clip's architecture of their name has.
        settings = {"pretrained": weights, "force_quick_gelu": bool(config.get("quick_gelu"))}
        if offline:
            repository, name = os.path.split(str(config.get("hf_hub", "")))
            settings["pretrained"] = cached = _cached(repository, (name,) if name else _WEIGHTS)
            if cached is None:
                raise EncoderNotFound(self._unreachable())
            named = {"mean": "image_mean", "std": "image_std"}
            named |= {"interpolation": "image_interpolation", "resize_mode": "image_resize_mode"}
            settings |= {argument: config[key] for key, argument in named.items() if key in config}
        return architecture, settings

    def _unknown(self) -> str:
        import difflib

        import open_clip

        known = ["/".join(pair) for pair in open_clip.list_pretrained()]
        close = difflib.get_close_matches(self.name, known, n=3, cutoff=0.4)
        return (
            f"no CLIP {self.name!r}: give ARCHITECTURE/WEIGHTS, as {', '.join(close or known[:3])}, hf-hub:OWNER/REPO, "
            f"or the path of a folder with {_CONFIG}"
        )

    def _unreachable(self) -> str:
        return (
            f"the weights of {self.name!r} are not in the local cache and could not be fetched: the hub cannot be "
            f"reached from here. Connect once, or give the path of a folder with {_CONFIG} and weights"
        )

    def _reason(self, error: Exception) -> str:
        if folder := self._folder():
            return f"no CLIP in the folder {folder!r}: {first_line(error)}"
        if refused := why_not_fetched(self.name, error):
            return refused
        return f"no CLIP {self.name!r}: {first_line(error)}"


def _cached(repository: str, names: Sequence[str]) -> str | None:
    """Return the path of the first of some files of a repository of the Hub that is in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names if repository)
    return next((path for path in found if isinstance(path, str)), None)


def _described(tokenizer: Any) -> list[Any]:
    """Return what of a tokenizer changes its tokens: its kind, its length, and its vocabulary."""
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = getattr(tokenizer, "encoder", None) or getattr(inner, "get_vocab", dict)()
    text = json.dumps(vocabulary, sort_keys=True)
    length = getattr(tokenizer, "context_length", None)
    return [type(tokenizer).__name__, length, hashlib.sha256(text.encode()).hexdigest()]
