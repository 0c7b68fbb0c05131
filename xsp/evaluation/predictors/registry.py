"""Predictors by name: the built-in ones, and those of other packages."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from xsp.errors import EvaluationError
from xsp.evaluation.predictors.predictor import Predictor

GROUP = "xsp.predictors"
"""The group of entry points: each names a class, or a function, that makes a predictor."""

_BUILT_IN = {
    "torch": "eager:Eager",
    "torch-compile": "compiled:Compiled",
    "torchscript": "torchscript:TorchScript",
    "torch-export": "exported:Exported",
    "onnxruntime": "onnx_runtime:OnnxRuntime",
}


def predictor_names() -> list[str]:
    """All that can be asked for here; what a third party's needs may still be missing."""
    return [*_BUILT_IN, *sorted(set(_others()) - set(_BUILT_IN))]


def predictor(name: str) -> Predictor:
    """A new predictor of this name.

    Raises EvaluationError where there is none, or where a third party's cannot be made.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        made: Predictor = getattr(import_module(f"{__package__}.{module}"), attribute)()
        return made
    others = _others()
    if name not in others:
        raise EvaluationError(
            f"there is no predictor {name!r}; known are {', '.join(predictor_names())}, and others "
            f"register under the entry point group {GROUP!r}"
        )
    return _theirs(name, others[name])


def _others() -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=GROUP)}


def _theirs(name: str, entry: EntryPoint) -> Predictor:
    try:
        made: Any = entry.load()()
    except Exception as error:  # a third party's code can raise anything
        raise EvaluationError(
            f"the predictor {name!r} ({entry.value}) cannot be made ({type(error).__name__}: "
            f"{error})"
        ) from error
    if not isinstance(made, Predictor):
        raise EvaluationError(
            f"the predictor {name!r} ({entry.value}) lacks methods of the protocol "
            "xsp.evaluation.predictors.predictor.Predictor"
        )
    return made
