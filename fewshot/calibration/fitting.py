"""Maximum-likelihood fit of calibration parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fewshot.calibration.task_features import FEATURES, MIX_SHAPE_FEATURES
from fewshot.calibration.temperature import CalibrationParams, calibrated_probabilities, evaluate_params

# L2 penalty on the distance from the initial coefficients, in nats: those that the data hardly constrain, such as that
# of the number of classes where all tasks have ten, stay as they are.
_PENALTY = 3e-5
_MAX_QUERIES = 10_000  # of one set
_SIZES = [len(FEATURES), len(MIX_SHAPE_FEATURES), len(MIX_SHAPE_FEATURES)]

CalibrationSet = tuple[Tensor, Tensor, Tensor]


def fit_calibration(sets: Iterable[CalibrationSet], initial: CalibrationParams | None = None) -> CalibrationParams:
    """Maximise the mean log-likelihood of the true classes and of the event that the predicted class is right.

    The second is what an expected calibration error measures.

    Parameters
    ----------
    sets : iterable of (margins (e, q, c), features (e, q, len(FEATURES)), true classes (e, q))
        One for each setting, such as an encoder, a data set, and numbers of classes and examples; all have the same
        weight.
    initial : CalibrationParams, optional
        Where to begin, and what the coefficients are drawn to; by default an inverse temperature of 10.
    """
    initial = initial or CalibrationParams.constant(10.0)
    thinned = [_thinned(*one) for one in sets]
    start = torch.tensor([*initial.log_inverse_temperature, *initial.uniform_mix, *initial.shape])
    start[len(FEATURES)] = start[len(FEATURES)].clamp_min(-5.0)  # below, the sigmoid's slope vanishes
    values = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([values], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = _PENALTY * (values - start).square().sum()
        for margins, features, labels in thinned:
            found = calibrated_probabilities(margins, *evaluate_params(features, *torch.split(values, _SIZES)))
            predicted = margins.argmin(-1, keepdim=True)
            confidence = found.gather(1, predicted)
            right = torch.where(predicted == labels, _log(confidence), _log(1.0 - confidence))
            total = total - (_log(found.gather(1, labels)) + right).mean() / (2 * len(thinned))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    parts = torch.split(values.detach(), _SIZES)
    return CalibrationParams(*(tuple(round(value, 3) for value in part.tolist()) for part in parts))


def _thinned(margins: Tensor, features: Tensor, labels: Tensor) -> CalibrationSet:
    """Every n-th query: (q, c), (q, len(FEATURES)) and (q, 1)."""
    step = -(-labels.numel() // _MAX_QUERIES)
    rows = margins.flatten(0, 1)[::step], features.flatten(0, 1)[::step], labels.reshape(-1, 1)[::step]
    return rows[0].clone(), rows[1].clone(), rows[2].clone()  # no inference tensors, which a gradient cannot pass


def _log(probability: Tensor) -> Tensor:
    return probability.clamp_min(1e-9).log()
