"""Loading a timm network by name, and reading features from it."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.encoders.hub import check_config, from_hub, full_name, misfit, why_not_fetched
from fewshot.errors import EncoderNotFound

POOLS = ("avg", "max", "cls", "cls+avg")
_MOST_SIDE = 4096  # pixels; the largest that timm knows is 1,024
# The length of an earlier block's part beside the network's own of length 1: cosines of the whole change little.
_PART_LENGTH = 0.1


def load_network(name: str, *, pretrained: bool, **settings: Any) -> nn.Module:
    """Make a timm network without its classifier, in eval mode, float32, on the CPU.

    ``settings`` are the network's own, such as ``img_size``.

    Raises
    ------
    EncoderNotFound : in one line, with close matches, or what to do where the hub cannot be reached.
    """
    import timm

    import fewshot.encoders.architectures.registration  # noqa: F401  registers our networks

    given, name, place = name, full_name(name), ""
    try:
        _check_folder(name)
        place, fetched = from_hub(name, pretrained=pretrained)
        network: nn.Module = timm.create_model(place, pretrained=pretrained, num_classes=0, **fetched, **settings)
        getattr(network, "pretrained_cfg", {}).pop("state_dict", None)
        _check_preprocessing(network)
    except Exception as error:
        raise EncoderNotFound(_misfit(name, place) or _explain(given, name, error)) from error
    if pretrained:
        warn_of_activation(given)
    network = network.eval().requires_grad_(False)
    if place.startswith("local-dir:") and not settings:
        _check_input_size(name, place, network)
    return network


def _check_input_size(name: str, place: str, network: nn.Module) -> None:
    """Raise EncoderNotFound where a folder's config.json gives images of a size that its network does not take."""
    from timm.data import resolve_model_data_config

    size = tuple(resolve_model_data_config(network)["input_size"])
    made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)
    strict = getattr(getattr(network, "patch_embed", None), "strict_img_size", False)
    if strict and made_for is not None and tuple(made_for) != size[1:]:
        raise EncoderNotFound(
            f"the config.json of {name!r} says images of {size[1]} x {size[2]} pixels, but the network it names takes "
            f"{made_for[0]} x {made_for[1]}{f'; {told}' if (told := _difference(place, network)) else ''}. If the "
            f'weights are for {size[1]} pixels, put "model_args": {{"img_size": {size[1]}}} into config.json'
        )


def _difference(place: str, network: nn.Module) -> str | None:
    folder = Path(place.partition(":")[2])
    return misfit(folder, network) if (folder / "model.safetensors").is_file() else None


def _misfit(name: str, place: str) -> str | None:
    """Say how the weights in a folder differ from the network of its config.json, if they do."""
    import timm

    if not place.startswith("local-dir:"):
        return None
    try:
        network = timm.create_model(place, pretrained=False, num_classes=0)
        difference = _difference(place, network)
    except Exception:  # something else is wrong with the folder; its own error says what
        return None
    architecture = getattr(network, "pretrained_cfg", {}).get("architecture")
    return difference and (
        f"the weights of {name!r} do not fit its config.json, which says {architecture}: {difference}. Name the "
        'network that they are of as "architecture", with its "model_args"'
    )


def warn_of_activation(name: str) -> None:
    """Warn of CLIP weights trained with QuickGELU in a network with GELU: timm has both under one tag."""
    import timm

    model = name.rpartition("/")[2].rpartition(":")[2]
    twin = model.replace("_clip_", "_clip_quickgelu_")
    if "_clip_" in model and "quickgelu" not in model and "." in model and timm.list_models(twin, pretrained=True):
        warnings.warn(
            f"{name} computes with GELU, but its weights were trained with QuickGELU: take {twin}", stacklevel=2
        )


def _check_folder(name: str) -> None:
    """Refuse a folder without safetensors: timm would go on to pickled weights, which can run any program."""
    source, _, place = name.partition(":")
    if source == "local-dir" and os.path.isdir(place) and "model.safetensors" not in os.listdir(place):
        others = sorted(n for n in os.listdir(place) if n.endswith((".bin", ".pth", ".pt", ".pkl", ".ckpt", ".tar")))
        pickled = f"; {others[0]} may be a pickle, which is never read: save it as safetensors" if others else ""
        raise FileNotFoundError(f"it holds no model.safetensors{pickled}")
    if source == "local-dir" and os.path.isfile(os.path.join(place, "config.json")):
        check_config(Path(place))


def _check_preprocessing(network: nn.Module) -> None:
    """Raise ValueError where a foreign config.json asks for what is no preprocessing, or for images beyond memory."""
    from timm.data import resolve_model_data_config

    sound: dict[str, Callable[[Any], bool]] = {
        "input_size": lambda v: _numbers(v, 1, _MOST_SIDE) and v[0] == 3 and all(isinstance(n, int) for n in v),
        "mean": lambda v: _numbers(v, -1e3, 1e3),
        "std": lambda v: _numbers(v, 1e-3, 1e3),
        "crop_pct": lambda v: _numbers([v] * 3, 0.1, 2.0),
        "crop_mode": lambda v: v in ("center", "squash", "border"),
        "interpolation": lambda v: v in ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box", "random"),
    }
    for key, value in resolve_model_data_config(network).items():
        if key in sound and not sound[key](value):
            raise ValueError(f"its config says that {key} is {value!r}")


def _numbers(value: Any, low: float, high: float) -> bool:
    """Whether a value is three numbers between two others."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(n, (int, float)) and low <= n <= high for n in value)
    )


def list_encoders(pattern: str = "") -> list[str]:
    """Return "pocket" and every timm name with pretrained weights, those that contain or match ``pattern``."""
    import timm

    import fewshot.encoders.architectures.registration  # noqa: F401

    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = sorted(set(timm.list_models(wanted, pretrained=True)))
    own = ["pocket"] if pattern.strip("*") in "pocket" else []
    return own + names


def weights_hash(network: nn.Module) -> str:
    """Return a SHA-256 over the names, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(network: nn.Module, **settings: Any) -> str:
    """Return 32 hexadecimal digits made of the architecture, its weights and ``settings`` (JSON values)."""
    described = json.dumps({"weights": weights_hash(network), **settings}, sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def features(
    network: nn.Module, x: Tensor, *, layer: int | str | None, pool: str | None, layers: Sequence[int] = ()
) -> Tensor:
    """Read (n, d) features: the network's own embedding, one block's output pooled, or ``feature_parts`` in one.

    Raises
    ------
    ValueError : for a layer or pool that the network does not have, naming those it has.
    """
    if layers:
        return torch.cat(feature_parts(network, x, layers), dim=1)
    if layer is None and pool is None:
        out: Tensor = network(x)
        if out.ndim != 2:
            raise ValueError(f"this network gives features of shape {tuple(out.shape)}; choose pool='avg' or 'max'")
        return out
    maps, prefix = _intermediate(network, x, -1 if layer is None else _layer_number(network, layer))
    return _pooled(maps, prefix, pool or "avg")


def feature_parts(network: nn.Module, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Read, in one forward pass, the network's own embedding, of length 1, and means over blocks' maps, of length 0.1.

    Parameters
    ----------
    network : nn.Module
    x : Tensor of shape (n, 3, h, w)
    layers : sequence of int
        As ``layer_numbers`` gives them.

    Returns
    -------
    list of Tensor of shape (n, d_part), float32

    Raises
    ------
    ValueError : for a network whose blocks timm cannot read beside its embedding.
    """
    try:
        last, maps = network.forward_intermediates(x, indices=list(layers), norm=False, output_fmt="NCHW")  # type: ignore[operator]
        own = network.forward_head(last)  # type: ignore[operator]
    except (AttributeError, AssertionError, IndexError, TypeError) as error:
        raise ValueError(f"{type(network).__name__} does not give its layers in timm; leave out layers") from error
    found = [normalize(own.float(), dim=1)]
    return found + [_PART_LENGTH * normalize(_pooled(each.float(), None, "avg"), dim=1) for each in maps]


def layer_numbers(network: nn.Module, layers: Sequence[int | str] | str) -> list[int]:
    """Return the numbers, increasing, of a network's blocks; "auto" takes those at a quarter, half and three quarters.

    Raises
    ------
    ValueError : for a block that the network does not have, naming those it has.
    """
    n = len(_layer_names(network))
    if not n:
        raise ValueError(f"{type(network).__name__} names no layers in timm; leave out layers")
    if isinstance(layers, str) and layers == "auto":
        return sorted({round((n - 1) * part / 4) for part in (1, 2, 3)})
    listed = isinstance(layers, Iterable) and not isinstance(layers, str)
    if not listed or not all(isinstance(layer, (str, Integral)) for layer in layers):
        raise ValueError(f"layers must be 'auto' or a list of blocks, not {layers!r}; {_layers_text(network)}")
    numbers = [_layer_number(network, layer) for layer in layers]
    if wrong := [layer for layer, number in zip(layers, numbers, strict=True) if not -n <= number < n]:
        raise ValueError(f"layer {wrong[0]} does not exist; {_layers_text(network)}")
    if not numbers:
        raise ValueError(f"layers is empty; {_layers_text(network)}")
    return sorted({int(number) % n for number in numbers})  # NumPy's would give another fingerprint


def _intermediate(network: nn.Module, x: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
    read = getattr(network, "forward_intermediates", None)
    if read is None:
        raise ValueError(f"{type(network).__name__} has no intermediate features in timm; leave out layer and pool")
    asked: dict[str, Any] = {"indices": [number], "intermediates_only": True, "output_fmt": "NCHW"}
    allowed = inspect.signature(read).parameters
    if "return_prefix_tokens" in allowed:
        asked["return_prefix_tokens"] = True
    if "stop_early" in allowed:
        asked["stop_early"] = True
    try:
        (found,) = read(x, norm=True, **asked)
    except (AssertionError, IndexError):
        try:
            (found,) = read(x, norm=False, **asked)  # some networks have no norm that fits their inner blocks
        except (AssertionError, IndexError) as error:
            raise ValueError(f"layer {number} does not exist; {_layers_text(network)}") from error
    if isinstance(found, (tuple, list)):
        return found[0], found[1]
    return found, None


def _layer_names(network: nn.Module) -> list[str]:
    info = getattr(network, "feature_info", None) or []
    return [str(entry.get("module", "")) for entry in (info.info if hasattr(info, "info") else info)]


def _layers_text(network: nn.Module) -> str:
    names = _layer_names(network)
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
    return f"the layers are {listed}" if names else "this network names no layers"


def _layer_number(network: nn.Module, layer: int | str) -> int:
    if not isinstance(layer, str):
        return layer
    names = _layer_names(network)
    if layer not in names:
        raise ValueError(f"no layer {layer!r}; {_layers_text(network)}")
    return names.index(layer)


def _pooled(maps: Tensor, prefix: Tensor | None, pool: str) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"cannot pool features of shape {tuple(maps.shape)}; another layer gives maps (n, c, h, w)")
    if pool == "avg":
        return maps.mean(dim=(2, 3))
    if pool == "max":
        return maps.amax(dim=(2, 3))
    if prefix is None or prefix.shape[1] == 0:
        raise ValueError(f"pool={pool!r} needs a class token, which this network has not; use 'avg' or 'max'")
    token = prefix[:, 0]
    return token if pool == "cls" else torch.cat([token, maps.mean(dim=(2, 3))], dim=1)


def _explain(given: str, name: str, error: Exception) -> str:
    """Say in one line why a name, as given and in full, did not load, and what to do."""
    import timm

    source, _, place = name.partition(":")
    if source == "local-dir":
        return (
            f"no encoder in the folder {place!r}: {first_line(error)}. "
            "A local-dir: folder holds config.json and model.safetensors, as timm writes for the Hub"
        )
    if source == "hf-hub" or timm.is_model(name.partition(".")[0]):
        weights = f"weights of {given!r}"
        if source == "hf-hub" and (refused := why_not_fetched(name, error)):
            return refused
        if source == "hf-hub" and isinstance(error, (ValueError, KeyError)):  # fetched, but of another library
            return f"no encoder {given!r}: {first_line(error)}"
        if "tag" in str(error) and source != "hf-hub":
            tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
            return f"no {weights}; those known to timm: {', '.join(tags) or 'none'}"
        return (
            f"the {weights} are not in the local cache and could not be fetched: {_hub_reason(error)}. Connect once, "
            "or give a folder with config.json and model.safetensors as local-dir:PATH, or use 'pocket' (bundled)"
        )
    everything = ["pocket", *timm.list_models(), *timm.list_models(pretrained=True)]
    close = difflib.get_close_matches(name, everything, n=5, cutoff=0.5)
    if name.count("/") == 1 and ":" not in name and not name.startswith((".", "/", "~")):
        return (
            f"no encoder is called {name!r}; a timm network on the Hub is given as hf-hub:{name}, a folder of weights "
            "as local-dir:PATH"
        )
    hint = f"did you mean {', '.join(close)}?" if close else "list them with: fewshot encoders [PATTERN]."
    return f"no encoder is called {name!r}; {hint} A folder of weights is given as local-dir:PATH"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]


def _hub_reason(error: Exception) -> str:
    unreachable = type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
    return "the hub cannot be reached from here" if unreachable else first_line(error)
