"""A share that was counted, with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_CONFIDENCE = 1.96  # deviations, of 95 %


@dataclass(frozen=True)
class Share:
    """A share of ``n`` that were counted, with its 95 % interval; NaN where none was.

    References
    ----------
    Wilson 1927, JASA 22(158), 209-212 (the interval).
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: int, n: int) -> Share:
        """Count ``right`` of n."""
        if not n:
            return cls(float("nan"), float("nan"), float("nan"), 0)
        share, square = right / n, _CONFIDENCE**2 / n
        middle = (share + square / 2) / (1 + square)
        half = _CONFIDENCE * ((share * (1 - share) + square / 4) / n) ** 0.5 / (1 + square)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half), n)

    def changed(self, change: Callable[[float], float]) -> Share:
        """Return it as a rising function makes it."""
        return Share(change(self.value), change(self.low), change(self.high), self.n)
