"""The folder that training writes: weights as timm reads them, and a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from fewshot.files import replacing

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_KEPT = ("pool_size", "interpolation", "mean", "std", "first_conv", "classifier", "fixed_input_size", "license")


def timm_config(network: nn.Module, settings: dict[str, Any], pretrained_cfg: dict[str, Any]) -> str:
    """Return the text of a config.json that timm reads: the architecture, what it is built with, its preprocessing."""
    config = {
        "architecture": getattr(network, "pretrained_cfg", {})["architecture"],
        "num_classes": 0,
        "num_features": getattr(network, "num_features", None),
        "tags": ["image-feature-extraction", "few-shot", "timm"],
        **({"model_args": settings} if settings else {}),
        "pretrained_cfg": {**pretrained_cfg, "num_classes": 0},
    }
    return json.dumps(config, indent=2) + "\n"


def write_config(network: nn.Module, size: int, settings: dict[str, Any], folder: Path) -> None:
    """Write config.json as timm reads it: the network, and whole images resized to ``size`` x ``size`` pixels."""
    own: dict[str, Any] = dict(getattr(network, "pretrained_cfg", {}))
    preprocessing = {
        "tag": "fewshot",
        "custom_load": False,
        "input_size": [3, size, size],
        "crop_pct": 1.0,
        "crop_mode": "squash",
        **{key: own[key] for key in _KEPT if own.get(key) is not None},
    }
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(timm_config(network, settings, preprocessing), encoding="utf-8")


def write_weights(network: nn.Module, folder: Path) -> None:
    """Write model.safetensors, matrices as float16: half the size, and rounded more finely than bfloat16 computes."""
    state = {
        name: (tensor.half() if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    with replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)


def write_card(
    folder: Path,
    name: str,
    identity: dict[str, Any],
    versions: dict[str, str],
    log: Sequence[dict[str, Any]],
    best: Any,
) -> None:
    """Write README.md: the data, the recipe, and the accuracy on classes held out of training."""
    recipe = identity["recipe"]
    rows = [
        f"| {data['name']}{'' if data['split'] is None else ', ' + data['split']} | {data['use']} | "
        f"{data['images']:,} | {data['classes']:,} | `{data['content']}` |"
        for data in identity["data"]
    ]
    lines = [
        f"# {name}",
        "",
        f"An encoder for few-shot learning, trained by `fewshot train`: {recipe['arch']}, {recipe['method']}, images "
        f"of {recipe['size']} x {recipe['size']} pixels.",
        "",
        "```python",
        "from fewshot import TimmEncoder",
        "",
        f'encoder = TimmEncoder("local-dir:{name}")',
        "```",
        "",
        "## Data",
        "",
        "| data | use | images | classes | content |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "The licence of the data decides what these weights may be used for.",
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(recipe, indent=1),
        "```",
        "",
        "## Numbers",
        "",
        *_numbers(log, best),
        "",
        ", ".join(f"{library} {version}" for library, version in versions.items()),
        "",
    ]
    with replacing(folder / CARD) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _numbers(log: Sequence[dict[str, Any]], best: dict[str, Any]) -> list[str]:
    last = log[-1]
    duration = f"{last['epoch']} epochs in {last['seconds'] / 60:.1f} minutes"
    if not best["validation"]:
        return [f"{duration}; these are the last weights. No classes were held out for validation."]
    rows = [
        f"| {found['data']} | {found['measure']} | {100 * found['accuracy']:.2f} ± {100 * found['ci95']:.2f} |"
        for found in best["validation"]
    ]
    return [
        f"{duration}; these are the weights after epoch {best['epoch']}, the best on the validation classes. As those "
        "chose the epoch, their accuracy is slightly optimistic: measure on other classes with `fewshot bench`.",
        "",
        "| data | episodes | accuracy (%), 95 % interval |",
        "|---|---|---|",
        *rows,
    ]
