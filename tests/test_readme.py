"""README's shell blocks run as typed, in bash: commands, REST requests and what goes to other programs.

Four things stand between a block and the machine: free ports for those that it names, a training of one epoch, commands
whose libraries are loaded when they start, and stand-ins for other programs, which check what they are given.
``test_docs`` runs the block of the first commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fewshot import ClassRegistry

pytestmark = pytest.mark.usefixtures("pocket_stays")
ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(?:sh|shell|console)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
INSTALLS = [block for block in BLOCKS if re.search(r"\bpip install\b", block)]
"""The one kind of block that is not run: it needs the network, and changes the environment."""
RUN = [block for block in BLOCKS if block not in INSTALLS]

# A name for each block that is run, by words of it.
NAMES = {
    "v1/registries": "rest", "/api/ml": "connect", "answers.csv": "spreadsheet",
    "tasks.json": "label-studio", "--conf-threshold": "cvat", "detector=str": "cvat-boxes", "annotations.json": "coco",
    "fewshot train": "train", "--onnx": "bundle",
}  # fmt: skip

PRELUDE = """set -eu
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
cd() {{ builtin cd "${{1/#\\/data/{folder}\\/data}}"; }}
"""
SHIMS = {
    "python": 'exec {python} "$@"',
    "fewshot": """case "$1" in
    serve) exec {warm} -m fewshot "$@" --port {port} ;;
    train) exec {warm} -m fewshot "$@" --epochs 1 --size 16 --arch conv4 --batch-size 32 --device cpu ;;
    *) exec {warm} -m fewshot "$@" ;;
esac""",
    "curl": """words=("${{@//localhost:8000/localhost:{port}}}")
words=("${{words[@]//127.0.0.1:8080/127.0.0.1:{other}}}")
exec {curl} -sS --fail-with-body --retry 60 --retry-delay 1 "${{words[@]}}" """,
    "cvat-cli": """exec {python} - "$@" <<'EOF'
import importlib, inspect, sys
words = sys.argv[1:]
create = importlib.import_module(words[words.index("--function-module") + 1]).create
parameters = dict(word.partition("=")[::2] for flag, word in zip(words, words[1:]) if flag == "-p")
inspect.signature(create).bind(**parameters)
EOF""",
}
FIFTYONE = "import sys; from unittest.mock import MagicMock; sys.modules[__name__] = MagicMock()"


def named(block):
    (name,) = [name for words, name in NAMES.items() if words in block]
    return name


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def received():
    """What is posted to another program's port, and the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_):
            """Be silent."""

    posted = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield posted, server.server_port
        server.shutdown()


@pytest.fixture
def folder(photos, tmp_path):
    """What a reader of README has at hand."""
    home = tmp_path / "home"
    for where in (home, home / "data"):
        where.mkdir()
        for part in ("photos", "new-photos"):
            os.symlink(photos / part, where / part)
    for number, (label, name) in enumerate([("temple", "b"), ("flower", "n")] * 2, start=2):
        shutil.copy(photos / "photos" / label / f"{number // 2}.jpg", home / f"{name}{number // 2}.jpg")
    shutil.copy(photos / "new-photos" / "flower" / "0.jpg", home / "new.jpg")
    pixels, digits = load_digits(return_X_y=True)
    for digit in range(10):
        (home / "my-classes" / str(digit)).mkdir(parents=True)
        for n, scan in enumerate(pixels[digits == digit][:20]):
            Image.fromarray((scan.reshape(8, 8) * 15).astype(np.uint8)).save(home / f"my-classes/{digit}/{n}.png")
    with ClassRegistry(home / "parts.fewshot") as registry:
        for label in ("temple", "flower"):
            registry.add(label, [str(photos / "photos" / label / f"{n}.jpg") for n in range(3)])
    return home


def run(block, folder, other, warm):
    """Run a block in bash; returns its standard output."""
    for program in ("bash", "curl", "jq"):
        if (program == "bash" or f"{program} " in block) and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    programs = folder / "bin"
    programs.mkdir()
    values = {"python": sys.executable, "warm": shlex.join(warm), "curl": shutil.which("curl") or ""}
    values |= {"port": free_port(), "other": other}
    for name, text in SHIMS.items():
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text.format(**values)}\n")
        (programs / name).chmod(0o755)
    (programs / "fiftyone.py").write_text(FIFTYONE)
    paths = os.pathsep.join([str(ROOT), str(programs)])
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": paths}
    script = PRELUDE.format(folder=str(folder).replace("/", "\\/")) + block
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, told = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, (printed, told)
    return printed


def test_only_blocks_that_install_something_are_not_run():
    assert [block.splitlines()[0].split("   ")[0] for block in INSTALLS] == [
        "pip install . && fewshot demo",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        "pip install -e '.[dev]' && pytest",
        "pip install label-studio",
        'pip install "numpy>=2" cython setuptools wheel',
    ]
    assert sorted(map(named, RUN)) == sorted(NAMES.values())


@pytest.mark.parametrize("block", RUN, ids=named)
def test_a_shell_block_runs_as_typed(block, folder, received, warm_python):
    posted, other = received
    printed = run(block, folder, other, warm_python)
    name = named(block)
    if name == "rest":
        assert '"label":"nut"' in printed.partition('"predictions"')[2]
        assert '"max_false_accept":0.05' in printed
    elif name == "connect":
        assert posted[0]["url"] == "http://127.0.0.1:8000"
    elif name == "spreadsheet":
        assert re.search(r"^(flower|temple) +0\.\d+$", printed, re.MULTILINE)
    elif name == "label-studio":
        (first, *_), n = (tasks := json.loads((folder / "tasks.json").read_text())), len(tasks)
        assert (n, first["data"]["image"]) == (10, "/data/local-files/?d=photos/flower/0.jpg")
    elif name == "coco":
        assert len(json.loads((folder / "annotations.json").read_text())["images"]) == 10
        assert len(json.loads((folder / "labels.json").read_text())["labels"]) == 10
    elif name == "bundle":
        exported, answered = map(json.loads, printed.splitlines())
        assert exported["file"] == "parts.zip"
        assert (folder / "page" / "bundle.zip").exists()
        assert answered[0]["label"] == "flower"
    elif name == "train":
        lines = [json.loads(line) for line in printed.splitlines()]
        assert (lines[0]["epochs"], lines[1]["added"]) == (1, 1)
    else:
        assert name in ("cvat", "cvat-boxes")


def test_a_block_that_fails_is_noticed(folder, received, warm_python):
    with pytest.raises(AssertionError, match=r"there is no registry none\.fewshot"):
        run("fewshot predict none.fewshot new.jpg\ntrue\n", folder, received[1], warm_python)
