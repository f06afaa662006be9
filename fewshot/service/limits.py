"""Every limit of the service, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may take, and what all of them may take together; past it a request is refused with the remedy.

    Pictures of more than ``fewshot.media.images.MAX_PIXELS`` pixels are refused one by one, wherever they come from.

    Attributes
    ----------
    body_bytes : int
        Of one request's body; more is answered with 413.
    fields_bytes : int
        Of a body without pictures, and of a form's field that is none; more is answered with 413.
    pictures : int
        Of one request; more are answered with 413. What a request adds is one transaction, so that it is all or none.
    seconds : float
        For a request's body to arrive (else 408), for its pictures to be computed (else 503, nothing changed), and for
        its answer to be taken, longer for a long one (else the connection is closed).
    requests : int
        In work at once; one more is answered with 503 and Retry-After.
    bodies_bytes : int
        Of the bodies of all requests in work; past it 503 and Retry-After.
    waiting : int
        Pictures that wait for one encoder; past it 503 and Retry-After.
    open_registries : int
        Kept open and in memory at once; beyond it the one not used for longest is closed until it is asked for again.
    """

    body_bytes: int = 64 * 2**20
    fields_bytes: int = 64 * 2**10
    pictures: int = 64
    seconds: float = 60.0
    requests: int = 128
    bodies_bytes: int = 512 * 2**20
    waiting: int = 2048
    open_registries: int = 64
