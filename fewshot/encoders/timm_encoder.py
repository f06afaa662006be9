"""Any timm network as a frozen encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.encoders.batches import embedded_batches, readable
from fewshot.encoders.bundled_network import bundled_network
from fewshot.encoders.device import Precision, best_device, best_precision, usable_device
from fewshot.encoders.encoder import Encoded, check_image_batch, counted, gathered
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.encoders.loaded_network import LoadedNetwork, converted
from fewshot.encoders.preprocessing import data_config, normalised, preparation
from fewshot.encoders.timm_network import POOLS, feature_parts, features, fingerprint, layer_numbers, load_network
from fewshot.encoders.torch_threads import set_thread_count, thread_count
from fewshot.media import ImageSource, attempt
from fewshot.progress import Progress
from fewshot.validation import check_choice, check_count

if TYPE_CHECKING:
    from typing_extensions import Self

# Batches of so many pixels stay in a CPU's cache (mobilenetv2 at 224 px: 299 images/s at 8, 223 at 32); of very small
# images, more than so many gain nothing. A GPU wants many at once.
_CPU_PIXELS, _CPU_MOST, _GPU_BATCH = 8 * 224 * 224, 32, 64
# Least cosine between bfloat16 and float32 features of noise for bfloat16 to be taken unasked; 0.99 and up is usual.
_FAITHFUL = 0.97
View = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class TimmEncoder(ImageTransformer):
    """A frozen timm network: images in, embeddings out; also a scikit-learn transformer.

    The network is loaded at first use. It is in eval mode, without gradients, and preprocesses exactly as its own
    ``pretrained_cfg`` says, so an image embeds the same alone, in any batch, after any other call (up to the
    rounding of ``precision``).

    Parameters
    ----------
    name : str
        "pocket" (bundled), any timm name ("resnet50.a1_in1k", "vit_small_patch14_dinov2.lvd142m"), "hf-hub:owner/repo"
        or "local-dir:folder".
    pretrained : bool, default True
        False gives random weights, for tests.
    layer : int or str, optional
        Take features after this block, by number (negative from the end) or by timm's name for it, instead of the
        network's own embedding; the best layer is often not the last.
    pool : {"avg", "max", "cls", "cls+avg"}, optional
        How the block's map becomes a vector: "avg" (default with ``layer``) and "max" over positions, "cls" the class
        token, "cls+avg" both side by side. Without ``layer``: of the last block.
    layers : sequence of int or str, or "auto", optional
        Append the means over these blocks' maps to the network's own embedding, as parts of length 0.1 and 1; "auto"
        takes up to three before the last. ``WhitenedPrototypeClassifier(parts=encoder.parts)`` weights them by the
        support; on images unlike those that the network was trained on they gain several points. Not with ``layer`` or
        ``pool``.
    tta : bool, default False
        Flip test-time augmentation: embed an image as the mean of the directions of itself and its mirror image, for
        twice the time. Not where left and right tell classes apart.
    device : str, optional
        By default CUDA, then MPS, then CPU.
    precision : {"float32", "bfloat16"}, optional
        By default bfloat16 where the hardware computes in it and the network's features allow it, else float32.
    batch_size : int, optional
        Images per forward pass; by default 64 on a GPU, and on a CPU 1 to 32 by their size: 8 at 224 pixels.

    Raises
    ------
    EncoderNotFound : at first use, if there is no such network or its weights cannot be had.

    Notes
    -----
    On a CPU, batch norms are folded into the convolutions after the fingerprint is taken; features agree to float32
    rounding. Scores from bfloat16 and float32 vectors agree to about 0.001 (``fewshot.encoders.bfloat16``).

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import TimmEncoder
    >>> encoder = TimmEncoder("pocket")
    >>> encoder.encode([np.zeros((64, 64, 3), np.uint8), np.ones((20, 30, 3), np.uint8)]).shape
    (2, 384)
    """

    def __init__(
        self,
        name: str = "pocket",
        *,
        pretrained: bool = True,
        layer: int | str | None = None,
        pool: str | None = None,
        layers: Sequence[int | str] | str | None = None,
        tta: bool = False,
        device: str | None = None,
        precision: Precision | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.name = name
        self.pretrained = pretrained
        self.layer = layer
        self.pool = pool
        self.layers = layers
        self.tta = tta
        self.device = device
        self.precision = precision
        self.batch_size = batch_size

    @property
    def loaded(self) -> LoadedNetwork:
        """The network and its preprocessing, loaded at first use and anew when a parameter has changed.

        Raises
        ------
        EncoderNotFound : if there is no such network or its weights cannot be had.
        """
        if "_network" not in self.__dict__ or self._network[0] != self._asked():
            self._network: tuple[tuple[Any, ...], LoadedNetwork] = self._asked(), self._load()
        return self._network[1]

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self.loaded.dim

    @property
    def parts(self) -> tuple[int, ...]:
        """The sizes of the parts of an embedding: the network's own, then those of ``layers``; d in all."""
        return self.loaded.parts

    @property
    def fingerprint(self) -> str:
        """Made of architecture, weights, preprocessing and what is read; not of device, precision or batch size."""
        return self.loaded.fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the same encoder again: ``TimmEncoder(**spec)``; empty for a network that was given."""
        if self._given():
            return {}
        layers = self.layers
        if layers is not None and not isinstance(layers, str):
            layers = [layer if isinstance(layer, str) else int(layer) for layer in layers]  # NumPy's are no JSON
        more = {"layers": layers, "tta": bool(self.tta)}
        return {"name": self.name, "layer": self.layer, "pool": self.pool} | {k: v for k, v in more.items() if v}

    @property
    def resolved_precision(self) -> Precision:
        """The precision of the computation, given or chosen."""
        return self.loaded.precision

    def encode_valid(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed the images that can be read, and list the others.

        Images are decoded while the network computes.
        """
        encoded = self.encode_views(images, (np.asarray,))
        return replace(encoded, vectors=encoded.vectors[:, 0])

    def encode_views(self, images: Iterable[ImageSource], views: Sequence[View], *, prepared: bool = False) -> Encoded:
        """As ``encode_valid``, but v views of each image: ``vectors`` has the shape (m, v, d).

        Parameters
        ----------
        images : iterable of n image sources
        views : sequence of v callables
            Each makes one view of a prepared image, uint8 pixels (h, w, 3), of the same shape.
        prepared : bool, default False
            Whether the images are what ``loaded.prepare`` gives already.
        """
        loaded = replace(self.loaded, prepare=np.asarray) if prepared else self.loaded
        source, total = counted(check_image_batch(images))
        default = loaded.cpu_batch if loaded.device.type == "cpu" else _GPU_BATCH
        size = default if self.batch_size is None else check_count("batch_size", self.batch_size)
        batches = embedded_batches(
            loaded.prepare,
            lambda prepared: self._embed(loaded, prepared, views),
            source,
            total,
            size=size,
            device=loaded.device,
        )
        with Progress(total, "encode") as bar:
            encoded = gathered(batches, len(views) * loaded.dim, bar.advance)
        return replace(encoded, vectors=encoded.vectors.reshape(-1, len(views), loaded.dim))

    @property
    def lanes(self) -> tuple[int, int] | None:
        """How many threads may call ``encode_here`` at a time, and with how many images each; None on a GPU."""
        loaded = self.loaded
        return (thread_count(), self.batch_size or loaded.cpu_batch) if loaded.device.type == "cpu" else None

    def encode_here(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed one batch as ``encode_valid`` does, in the calling thread: for a server, which shares out its cores.

        What torch does later in this thread uses one core, too.
        """
        loaded = self.loaded
        set_thread_count(1)
        batch = [attempt(loaded.prepare, image) for image in check_image_batch(images)]
        return gathered([(batch, self._embed(loaded, readable(batch), (np.asarray,)))], loaded.dim)

    def exact_network(self) -> nn.Module:
        """Return a copy of the network as it was before conversion: float32, CPU, eval mode, batch norms not folded.

        Raises
        ------
        ValueError : if the same weights cannot be had again, as with ``pretrained=False``.
        """
        network = self._exact()
        if self._identity(network) != self.fingerprint:
            raise ValueError(
                f"the weights of {self.name!r} are not those this encoder computes with (fingerprint "
                f"{self._identity(network)[:8]}, not {self.fingerprint[:8]}): random ones are drawn anew at each "
                "loading; make the network yourself and give it to with_network"
            )
        return network

    def with_network(self, network: nn.Module) -> Self:
        """Return an encoder of the same settings and preprocessing that computes with another network.

        Parameters
        ----------
        network : nn.Module
            Of this encoder's architecture, float32, batch norms not folded, as ``exact_network`` gives one; it is
            copied, so that training it further does not change the encoder.

        Notes
        -----
        The fingerprint is made of the new weights. Clones share them, and ``set_params`` keeps them, unless it changes
        ``name`` or ``pretrained``. ``spec`` is empty, as no name stands for them, and a pickle holds them.
        """
        twin = type(self)(**self.get_params(deep=False))
        own = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        own.pretrained_cfg = self.loaded.network.pretrained_cfg
        twin._network_given = (own, self.name, self.pretrained)
        return twin

    def set_params(self, **params: Any) -> Self:
        """Set parameters as scikit-learn does; the network is loaded anew at next use."""
        super().set_params(**params)
        self.__dict__.pop("_network", None)
        return self

    def __sklearn_clone__(self) -> TimmEncoder:
        twin = type(self)(**self.get_params(deep=False))
        for name in ("_network", "_network_given", "_sklearn_output_config"):  # networks are frozen, so can be shared
            if name in self.__dict__:
                twin.__dict__[name] = copy.copy(self.__dict__[name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Weights that have a name are not pickled: the copy loads them.
        return {key: value for key, value in super().__getstate__().items() if key != "_network"}

    def _embed(
        self, loaded: LoadedNetwork, images: list[NDArray[np.uint8]], views: Sequence[View]
    ) -> NDArray[np.float32]:
        """Embed v views of m prepared images (h, w, 3): vectors (m, v d)."""
        if not images:
            return np.empty((0, len(views) * loaded.dim), np.float32)
        found = []
        with torch.inference_mode():
            for view in views:
                pixels = torch.from_numpy(np.stack([view(image) for image in images])).to(loaded.device)
                x = normalised(pixels, loaded.mean, loaded.std).to(_DTYPES[loaded.precision])
                found.append(self._features(loaded.network, x).float().cpu())
        return torch.cat(found, 1).numpy()

    def _given(self) -> tuple[nn.Module, str, bool] | None:
        """What ``with_network`` was given, unless another name was set since."""
        given: tuple[nn.Module, str, bool] | None = self.__dict__.get("_network_given")
        return given if given and given[1:] == (self.name, self.pretrained) else None

    def _exact(self) -> nn.Module:
        if given := self._given():
            return copy.deepcopy(given[0])
        if self.name == "pocket" and self.pretrained:
            return bundled_network()
        return load_network("fewshot_pocket" if self.name == "pocket" else self.name, pretrained=self.pretrained)

    def _identity(self, network: nn.Module) -> str:
        architecture = getattr(network, "pretrained_cfg", {}).get("architecture")
        more = {"layers": self._layer_numbers(network), "tta": bool(self.tta)}
        return fingerprint(
            network,
            architecture=architecture,
            preprocessing=data_config(network),
            layer=self.layer,
            pool=self.pool,
            **{name: value for name, value in more.items() if value},
        )

    def _asked(self) -> tuple[Any, ...]:
        """What a loaded network depends on; an attribute may have been set since."""
        read = self.layer, self.pool, str(self.layers), self.tta
        return self.name, self.pretrained, *read, self.device, self.precision

    def _load(self) -> LoadedNetwork:
        self._check_features()
        network = self._exact()
        config = data_config(network)
        identity = self._identity(network)
        example = torch.rand(1, *config["input_size"], generator=torch.Generator().manual_seed(0))
        exact = self._read(network, example)
        parts = self._parts(network, example) if self.layers is not None else (exact.shape[1],)
        device = usable_device(self.device) if self.device is not None else best_device()
        precision = self.precision if self.precision is not None else best_precision(device)
        check_choice("precision", precision, tuple(_DTYPES))
        unasked = self.precision is None and precision == "bfloat16"
        spare = copy.deepcopy(network) if unasked else network
        network = converted(network, example, device, precision, self._read)
        if unasked:
            quick = self._read(network, example.to(device, torch.bfloat16)).float().cpu()
            if not torch.cosine_similarity(quick, exact).item() > _FAITHFUL:
                # Some networks cannot be computed in bfloat16, such as those that begin with a cosine transform.
                precision = "float32"
                network = converted(spare, example, device, precision, self._read)
        mean, std = (torch.tensor(config[key], dtype=torch.float32, device=device) for key in ("mean", "std"))
        prepare = preparation(config)
        batch = max(1, min(_CPU_MOST, _CPU_PIXELS // example[0, 0].numel()))
        return LoadedNetwork(network, prepare, mean, std, device, precision, parts, identity, batch)

    def _check_features(self) -> None:
        if self.pool is not None:
            check_choice("pool", self.pool, POOLS)
        if self.layers is not None and (self.layer is not None or self.pool is not None):
            other = f"layer={self.layer!r}" if self.layer is not None else f"pool={self.pool!r}"
            raise ValueError(
                f"layers={self.layers!r} appends blocks to the network's own embedding, which {other} replaces: leave "
                "out one or the other"
            )
        if not isinstance(self.tta, (bool, np.bool_)):
            raise ValueError(f"tta must be True or False, not {self.tta!r}")

    def _parts(self, network: nn.Module, example: Tensor) -> tuple[int, ...]:
        with torch.inference_mode():
            parts = feature_parts(network, example, self._layer_numbers(network))
            own = normalize(features(network, example, layer=None, pool=None), dim=1)
        if not torch.allclose(parts[0], own, atol=1e-4):
            raise ValueError(f"{self.name!r} gives another embedding beside its layers than alone: leave out layers")
        return tuple(part.shape[1] for part in parts)

    def _layer_numbers(self, network: nn.Module) -> list[int]:
        return [] if self.layers is None else layer_numbers(network, self.layers)

    def _read(self, network: nn.Module, x: Tensor) -> Tensor:
        """Features of images (n, 3, h, w) as they are."""
        with torch.inference_mode():
            return features(network, x, layer=self.layer, pool=self.pool, layers=self._layer_numbers(network))

    def _features(self, network: nn.Module, x: Tensor) -> Tensor:
        if not self.tta:
            return self._read(network, x)
        one, other = (self._read(network, view).float() for view in (x, x.flip(-1)))
        if self.layers is None:  # else each part has one length in both
            one, other = normalize(one, dim=1), normalize(other, dim=1)
        return (one + other) / 2


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
