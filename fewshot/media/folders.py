"""A folder, on disk or behind a URL: what lies in it, and the files below it. All that lists folders asks here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from fewshot.media.cloud_files import CloudFile, cloud_folder, is_url, without_secrets


class Folder(Protocol):
    """A folder whose files and folders are named by their paths from it, with "/"."""

    def entries(self) -> Mapping[str, bool]:
        """Return what lies directly in it, sorted, none of it hidden, and whether each is a folder.

        Raises
        ------
        FileNotFoundError : if there is no such folder.
        """
        ...

    def files(self) -> tuple[list[str], tuple[str, ...]]:
        """Return the files below it, sorted; and the places of pipes, sockets and devices, which are no files.

        Raises
        ------
        FileNotFoundError : if there is no such folder.
        """
        ...

    def place(self, name: str) -> str:
        """Return the path or URL of what has this name in it."""
        ...

    def file(self, name: str) -> str | CloudFile:
        """Return a file of these names as it is read: by its path, or from its URL."""
        ...


def is_folder(place: str | os.PathLike[str]) -> bool:
    """Whether it is a folder, or a URL, which only asking shows."""
    return is_url(place) or os.path.isdir(place)


def is_place(place: str | os.PathLike[str]) -> bool:
    """Whether it is a file, folder, or a URL, which only asking shows."""
    return is_url(place) or os.path.exists(place)


def folder_at(place: str | os.PathLike[str]) -> Folder:
    """Return the folder of a path or URL."""
    return CloudFolder(os.fspath(place)) if is_url(place) else LocalFolder(Path(place))


@dataclass(frozen=True)
class LocalFolder:
    """A folder on disk; links are followed."""

    path: Path

    def entries(self) -> Mapping[str, bool]:  # noqa: D102
        found = sorted(entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        return {entry.name: entry.is_dir() for entry in found}

    def files(self) -> tuple[list[str], tuple[str, ...]]:  # noqa: D102
        root = self.path
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder: {root}")
        names = []
        for where, folders, files in os.walk(root, followlinks=True):
            folders[:] = [name for name in folders if not _leads_back(Path(where, name))]
            names += [os.path.relpath(os.path.join(where, name), root) for name in files]
        names.sort()
        blocking = [name for name in names if _blocks(root / name)]
        shown = tuple(str(root / name) for name in blocking if not _is_hidden(Path(name).as_posix()))
        return [Path(name).as_posix() for name in names if name not in set(blocking)], shown

    def place(self, name: str) -> str:  # noqa: D102
        return str(self.path / name)

    def file(self, name: str) -> str:  # noqa: D102
        return self.place(name)


@dataclass(frozen=True, repr=False)
class CloudFolder:
    """A folder behind a URL: what lies under the prefix that it names."""

    url: str
    _sizes: dict[str, int | None] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def entries(self) -> Mapping[str, bool]:  # noqa: D102
        with cloud_folder(self.url) as (system, root):
            listed = system.ls(root, detail=True)
            found = {self.below(one["name"], root): one["type"] == "directory" for one in listed}
        self._check_listed(found)
        return {name: found[name] for name in sorted(found) if name and not name.startswith(".")}

    def files(self) -> tuple[list[str], tuple[str, ...]]:  # noqa: D102
        with cloud_folder(self.url) as (system, root):
            listed = system.find(root, detail=True)
            found = {self.below(name, root): about.get("size") for name, about in listed.items()}
        self._check_listed(found)
        self._sizes.update(found)
        return sorted(name for name in found if name), ()

    def place(self, name: str) -> str:  # noqa: D102
        return f"{self.url.rstrip('/')}/{name}"

    def file(self, name: str) -> CloudFile:  # noqa: D102
        return CloudFile(self.place(name), self._sizes.get(name))

    def below(self, name: str, root: str) -> str:
        """Return a path of the file system as one from the folder; "" for the folder's own, which some stores list."""
        return "" if name.endswith("/") and name.rstrip("/") == root.rstrip("/") else name.removeprefix(root).strip("/")

    def _check_listed(self, found: Any) -> None:
        if not found:
            raise FileNotFoundError(f"no such folder, or nothing in it: {self}")
        if set(found) == {""}:
            raise ValueError(f"{self} is a file, not a folder; a zip behind a URL is not listed: download it first")


def matching(pattern: str) -> list[str]:
    """Return the URLs of the files that a URL with "*" in its path stands for, sorted; none where there are none."""
    before = pattern[: pattern.index("*")].rpartition("/")[0]
    folder = CloudFolder(before)
    with cloud_folder(before) as (system, root):
        found = system.glob(root.rstrip("/") + pattern.removeprefix(before))
        names = [folder.below(name, root) for name in found]
    return sorted(map(folder.place, names))


def _blocks(path: Path) -> bool:
    """Whether reading would wait for another program: a pipe, socket or device."""
    return path.exists() and not path.is_file()


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder it lies in, which would be listed without end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.absolute().parents)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
