"""The mean embedding of many classes, by one encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.files import replacing
from fewshot.openset.background import Background

_SHIPPED = Path(__file__).with_name("centers")
# A mean of unit vectors has entries of some hundredths: so it is off by a thousandth of its length.
_DIGITS = 4
_TINY = 1e-12


@dataclass(frozen=True)
class Center:
    """The mean of many classes' images, by one encoder.

    Attributes
    ----------
    vector : Tensor of shape (d,), float32
        The mean of the class means of vectors of length 1.
    n_classes : int

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot.openset import Center
    >>> center = Center.of(np.eye(2, dtype=np.float32), ["cup", "pen"])
    >>> center.vector.tolist(), center.n_classes
    ([0.5, 0.5], 2)
    """

    vector: Tensor
    n_classes: int

    @classmethod
    def of(cls, vectors: NDArray[np.float32], labels: Sequence[str]) -> Center:
        """Make it from vectors (n, d) of any length and their n labels.

        Raises
        ------
        ValueError : as ``Background.of``.
        """
        others = Background.of(vectors, labels)
        return cls(others.means.mean(dim=0), others.n_classes)

    def weight(self, prototypes: Tensor) -> Tensor:
        """How many classes it counts as beside c others, when these are (e, c, d): (e, 1, 1).

        Where S is the classes' variance about their own mean and r that mean's squared distance to this one, r is S / c
        by chance, and what is more tells how far such images as these are from all images: it counts as
        S / (r - S / c) classes, but never more than it was made of, and as all of them beside a single class.

        References
        ----------
        Efron & Morris 1973, JASA 68 (341): shrinkage to a prior mean by an estimated prior variance.
        """
        c = prototypes.shape[1]
        mean = prototypes.mean(dim=1, keepdim=True)
        scatter = (prototypes - mean).square().sum(dim=(1, 2))
        return self._count(c, scatter, (mean[:, 0] - self.vector.to(mean)).square().sum(dim=-1)).view(-1, 1, 1)

    def weights_without(self, prototypes: Tensor) -> Tensor:
        """Its ``weight`` beside all of c classes (c, d) but one, for each of these: (c,); two classes at least."""
        mean, n = prototypes.mean(dim=0), len(prototypes) - 1
        apart = (prototypes - mean).square().sum(dim=1)
        # Without one, the mean moves away from it by a n-th of its distance.
        scatter = (apart.sum() - apart * (n + 1) / n).clamp_min(0.0)
        moved = mean + (mean - prototypes) / n - self.vector.to(mean)
        return self._count(n, scatter, moved.square().sum(dim=1))

    def _count(self, c: int, scatter: Tensor, distance: Tensor) -> Tensor:
        """From the sum of c squared distances to their mean, and that mean's squared distance to this one."""
        if c == 1:
            return torch.full_like(distance, self.n_classes)
        variance = scatter.clamp_min(_TINY) / (c - 1)
        return variance / torch.maximum(distance - variance / c, variance / self.n_classes)


def write_center(center: Center, fingerprint: str, path: str | Path) -> None:
    """Write a centre as ``shipped_center`` reads it."""
    entries = ", ".join(f"{value + 0.0:.{_DIGITS}f}" for value in center.vector.tolist())
    with replacing(Path(path)) as temporary:
        temporary.write_text(
            f'{{"encoder": {json.dumps(fingerprint)}, "classes": {center.n_classes}, "center": [\n{entries}\n]}}\n',
            encoding="utf-8",
        )


@cache
def shipped_center(fingerprint: str | None) -> Center | None:
    """Return the centre that ships with fewshot for the encoder of this fingerprint; None for one that has none.

    References
    ----------
    Written by ``python benchmarks/openset.py --centers``.
    """
    for path in sorted(_SHIPPED.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["encoder"] == fingerprint:
            return Center(torch.tensor(value["center"]), int(value["classes"]))
    return None
