"""What a fitted classifier scores queries with, without its examples: arrays and numbers that need no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.calibration import CalibrationTable, calibration_numbers
from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.cosine_head import CosineHeadClassifier
from fewshot.classifiers.discriminant import LinearDiscriminantClassifier
from fewshot.classifiers.embedding_parts import EmbeddingParts
from fewshot.classifiers.logistic import LogisticRegressionClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.classifiers.ridge import RidgeClassifier
from fewshot.classifiers.whitened_prototype import WhitenedPrototypeClassifier

_SMALL = 1e-6  # a share of the largest variance, below which a direction is not whitened


@dataclass(frozen=True)
class ExportedHead:
    """The head of a classifier.

    A vector q is prepared, x = scale * u(q), where u makes each of ``parts`` 1 long, and mapped, y = (x - center) W.
    W is I + axes diag(factors) axes', or axes where there are no factors, or I without these.

    Attributes
    ----------
    kind : {"cosine", "sqeuclidean", "linear"}
        The score of class k: the cosine of y to that of ``vectors`` v_k, mapped too; -|y - v_k|^2; or
        x v_k + bias_k.
    parts : tuple of int
        Sizes of the parts of a vector that u divides by their lengths; none where it does nothing.
    means : bool
        Whether v_k is the mean of the prepared examples of class k.
    arrays : dict of str to ndarray, float32
        "vectors" (c, d), and where they are used "scale" (d,), "center" (d,), "axes" (d, r), "factors" (r,), "bias"
        (c,).
    calibration : dict of str to numbers
        ``calibration.calibration_numbers``'s, and "unit" and "others" of the support's margin.
    """

    kind: Literal["cosine", "sqeuclidean", "linear"]
    parts: tuple[int, ...]
    means: bool
    arrays: dict[str, NDArray[np.float32]]
    calibration: dict[str, Any] = field(default_factory=dict)


def export_head(classifier: FewShotClassifier, table: CalibrationTable | None = None) -> ExportedHead:
    """Return the head of a fitted classifier, calibrated by a table.

    Raises
    ------
    ValueError : for a classifier that does not score by one vector a class, saying why.
    """
    make = _HEADS.get(type(classifier))
    if make is None:
        kinds = ", ".join(kind.__name__ for kind in _HEADS)
        raise ValueError(
            f"{type(classifier).__name__} cannot be exported: it compares a query with examples, or with other "
            f"queries, not with one vector of each class, as {kinds} do; choose one of these with: fewshot classifier"
        )
    head = make(classifier)
    if len(classifier.classes_) > 1:
        scale = classifier._task_scale()
        found = calibration_numbers(classifier.calibration_params(table), scale.features)
        head.calibration.update(found, unit=float(scale.unit), others=float(scale.others))
    return head


def _whitened(classifier: WhitenedPrototypeClassifier) -> ExportedHead:
    learned = classifier._learned
    d = learned.center.shape[2]
    arrays = {"vectors": learned.prototypes.means[0], "center": learned.center[0, 0]}
    if learned.metric.rows is None:
        variances, turns = torch.linalg.eigh(learned.metric.matrix[0].double())
        arrays["axes"] = turns * variances.clamp_min(0.0).sqrt()
    else:
        rows = learned.metric.rows[0].double()
        variances, turns = torch.linalg.eigh(rows @ rows.mT)  # M^-1/2 is that of I + Z'Z
        known = variances > _SMALL * variances[-1]
        variances, turns = variances[known], turns[:, known]
        arrays["axes"] = rows.mT @ turns * variances.rsqrt()
        arrays["factors"] = (1.0 + variances).rsqrt() - 1.0
    parts = (d,) if classifier.parts is None else tuple(classifier.parts)
    if classifier.parts is not None:
        lengths = EmbeddingParts(parts).unit_parts(torch.ones(d))  # of each part, spread over its numbers
        scale = torch.cat([part.norm().expand(len(part)) for part in torch.split(lengths, list(parts))])
        arrays["scale"] = scale if learned.scale is None else scale * learned.scale[0, 0]
    return ExportedHead("cosine", parts, True, _float32(arrays))


def _prototype(classifier: PrototypeClassifier) -> ExportedHead:
    kind: Any = {"inner_product": "linear"}.get(classifier.metric, classifier.metric)
    return ExportedHead(kind, (), True, _float32({"vectors": classifier._learned.of.means[0]}))


def _cosine(classifier: CosineHeadClassifier) -> ExportedHead:
    return ExportedHead("cosine", (), False, _float32({"vectors": classifier._learned[0]}))


def _ridge(classifier: RidgeClassifier) -> ExportedHead:
    weight = classifier._learned[0]
    return ExportedHead("linear", (len(weight),), False, _float32({"vectors": weight.mT}))


def _logistic(classifier: LogisticRegressionClassifier) -> ExportedHead:
    return _linear(classifier, unit=True)


def _discriminant(classifier: LinearDiscriminantClassifier) -> ExportedHead:
    return _linear(classifier, unit=False)


def _linear(classifier: FewShotClassifier, *, unit: bool) -> ExportedHead:
    weight, bias = classifier._learned.weight[0], classifier._learned.bias[0, 0]
    arrays = _float32({"vectors": weight.mT, "bias": bias})
    return ExportedHead("linear", (len(weight),) if unit else (), False, arrays)


def _float32(arrays: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: np.ascontiguousarray(array.numpy(), np.float32) for name, array in arrays.items()}


_HEADS: dict[type, Callable[[Any], ExportedHead]] = {
    WhitenedPrototypeClassifier: _whitened,
    PrototypeClassifier: _prototype,
    CosineHeadClassifier: _cosine,
    RidgeClassifier: _ridge,
    LogisticRegressionClassifier: _logistic,
    LinearDiscriminantClassifier: _discriminant,
}
