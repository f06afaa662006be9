"""A static page that recognises images in a browser: a bundle, and what reads it."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fewshot.files import replacing
from fewshot.runtime.bundle_file import read_bundle

_WEB = Path(__file__).parent / "web"
_GENERATOR = 'name="generator" content="fewshot export --web"'
_BUNDLE = "bundle.zip"
# What onnxruntime-web's package calls them, and the page: servers that do not know .mjs give it no type.
_RUNTIME = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_HOW = "make it with: npm pack onnxruntime-web"


def write_web_page(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    onnxruntime_web: str | os.PathLike[str] | None = None,
) -> tuple[str, ...]:
    """Write a page for any web server of static files; returns the names of its files.

    A page that lies there already is replaced, and other files in the folder stay as they are. The bundle can be
    replaced later by another, as ``bundle.zip``.

    Parameters
    ----------
    bundle : path
        Of images, as ``export_bundle`` writes it.
    folder : path
        It is made where there is none; its parent must exist.
    onnxruntime_web : path, optional
        The npm package onnxruntime-web, as the .tgz of ``npm pack`` or its folder: two of its files are copied.
        Without it the page says which these are.

    Raises
    ------
    FileNotFoundError : if there is no such bundle or package, or the package lacks a file.
    ValueError : for what is no bundle of images, or no such package.
    FileExistsError : if files of these names lie in the folder that are no such page's.
    """
    check_web_page(bundle, folder, onnxruntime_web=onnxruntime_web)
    modality = read_bundle(bundle).about["modality"]
    if modality != "image":
        raise ValueError(f"{os.fspath(bundle)} is a bundle of {modality}s; the page recognises images")
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    sources = {path.name: path for path in sorted(_WEB.iterdir())}
    for name, source in {**sources, _BUNDLE: Path(bundle)}.items():
        if not (folder / name).exists() or not source.samefile(folder / name):
            with open(source, "rb") as file:
                _write(file, folder / name)
    runtime = folder / "onnxruntime-web"
    if onnxruntime_web is not None:
        runtime.mkdir(exist_ok=True)
        with _package(onnxruntime_web) as files:
            for name, packed in files:
                _write(packed, runtime / name)
    copied = [f"{runtime.name}/{name}" for name in _RUNTIME.values() if (runtime / name).exists()]
    return (*sources, _BUNDLE, *copied)


def check_web_page(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    onnxruntime_web: str | os.PathLike[str] | None = None,
) -> None:
    """Check, before there is a bundle, that a page can be written; the errors are those of ``write_web_page``."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder for the page")
    if not folder.exists() and not folder.parent.is_dir():
        raise FileNotFoundError(f"cannot make {folder}: there is no folder {folder.parent}")
    index = folder / "index.html"
    if not index.exists() or _GENERATOR not in index.read_text(encoding="utf-8", errors="replace"):
        names = sorted(path.name for path in _WEB.iterdir())
        if os.path.abspath(bundle) != os.path.abspath(folder / _BUNDLE):
            names.append(_BUNDLE)
        for name in filter(os.path.lexists, (folder / name for name in names)):
            raise FileExistsError(f"{name} is no part of such a page, and is not replaced; give another folder")
    if onnxruntime_web is not None:
        with _package(onnxruntime_web) as files:
            for _ in files:
                pass


def _write(file: IO[bytes], path: Path) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as out:
        shutil.copyfileobj(file, out)


@contextmanager
def _package(package: str | os.PathLike[str]) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Give the files that the page needs of a package, by the page's names for them."""
    path = Path(package)
    if path.is_dir():
        yield _of_folder(path)
        return
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; {_HOW}")
    try:
        with tarfile.open(path) as archive:
            yield _of_archive(archive, path)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is no package of npm that can be read ({error}); {_HOW}") from error


def _of_folder(folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    held = folder / "dist" if (folder / "dist").is_dir() else folder
    for name, wanted in _RUNTIME.items():
        if not (held / name).is_file():
            raise FileNotFoundError(_lacks(folder, name))
        with open(held / name, "rb") as file:
            yield wanted, file


def _of_archive(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for name, wanted in _RUNTIME.items():
        try:
            file = archive.extractfile(f"package/dist/{name}")
        except KeyError:
            file = None
        if file is None:
            raise FileNotFoundError(_lacks(path, name))
        yield wanted, file


def _lacks(path: Path, name: str) -> str:
    return f"{path} is not the package onnxruntime-web: it holds no dist/{name}; {_HOW}"
