"""Layers of programs that bring modes, hooks and tensor subclasses of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_modules import with_child
from quick import forward_names, profiled
from torch import nn
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.usefixtures("twin")


def test_users_own_function_mode_inside_forward_still_works() -> None:
    """`with torch.device(...)` and any TorchFunctionMode inside forward see what they would see
    without xsp.
    """
    seen: list[list[str]] = []

    class Watching(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen[-1].append(func.__name__)
            return func(*args, **(kwargs or {}))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append([])
        with torch.device("cpu"), Watching():
            y = self.linear(x) + torch.ones(4)
        return F.relu(y)

    model = with_child(forward)
    x = torch.randn(2, 4)
    model(x)
    without = seen[0]
    prof = profiled(model, x)
    assert [one for one in seen if one != without] == []

    names = forward_names(prof)
    assert names == ["linear", "::ones", "::add", "::relu"], names


def test_users_own_forward_hooks_still_work() -> None:
    """Hooks that replace inputs or outputs act in every run as they do without xsp, and stay
    registered.
    """
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    outputs: list[torch.Tensor] = []
    model[0].register_forward_pre_hook(lambda _module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda _module, _args, output: output + 1)
    model.register_forward_hook(lambda _module, _args, output: outputs.append(output.detach()))
    x = torch.randn(2, 4)
    expected = model(x).detach()
    prof = profiled(model, x)
    assert all(torch.equal(output, expected) for output in outputs)
    assert {"0", "1"} <= set(forward_names(prof))
    assert (
        len(model[0]._forward_hooks)
        == len(model[0]._forward_pre_hooks)
        == len(model._forward_hooks)
        == 1
    )


class Tagged(torch.Tensor):
    """A tensor subclass that counts the functions it takes part in."""

    calls = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls += 1
        above: Any = super()
        return above.__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_keep_working() -> None:
    """A subclass with its own __torch_function__ flows through the model and sees every call; they
    are layers too.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        assert type(x) is Tagged
        y = F.relu(x) + 1
        assert type(y) is Tagged
        return y

    model = with_child(forward)
    x = torch.randn(2, 4).as_subclass(Tagged)
    Tagged.calls = 0
    model(x)
    alone = Tagged.calls
    prof = profiled(model, x)
    assert forward_names(prof) == ["::relu", "::add"]
    Tagged.calls = 0
    model(x)
    assert Tagged.calls == alone
