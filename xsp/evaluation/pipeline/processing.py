"""Rows to batches and outputs to predictions, by a manifest's steps or its Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.code import function_of
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.foreign_code import guarded
from xsp.evaluation.manifest.model import Input, Manifest, Output, Tensor
from xsp.evaluation.manifest.source import Code
from xsp.evaluation.pipeline import input_steps, output_steps
from xsp.evaluation.predictors.predictor import Batch, Outputs

Row = Mapping[str, Any]
Predictions = Mapping[str, Any]
"""By name, an array or list whose first axis is the samples."""


class Processing:
    """What a manifest does before and after the model.

    Raises EvaluationError for code that is not allowed or cannot be imported.
    """

    def __init__(self, manifest: Manifest, store: ArtifactStore, *, allow_code: bool) -> None:
        model = manifest.model
        self._inputs, self._outputs = model.inputs, model.outputs
        self._before = _called(model.preprocess, store, allow_code)
        self._after = _called(model.postprocess, store, allow_code)

    def batch(self, rows: Sequence[Row]) -> Batch:
        """The model's inputs for these rows, checked against the manifest's types and shapes.

        Raises EvaluationError for values that do not fit.
        """
        made = self._before(list(rows)) if self._before else self._stepped(rows)
        if not isinstance(made, Mapping):
            raise EvaluationError(
                f"preprocess returned a {type(made).__name__}; it must return arrays by input"
            )
        return {each.name: _fitting(each, made.get(each.name), len(rows)) for each in self._inputs}

    def check(self, outputs: Outputs, samples: int) -> None:
        """Raises EvaluationError where outputs do not have the manifest's shapes for this many
        samples.
        """
        for each in self._outputs:
            shape = outputs[each.name].shape
            if not _fits(each, shape, samples):
                raise EvaluationError(
                    f"the output {each.name!r} has the shape {list(shape)} for {samples} samples, "
                    f"but the manifest says [{', '.join(map(str, each.shape))}]; correct it, or "
                    "trace or export the model for this batch size"
                )

    def predictions(self, outputs: Outputs, samples: int) -> Predictions:
        """What the outputs mean, after the manifest's steps or its Python.

        Raises EvaluationError for outputs that do not fit the manifest.
        """
        self.check(outputs, samples)
        if self._after is None:
            return {
                each.name: output_steps.apply(each.steps, outputs[each.name])
                for each in self._outputs
            }
        found = self._after(dict(outputs))
        if not isinstance(found, Mapping):
            raise EvaluationError(
                f"postprocess returned a {type(found).__name__}; it must return values by name"
            )
        return found

    def _stepped(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {each.name: _stacked(each, rows) for each in self._inputs}


def _stacked(given: Input, rows: Sequence[Row]) -> Any:
    column = given.column or given.name
    values = [input_steps.apply(given.steps, row[column]) for row in rows]
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise EvaluationError(
            f"samples of {column!r} have the shapes {sorted(shapes)[:3]}; one batch needs one "
            "shape: add a step such as resize or pad"
        )
    return np.stack(values)


def _called(code: Code | None, store: ArtifactStore, allow_code: bool) -> Callable[..., Any] | None:
    if code is None:
        return None
    function = function_of(code, store, allow_code=allow_code)
    arguments = dict(code.arguments)

    def call(value: Any) -> Any:
        with guarded(f"{code.function!r} failed"):
            return function(value, **arguments)

    return call


def _fitting(given: Input | Output, value: Any, samples: int) -> np.ndarray[Any, Any]:
    if value is None:
        raise EvaluationError(f"the input {given.name!r} was not made; preprocess must return it")
    array = np.asarray(value)
    if array.dtype != np.dtype(given.dtype):
        raise EvaluationError(
            f"the input {given.name!r} is {array.dtype}, but the model takes {given.dtype}; add "
            "the step cast"
        )
    if not _fits(given, array.shape, samples):
        wanted = [samples if size == "batch" else size for size in given.shape]
        shown = ", ".join(map(str, wanted))
        raise EvaluationError(
            f"the input {given.name!r} has the shape {list(array.shape)} for {samples} samples, "
            f"but the model takes [{shown}]"
        )
    return array


def _fits(given: Tensor, shape: Sequence[int], samples: int) -> bool:
    wanted = [samples if size == "batch" else size for size in given.shape]
    return len(shape) == len(wanted) and all(
        size in {"any", there} for size, there in zip(wanted, shape, strict=True)
    )
