"""On a terminal the first line comes before torch is imported, and elsewhere none comes."""

from __future__ import annotations

import sys

import pytest
from fakes import RED, png, run_python

from fewshot import ClassRegistry
from fewshot.cli.loading_notice import loading_notice

# Its standard error passes for a terminal, and what is written there is printed with whether torch is there by then.
ON_A_TERMINAL = """
import sys

class Terminal:
    def isatty(self):
        return True
    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("text is wanted")
        if text.strip():
            sys.stdout.write(f"{text.strip()} {'torch' in sys.modules}\\n")
    def flush(self):
        pass

if sys.argv[1] == "terminal":
    sys.stderr = Terminal()
from fewshot.cli import main
main(sys.argv[2:], standalone_mode=False)
print("done", "torch" in sys.modules, len(sys.meta_path))
"""


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot") as opened:
        opened.add("red", [png(RED)])
    (tmp_path / "new.png").write_bytes(png(RED, 9))
    return tmp_path / "r.fewshot"


def test_a_terminal_is_told_once_and_before_torch_is_there(registry):
    done = run_python(ON_A_TERMINAL, "terminal", "predict", registry, registry.with_name("new.png"))
    assert done.stdout.startswith("Loading ... False\n"), done.stderr
    assert done.stdout.count("Loading") == 1
    assert "done True" in done.stdout


def test_elsewhere_nothing_is_said(registry):
    done = run_python(ON_A_TERMINAL, "pipe", "predict", registry, registry.with_name("new.png"))
    assert "done True" in done.stdout
    assert "Loading" not in done.stdout + done.stderr


def test_the_import_system_is_as_before_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = list(sys.meta_path)
    with loading_notice():
        assert len(sys.meta_path) == len(before) + 1
    assert sys.meta_path == before
