"""The few errors a caller would act on differently; anything else is a ValueError, TypeError or NotFittedError."""

from __future__ import annotations


class FewShotError(Exception):
    """Something a user can put right; its message says how."""


class ExampleError(FewShotError, ValueError):
    """An image, text or sound could not be read; the others of its batch can.

    Attributes
    ----------
    source : str
        The file, or a description of what was given.
    reason : str
        What is wrong with it, and the remedy.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class ImageError(ExampleError):
    """An image could not be read."""


class TextError(ExampleError):
    """A text could not be read."""


class SoundError(ExampleError):
    """A sound could not be read."""


class AmbiguousFolders(FewShotError, ValueError):
    """A folder's subfolders may be the classes, or hold them; only the user knows.

    Attributes
    ----------
    place : str
        The folder or zip.
    reason : str
        What it holds.
    inside : tuple of str
        The folders whose subfolders may be the classes; each can be read by itself.
    """

    def __init__(self, place: str, reason: str, inside: tuple[str, ...]) -> None:
        super().__init__(place, reason, inside)
        self.place = place
        self.reason = reason
        self.inside = inside

    def __str__(self) -> str:
        return f"{self.place} {self.reason}; give one of {', '.join(self.inside)}"


class EncoderNotFound(FewShotError):
    """No encoder of that name can be loaded here."""


class TooFewExamples(FewShotError, ValueError):
    """The examples do not allow what was asked; add others first."""


class RegistryError(FewShotError):
    """A registry file cannot be opened or used as asked."""


class NoClasses(RegistryError, TooFewExamples):
    """A registry holds no class yet."""


class NotDescribable(RegistryError, ValueError):
    """A registry's classes cannot be described in words: by its encoder, its metric, or as there are too many."""


class RegistryBusy(RegistryError):
    """A registry is in use for longer than is waited for; try again later."""


class EncoderMismatch(RegistryError):
    """A registry's embeddings come from another encoder (or metric) than the one given."""


class PartlyAdded(RegistryError):
    """Some examples were registered before an error, its ``__cause__``, stopped the others.

    Attributes
    ----------
    report : AddReport
        What became of those that came before the error.
    """

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message)
        self.report = report


class AddInterrupted(KeyboardInterrupt):
    """Ctrl-C came while examples were added; those of earlier chunks are registered.

    Attributes
    ----------
    report : AddReport
        What became of those.
    """

    def __init__(self, report: object) -> None:
        super().__init__()
        self.report = report


class MissingExtra(FewShotError, ImportError):
    """An optional dependency is not installed; the message gives the pip command."""
