"""Where to compute, and in what precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from fewshot.encoders.timm_network import first_line

Precision = Literal["float32", "bfloat16"]


def usable_device(name: str) -> torch.device:
    """Return a device by name, or raise ValueError saying why it cannot be used here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = first_line(error)
        raise ValueError(f"device {name!r} cannot be used here ({why}); try cpu, or leave it out") from error
    return device


def best_device() -> torch.device:
    """Return CUDA, then MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_precision(device: torch.device) -> Precision:
    """Return bfloat16 where the device computes in it, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and cpu_computes_bfloat16() else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Compute in a precision; without autocast's cache of converted weights, which threads would share."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, as far as torch can tell."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # from torch 2.6 on
    return ask is not None and bool(ask())
