"""Every limit of the service, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests in progress together.

    Attributes
    ----------
    max_body_bytes : int
        Of one request's body; more is answered with 413.
    max_field_bytes : int
        Of a body without images, and of a form's field that is no file; more is answered with 413.
    max_images : int
        Of one request; more are answered with 413. They are stored in one transaction: all that can be read, or none.
    timeout_seconds : float
        For a request's body to arrive (else 408), for its images to be computed (else 503, nothing was changed), and
        for its response to be taken, longer for a long one (else the connection is closed).
    busy_seconds : float
        For a registry that another process writes to, at most half of ``timeout_seconds``; then 503 and Retry-After.
    max_requests : int
        In progress at once; one more is answered with 503 and Retry-After.
    max_total_body_bytes : int
        Of the bodies of all requests in progress; past it 503 and Retry-After.
    max_queued_images : int
        That wait for one encoder; past it 503 and Retry-After.
    max_open_registries : int
        Past it the least recently used one is closed until it is asked for again.

    Notes
    -----
    An image of more than ``fewshot.media.images.MAX_PIXELS`` pixels is refused as one that cannot be read.
    """

    max_body_bytes: int = 64 * 2**20
    max_field_bytes: int = 64 * 2**10
    max_images: int = 64
    timeout_seconds: float = 60.0
    busy_seconds: float = 10.0
    max_requests: int = 128
    max_total_body_bytes: int = 512 * 2**20
    max_queued_images: int = 2048
    max_open_registries: int = 64
