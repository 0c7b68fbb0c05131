"""What counts as a layer, under which name, and that nobody's code inside a model behaves
differently for it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from function_modules import Function, with_child
from quick import LAYERS, forward_names, layer_spans, measured, profiled
from torch import nn

import xsp
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.tracer import LayerTracer

pytestmark = pytest.mark.usefixtures("twin")


class Residual(nn.Module):
    """Two convolutions, an activation and a sum outside every leaf module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


def test_every_layer_call_is_a_span_in_order() -> None:
    """Leaf modules and the functional calls between them are spans, named by their place in the
    model.
    """
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Residual(), nn.Flatten())
    spans = layer_spans(profiled(model, torch.randn(2, 3, 4, 4)))
    assert list(spans["name"]) == ["0", "1.conv1", "1::relu", "1.conv2", "1::add", "1::relu_1", "2"]
    assert list(spans["type"]) == ["Conv2d", "Conv2d", "relu", "Conv2d", "add", "relu", "Flatten"]
    assert list(spans["kind"]) == [
        "module",
        "module",
        "function",
        "module",
        "function",
        "function",
        "module",
    ]
    assert list(spans["module"]) == ["", "1", "1", "1", "1", "1", ""]


def test_layers_carry_shapes_types_and_parameter_bytes() -> None:
    """A layer's row gives the shapes and dtypes of what it took and gave, and the bytes of its
    parameters.
    """
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2, bias=False)).to(torch.bfloat16)
    spans = layer_spans(profiled(model, torch.randn(3, 4, dtype=torch.bfloat16)))
    assert [json.loads(text) for text in spans["input_shapes"]] == [[[3, 4]], [[3, 8]]]
    assert [json.loads(text) for text in spans["output_shapes"]] == [[[3, 8]], [[3, 2]]]
    assert [json.loads(text) for text in spans["input_dtypes"]] == [["bfloat16"]] * 2
    assert list(spans["parameter_bytes"]) == [(4 * 8 + 8) * 2, 8 * 2 * 2]


def test_layers_of_a_class_are_told_apart_though_they_are_given_the_same() -> None:
    """Each has options, names of arguments and a line of its own, and parameters as they are when
    it is called.
    """
    one, two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, stride=2)
    plain, other = nn.Identity(), nn.Identity()
    vars(other)["forward"] = lambda other: other * 2

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.one.bias = nn.Parameter(torch.zeros(3))
        y = self.one(x)
        self.one.bias = None
        result: torch.Tensor = self.two(other(plain(self.one(y))))
        return result

    model = Function(forward)
    model.one, model.two = one, two
    spans = layer_spans(profiled(model, torch.randn(1, 3, 4, 4)))
    spans = spans[spans["kind"] == "module"]
    told = [json.loads(text) for text in spans["arguments"]]
    assert [each["options"].get("stride") for each in told] == [[1, 1], [1, 1], None, None, [2, 2]]
    assert [each["tensors"] for each in told] == [["input"]] * 3 + [["other"], ["input"]]
    assert list(spans["parameter_bytes"]) == [48, 36, 0, 0, 48]
    assert spans["source"].nunique() == 2


def test_keyword_inputs_of_layers_have_shapes() -> None:
    """Tensors that a layer is given by keyword are among its inputs, for modules and functions."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.add(input=self.linear(input=x), other=x)

    spans = layer_spans(profiled(with_child(forward), torch.randn(3, 4)))
    assert [json.loads(text) for text in spans["input_shapes"]] == [[[3, 4]], [[3, 4], [3, 4]]]


def test_calls_inside_leaf_modules_are_not_layers() -> None:
    """What a leaf module calls is part of that layer, also when the leaf is the user's
    own class.
    """

    def forward(_self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + 1) @ x.mT

    model = nn.Sequential(Function(forward), nn.GELU(), nn.LSTM(2, 3))
    assert forward_names(profiled(model, torch.randn(2, 2))) == ["0", "1", "2"]


def test_shared_module_is_one_row_with_two_calls() -> None:
    """A module called twice gives two spans and one node of the tree with calls = 2 and both calls'
    time.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(self.linear(x))
        return output

    prof = profiled(with_child(forward), torch.randn(2, 4))
    spans, tree = layer_spans(prof), prof.tree()
    assert list(spans["name"]) == ["linear", "linear"]
    rows = tree[tree["name"] == "linear"]
    assert list(rows["calls"]) == [2]
    layer_runs = prof.spans[prof.spans["name"] == "linear"]
    expected_ms = layer_runs.groupby("run")["duration_ns"].sum().mean() / 1e6
    assert rows["host_ms"].iloc[0] == pytest.approx(expected_ms)


FUNCTIONS: dict[str, Any] = {
    "relu": lambda x: F.relu(x),
    "add": lambda x: x + x,
    "radd": lambda x: 1 + x,
    "sub": lambda x: x - 1,
    "matmul": lambda x: torch.matmul(x, x),
    "matmul ": lambda x: x @ x,
    "add_": lambda x: x.add_(1),
    "iadd": lambda x: x.__iadd__(1),
    "relu_": lambda x: F.relu_(x),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "getitem": lambda x: x[1:],
    "sum": lambda x: x.sum(),
    "cat": lambda x: torch.cat([x, x]),
    "softmax": lambda x: x.softmax(-1),
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(torch.float64),
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, x),
    "zero_": lambda x: x.zero_(),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functional_call_is_one_layer(kind: str) -> None:
    """A functional call, operator, method or in-place update outside leaf modules is exactly one
    layer.
    """
    function = FUNCTIONS[kind]

    def forward(self: Any, x: torch.Tensor) -> Any:
        return function(self.linear(x))

    with torch.no_grad():
        spans = layer_spans(profiled(with_child(forward), torch.randn(4, 4)))
    assert list(spans["kind"]) == ["module", "function"]
    assert spans["type"].iloc[1].strip("_") in kind.strip("_ ")
    assert spans["name"].iloc[1] == f"::{spans['type'].iloc[1]}"


def test_reading_attributes_is_no_layer() -> None:
    """Shapes, strides, types, devices, lengths and printing compute nothing and are no layers."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        seen = (
            x.shape,
            x.size(0),
            x.dtype,
            x.device,
            x.is_cuda,
            len(x),
            x.numel(),
            x.dim(),
            x.stride(),
            x.grad_fn,
        )
        assert all((seen, x.is_contiguous(), not x.requires_grad, x.T.shape, x.data_ptr()))
        assert (
            x.storage_offset(),
            x.element_size(),
            x.is_floating_point(),
            torch.is_tensor(x),
        ) == (0, 4, True, True)
        output: torch.Tensor = self.linear(x)
        return output

    assert forward_names(profiled(with_child(forward), torch.randn(4, 4))) == ["linear"]


def test_attention_module_shows_what_it_calls() -> None:
    """nn.MultiheadAttention has a child, so it is no leaf: its functional call is a layer inside
    it.
    """
    model = nn.Sequential()
    model.attention = nn.MultiheadAttention(8, 2)

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.attention(x, x, x)[0]
        return output

    prof = profiled(Function(forward, attention=nn.MultiheadAttention(8, 2)), torch.randn(3, 1, 8))
    spans = layer_spans(prof)
    assert set(spans["module"]) == {"attention"}
    assert "multi_head_attention_forward" in set(spans["type"])
    tree = prof.tree()
    assert list(tree.loc[tree["name"] == "attention", "type"]) == ["MultiheadAttention"]


def test_model_that_is_a_leaf() -> None:
    """A model without children is one layer, named by its class."""
    spans = layer_spans(profiled(nn.Linear(4, 2), torch.randn(3, 4)))
    assert list(spans["name"]) == ["Linear"]
    assert list(spans["type"]) == ["Linear"]


def test_modules_called_by_a_plain_function() -> None:
    """Modules of a container that a function calls one by one are known by their place in it."""
    blocks = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def run(x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            x = block(x)
        return x * 2

    assert forward_names(measured(run, torch.randn(2, 4))) == ["blocks.0", "blocks.1", "run::mul"]


def test_two_models_of_one_callable_are_told_apart() -> None:
    """Layers of several models carry the variable of their model in front."""
    first, second, third = (
        nn.Sequential(nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4)),
        Residual(),
    )

    def run(x: torch.Tensor, image: torch.Tensor) -> None:
        second(first(x))
        third(image)

    names = forward_names(measured(run, torch.randn(2, 4), torch.randn(1, 3, 4, 4)))
    assert names[:2] == ["first.0", "second.0"]
    assert names[2:] == [
        "third.conv1",
        "third::relu",
        "third.conv2",
        "third::add",
        "third::relu_1",
    ]


def test_scripted_module_is_one_layer() -> None:
    """A TorchScript module cannot be looked into from Python and counts as one layer."""
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Linear(4, 4))
    prof = profiled(model, torch.randn(2, 4))
    assert forward_names(prof) == ["0", "1"]
    assert list(layer_spans(prof)["parameter_bytes"]) == [(4 * 4 + 4) * 4] * 2


def test_compiled_module_is_one_layer_and_compiles_once() -> None:
    """A compiled module is one layer; its graph is not broken, nor compiled again, by the
    tracers.
    """
    compilations: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        compilations.append(len(list(graph.graph.nodes)))
        return graph.forward

    torch._dynamo.reset()
    compiled: Any = torch.compile(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), backend=backend
    )
    model = nn.Sequential(nn.Linear(4, 4), compiled)
    x = torch.randn(2, 4)
    expected = model(x)
    before = len(compilations)
    prof = profiled(model, x)
    assert forward_names(prof) == ["0", "1"]
    assert len(compilations) == before
    assert torch.equal(model(x), expected)


def test_compiled_whole_model_is_one_layer() -> None:
    """A model that is compiled as a whole is profiled as one layer."""
    torch._dynamo.reset()
    compiled: Any = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    assert len(forward_names(profiled(compiled, torch.randn(2, 4)))) == 1


def test_data_dependent_control_flow_is_said() -> None:
    """Layers that run only in some runs keep the numbers of what did match, and a warning says what
    is uncertain.
    """
    runs = iter(range(10_000))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        output: torch.Tensor = self.extra(y) if next(runs) % 2 else y
        return output

    model = Function(forward, linear=nn.Linear(4, 4), extra=nn.Linear(4, 4))
    with xsp.profile(model, **LAYERS, accept_changed=True) as prof:
        model(torch.randn(2, 4))
    assert any("changed-call" in sentence for sentence in prof.warnings)
    assert "linear" in forward_names(prof)
    assert prof.latency_ms > 0
    unmatched = int(prof.runs["unmatched"].sum())
    if unmatched:
        assert any("varies from run to run" in sentence for sentence in prof.warnings)
    else:
        assert "extra" in set(prof.table("layers")["name"])


def test_layer_unknown_to_the_structure_run_is_counted() -> None:
    """A layer that the structure run did not have is shown as such and counted, and a warning says
    so.
    """
    runs = iter(range(10_000))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        # block, discovery, one warm-up run and the structure run come first
        y = self.linear(x)
        return F.relu(y) if next(runs) > 4 else y

    prof = profiled(with_child(forward), torch.randn(2, 4))
    assert forward_names(prof) == ["linear", "(not in the structure run)"]
    assert prof.runs.loc[prof.runs["rung"] == "M/L", "unmatched"].eq(1).all()
    assert any("did not occur in the structure run" in sentence for sentence in prof.warnings)


def test_layers_on_other_threads() -> None:
    """Modules that forward calls on another thread are layers of that thread inside the
    model call.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        results: list[torch.Tensor] = []
        worker = threading.Thread(target=lambda: results.append(self.linear(x)))
        worker.start()
        worker.join()
        return results[0] + 1

    spans = layer_spans(profiled(with_child(forward), torch.randn(2, 4)))
    assert list(spans["name"]) == ["linear", "::add"]
    assert spans["thread"].nunique() == 2


def test_layer_error_that_the_model_handles() -> None:
    """A layer that raises, and whose error forward handles, disturbs no later layer."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        with contextlib.suppress(RuntimeError):
            self.linear(x[:, :3])
        with contextlib.suppress(RuntimeError):
            torch.cat([x, x[0]])
        return F.relu(self.linear(x))

    names = forward_names(profiled(with_child(forward), torch.randn(2, 4)))
    assert names[-2:] == ["linear", "::relu"]


def test_layer_inside_a_layer_is_its_child() -> None:
    """A leaf module that calls another module it does not own: the inner span's parent is the outer
    layer.
    """
    inner = nn.Linear(4, 4)
    outer = Function(lambda _self, x: inner(x) + 1)
    prof = profiled(nn.Sequential(outer, nn.ReLU()), torch.randn(2, 4))
    spans = layer_spans(prof).set_index("name")
    parent, own = spans["parent_id"], spans["span_id"]
    assert parent["Linear"] == own["0"]
    assert parent["0"] == parent["1"]


def test_module_reached_under_two_names_is_called_by_the_first() -> None:
    """Tied modules carry one name, the first that named_modules gives."""
    tied = nn.Linear(4, 4)
    model = nn.Sequential(tied, nn.ReLU(), tied)
    assert forward_names(profiled(model, torch.randn(2, 4))) == ["0", "1", "0"]


def test_tracer_that_could_not_start_leaves_the_users_modes_alone() -> None:
    """If stepping into a module fails, stopping takes back what was done, and no function mode of
    the user's.
    """

    class Locked(nn.Linear):
        @property
        def _compiled_call_impl(self) -> None:  # type: ignore[override] # read first, and fails
            raise RuntimeError("not to be looked at")

    codes = Codes()
    first, locked = nn.Linear(2, 2), Locked(2, 2)
    for module in (first, locked):
        codes.of_module(module)
    tracer = LayerTracer(codes)
    with torch.device("cpu"):
        depth = torch._C._len_torch_function_stack()
        with pytest.raises(RuntimeError, match="not to be looked at"):
            tracer.start()
        tracer.stop()
        assert torch._C._len_torch_function_stack() == depth
    assert "_call_impl" not in vars(first)


def test_layers_that_timed_runs_lack_are_counted_and_named() -> None:
    """A layer that ran in the structure run only is unmatched in every run that traces layers, and
    the warning names it.
    """
    runs = iter(range(10_000))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        # block, discovery, one warm-up run and the structure run come first
        y = self.linear(x)
        output: torch.Tensor = self.extra(y) if next(runs) <= 4 else y
        return output

    model = Function(forward, linear=nn.Linear(4, 4), extra=nn.Linear(4, 4))
    prof = profiled(model, torch.randn(2, 4))
    assert prof.runs.loc[prof.runs["rung"] == "M/L", "unmatched"].eq(1).all()
    assert prof.runs.loc[prof.runs["rung"] == "M", "unmatched"].eq(0).all()
    assert any("extra" in each and "[missing-layers]" in each for each in prof.warnings)


def test_a_layer_called_more_often_than_in_the_structure_run_keeps_its_name() -> None:
    """Surplus calls are counted as unmatched and stand below the layer that they are calls of."""
    runs = iter(range(10_000))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        output: torch.Tensor = self.linear(y) if next(runs) > 4 else y
        return output

    prof = profiled(with_child(forward), torch.randn(2, 4))
    assert forward_names(prof) == ["linear", "linear"]
    assert prof.runs.loc[prof.runs["rung"] == "M/L", "unmatched"].eq(1).all()
    assert any("[unknown-events]" in each for each in prof.warnings)


class MadeAnew(nn.Module):
    """Makes its activation in each call, of the next of some kinds."""

    def __init__(self, kinds: Iterator[type[nn.Module]]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        # What a function holds is not put back from run to run, as an iterator of a module's is.
        self.make: Callable[[], nn.Module] = lambda: next(kinds)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.make()(self.layer(x))
        return output


def test_layers_that_a_call_makes_anew_are_no_other_work() -> None:
    """`nn.ReLU()(x)` is another object in each run and the same work; another kind is told."""

    def told(kinds: Iterator[type[nn.Module]]) -> list[str]:
        warnings = measured(MadeAnew(kinds), torch.randn(2, 4)).warnings
        return [each for each in warnings if "other-modules" in each]

    assert told(repeat(nn.ReLU)) == []
    (sentence,) = told(chain([nn.ReLU], repeat(nn.Tanh)))
    assert "'ReLU': 0 instead of 1" in sentence
