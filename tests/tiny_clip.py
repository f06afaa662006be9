"""Tiny random CLIPs of open_clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def clip_folder(folder: Path, *, seed: int = 0, mean: float = 0.5) -> str:
    """Save a two-layer CLIP as open_clip reads it from a folder."""
    pytest.importorskip("open_clip", reason="needs the extra clip")
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [mean] * 3, "std": [0.25] * 3}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config)
        for weight in model.parameters():  # larger than at the start of training: else all vectors are much the same
            weight.data += 0.1 * torch.randn_like(weight)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)
