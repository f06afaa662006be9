"""A registry's examples as HTML that needs nothing else: images, texts and sounds are inside it."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

from fewshot.errors import ExampleError
from fewshot.media import medium_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fewshot.registry.queries import RegistryQueries


class ExampleViews:
    """Shows a registry's examples, each read once.

    Parameters
    ----------
    registry : RegistryQueries
    modality : {"image", "text", "audio"}
    """

    def __init__(self, registry: RegistryQueries, modality: str) -> None:
        self._registry, self._medium = registry, medium_of(modality)
        self._held: dict[int, str] = {}

    def view(self, example: int, name: str) -> str:
        """Return an element that shows an example; one that cannot be read any more is shown by its name."""
        if example not in self._held:
            self._held[example] = self._made(example, name)
        return self._held[example]

    def view_given(self, source: Any, name: str) -> str:
        """Return an element that shows an example that is not registered, as it was given."""
        return self._element(lambda: source, name)

    def _made(self, example: int, name: str) -> str:
        return self._element(lambda: self._registry.image(example), name or f"example {example}")

    def _element(self, source: Callable[[], Any], name: str) -> str:
        try:
            preview = self._medium.preview(source())
        except (ExampleError, KeyError):
            return f'<div class="shown">{escape(name)}</div>'
        if preview.media_type == "text/plain":
            return f'<blockquote class="shown">{escape(preview.data.decode())}</blockquote>'
        data = f"data:{preview.media_type};base64,{base64.b64encode(preview.data).decode()}"
        if preview.media_type.startswith("audio/"):
            return f'<audio controls preload="none" src="{data}" aria-label="{escape(name)}"></audio>'
        return f'<img class="shown" src="{data}" alt="{escape(name)}" title="{escape(name)}">'
