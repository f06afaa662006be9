"""The registries that are served: one file, or those of a folder; opened when asked for, sharing their encoders."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fewshot.errors import EncoderMismatch, RegistryError
from fewshot.media import SUFFIXES
from fewshot.registry import ClassRegistry, found_beside
from fewshot.service.batched_registry import BatchedRegistry
from fewshot.service.batching_encoder import BatchingEncoder, Identity
from fewshot.service.limits import Limits

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

SUFFIX = ".fewshot"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(eq=False)
class _Opened:
    registry: ClassRegistry
    file: tuple[int, int]
    users: int = 0
    retired: bool = False


class Registries:
    """Registries by name, each opened once however many requests use it.

    Parameters
    ----------
    path : path
        A registry, made when missing if its name ends in ``.fewshot``; or a folder, made when missing, that holds
        registries ``NAME.fewshot``.
    encoder : Encoder or str, optional
        Of new registries, "pocket" by default; the others have their own.
    limits : Limits
    seen : callable, optional
        Told of each batch computed, see ``BatchingEncoder``.

    Raises
    ------
    RegistryError : if the path cannot be a registry, or a folder of them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: Encoder | str | None = None,
        limits: Limits | None = None,
        seen: Callable[[int, float], None] | None = None,
    ) -> None:
        self._limits, self._seen = limits or Limits(), seen
        self._asked = encoder
        self._cores = torch.get_num_threads()  # the threads of requests, which open registries later, have one
        self._default = self._shared(lambda: _loaded(encoder or "pocket"))
        self._encoders: dict[str, BatchingEncoder] = {}
        self._lock = threading.RLock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        place = Path(os.path.abspath(path))
        if place.suffix.lower() in SUFFIXES:
            raise RegistryError(
                f"{path} is named as a picture; give a registry, as parts{SUFFIX}, or a folder of registries"
            )
        single = place.is_file() or (place.suffix == SUFFIX and not place.exists())
        self.folder = None if single else place
        self._single = place if single else None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RegistryError(f"cannot make the folder {path}: {error.strerror}") from error

    @property
    def can_create(self) -> bool:
        """Whether registries can be added: to a folder only."""
        return self.folder is not None

    def names(self) -> list[str]:
        """Return the names of the registries that there are, sorted."""
        if self.folder is None:
            return [self._single_name()]
        found = (entry[: -len(SUFFIX)] for entry in os.listdir(self.folder) if entry.endswith(SUFFIX))
        return sorted(name for name in found if _NAME.fullmatch(name) and self._there(self.folder / f"{name}{SUFFIX}"))

    @contextmanager
    def use(self, name: str) -> Iterator[ClassRegistry]:
        """Lend a registry for a block, opened if it was not. Blocks: call it from a worker thread.

        Raises
        ------
        KeyError : if there is no registry of that name.
        ValueError : if no registry can have that name.
        """
        opened = self._borrow(name)
        try:
            yield opened.registry
        except EncoderMismatch:
            self._retire(name, opened)  # another process has reindexed it; opened anew, it has its new encoder
            raise
        finally:
            self._give_back(opened)

    def place(self, name: str) -> str:
        """Return the path that a registry of this name has, whether or not it is there."""
        return str(self._single if self.folder is None else self.folder / f"{name}{SUFFIX}")

    def create(self, name: str) -> None:
        """Make an empty registry in the folder.

        Raises
        ------
        ValueError : if no registry can have that name.
        FileExistsError : if there is one.
        RegistryError : if a single registry is served.
        """
        if self.folder is None:
            raise RegistryError(f"one registry is served, {self._single_name()}, and no folder to make others in")
        path = self._path(name)
        with self._lock:
            if path.exists() or path.is_symlink():
                raise FileExistsError(f"there is a registry {name} already")
            ClassRegistry(path, create=True).close()

    def warm(self) -> None:
        """Load the encoder that will be asked first, and open the registry, where there is one.

        Raises
        ------
        FewShotError : saying why it cannot be served.
        """
        if self.folder is None:
            with self.use(self._single_name()) as registry:
                registry.encoder.dim  # noqa: B018
                encoder = registry.encoder
        else:
            encoder = self._default
        assert isinstance(encoder, BatchingEncoder)
        encoder.loaded()

    @property
    def encoders(self) -> list[BatchingEncoder]:
        """The encoders in use."""
        return [self._default, *list(self._encoders.values())]  # without the lock, which is held while one is loaded

    def close(self) -> None:
        """Finish what is being computed, and close all."""
        for encoder in self.encoders:
            encoder.close()
        with self._lock:
            for opened in self._opened.values():
                opened.registry.close()
            self._opened.clear()

    def _single_name(self) -> str:
        assert self._single is not None
        name = self._single.name.removesuffix(SUFFIX)
        return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "registry"

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name a registry: up to 100 of the letters a-z and A-Z, digits, '.', '_' and '-', not "
                "beginning with '.'"
            )
        if self.folder is None:
            assert self._single is not None
            if name != self._single_name():
                raise KeyError(f"no registry {name!r}; there is {self._single_name()!r}")
            return self._single
        return self.folder / f"{name}{SUFFIX}"

    def _there(self, path: Path) -> bool:
        """Whether a registry's file lies in the folder itself, and is no link that leads out of it."""
        if self.folder is None:
            return True
        real = Path(os.path.realpath(path))
        return real.is_file() and real.parent == Path(os.path.realpath(self.folder))

    def _borrow(self, name: str) -> _Opened:
        with self._lock:
            path = self._path(name)
            if not self._there(path):
                raise KeyError(f"no registry {name!r}")
            opened = self._opened.get(name)
            if opened is not None and opened.file != _file(path):
                # Put back from a copy, or removed: what is open is no longer what lies there.
                self._retire(name, opened)
                opened = None
            if opened is None:
                registry = self._open(path)
                opened = self._opened[name] = _Opened(registry, _file(path) or (0, 0))
            self._opened.move_to_end(name)
            opened.users += 1
            self._close_idle()
            return opened

    def _give_back(self, opened: _Opened) -> None:
        with self._lock:
            opened.users -= 1
            if opened.retired and not opened.users:
                opened.registry.close()

    def _retire(self, name: str, opened: _Opened) -> None:
        """Let it be opened anew; what is in use is closed by its last user."""
        with self._lock:
            if self._opened.get(name) is opened:
                del self._opened[name]
            if not opened.retired:
                opened.retired = True
                if not opened.users:
                    opened.registry.close()

    def _close_idle(self) -> None:
        for name, opened in list(self._opened.items()):
            if len(self._opened) <= self._limits.open_registries:
                return
            if not opened.users:
                self._retire(name, opened)

    def _open(self, path: Path) -> ClassRegistry:
        create = self._single is not None and not path.exists()
        with ClassRegistry(path, create=create) as looked_at:
            about = looked_at.info()
        if not about.fingerprint or (self._single is not None and self._asked is not None):
            encoder = self._default
        else:
            encoder = self._encoder_of(str(path), Identity(about.fingerprint, about.dim, about.encoder))
        return BatchedRegistry(path, encoder=encoder, create=False)

    def _encoder_of(self, path: str, known: Identity) -> BatchingEncoder:
        if self.folder is not None and known.fingerprint == self._default.fingerprint:
            return self._default
        if known.fingerprint not in self._encoders:
            if "name" not in known.spec:
                raise RegistryError(f"{path} was made with an encoder of your own: give it to create_app as encoder=")
            spec = found_beside(path, known.spec)
            self._encoders[known.fingerprint] = self._shared(lambda: _loaded(**spec), known)
        return self._encoders[known.fingerprint]

    def _shared(self, load: Callable[[], Encoder], known: Identity | None = None) -> BatchingEncoder:
        return BatchingEncoder(load, known, waiting=self._limits.waiting, seen=self._seen, cores=self._cores)


def _loaded(name: Encoder | str, **settings: object) -> Encoder:
    from fewshot.encoders import load_encoder

    return load_encoder(name, **settings) if isinstance(name, str) else name


def _file(path: Path) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino
