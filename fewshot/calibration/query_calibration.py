"""What the probabilities of one task's queries are computed from, as plain numbers."""

from __future__ import annotations

import torch

from fewshot.calibration.task_features import FEATURES, MARGIN_RANGE, SIMILARITY_RANGE, WAYS_RANGE, TaskFeatures
from fewshot.calibration.temperature import CalibrationParams

_OF_QUERIES = ("log_ways", "similarity", "log_margin")


def calibration_numbers(params: CalibrationParams, features: TaskFeatures) -> dict[str, float | list[float]]:
    """Return ``params`` with all features of one task put in but its number of classes and those of each query.

    Returns
    -------
    dict
        "intercept", and the coefficients "log_ways", "similarity" and "log_margin", of log beta; the range to which
        each of these is clipped, such as "ways_range"; "uniform_mix" and "shape".
    """
    none = torch.zeros(1, 1)
    design = dict(zip(FEATURES, features.design_matrix(none.unsqueeze(-1), none)[0, 0].tolist(), strict=True))
    coefficients = dict(zip(FEATURES, params.log_inverse_temperature, strict=True))
    return {
        "intercept": sum(coefficients[name] * design[name] for name in FEATURES if name not in _OF_QUERIES),
        **{name: coefficients[name] for name in _OF_QUERIES},
        "ways_range": list(WAYS_RANGE),
        "similarity_range": list(SIMILARITY_RANGE),
        "margin_range": list(MARGIN_RANGE),
        "uniform_mix": params.uniform_mix,
        "shape": params.shape,
    }
