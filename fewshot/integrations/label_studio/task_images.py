"""The pictures that tasks and annotations are about, or regions of them: fetched and cut out a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from PIL.Image import Image

from fewshot.errors import ImageError
from fewshot.integrations.label_studio.regions import crop
from fewshot.integrations.label_studio.server import Server, Unreachable
from fewshot.media import attempt, map_ahead, open_image
from fewshot.registry import storable

if TYPE_CHECKING:
    Piece: TypeAlias = bytes | Image | Exception
    """A picture's file, a region cut out of one, or why there is neither."""

_FETCHERS = 4
_MOST, _MOST_BYTES = 64, 2**25
"""Of the pieces that are handed over together; the last of them may exceed the second."""


class Wanted(Protocol):
    """A picture, by its address, or the region of it that a result outlines."""

    @property
    def image(self) -> str: ...  # noqa: D102

    @property
    def region(self) -> Mapping[str, Any] | None: ...  # noqa: D102


def pieces(wanted: Iterable[Wanted], server: Server) -> Iterator[list[tuple[int, Piece]]]:
    """Yield what is wanted, some at a time, each with its place; or why it cannot be had.

    However many regions there are, of however large pictures, few are held at once: the list handed over is emptied
    as soon as more is asked for. A picture is fetched once for all that want it one after another.
    """
    batch: list[tuple[int, Piece]] = []
    size = 0
    for place, piece in enumerate(_each(wanted, server)):
        batch.append((place, piece))
        size += _bytes_of(piece)
        if len(batch) >= _MOST or size >= _MOST_BYTES:
            yield batch
            batch.clear()
            size = 0
    if batch:
        yield batch


def _each(wanted: Iterable[Wanted], server: Server) -> Iterator[Piece]:
    groups = [list(group) for _, group in groupby(wanted, key=lambda one: one.image)]

    def fetch(group: list[Wanted]) -> bytes | ImageError | Unreachable:
        address = group[0].image
        try:
            return server.picture(address)
        except (ImageError, Unreachable) as error:
            return error
        except ValueError as error:  # no address at all
            return ImageError(storable(address[:100]), f"cannot be fetched ({type(error).__name__})")

    files = map_ahead(fetch, groups, workers=_FETCHERS, ahead=_FETCHERS)
    for group, file in zip(groups, files, strict=True):
        opened: Image | ImageError | None = None
        for one in group:
            if one.region is None or not isinstance(file, bytes):
                yield file
                continue
            if opened is None:
                opened = attempt(open_image, file)
            yield opened if isinstance(opened, ImageError) else _cut_out(opened, one.region)


def _cut_out(image: Image, region: Mapping[str, Any]) -> Image | Exception:
    try:
        return crop(image, region)
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        return error


def _bytes_of(piece: Piece) -> int:
    if isinstance(piece, Image):
        return 3 * piece.width * piece.height
    return len(piece) if isinstance(piece, bytes) else 0
