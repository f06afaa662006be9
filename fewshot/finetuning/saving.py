"""An adapted encoder as timm's folder of weights, with the encoder's own preprocessing and a model card."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import load_model_config_from_hf
from torch import Tensor

from fewshot.encoders import POCKET, TimmEncoder
from fewshot.errors import FewShotError
from fewshot.files import replacing
from fewshot.finetuning.choice import Choice
from fewshot.finetuning.session import Settings
from fewshot.training import timm_config

# Where the weights came from is not where these lie, and "architecture" stands outside.
_ELSEWHERE = ("url", "file", "source", "hf_hub_id", "hf_hub_filename", "architecture", "state_dict", "custom_load")


def save_folder(encoder: TimmEncoder, folder: str | os.PathLike[str], choice: Choice, settings: Settings) -> None:
    """Write an encoder so that timm loads it again, and check that it does.

    Raises
    ------
    FewShotError : if what was written does not give the same encoder.
    NotADirectoryError : if the folder is a file.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(f"cannot write {place}: it is a file; give a folder")
    place.mkdir(parents=True, exist_ok=True)
    network = encoder.exact_network()
    own: dict[str, Any] = dict(network.pretrained_cfg)  # type: ignore[arg-type]
    preprocessing = {key: value for key, value in own.items() if key not in _ELSEWHERE and value is not None}
    with replacing(place / "model.safetensors") as temporary:
        weights = {name: _small(tensor) for name, tensor in network.state_dict().items()}
        save_file(weights, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
    for name, text in (
        ("config.json", timm_config(network, _arguments(encoder.name), {**preprocessing, "tag": "finetuned"})),
        ("README.md", _card(encoder, place, choice, settings)),
    ):
        with replacing(place / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    again = TimmEncoder(f"local-dir:{place}", pool=encoder.pool, device="cpu", precision="float32").fingerprint
    if again != encoder.fingerprint:
        raise FewShotError(
            f"{place} was written, but loads as another encoder (fingerprint {again[:8]}, not "
            f"{encoder.fingerprint[:8]}): timm builds {own['architecture']} of {encoder.name!r} otherwise than from a "
            "folder; use encoder_ as it is"
        )


def _arguments(name: str) -> dict[str, Any]:
    """What the network was built with beside its name, where its weights' config says so."""
    source, _, place = name.partition(":")
    if name == "pocket":
        source, place = "local-dir", str(POCKET)
    if source == "local-dir":
        return dict(json.loads(Path(place, "config.json").read_text(encoding="utf-8")).get("model_args") or {})
    if source == "hf-hub":
        return dict(load_model_config_from_hf(place)[2] or {})
    return {}


def _small(tensor: Tensor) -> Tensor:
    """As float16 where that loses nothing, as in blocks that did not train of weights that came so."""
    if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
        tensor = tensor.half()
    return tensor.cpu().contiguous()


def _card(encoder: TimmEncoder, place: Path, choice: Choice, settings: Settings) -> str:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    pool = f", pool={encoder.pool!r}" if encoder.pool else ""
    done, judged = "left as it was", "No tuning promised to tell these classes apart better."
    if choice.steps:
        done = "fine-tuned"
        judged = (
            f"Right on what was held out of these pictures: {percent(choice.accuracy_before)} before, "
            f"{percent(choice.accuracy_after)} after. It chose the steps, so it flatters."
        )
    told = {key: value for key, value in asdict(choice).items() if key != "seconds"}
    return "\n".join(
        [
            f"# {place.name}",
            "",
            f"{encoder.name}, {done} by `fewshot` for a few pictures of the classes to tell apart.",
            "",
            "```python",
            "from fewshot import TimmEncoder",
            "",
            f'encoder = TimmEncoder("local-dir:{place.name}"{pool})',
            "```",
            "",
            judged,
            "",
            "```json",
            json.dumps({**asdict(settings), "chosen": told}, indent=1, default=lambda number: number.item()),  # numpy's
            "```",
            "",
            "The licences of the weights it began with, and of the pictures, decide what it may be used for.",
            "",
        ]
    )
