"""The plan of the house: who may import whom and how, what a file may be, and what an import may cost."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "fewshot"
FILES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py*"))
    if path.suffix in (".py", ".pyi")
}
"""The package: each file's text by its path. A guard reads such a dict, so that a made-up one can show it at work."""

# The order of rooms: a room may import from those before it in this list, through their doors.
ROOMS = (
    "errors", "validation", "files", "progress", "episodes",
    "media", "vectors", "encoders", "calibration", "classifiers", "openset", "diagnosis", "datasets", "registry",
    "runtime", "detection", "domain_adaptation", "benchmark", "training", "finetuning", "integrations", "service",
    "cli", "__main__",
)  # fmt: skip
FLOORS = {room: floor for floor, room in enumerate(ROOMS)}

# Everyone may use these; any other library has one owner.
COMMON = {"numpy", "torch", "sklearn", "typing_extensions", "lazy_loader"}
OWNERS = {
    "PIL": {"media", "encoders", "training", "detection", "integrations", "cli"},  # only the first opens files
    "timm": {"encoders", "finetuning"},
    "huggingface_hub": {"encoders"},
    "faiss": {"vectors"},
    "fsspec": {"media"},
    "filelock": {"files"},
    "scipy": {"media", "detection"},
    "tqdm": {"progress"},
    "yaml": {"detection", "integrations"},
    "supervision": {"detection"},
    "click": {"cli"},
    "pyarrow": {"vectors"},
    "torchvision": {"datasets", "detection"},
    "matplotlib": {"benchmark"},
    "pandas": {"benchmark"},
    "safetensors": {"encoders", "training", "finetuning"},
    "learn2learn": {"training"},
    "pillow_heif": {"media"},
    "sentence_transformers": {"encoders", "finetuning"},
    "open_clip": {"encoders"},
    "soundfile": {"media"},
    "soxr": {"media"},
    "transformers": {"encoders"},
    "onnx": {"encoders"},
    "onnxruntime": {"runtime"},
    "anyio": {"service"},
    "cachetools": {"service"},
    "cvat_sdk": {"integrations"},
    "fastapi": {"service"},
    "fiftyone": {"integrations"},
    "httpx2": {"integrations"},
    "prometheus_client": {"service"},
    "pydantic": {"service"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "watchfiles": {"media"},
}

# A third party's underscored name, where it has no public one.
PRIVATE_ELSEWHERE = {
    "feature_take_indices": "how timm reads `indices`, as each network with `forward_intermediates` must",
    "_BatchNorm": "the class that torch's batch norms of one, two and three dimensions share",
}

# Files of tests that are about no one module of their room, but about this.
SUBJECTS = {
    "classifiers/test_contract.py": "what every classifier promises",
    "classifiers/test_devices.py": "tensors stay where they are, in every classifier",
    "classifiers/test_formulas.py": "the papers' formulas, derived again",
    "encoders/test_every_encoder.py": "what every encoder promises",
    "media/test_hostile_files.py": "files made to do harm, in every reader",
    "registry/test_crash.py": "killed at any moment",
    "registry/test_full_disk.py": "no room, no permission",
    "registry/test_modality.py": "registries of texts and of sounds",
    "service/test_page.py": "the page in a browser",
    "service/test_real_label_studio.py": "a real Label Studio beside the service",
}

# Where SQL is spoken outside registry/.
SQL_ELSEWHERE = {
    "encoders/embedding_cache.py": "a cache file of one table, which lies below the registry and is deleted at will",
}


def room_of(path: str) -> str:
    """The room or the leaf that a file belongs to; "fewshot" for the public face."""
    first = PurePosixPath(path).with_suffix("").parts[0]
    return "fewshot" if first == "__init__" else first


@cache
def nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def modules(files: dict[str, str]) -> Iterator[tuple[str, str, list[ast.AST]]]:
    """Path, room and syntax of each module but the public face."""
    for path, source in files.items():
        if path.endswith(".py") and room_of(path) != "fewshot":
            yield path, room_of(path), nodes(source)


def imported(tree: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Each import as (module, name of it, or "")."""
    for node in tree:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def wrong_order(files: dict[str, str]) -> Iterator[str]:
    """Imports from a room above one's own, and of libraries that another room owns."""
    for path, room, tree in modules(files):
        for module, name in imported(tree):
            top, *inside = f"{module}.{name}".rstrip(".").split(".")
            if top == "fewshot":
                other = inside[0] if inside else ""
                if other in FLOORS and other != room and FLOORS[other] >= FLOORS[room]:
                    yield f"{path} imports {other}, which stands above {room}"
            elif top not in sys.stdlib_module_names | COMMON and room not in OWNERS.get(top, ()):
                yield f"{path} imports {top}, which {room} does not own"


def past_the_door(files: dict[str, str]) -> Iterator[str]:
    """Imports of a file inside another room, and of a public name through the house's own front door."""
    for path, room, tree in modules(files):
        for module, name in imported(tree):
            top, *inside = module.split(".")
            if top != "fewshot" or inside[:1] == [room]:
                continue
            if len(inside) > 1:
                yield f"{path} imports {module}, a file inside another room"
            elif not inside and name not in FLOORS and not is_dunder(name):
                yield f"{path} imports {name} from fewshot, not from its room"


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def is_private(name: str) -> bool:
    return name.startswith("_") and not is_dunder(name)


def members(tree: list[ast.AST]) -> set[str]:
    """The private names of a file's module, classes and objects: defined in a body, set on self, or in a string."""
    found = set()
    for node in tree:
        if isinstance(node, ast.Module | ast.ClassDef):
            for entry in node.body:
                if isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(entry.name)
                elif isinstance(entry, ast.Assign | ast.AnnAssign):
                    targets = entry.targets if isinstance(entry, ast.Assign) else [entry.target]
                    found |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # of __slots__ or __dict__
            found.add(node.value)
    return {name for name in found if is_private(name)}


def private_names(files: dict[str, str]) -> Iterator[str]:
    """Underscored names imported from another room or library, or reached for where one's own room has none such."""
    own: dict[str, set[str]] = {}
    for _, room, tree in modules(files):
        own.setdefault(room, set()).update(members(tree))
    for path, room, tree in modules(files):
        for module, name in imported(tree):
            if any(map(is_private, [name, *module.split(".")])) and name not in PRIVATE_ELSEWHERE:
                if module.split(".")[:2] != ["fewshot", room]:
                    yield f"{path} imports the private {name} of {module}"
        for node in tree:
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                if node.attr not in own[room] and node.attr not in PRIVATE_ELSEWHERE:
                    yield f"{path} reaches for {ast.unparse(node)}, which {room}/ does not define"


def wrong_doors(files: dict[str, str]) -> Iterator[str]:
    """Names of a room's stub that are those of its modules: which of the two one gets depends on what ran before."""
    for path, source in files.items():
        if path.endswith("/__init__.pyi"):
            inside = {PurePosixPath(other).stem for other in files if room_of(other) == room_of(path)}
            for node in nodes(source):
                if isinstance(node, ast.ImportFrom) and node.module:  # `from . import zips` means the module
                    for alias in node.names:
                        if (alias.asname or alias.name) in inside:
                            yield f"{room_of(path)} exports {alias.asname or alias.name}, which is also a module of it"


def repeated_names(files: dict[str, str]) -> Iterator[str]:
    """Basenames of files and folders that occur twice; only registry/ has a module of its own name."""
    named: list[str] = []
    for path in files:
        if path.endswith(".py"):
            named.append(PurePosixPath(path).stem)
            named.extend([PurePosixPath(path).parent.name] if path.endswith("/__init__.py") else [])
    allowed = {"registry": 2}
    for name, count in Counter(named).items():
        if not is_dunder(name) and count > allowed.get(name, 1):
            yield f"{count} modules are named {name}"


def loose_modules(files: dict[str, str]) -> Iterator[str]:
    """More modules beside the rooms than one takes in at a look."""
    leaves = [path for path in files if "/" not in path and path.endswith(".py") and not is_dunder(path[:-3])]
    if len(leaves) > 6:
        yield f"{len(leaves)} modules lie at the top: {', '.join(leaves)}"


def sql_elsewhere(files: dict[str, str]) -> Iterator[str]:
    for path, room, tree in modules(files):
        if room == "registry" or path in SQL_ELSEWHERE:
            continue
        if "sqlite3" in {module for module, _ in imported(tree)}:
            yield f"{path} imports sqlite3"
        for node in tree:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("execute", "executemany", "executescript"):
                    yield f"{path} speaks SQL: {ast.unparse(node)}"


def too_long(files: dict[str, str]) -> Iterator[str]:
    for path, source in files.items():
        if (count := len(source.splitlines())) > 400:
            yield f"{path} has {count} lines"


def astray(tests: Iterable[str], files: dict[str, str]) -> Iterator[str]:
    """Test files of a room, by path below tests/, that are named for nothing in it."""
    for test in tests:
        room, _, name = test.partition("/")
        named = {part for path in files if room_of(path) == room for part in PurePosixPath(path).with_suffix("").parts}
        if name.removeprefix("test_").removesuffix(".py") not in named and test not in SUBJECTS:
            yield f"tests/{test} is named for no module of {room}"


def idle_owners(files: dict[str, str]) -> Iterator[str]:
    """Owners of a library that do not import it."""
    used: dict[str, set[str]] = {}
    for _, room, tree in modules(files):
        for module, _ in imported(tree):
            used.setdefault(module.partition(".")[0], set()).add(room)
    for library, rooms in OWNERS.items():
        for room in sorted(rooms - used.get(library, set())):
            yield f"{room} owns {library} and does not import it"


GUARDS = (
    wrong_order, past_the_door, private_names, wrong_doors, repeated_names, loose_modules, sql_elsewhere, too_long,
)  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_package_keeps_the_plan(guard):
    assert list(guard(FILES)) == []


@pytest.mark.parametrize(
    ("guard", "files", "wrong"),
    [
        (wrong_order, {"media/a.py": "from fewshot.registry import b"}, "imports registry, which stands above media"),
        (wrong_order, {"media/a.py": "def f():\n    import fewshot.cli"}, "imports cli, which stands above media"),
        (wrong_order, {"media/a.py": "from fewshot import registry"}, "imports registry, which stands above media"),
        (wrong_order, {"registry/a.py": "import faiss"}, "imports faiss, which registry does not own"),
        (wrong_order, {"cli/a.py": "import pandas"}, "imports pandas, which cli does not own"),
        (past_the_door, {"cli/a.py": "from fewshot.media.images import b"}, "imports fewshot.media.images, a file"),
        (past_the_door, {"cli/a.py": "import fewshot.media.images"}, "imports fewshot.media.images, a file"),
        (past_the_door, {"cli/a.py": "from fewshot import open_image"}, "imports open_image from fewshot"),
        (private_names, {"cli/a.py": "from fewshot.media import _b"}, "imports the private _b of fewshot.media"),
        (private_names, {"cli/a.py": "from fewshot.media._c import b"}, "imports the private b of fewshot.media._c"),
        (private_names, {"cli/a.py": "from timm._c import b"}, "imports the private b of timm._c"),
        (private_names, {"cli/a.py": "def f(x):\n    return x._b"}, "reaches for x._b, which cli/ does not define"),
        (private_names, {"cli/a.py": "class A(B):\n    def f(self): self._b()"}, "reaches for self._b"),
        (private_names, {"cli/a.py": "def f():\n    _b = c._b", "media/d.py": "_b = 1"}, "cli/a.py reaches for c._b"),
        (wrong_doors, {"media/__init__.pyi": "from .a import zips as zips", "media/zips.py": ""}, "media exports zips"),
        (repeated_names, {"media/zips.py": "", "datasets/zips.py": ""}, "2 modules are named zips"),
        (repeated_names, {"media/zips/__init__.py": "", "cli/media.py": "", "media/__init__.py": ""}, "named media"),
        (loose_modules, {f"{name}.py": "" for name in "abcdefg"}, "7 modules lie at the top: a.py, b.py"),
        (sql_elsewhere, {"cli/a.py": "import sqlite3"}, "cli/a.py imports sqlite3"),
        (sql_elsewhere, {"cli/a.py": "x.y.execute('SELECT 1')"}, "speaks SQL: x.y.execute('SELECT 1')"),
        (sql_elsewhere, {"encoders/a.py": "x.executemany(y, z)"}, "encoders/a.py speaks SQL"),
        (too_long, {"cli/a.py": "\n" * 401}, "cli/a.py has 401 lines"),
    ],
)
def test_a_guard_notices(guard, files, wrong):
    (sentence,) = guard(files)
    assert wrong in sentence


@pytest.mark.parametrize(
    "files",
    [
        {"registry/a.py": "from fewshot.media import b\nimport fewshot.encoders\nimport sqlite3\nx.execute(y)"},
        {"cli/a.py": "class A:\n    def _b(self): ...", "cli/c.py": "from fewshot.cli.a import A\nA()._b()"},
        {"cli/a.py": "class A:\n    def __init__(self): self._b = 1\ndef f(a): return a._b"},
        {"cli/a.py": "from fewshot import __version__\nfrom torch.nn.modules.batchnorm import _BatchNorm"},
        {"registry/registry.py": "", "registry/__init__.py": "", "media/__init__.py": "", "__main__.py": ""},
        {"media/__init__.pyi": "from . import zips as zips", "media/zips.py": "\n" * 400},
        {f"{name}.py": "" for name in ("__init__", "__main__", "errors", "files")},
    ],
)
def test_a_guard_is_content_with_what_is_allowed(files):
    assert [sentence for guard in GUARDS for sentence in guard(files)] == []


def test_every_owner_imports_its_library():
    assert list(idle_owners(FILES)) == []


def test_an_idle_owner_is_noticed():
    assert "vectors owns faiss and does not import it" in idle_owners({"vectors/a.py": "import numpy"})
    assert "vectors owns faiss and does not import it" not in idle_owners({"vectors/a.py": "import faiss.contrib"})


TESTS = sorted(path.relative_to(HERE).as_posix() for path in HERE.glob("*/test_*.py"))


def test_tests_mirror_the_rooms_and_are_named_for_what_they_test():
    assert list(astray(TESTS, FILES)) == []
    assert SUBJECTS.keys() <= set(TESTS)


def test_a_test_file_that_is_named_for_nothing_is_noticed():
    files = {"media/zips.py": "", "media/raw/__init__.py": ""}
    tests = [
        "media/test_zips.py",
        "media/test_raw.py",
        "media/test_media.py",
        "media/test_parts.py",
        "film/test_zips.py",
    ]
    assert list(astray(tests, files)) == [
        "tests/media/test_parts.py is named for no module of media",
        "tests/film/test_zips.py is named for no module of film",
    ]


def test_every_module_has_a_floor():
    assert {room_of(path) for path in FILES} - {"fewshot"} == set(FLOORS)


@pytest.mark.parametrize("room", [room for room in ROOMS if f"{room}/__init__.pyi" in FILES])
def test_every_name_of_a_door_can_be_loaded(room):
    door = importlib.import_module(f"fewshot.{room}")
    stub = nodes(FILES[f"{room}/__init__.pyi"])
    named = {alias.asname or alias.name for node in stub if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named
    for name in named:
        assert hasattr(door, name), name
    assert set(door.__all__) == named


def test_every_room_but_the_command_line_has_a_door():
    rooms = {path.partition("/")[0] for path in FILES if "/" in path}
    assert {room for room in rooms if f"{room}/__init__.pyi" not in FILES} == {"cli"}


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
    "an array": "import numpy",
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, str]:
    """The heavy libraries that there are after each of the steps."""
    report = f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    code = "\n".join(["import sys", *(f"{step}\n{report}" for step in STEPS.values())])
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(zip(STEPS, told.splitlines(), strict=True))


@pytest.mark.parametrize("step", [step for step in STEPS if step != "an array"])
def test_the_import_and_the_help_load_no_heavy_library(step, loaded):
    assert loaded[step] == "[]"


def test_a_heavy_import_is_noticed(loaded):
    assert loaded["an array"] == "['numpy']"


def test_an_unknown_name_is_an_attribute_error():
    import fewshot

    with pytest.raises(AttributeError, match="No fewshot attribute Prototype"):
        _ = fewshot.Prototype
