"""The few errors a caller would act on differently; anything else is a ValueError, TypeError or NotFittedError."""

from __future__ import annotations


class FewShotError(Exception):
    """Something a user can put right; its message says how."""


class ImageError(FewShotError, ValueError):
    """An image could not be read; the others of its batch can.

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


class EncoderNotFound(FewShotError):
    """No encoder of that name can be loaded here."""


class RegistryError(FewShotError):
    """A registry file cannot be opened or used as asked."""


class EncoderMismatch(RegistryError):
    """A registry's embeddings come from another encoder (or metric) than the one given."""


class PartlyAdded(RegistryError):
    """Some images were registered before an error, its ``__cause__``, stopped the others.

    Attributes
    ----------
    report : AddReport
        What became of those that came before the error.
    """

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message)
        self.report = report


class MissingExtra(FewShotError, ImportError):
    """An optional dependency is not installed; the message gives the pip command."""
