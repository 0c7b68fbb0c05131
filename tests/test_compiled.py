"""Programs that use torch.compile: what is compiled is one layer, and stays compiled as it was."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from quick import backward_names, forward_names, measured, profiled
from torch import nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.overrides import TorchFunctionMode

from xsp.levels.layer.compiled import around_compiled_code
from xsp.regression.graph_breaks import graph_breaks


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> Iterator[None]:
    """Forget what other tests compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    """A module with layers inside, and arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Arithmetic after a layer."""
        return torch.relu(self.fc(x)) * 2


class Net(nn.Module):
    """A layer, then whatever is given, then arithmetic."""

    def __init__(self, inner: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One after the other."""
        return self.inner(self.first(x)) + 1


def gate(x: torch.Tensor) -> torch.Tensor:
    """A function worth fusing."""
    return torch.relu(x) * torch.sigmoid(x)


def in_place(counter: CompileCounter) -> nn.Module:
    """A module compiled by `module.compile()`."""
    block = Block()
    block.compile(backend=counter)
    return block


@pytest.mark.parametrize("warm", [True, False])
def test_a_block_profiles_a_model_that_was_compiled_in_place(warm: bool) -> None:
    """A block records the calls of a model after `model.compile()`: nothing of xsp is traced by
    Dynamo, nothing is compiled again, and the model is as it was afterwards.
    """
    counter = CompileCounter()
    model = in_place(counter)
    before, x = dict(vars(model)), torch.randn(2, 4)
    if warm:
        model(x)
    prof = profiled(model, x)
    assert counter.frame_count == 1
    assert forward_names(prof) == ["Block"]
    assert dict(vars(model)) == before


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("compiled", "layer"),
    [
        (in_place, "inner"),
        (lambda counter: torch.compile(Block(), backend=counter), "inner"),
        (lambda counter: torch.compile(gate, backend=counter), "::gate"),
    ],
    ids=["module.compile()", "torch.compile(module)", "torch.compile(function)"],
)
def test_compiled_code_is_one_layer_and_compiles_once(
    compiled: Callable[..., Any], layer: str, warm: bool
) -> None:
    """Compiled code inside a model is one layer, and the tracers cause no compilation, whether it
    was warm or not.
    """
    counter = CompileCounter()
    model, x = Net(compiled(counter)), torch.randn(2, 4)
    if warm:
        model(x)
    prof = profiled(model, x)
    assert forward_names(prof) == ["first", layer, "::add"]
    assert counter.frame_count == 1
    assert not any("compile" in sentence for sentence in prof.warnings)


class Twice(nn.Module):
    """Calls one compiled module two times, and a layer after it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One after the other."""
        output: torch.Tensor = self.last(self.inner(self.inner(x) * 2))
        return output


@pytest.mark.parametrize(
    "compiled",
    [in_place, lambda counter: torch.compile(Block(), backend=counter)],
    ids=["module.compile()", "torch.compile(module)"],
)
def test_what_is_called_after_compiled_code_is_counted(compiled: Callable[..., Any]) -> None:
    """Modules are called as often where layers are traced as without: no doubt is made of it."""
    prof = profiled(Twice(compiled(CompileCounter())), torch.randn(2, 4))
    assert forward_names(prof) == ["inner", "::mul", "inner", "last"]
    assert not [said for said in prof.warnings if "other-modules" in said]


def test_blocks_around_compiled_code_see_each_its_begin_and_its_end() -> None:
    """Also those that began before another one, by name, inputs and end."""
    seen: list[str] = []

    def watcher(who: str) -> Callable[[str, tuple[Any, ...]], Callable[[Any], None]]:
        def enter(name: str, inputs: tuple[Any, ...]) -> Callable[[Any], None]:
            shapes = [list(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
            seen.append(f"{who} into {name} {shapes}")
            return lambda _result: seen.append(f"{who} out")

        return enter

    compiled = torch.compile(gate, backend="eager")
    first, second = around_compiled_code(watcher("first")), around_compiled_code(watcher("second"))
    try:
        compiled(torch.randn(3))
        compiled(torch.randn(3))
    finally:
        second()
        first()
    compiled(torch.randn(3))
    both = ["second into gate [[3]]", "first into gate [[3]]", "second out", "first out"]
    assert seen == both * 2


def test_looking_for_layers_gives_no_warning() -> None:
    """torch warns of nothing, as it would of global module hooks, when a program with a compiled
    module is profiled.
    """
    model, x = Net(torch.compile(Block(), backend="eager")), torch.randn(2, 4)
    model(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        profiled(model, x)
    assert [str(warning.message) for warning in caught] == []


def test_shapes_and_backward_of_a_compiled_function() -> None:
    """A compiled function's layer owns its backward nodes, and has the shapes of its inputs and,
    in releases of torch that show what compiled code returned, of its outputs.
    """
    model = Net(torch.compile(gate, backend=CompileCounterWithBackend("aot_eager")))
    prof = measured(lambda x: model(x).sum().backward(), torch.randn(2, 4))
    layers = prof.table("layers").set_index("name")
    row = layers[layers["kind"] == "function"].loc[
        "Net::gate" if "Net::gate" in layers.index else "::gate"
    ]
    shows_result = "result = fn(" in inspect.getsource(torch._dynamo.eval_frame)
    assert row["input_shapes"] == "[[2, 4]]"
    assert row["output_shapes"] == ("[[2, 4]]" if shows_result else "[]")
    assert any(name.endswith("::gate") for name in backward_names(prof))


def test_graph_breaks_stay_what_they_were() -> None:
    """A compiled function that falls back to Python in its middle is still one layer with its two
    graphs.
    """
    counter = CompileCounter()

    def broken(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        torch._dynamo.graph_break()
        return torch.sigmoid(y)

    prof = profiled(Net(torch.compile(broken, backend=counter)), torch.randn(2, 4))
    assert forward_names(prof) == ["first", "::broken", "::add"]
    assert counter.frame_count == 2


def test_graph_breaks_are_unknown_under_another_profiler() -> None:
    """One break is counted; while another profiler of Python calls is active the number is unknown,
    not nought.
    """

    def broken(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        torch._dynamo.graph_break()
        return torch.sigmoid(y)

    compiled, x = torch.compile(broken, backend="eager"), torch.randn(2, 4)
    compiled(x)
    found = graph_breaks(lambda: compiled(x))
    assert found is not None
    assert list(found.values()) == [1]
    sys.setprofile(lambda *_: None)
    try:
        unknown = graph_breaks(lambda: compiled(x))
    finally:
        sys.setprofile(None)
    assert unknown is None


def test_compiled_function_below_a_mode_of_the_users() -> None:
    """A torch function mode of the program's own is seen by the compiler as ever, the tracers' is
    not.
    """
    counter = CompileCounter()
    fused = torch.compile(gate, backend=counter)

    class Own(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    def inner(x: torch.Tensor) -> torch.Tensor:
        with Own():
            return fused(x)

    model, x = Net(inner), torch.randn(2, 4)
    model(x)
    before = counter.frame_count
    assert "::gate" in forward_names(profiled(model, x))
    assert counter.frame_count == before


def test_compiled_function_that_raises() -> None:
    """An exception inside compiled code is the program's, and profiling goes on as before."""
    fused = torch.compile(lambda x: gate(x) @ torch.ones(3, 3), backend="eager")

    def inner(x: torch.Tensor) -> torch.Tensor:
        try:
            return fused(x)
        except RuntimeError:
            return gate(x)

    names = forward_names(profiled(Net(inner), torch.randn(2, 4)))
    assert names[-4:] == ["::relu", "::sigmoid", "::mul", "::add"]


def test_compilation_during_the_measurement_is_said() -> None:
    """A program that compiles again while it is measured gets a warning with the number
    of times.
    """
    fused = torch.compile(gate, backend="eager", dynamic=False)
    sizes = iter(range(2, 100))
    prof = measured(lambda: fused(torch.randn(next(sizes))))
    assert any("torch.compile compiled" in sentence for sentence in prof.warnings)
