"""What differs between images, texts and sounds as examples; what works on any asks the medium."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewshot.errors import ExampleError, ImageError, SoundError, TextError
from fewshot.media import images, previews, sounds, texts
from fewshot.media.cloud_files import CloudFile, is_url, without_secrets
from fewshot.media.images import ImageSource
from fewshot.media.previews import Preview
from fewshot.media.sounds import SoundSource
from fewshot.media.texts import TextSource
from fewshot.media.zips import ZippedImage
from fewshot.validation import check_choice

if TYPE_CHECKING:
    from typing import TypeAlias

Modality = Literal["image", "text", "audio"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "audio")

Source: TypeAlias = ImageSource | TextSource | SoundSource
Sources: TypeAlias = Source | Iterable[Source]
"""Examples, or one."""


@dataclass(frozen=True)
class Medium:
    """A kind of example.

    Attributes
    ----------
    modality : {"image", "text", "audio"}
    noun : str
        "image", "text" or "sound", in messages.
    suffixes : frozenset of str
        Of its files, in lower case.
    error : type of ExampleError
        For one that cannot be read.
    open : callable
        From a source to what a function reads: a PIL image, a str, a ``Sound``.
    content : callable
        From a source to the bytes that are stored and hashed; equal examples have equal bytes.
    media_type : callable
        From those bytes to their media type, as "image/jpeg".
    describe : callable
        From a source to its name in messages.
    one_or_several : callable
        Sources as they are, and a single one as a list; see ``sources``.
    from_path : callable
        From a file's path or URL to its source; a ``CloudFile`` is one.
    preview : callable
        From a source to the ``Preview`` that shows it.
    """

    modality: Modality
    noun: str
    suffixes: frozenset[str]
    error: type[ExampleError]
    open: Callable[[Any], Any]
    content: Callable[[Any], bytes]
    media_type: Callable[[bytes], str]
    describe: Callable[[Any], str]
    one_or_several: Callable[[Any], Iterable[Any]]
    from_path: Callable[[str | CloudFile], str | Path | CloudFile]
    preview: Callable[[Any], Preview]

    def counted(self, count: int) -> str:
        """Return a number of them in words: "1 text", "2 texts"."""
        return f"{count:,} {self.noun}{'' if count == 1 else 's'}"

    def sources(self, given: Any) -> Iterable[Any]:
        """Return sources as they are, and a single one as a list.

        Raises
        ------
        TypeError : for a sound given as samples where this is no medium of sounds.
        """
        if sounds.is_samples(given) and self.modality != "audio":
            raise TypeError(f"(samples, sampling_rate) is a sound, and {self.noun}s are wanted: {_apart('sound')}")
        return self.one_or_several(given)

    def explained(self, source: Any, reason: str) -> str:
        """Return why one could not be read, and where it belongs if it is of another medium."""
        other = None if reason == "no such file" else _medium_seen(source, self)
        return reason if other is None else f"{reason}. It is {other.one}: {_apart(other.noun)}"

    @property
    def one(self) -> str:
        """Return the noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"


def medium_of(modality: str) -> Medium:
    """Return the medium of a modality.

    Raises
    ------
    ValueError : for another word than "image", "text" and "audio".
    """
    check_choice("modality", modality, MODALITIES)
    return _MEDIA[modality]


def source_path(source: object, modality: Modality) -> str | None:
    """Return the absolute path of a source that is a file, or its URL without secrets, else None."""
    if isinstance(source, CloudFile) or (is_url(source) and modality != "text"):
        return without_secrets(str(source))
    if isinstance(source, os.PathLike) or (isinstance(source, str) and modality != "text"):
        return os.path.abspath(source)
    return None


_NAMED = (str, os.PathLike, ZippedImage, CloudFile)


def _file_of(path: str | CloudFile) -> str | CloudFile:
    return CloudFile(path) if isinstance(path, str) and is_url(path) else path


def _text_file_of(path: str | CloudFile) -> Path | CloudFile:  # a str is a text itself
    found = _file_of(path)
    return Path(found) if isinstance(found, str) else found


def _apart(noun: str) -> str:
    return f"{noun}s go into a registry of their own, made with an encoder of {noun}s"


def _medium_seen(source: Any, wanted: Medium) -> Medium | None:
    """Return what a source is by its name or first bytes, where that is another medium than the one wanted."""
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        seen = {images.image_type(source).partition("/")[0], sounds.sound_type(source).partition("/")[0]}
        return next((_MEDIA[kind] for kind in seen & {"image", "audio"} if kind != wanted.modality), None)
    suffix = os.path.splitext(str(source))[1].lower() if isinstance(source, _NAMED) else ""
    return next((medium for medium in _MEDIA.values() if medium is not wanted and suffix in medium.suffixes), None)


_MEDIA: dict[str, Medium] = {
    "image": Medium(
        modality="image",
        noun="image",
        suffixes=images.SUFFIXES,
        error=ImageError,
        open=images.open_image,
        content=images.image_bytes,
        media_type=images.image_type,
        describe=images.describe,
        one_or_several=images.one_or_several,
        from_path=_file_of,
        preview=previews.image_preview,
    ),
    "text": Medium(
        modality="text",
        noun="text",
        suffixes=texts.TEXT_SUFFIXES,
        error=TextError,
        open=texts.open_text,
        content=texts.text_bytes,
        media_type=texts.text_type,
        describe=texts.describe_text,
        one_or_several=texts.one_or_several_texts,
        from_path=_text_file_of,
        preview=previews.text_preview,
    ),
    "audio": Medium(
        modality="audio",
        noun="sound",
        suffixes=sounds.SOUND_SUFFIXES,
        error=SoundError,
        open=sounds.open_sound,
        content=sounds.sound_bytes,
        media_type=sounds.sound_type,
        describe=sounds.describe_sound,
        one_or_several=sounds.one_or_several_sounds,
        from_path=_file_of,
        preview=previews.sound_preview,
    ),
}
