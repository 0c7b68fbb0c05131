"""From what a target function returned to what can be measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from xsp.errors import TargetError

_ALLOWED = (
    "it must return (model, inputs), where inputs are a tensor, a tuple or list of arguments or a "
    "dictionary of "
    "keyword arguments, or a callable without arguments, such as a training step"
)


@dataclass(frozen=True)
class Measurable:
    """A call to measure: `function(*args, **kwargs)`, recording gradients if `grad`."""

    function: Callable[..., Any]
    description: str
    grad: bool
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def measurable(returned: Any, target: str) -> Measurable:
    """The call that a target function's result stands for.

    A model in evaluation mode is measured without gradients, one in training mode with them.

    Raises TargetError, which names what was returned and what is allowed.
    """
    if isinstance(returned, nn.Module):
        _require_no_arguments(
            returned.forward, f"{target} returned the model {_kind(returned)} without inputs"
        )
        return _inference(returned, (), {})
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module):
        return _inference(returned[0], *_arguments(returned[1], target))
    if callable(returned):
        _require_no_arguments(returned, f"{target} returned {_kind(returned)} that needs arguments")
        return Measurable(
            returned, f"calling {_kind(returned)} again and again", torch.is_grad_enabled()
        )
    raise TargetError(f"{target} returned {_described(returned)}; {_ALLOWED}")


def _inference(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Measurable:
    if model.training:
        mode = (
            "forward pass in training mode, recording gradients; call model.eval() in the target "
            "for inference"
        )
    else:
        mode = "inference under torch.no_grad()"
    return Measurable(model, f"{_kind(model)}, {mode}", model.training, args, kwargs)


def _arguments(inputs: Any, target: str) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), {str(name): value for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    raise TargetError(
        f"{target} returned a model with inputs of type {type(inputs).__name__}; {_ALLOWED}"
    )


def _require_no_arguments(function: Callable[..., Any], what: str) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TargetError(f"{what} ({error}); {_ALLOWED}") from None
    except ValueError:
        return  # a built-in without a signature: calling it will tell


def _kind(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__name__)


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        inside = ", ".join(type(each).__name__ for each in value[:4]) + (
            ", …" if len(value) > 4 else ""
        )
        return f"a tuple ({inside})"
    return "None" if value is None else f"a value of type {type(value).__name__}"
