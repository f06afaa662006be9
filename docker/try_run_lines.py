"""Run the RUN lines of a Dockerfile without Docker, each in a clean root.

Needs Linux, root, overlayfs and a Python with ``venv``. A stage is an overlay of this machine's root, in which
/usr/local is a new virtual environment, in place of the image python:slim; what its lines write stays in the overlay,
and is deleted. Prints what the last stage adds to its base. The lines run as root: try files that you trust.

    python docker/try_run_lines.py docker/runtime.Dockerfile --then 'fewshot --version'
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
_FOLDER = "TRY_RUN_LINES_FOLDER"
_SHARED = ("/proc", "/etc/resolv.conf", "/etc/hosts", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


@dataclass
class Stage:
    """One FROM of a Dockerfile: its instructions in order, as (KEYWORD, rest)."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str | None:
        """The rest of the last instruction of a kind, None without one."""
        found = [rest for name, rest in self.instructions if name == keyword]
        return found[-1] if found else None


def stages(path: Path) -> list[Stage]:
    """Read a Dockerfile: no heredocs, no escape directive."""
    found: list[Stage] = []
    for line in _lines(path.read_text(encoding="utf-8")):
        keyword, _, rest = line.partition(" ")
        if keyword.upper() == "FROM":
            base, *named = rest.split()
            found.append(Stage(base, named[1] if named else str(len(found))))
        else:
            found[-1].instructions.append((keyword.upper(), rest.strip()))
    return found


def _lines(text: str) -> Iterator[str]:
    held = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        held += line.rstrip().removesuffix("\\") if line.rstrip().endswith("\\") else line
        if not line.rstrip().endswith("\\"):
            yield held
            held = ""


class Root:
    """A root file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.written, self.root = folder / "written", folder / "root"
        for made in (self.written, self.root, folder / "work"):
            made.mkdir(parents=True)
        options = f"lowerdir=/,upperdir={self.written},workdir={folder / 'work'}"
        _do("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        for path in filter(os.path.exists, _SHARED):
            if not os.path.isdir(path):
                self.path(path).touch()
            _do("mount", "--bind", path, str(self.path(path)))
        self.env = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        for name in ("PYTHONPATH", _FOLDER):
            self.env.pop(name, None)
        self.user, self.cwd = "root", "/"
        home = Path(sys.base_prefix)
        for folder in (home, *home.parents):  # the stage's user runs this Python
            self.path(folder).chmod(self.path(folder).stat().st_mode | 0o555)
        shutil.rmtree(self.path("/usr/local"))
        self.run(f"{sys.base_prefix}/bin/python3 -m venv /usr/local")
        self.base = self.megabytes()

    def path(self, inside: str | Path) -> Path:
        """Where a path of the root lies outside it."""
        return self.root / str(inside).lstrip("/")

    def run(self, line: str) -> None:
        """Run a line as /bin/sh does in the image."""
        print(f"+ [{self.user}] {line}", file=sys.stderr, flush=True)
        script = f"cd {self.cwd} && {line}"
        _do("chroot", f"--userspec={self.user}", str(self.root), "/bin/sh", "-c", script, env=self.env)

    def megabytes(self) -> int:
        """What lies in the overlay, in MB."""
        files = (path for path in self.written.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files) // 10**6


def _do(*command: str, env: dict[str, str] | None = None) -> None:
    status = subprocess.run(command, env=env, stdout=sys.stderr).returncode
    if status:
        raise SystemExit(f"exit status {status} of: {command[-1]}")


def carry_out(stage: Stage, root: Root, done: dict[str, Root], replace: list[list[str]]) -> None:
    """Do what a stage's instructions say, as far as they change files, user, folder or environment."""
    for keyword, rest in stage.instructions:
        if keyword == "RUN":
            for old, new in replace:
                rest = rest.replace(old, new)
            root.run(rest)
        elif keyword == "COPY":
            words = rest.split()
            source = done[words.pop(0).removeprefix("--from=")].root if rest.startswith("--from=") else CONTEXT
            for word in words[:-1]:
                _copy(source / word.lstrip("/"), root.path(Path(root.cwd) / words[-1]))
        elif keyword == "WORKDIR":
            root.cwd = rest
            root.path(rest).mkdir(parents=True, exist_ok=True)
        elif keyword == "ENV":
            root.env |= dict(word.split("=", 1) for word in rest.split())
        elif keyword == "USER":
            root.user = rest


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target / source.name)


def main() -> None:
    """Try a Dockerfile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"), help="in RUN lines")
    parser.add_argument("--then", help="a line to run at the end, as the last stage's user")
    parser.add_argument("--folder", help="for the overlays; by default that of temporary files")
    asked = parser.parse_args()
    if _FOLDER not in os.environ:
        # What is mounted goes with the namespace of a process of its own, and only then is the folder deleted.
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
            status = subprocess.run(command, env={**os.environ, _FOLDER: folder}).returncode
        raise SystemExit(status)
    done: dict[str, Root] = {}
    for stage in stages(asked.dockerfile):
        root = done[stage.name] = Root(Path(os.environ[_FOLDER]) / stage.name)
        carry_out(stage, root, done, asked.replace)
    added = root.megabytes() - root.base
    if asked.then:
        root.run(asked.then)
    print(json.dumps({"dockerfile": str(asked.dockerfile), "base": stage.base, "added_mb": added}))


if __name__ == "__main__":
    main()
