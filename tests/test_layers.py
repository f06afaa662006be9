"""The plan of the house: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fewshot"

# The order of rooms: a room may import from those above it in this list, through their doors.
ROOMS = (
    "errors", "validation", "files", "progress", "episodes",
    "media", "vectors", "encoders", "calibration", "classifiers", "openset", "datasets", "registry",
    "domain_adaptation", "benchmark", "training", "finetuning", "integrations", "service", "cli", "__main__",
)  # fmt: skip
FLOORS = {room: floor for floor, room in enumerate(ROOMS)}

# Everyone may use these; any other library has one owner.
COMMON = {"numpy", "torch", "sklearn", "typing_extensions", "lazy_loader"}
OWNERS = {
    "PIL": {"media", "encoders", "training", "integrations", "cli"},  # only the first opens files
    "timm": {"encoders", "finetuning"},
    "huggingface_hub": {"encoders"},
    "faiss": {"vectors"},
    "tqdm": {"progress"},
    "click": {"cli"},
    "pyarrow": {"vectors"},
    "torchvision": {"datasets"},
    "matplotlib": {"benchmark"},
    "safetensors": {"training", "finetuning"},
    "learn2learn": {"training"},
    "anyio": {"service"},
    "cvat_sdk": {"integrations"},
    "fastapi": {"service"},
    "prometheus_client": {"service"},
    "pydantic": {"service"},
    "starlette": {"service"},
    "uvicorn": {"service"},
}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            if node.module == "fewshot":
                found |= {f"fewshot.{alias.name}" for alias in node.names}
    return found


def violations(module: str, source: str) -> list[str]:
    wrong = []
    for name in imports(source):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "fewshot":
            if other in FLOORS and other != module and FLOORS[other] >= FLOORS[module]:
                wrong.append(f"{module} (floor {FLOORS[module]}) imports {other} (floor {FLOORS[other]})")
        elif top not in sys.stdlib_module_names | COMMON and module not in OWNERS.get(top, ()):
            wrong.append(f"{module} imports {top}, which it does not own")
    return wrong


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below_and_libraries_it_owns(path):
    assert violations(module_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("media", "from fewshot.registry.registry import ClassRegistry"),
        ("media", "def f():\n    import fewshot.cli"),
        ("media", "from fewshot import registry"),
        ("registry", "import faiss"),
        ("cli", "import pandas"),
    ],
)
def test_a_wrong_import_is_noticed(module, source):
    assert len(violations(module, source)) == 1


def test_every_module_has_a_floor():
    assert {module_of(path) for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_stays_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 400


HEAVY = ("torch", "timm", "sklearn", "faiss", "PIL", "numpy")


def helped(*command: str) -> str:
    return f"assert CliRunner().invoke(main, {[*command, '--help']}).exit_code == 0"


# In this order, in one process: what one loads is there after it.
STEPS = {
    "import fewshot": "import fewshot",
    "fewshot --help": f"from click.testing import CliRunner; from fewshot.cli import main; {helped()}",
    "fewshot add --help": helped("add"),
    "fewshot bench --help": helped("bench"),
    "fewshot train --help": helped("train"),
    "fewshot serve --help": helped("serve"),
    "a class": "fewshot.PrototypeClassifier",
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, str]:
    """The heavy libraries that there are after each of the steps."""
    report = f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    code = "\n".join(["import sys", *(f"{step}\n{report}" for step in STEPS.values())])
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(zip(STEPS, told.splitlines(), strict=True))


@pytest.mark.parametrize("step", [step for step in STEPS if step != "a class"])
def test_the_import_and_the_help_load_no_heavy_library(step, loaded):
    assert loaded[step] == "[]"


def test_a_heavy_import_is_noticed(loaded):
    assert loaded["a class"] == "['numpy', 'sklearn', 'torch']"


def test_every_public_name_can_be_loaded():
    import fewshot

    for name in fewshot.__all__:
        assert getattr(fewshot, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    import fewshot

    with pytest.raises(AttributeError, match="No fewshot attribute Prototype"):
        _ = fewshot.Prototype
