"""The images that tasks and annotations are about, or regions of them: fetched and cut out a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL.Image import Image

from fewshot.errors import ExampleError, ImageError
from fewshot.integrations.label_studio.label_studio_client import LabelStudioClient, Unreachable
from fewshot.integrations.label_studio.regions import crop_region
from fewshot.media import attempt, map_ahead, open_image

if TYPE_CHECKING:
    from fewshot.integrations.label_studio.tasks import QueryImage
    from fewshot.registry import ImageLabels

    FetchedImage: TypeAlias = bytes | Image | Exception
    """An image's file, a region cut out of one, or why there is neither."""

_FETCHERS = 4
_BATCH_IMAGES, _BATCH_BYTES = 64, 2**25
"""The most in a batch; its last image may exceed the second."""


def fetch_images(
    wanted: Iterable[QueryImage | ImageLabels], client: LabelStudioClient
) -> Iterator[list[tuple[int, FetchedImage]]]:
    """Yield images and regions in batches, each with its position; or why it cannot be had.

    However many regions there are, of however large images, few are in memory at once: a batch is emptied as soon as
    the next is asked for. An image is fetched once for neighbours that share it. Once the server has hung, it is not
    asked for the others.
    """
    batch: list[tuple[int, FetchedImage]] = []
    size = 0
    for position, image in enumerate(_each(wanted, client)):
        batch.append((position, image))
        size += _bytes_of(image)
        if len(batch) >= _BATCH_IMAGES or size >= _BATCH_BYTES:
            yield batch
            batch.clear()
            size = 0
    if batch:
        yield batch


def _each(wanted: Iterable[QueryImage | ImageLabels], client: LabelStudioClient) -> Iterator[FetchedImage]:
    groups = [list(group) for _, group in groupby(wanted, key=lambda one: one.image)]
    hung: list[Unreachable] = []

    def fetch(group: list[QueryImage | ImageLabels]) -> bytes | ImageError | Unreachable:
        if hung and client.is_on_server(group[0].image):
            return hung[0]
        try:
            return client.image(group[0].image)
        except ImageError as error:
            return error
        except Unreachable as error:
            if error.hung:
                hung.append(error)
            return error

    files = map_ahead(fetch, groups, workers=_FETCHERS, ahead=_FETCHERS)
    for group, file in zip(groups, files, strict=True):
        opened: Image | ExampleError | None = None
        for one in group:
            if one.region is None or not isinstance(file, bytes):
                yield file
                continue
            if opened is None:
                opened = attempt(open_image, file)
            yield opened if isinstance(opened, ExampleError) else _cut_out(opened, one.region)


def _cut_out(image: Image, region: Mapping[str, Any]) -> Image | Exception:
    try:
        return crop_region(image, region)
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        return error


def _bytes_of(image: FetchedImage) -> int:
    if isinstance(image, Image):
        return 3 * image.width * image.height
    return len(image) if isinstance(image, bytes) else 0
