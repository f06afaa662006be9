"""Maximum-likelihood fit of calibration parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fewshot.calibration.temperature import CalibrationParams, calibrated_probabilities, inverse_temperature

# L2 penalty on the distance from the initial coefficients, in nats: those that the data hardly constrain, such as that
# of the shots where all tasks have one, stay as they are.
_PENALTY = 3e-5
_MAX_QUERIES = 4_000  # of one set
_LOG_SHAPE = 3.0  # its largest absolute value
# The fit begins above this mix, and within this share of the bounds of the shape: beyond, slopes vanish.
_SMALLEST_MIX, _INSIDE = 0.0067, 0.9

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
    mix = torch.tensor(min(max(initial.uniform_mix, _SMALLEST_MIX), 0.5)).logit().item()
    shape = _clipped(math.log(initial.shape), _INSIDE * _LOG_SHAPE)
    start = torch.tensor([*initial.log_inverse_temperature, mix, shape])
    values = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([values], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = _PENALTY * (values - start).square().sum()
        for margins, features, labels in thinned:
            beta = inverse_temperature(features, values[:-2])
            gamma = values[-1].clamp(-_LOG_SHAPE, _LOG_SHAPE).exp()
            found = calibrated_probabilities(margins, beta, values[-2].sigmoid(), gamma)
            predicted = margins.argmin(-1, keepdim=True)
            confidence = found.gather(1, predicted)
            right = torch.where(predicted == labels, _log(confidence), _log(1.0 - confidence))
            total = total - (_log(found.gather(1, labels)) + right).mean() / (2 * len(thinned))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    *coefficients, mix, shape = values.detach().tolist()
    mix, shape = torch.tensor(mix).sigmoid().item(), math.exp(_clipped(shape, _LOG_SHAPE))
    return CalibrationParams(tuple(round(value, 3) for value in coefficients), round(mix, 4), round(shape, 3))


def _thinned(margins: Tensor, features: Tensor, labels: Tensor) -> CalibrationSet:
    """Return every n-th query: (q, c), (q, len(FEATURES)) and (q, 1)."""
    step = -(-labels.numel() // _MAX_QUERIES)
    rows = margins.flatten(0, 1)[::step], features.flatten(0, 1)[::step], labels.reshape(-1, 1)[::step]
    return rows[0].clone(), rows[1].clone(), rows[2].clone()  # no inference tensors, which a gradient cannot pass


def _clipped(value: float, largest: float) -> float:
    return min(max(value, -largest), largest)


def _log(probability: Tensor) -> Tensor:
    return probability.clamp_min(1e-9).log()
