"""A torch module of one's own as an encoder."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fewshot.encoders.batches import embedded_batches
from fewshot.encoders.device import usable_device
from fewshot.encoders.encoder import Encoded, check_image_batch, counted, gathered
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.encoders.timm_network import weights_hash
from fewshot.media import ImageSource, open_image
from fewshot.progress import Progress
from fewshot.validation import check_count, check_vectors


class TorchEncoder(ImageTransformer):
    """An ``nn.Module`` and its preprocessing as an encoder.

    Parameters
    ----------
    module : nn.Module
        From images (n, ...) to vectors (n, d). Copied at first use and put in eval mode, so that training it further
        does not change the encoder.
    preprocess : callable
        From a PIL image, RGB, to a float Tensor, of one shape for all images, such as torchvision's transforms.
    name : str
        Part of the fingerprint, with the module's class and weights: give another whenever ``preprocess`` or the code
        of ``module`` changes the vectors.
    device : str, optional
        By default that of the module's parameters.
    batch_size : int, default 32
        Images per forward pass.

    Raises
    ------
    TypeError, ValueError : at first use, where ``preprocess`` or ``module`` gives something else.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from fewshot import TorchEncoder
    >>> def to_tensor(image):
    ...     return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1) / 255
    >>> module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> encoder = TorchEncoder(module, to_tensor, "mean colour")
    >>> encoder.dim
    3
    >>> encoder.encode([np.full((20, 30, 3), (255, 0, 51), np.uint8)]).round(2)
    array([[1. , 0. , 0.2]], dtype=float32)
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        name: str,
        *,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.module = module
        self.preprocess = preprocess
        self.name = name
        self.device = device
        self.batch_size = batch_size

    @property
    def dim(self) -> int:
        """The embedding size d, as the module gives it for a black image."""
        return self._loaded().dim

    @property
    def fingerprint(self) -> str:
        """Made of the name, the module's class and its weights."""
        loaded = self._loaded()
        kind = f"{type(loaded.module).__module__}.{type(loaded.module).__qualname__}"
        return hashlib.sha256(json.dumps([self.name, kind, loaded.weights]).encode()).hexdigest()[:32]

    def encode_valid(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed the images that can be read, and list the others; images are read while the module computes."""
        loaded = self._loaded()
        source, total = counted(check_image_batch(images))

        def embed(batch: list[Tensor]) -> NDArray[np.float32]:
            if not batch:
                return np.empty((0, loaded.dim), np.float32)
            return check_vectors(self._embed(loaded.module, loaded.device, batch).float().cpu(), loaded.dim)

        size = check_count("batch_size", self.batch_size)
        with Progress(total, "encode") as bar:
            batches = embedded_batches(self._prepare, embed, source, total, size=size, device=loaded.device)
            return gathered(batches, loaded.dim, bar.advance)

    def __sklearn_clone__(self) -> TorchEncoder:
        twin = type(self)(**self.get_params(deep=False))
        for name in ("_frozen", "_sklearn_output_config"):  # frozen, so it can be shared
            if name in self.__dict__:
                twin.__dict__[name] = copy.copy(self.__dict__[name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_frozen"}

    def _loaded(self) -> _Loaded:
        """Return the copy of the module that computes, made at first use and anew when a parameter has changed."""
        asked = (self.module, self.preprocess, self.device)
        if "_frozen" not in self.__dict__ or self._frozen[0] != asked:
            if not isinstance(self.module, nn.Module):
                raise TypeError(
                    f"TorchEncoder takes an nn.Module, not {type(self.module).__name__}: for a function, take "
                    "FunctionEncoder(function, dim, fingerprint)"
                )
            weight = next(self.module.parameters(), torch.empty(0))
            device = weight.device if self.device is None else usable_device(self.device)
            module = copy.deepcopy(self.module).eval().requires_grad_(False).to(device)
            black = self._prepare(Image.new("RGB", (256, 256)))
            dim = self._embed(module, device, [black]).shape[1]
            self._frozen: tuple[tuple[Any, ...], _Loaded] = asked, _Loaded(module, device, weights_hash(module), dim)
        return self._frozen[1]

    def _prepare(self, source: ImageSource) -> Tensor:
        image = self.preprocess(open_image(source))
        if not isinstance(image, Tensor):
            raise TypeError(
                f"the preprocess of {self.name!r} gives {type(image).__name__}, not a Tensor: end it with a conversion"
            )
        return image

    def _embed(self, module: nn.Module, device: torch.device, images: list[Tensor]) -> Tensor:
        """Embed m >= 1 prepared images: (m, d)."""
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"the preprocess of {self.name!r} gives shapes {shapes[0]} and {shapes[1]}: resize and crop to one size"
            )
        with torch.inference_mode():
            out = module(torch.stack(images).to(device))
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(images):
            given = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"the module of {self.name!r} gives {given} for {len(images)} images, not vectors of shape "
                f"({len(images)}, d): wrap it in a module whose forward returns those"
            )
        return out


@dataclass(frozen=True)
class _Loaded:
    """A frozen copy of a module, its device, the hash of its weights, and d."""

    module: nn.Module
    device: torch.device
    weights: str
    dim: int
