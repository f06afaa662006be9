"""The pictures that tasks and annotations are about, fetched and cut out together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fewshot.errors import ImageError
from fewshot.images import attempt, image_bytes, map_ahead, open_image
from fewshot.label_studio.fetching import Server, Unreachable
from fewshot.label_studio.regions import crop
from fewshot.schema import storable

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL.Image import Image

Fetched: TypeAlias = bytes | ImageError | Unreachable

_FETCHERS = 4


class Wanted(Protocol):
    """A picture, by its address, or the region of it that a result outlines."""

    @property
    def image(self) -> str: ...  # noqa: D102

    @property
    def region(self) -> Mapping[str, Any] | None: ...  # noqa: D102


def fetched(addresses: Iterable[str], server: Server) -> dict[str, Fetched]:
    """Fetch pictures, each once; or say why there is none."""
    distinct = list(dict.fromkeys(addresses))

    def fetch(address: str) -> Fetched:
        try:
            return server.picture(address)
        except (ImageError, Unreachable) as error:
            return error
        except ValueError as error:  # no address at all
            return ImageError(storable(address[:100]), f"cannot be fetched ({type(error).__name__})")

    return dict(zip(distinct, map_ahead(fetch, distinct, workers=_FETCHERS), strict=True))


def cut_out(pictures: Mapping[str, Fetched], wanted: Sequence[Wanted]) -> list[bytes | Exception]:
    """Return the file of each picture, or of the region of it, that is wanted; or why there is none."""
    cut: list[bytes | Exception] = [ImageError("", "")] * len(wanted)
    for address, picture in pictures.items():
        here = [n for n, one in enumerate(wanted) if one.image == address]
        opened: Image | ImageError | None = None
        for n in here:
            region = wanted[n].region
            if region is None or not isinstance(picture, bytes):
                cut[n] = picture
                continue
            if opened is None:
                opened = attempt(open_image, picture)
            try:
                cut[n] = opened if isinstance(opened, ImageError) else image_bytes(crop(opened, region))
            except (ValueError, ArithmeticError, OSError, MemoryError) as error:
                cut[n] = error
    return cut
