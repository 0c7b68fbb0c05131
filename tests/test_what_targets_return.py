"""What a target function may return for `xsp profile`, and how it is measured."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import xsp
from xsp.measuring.measurable import measurable

X = torch.ones(1, 2)


def net() -> nn.Module:
    return nn.Linear(2, 2).eval()


class NoInputs(nn.Module):
    """Makes its own."""

    def forward(self) -> torch.Tensor:
        return torch.ones(1)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X, 1), (X, 1), {}),
        ([X], (X,), {}),
        ({"input": X}, (), {"input": X}),
    ],
    ids=["tensor", "tuple", "list", "dictionary"],
)
def test_inputs_are_a_tensor_or_arguments(
    inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """A model comes with one tensor, positional arguments or keywords."""
    model = net()
    found = measurable((model, inputs), "target")
    assert found.function is model
    assert (found.args, found.kwargs) == (args, kwargs)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_recorded_in_training_mode(training: bool) -> None:
    """What the description says and what is done are the same."""
    found = measurable((nn.Linear(2, 2).train(training), X), "target")
    assert found.grad is training
    assert ("training mode" in found.description) is training
    assert ("no_grad" in found.description) is not training
    assert found.description.startswith("Linear, ")


def test_a_model_that_makes_its_inputs_needs_none() -> None:
    """It is called without arguments; one that needs some is refused."""
    found = measurable(NoInputs(), "target")
    assert (found.args, found.kwargs) == ((), {})
    with pytest.raises(xsp.TargetError, match="target returned the model Linear without inputs"):
        measurable(net(), "target")


def step() -> None:
    """A training step."""


def test_a_callable_is_measured_as_it_is() -> None:
    """With gradients where they are on, and only if it needs no arguments."""
    found = measurable(step, "target")
    assert found.function is step
    assert found.grad
    assert found.description == "calling step again and again"
    with torch.no_grad():
        assert not measurable(step, "target").grad
    with pytest.raises(xsp.TargetError, match=r"lambda.* that needs arguments"):
        measurable(lambda _: None, "target")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "target returned None;"),
        (3, "target returned a value of type int;"),
        ((1, 2), r"target returned a tuple \(int, int\);"),
        ((1, 2, 3, 4), r"target returned a tuple \(int, int, int, int\);"),
        ((1, 2, 3, 4, 5), r"target returned a tuple \(int, int, int, int, …\);"),
        ((net(), 3), "a model with inputs of type int;"),
        ((net(), X, X), r"target returned a tuple \(Linear, Tensor, Tensor\);"),
        ((step, X), r"target returned a tuple \(function, Tensor\);"),
    ],
)
def test_anything_else_is_refused_with_what_it_is(returned: Any, said: str) -> None:
    """And with what is allowed."""
    with pytest.raises(xsp.TargetError, match=f"{said} it must return"):
        measurable(returned, "target")


def test_a_builtin_without_a_signature_is_called_to_see() -> None:
    """Nobody can tell beforehand whether it needs arguments."""
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(dict)
    assert measurable(dict, "target").function is dict
