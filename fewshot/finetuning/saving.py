"""A fine-tuned encoder as timm's folder of weights, with its preprocessing and a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import load_model_config_from_hf
from torch import Tensor

from fewshot.encoders import POCKET, SentenceTransformerEncoder, TimmEncoder
from fewshot.errors import FewShotError
from fewshot.files import replacing
from fewshot.finetuning.search import Choice
from fewshot.training import timm_config

# Of the original weights' place; "architecture" is written outside.
_NOT_WRITTEN = ("url", "file", "source", "hf_hub_id", "hf_hub_filename", "architecture", "state_dict", "custom_load")


def save_folder(
    encoder: TimmEncoder | SentenceTransformerEncoder,
    folder: str | os.PathLike[str],
    choice: Choice,
    settings: Mapping[str, Any],
) -> None:
    """Write an encoder so that timm loads it again, and check that it does.

    ``settings``, the classifier's parameters, and ``choice`` go into the model card.

    Raises
    ------
    FewShotError : if what was written does not give the same encoder.
    NotADirectoryError : if the folder is a file.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(f"cannot write {place}: it is a file; give a folder")
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, SentenceTransformerEncoder):
        _save_sentences(encoder, place, _card(encoder, place, choice, settings))
        return
    network = encoder.exact_network()
    own: dict[str, Any] = dict(network.pretrained_cfg)  # type: ignore[arg-type]
    preprocessing = {key: value for key, value in own.items() if key not in _NOT_WRITTEN and value is not None}
    with replacing(place / "model.safetensors") as temporary:
        weights = {name: _compact(tensor) for name, tensor in network.state_dict().items()}
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


def _save_sentences(encoder: SentenceTransformerEncoder, place: Path, card: str) -> None:
    """Write a model of texts as sentence-transformers loads it, and check that it does."""
    encoder.exact_model().save(str(place), create_model_card=False)
    with replacing(place / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    settings = {**encoder.get_params(deep=False), "name": str(place), "device": "cpu", "precision": "float32"}
    again = SentenceTransformerEncoder(**settings).fingerprint
    if again != encoder.fingerprint:
        raise FewShotError(
            f"{place} was written, but loads as another encoder (fingerprint {again[:8]}, not "
            f"{encoder.fingerprint[:8]}); use encoder_ as it is"
        )


def _arguments(name: str) -> dict[str, Any]:
    """Return the model arguments in the config of the original weights."""
    source, _, place = name.partition(":")
    if name == "pocket":
        source, place = "local-dir", str(POCKET)
    if source == "local-dir":
        return dict(json.loads(Path(place, "config.json").read_text(encoding="utf-8")).get("model_args") or {})
    if source == "hf-hub":
        return dict(load_model_config_from_hf(place)[2] or {})
    return {}


def _compact(tensor: Tensor) -> Tensor:
    """Convert to float16 where that loses nothing, as in frozen blocks of weights stored so."""
    if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
        tensor = tensor.half()
    return tensor.cpu().contiguous()


def _card(
    encoder: TimmEncoder | SentenceTransformerEncoder, place: Path, choice: Choice, settings: Mapping[str, Any]
) -> str:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    noun, kind, argument = "texts", "SentenceTransformerEncoder", f'"{place.name}"'
    if isinstance(encoder, TimmEncoder):
        pool = f", pool={encoder.pool!r}" if encoder.pool else ""
        noun, kind, argument = "images", "TimmEncoder", f'"local-dir:{place.name}"{pool}'
    done, evaluation = "left as it was", f"No fine-tuned candidate was better on held-out {noun}."
    if choice.steps:
        done = "fine-tuned"
        evaluation = (
            f"Accuracy on held-out {noun} of the support: {percent(choice.accuracy_before)} before, "
            f"{percent(choice.accuracy_after)} after. The steps were chosen by it, so it is optimistic."
        )
    chosen = {key: value for key, value in asdict(choice).items() if key != "seconds"}
    return "\n".join(
        [
            f"# {place.name}",
            "",
            f"{encoder.name}, {done} by `fewshot` on a few {noun} of each class.",
            "",
            "```python",
            f"from fewshot import {kind}",
            "",
            f"encoder = {kind}({argument})",
            "```",
            "",
            evaluation,
            "",
            "```json",
            json.dumps({**settings, "chosen": chosen}, indent=1, default=_plain),
            "```",
            "",
            f"The licences of the original weights and of the {noun} decide what it may be used for.",
            "",
        ]
    )


def _plain(value: Any) -> Any:
    """Return numpy's numbers as Python's, and estimators as they are written."""
    return value.item() if hasattr(value, "item") else repr(value)
