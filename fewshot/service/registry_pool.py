"""The registries that are served: one file, or those of a folder; opened when asked for, sharing their encoders."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewshot.errors import EncoderMismatch, RegistryBusy, RegistryError
from fewshot.media import SUFFIXES
from fewshot.registry import ClassRegistry, found_beside
from fewshot.service.batched_registry import BatchedRegistry
from fewshot.service.batching import DEADLINE, Overloaded
from fewshot.service.batching_encoder import BatchingEncoder, EncoderInfo
from fewshot.service.limits import Limits

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

SUFFIX = ".fewshot"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(eq=False)
class _OpenRegistry:
    registry: BatchedRegistry
    file: tuple[int, int] | None
    users: int = 0


class RegistryPool:
    """Registries by name, each opened once however many requests use it.

    One that takes long to open, as its file is locked by another process, holds up nobody who asks for another.

    Parameters
    ----------
    path : path
        A registry, made when missing if its name ends in ``.fewshot``; or a folder, made when missing, that holds
        registries ``NAME.fewshot``.
    encoder : Encoder or str, optional
        Of new registries, "pocket" by default; the others have their own.
    limits : Limits
    on_batch : callable, optional
        Called after each batch of images, see ``BatchingEncoder``.
    on_wait : callable, optional
        Called with the seconds of each wait for another process that writes to a registry.

    Attributes
    ----------
    waiting : dict
        How long to wait for another process, and ``on_wait``, as keywords of ``ClassRegistry``.

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
        on_batch: Callable[[int, float], None] | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self._limits, self._on_batch = limits or Limits(), on_batch
        seconds = min(self._limits.busy_seconds, self._limits.timeout_seconds / 2)
        self.waiting: dict[str, Any] = {"busy_seconds": seconds, "on_wait": on_wait}
        self._given_encoder = encoder
        self._torch_threads = torch.get_num_threads()  # a request's thread, which opens registries later, has one
        self._default = self._batching(lambda: _load(encoder or "pocket"))
        self._encoders: dict[str, BatchingEncoder] = {}
        self._lock = threading.Lock()  # of the attributes below; no file is opened or closed while it is held
        self._opening: dict[str, threading.Lock] = {}
        self._busy: dict[str, tuple[float, RegistryBusy]] = {}  # when opening one failed last, and how
        self._open: OrderedDict[str, _OpenRegistry] = OrderedDict()
        self._retired: list[_OpenRegistry] = []  # to be closed once nobody uses them
        self._closed = False
        location = Path(os.path.abspath(path))
        if location.suffix.lower() in SUFFIXES:
            raise RegistryError(
                f"{path} is named as an image; give a registry, as parts{SUFFIX}, or a folder of registries"
            )
        single = location.is_file() or (location.suffix == SUFFIX and not location.exists())
        self.folder = None if single else location
        self._single = location if single else None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RegistryError(f"cannot make the folder {path}: {error.strerror}") from error
        self._place = location.parent if single else location
        self._disk = _mount_point(self._place)
        self._made = location.exists()  # else a single one is made when it is first opened, and only then

    @property
    def can_create(self) -> bool:
        """Whether registries can be created: in a folder only."""
        return self.folder is not None

    def names(self) -> list[str]:
        """Return the names of the registries, sorted."""
        self.check_available()
        if self.folder is None:
            return [self._single_name()]
        found = (entry[: -len(SUFFIX)] for entry in os.listdir(self.folder) if entry.endswith(SUFFIX))
        return sorted(name for name in found if _NAME.fullmatch(name) and self._exists(self.folder / f"{name}{SUFFIX}"))

    def check_available(self) -> None:
        """Check that what is served is there now: it may be removed, or its disk unmounted, and come back.

        Raises
        ------
        RegistryError : saying what is missing, and what to do.
        """
        again = "put it back, or mount its disk again; the server then goes on by itself"
        try:
            if self._single is None:
                os.scandir(self._place).close()
            os.stat(self._place)
            if self._single is not None and self._made and not self._single.exists():
                raise RegistryError(f"the served registry {self._single} is not there any more: {again}")
        except OSError as error:
            raise RegistryError(
                f"the served folder {self._place} cannot be read ({error.strerror}): {again}"
            ) from error
        if _mount_point(self._place) != self._disk:
            raise RegistryError(f"the served folder {self._place} is on another disk than at the start: {again}")

    @contextmanager
    def use(self, name: str) -> Iterator[ClassRegistry]:
        """Lend a registry for a block, opened if it was not. Blocks: call it from a worker thread.

        Raises
        ------
        KeyError : if there is no registry of that name.
        ValueError : if no registry can have that name.
        Overloaded : if it is not open by ``DEADLINE``, as another request waits for its file.
        """
        opened = self._acquire(name)
        try:
            yield opened.registry
        except RegistryError as error:
            if self._closed:
                raise Overloaded("the server is stopping; retry later") from error
            if isinstance(error, EncoderMismatch):
                with self._lock:
                    self._retire(name, opened)  # another process has reindexed it; opened again, it has its new encoder
            raise
        finally:
            with self._lock:
                opened.users -= 1
            self._close_retired()

    def path_of(self, name: str) -> str:
        """Return the path that a registry of this name has, whether or not it exists."""
        return str(self._single if self.folder is None else self.folder / f"{name}{SUFFIX}")

    def create(self, name: str) -> None:
        """Create an empty registry in the folder.

        Raises
        ------
        ValueError : if no registry can have that name.
        FileExistsError : if there is one.
        RegistryError : if a single registry is served.
        """
        if self.folder is None:
            raise RegistryError(f"one registry is served, {self._single_name()}, and no folder to create others in")
        path = self._checked_path(name)
        self.check_available()
        with self._opening_lock(name):
            if path.exists() or path.is_symlink():
                raise FileExistsError(f"there is a registry {name} already")
            ClassRegistry(path, create=True, **self.waiting).close()

    def warm(self) -> None:
        """Load the encoder that will be needed first, and open the registry, where a single one is served.

        Raises
        ------
        FewShotError : saying why it cannot be served.
        """
        encoder: object = self._default
        if self.folder is None:
            with self.use(self._single_name()) as registry:
                registry.encoder.dim  # noqa: B018
                encoder = registry.encoder
        assert isinstance(encoder, BatchingEncoder)
        encoder.loaded()

    @property
    def encoders(self) -> list[BatchingEncoder]:
        """The encoders in use."""
        with self._lock:
            return [self._default, *self._encoders.values()]

    def close(self) -> None:
        """Finish what is being computed, and close all; requests still in progress, and later ones, are refused."""
        self._closed = True
        for encoder in self.encoders:
            encoder.close()
        with self._lock:
            for name, opened in list(self._open.items()):
                self._retire(name, opened)
                opened.users = 0
        self._close_retired()

    def _single_name(self) -> str:
        assert self._single is not None
        name = self._single.name.removesuffix(SUFFIX)
        return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "registry"

    def _checked_path(self, name: str) -> Path:
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

    def _exists(self, path: Path) -> bool:
        """Whether a registry's file lies in the folder itself, and is no link that leads out of it."""
        if self.folder is None:
            return True
        real = Path(os.path.realpath(path))
        return real.is_file() and real.parent == Path(os.path.realpath(self.folder))

    @contextmanager
    def _opening_lock(self, name: str) -> Iterator[None]:
        """Let one thread at a time open or create a registry of this name."""
        with self._lock:
            lock = self._opening.setdefault(name, threading.Lock())
        start, deadline = time.monotonic(), DEADLINE.get()
        if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise Overloaded(f"registry {name} is being opened, which takes long; retry later")
        try:
            failed, error = self._busy.get(name, (start, None))
            if error is not None and failed > start:  # it was waited for already, by the thread before
                raise RegistryBusy(str(error)) from error
            yield
        finally:
            lock.release()

    def _acquire(self, name: str) -> _OpenRegistry:
        path = self._checked_path(name)
        if not self._exists(path):
            self.check_available()
            raise KeyError(f"no registry {name!r}")
        with self._opening_lock(name):
            opened = self._current(name, path)
            if opened is None:
                self.check_available()
                try:
                    opened = _OpenRegistry(self._opened(path), _file_id(path), users=1)
                except RegistryBusy as error:
                    self._busy[name] = (time.monotonic(), error)
                    raise
                with self._lock:
                    self._open[name] = opened
                    self._retire_idle()
                    if self._closed:  # meanwhile: nobody else would close it
                        self._retire(name, opened)
                        opened.users = 0
        self._close_retired()
        return opened

    def _current(self, name: str, path: Path) -> _OpenRegistry | None:
        """Return a registry with one more user if it is open, and its file is still the one at this path."""
        with self._lock:
            opened = self._open.get(name)
            if opened is not None and opened.file != _file_id(path):  # restored from a backup, or removed
                self._retire(name, opened)
                opened = None
            if opened is not None:
                self._open.move_to_end(name)
                opened.users += 1
            if opened is None and self._closed:
                raise Overloaded("the server is stopping; retry later")
            return opened

    def _retire(self, name: str, opened: _OpenRegistry) -> None:
        """Let the next request open a registry again; its users go on with it. Under the lock."""
        if self._open.get(name) is opened:
            del self._open[name]
            self._retired.append(opened)

    def _retire_idle(self) -> None:
        """Retire those not used for longest while there are too many. Under the lock."""
        for name, opened in list(self._open.items()):
            if len(self._open) > self._limits.max_open_registries and not opened.users:
                self._retire(name, opened)

    def _close_retired(self) -> None:
        with self._lock:
            unused = [opened for opened in self._retired if not opened.users]
            self._retired = [opened for opened in self._retired if opened.users]
        for opened in unused:
            opened.registry.close()

    def _opened(self, path: Path) -> BatchedRegistry:
        with ClassRegistry(path, create=not self._made, **self.waiting) as registry:
            info = registry.info()
        self._made = True
        if not info.fingerprint or (self._single is not None and self._given_encoder is not None):
            encoder = self._default
        else:
            encoder = self._encoder_of(str(path), EncoderInfo(info.fingerprint, info.dim, info.encoder, info.modality))
        return BatchedRegistry(path, encoder=encoder, **self.waiting)

    def _encoder_of(self, path: str, info: EncoderInfo) -> BatchingEncoder:
        if self.folder is not None and info.fingerprint == self._default.fingerprint:  # which may have to be loaded
            return self._default
        with self._lock:
            if info.fingerprint not in self._encoders:
                if "name" not in info.spec:
                    raise RegistryError(
                        f"{path} was made with an encoder of your own: give it to create_app as encoder="
                    )
                spec = found_beside(path, info.spec)
                self._encoders[info.fingerprint] = self._batching(lambda: _load(**spec), info)
            return self._encoders[info.fingerprint]

    def _batching(self, load: Callable[[], Encoder], info: EncoderInfo | None = None) -> BatchingEncoder:
        return BatchingEncoder(
            load,
            info,
            queue_size=self._limits.max_queued_images,
            on_batch=self._on_batch,
            torch_threads=self._torch_threads,
        )


def _load(name: Encoder | str, **settings: object) -> Encoder:
    from fewshot.encoders import check_is_encoder, load_encoder

    return load_encoder(name, **settings) if isinstance(name, str) else check_is_encoder(name)


def _mount_point(path: Path) -> Path:
    """Return the folder at which the disk of a path is mounted."""
    return next(place for place in (path, *path.parents) if os.path.ismount(place))


def _file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another at the same path."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
