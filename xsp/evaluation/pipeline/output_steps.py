"""What the built-in steps after a model compute, for all samples of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from xsp.evaluation.manifest import steps

Array = NDArray[Any]


def apply(chain: Iterable[steps.Step], values: Array) -> Array:
    """An output, samples first, after these steps."""
    for step in chain:
        values = _STEPS[type(step)](step, values)
    return values


def _softmax(_step: steps.Softmax, values: Array) -> Array:
    return np.asarray(softmax(values, axis=-1))


def _sigmoid(_step: steps.Sigmoid, values: Array) -> Array:
    return np.asarray(expit(values))


def _unit(_step: steps.Unit, values: Array) -> Array:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(length, np.finfo(np.float32).tiny))


def _argmax(_step: steps.ArgMax, values: Array) -> Array:
    return np.asarray(np.argmax(values, axis=-1))


def _threshold(step: steps.Threshold, values: Array) -> Array:
    return (values >= step.at).astype(np.int64)


_STEPS: dict[type[steps.Step], Callable[[Any, Any], Array]] = {
    steps.Softmax: _softmax,
    steps.Sigmoid: _sigmoid,
    steps.Unit: _unit,
    steps.ArgMax: _argmax,
    steps.Threshold: _threshold,
}
