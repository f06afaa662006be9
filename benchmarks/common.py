"""What the benchmarks share: where the real data lies, a description of the machine, and the result files."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = Path(os.environ.get("FEWSHOT_SHARED", ROOT.parent / "shared"))
os.environ.setdefault("FEWSHOT_DATA", str(SHARED / "data"))  # where load_dataset looks


def shared_file(*parts: str) -> Path:
    """Return a path below the shared data, or stop with what is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        sys.exit(f"needs {'/'.join(parts)} below $FEWSHOT_SHARED or ../shared")
    return path


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries that matter, without naming it."""
    from importlib.metadata import version

    import torch

    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "cores": os.cpu_count(),
        "cpu_bfloat16": bool(able.get("avx512_bf16") or able.get("amx_bf16")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "numpy", "scikit-learn", "faiss-cpu", "pillow")},
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result with its command and machine, and print it as one JSON line."""
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    full = {"command": command, "machine": machine(), **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(full, indent=1) + "\n")
    print(json.dumps(full))
