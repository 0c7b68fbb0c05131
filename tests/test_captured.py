"""What a target's CUDA graphs were captured from: given by the user, or kept by torch itself."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from graph_programs import Layer, eager_run, replaying_run, words
from quick import QUICK
from torch import nn

import xsp
from xsp.analysis.spans.assembly import Assembled, assemble, assemble_runs
from xsp.analysis.spans.graph_layers import Captured
from xsp.errors import TargetError
from xsp.machine.torch_internals import graphed_module
from xsp.measuring.captured import as_captured, named_below, without_graph
from xsp.measuring.doubts_about_graphs import about_graphs
from xsp.measuring.options import Options


class _Graph:
    """Stands for a graph where there is no GPU."""

    def replay(self) -> None:
        """Launch nothing."""


class Net(nn.Module):
    """Layers, layers of layers and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(8, 2))
        self.forwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two paths."""
        self.forwards += 1
        return torch.tanh(self.rest(self.first(x)))


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A module that went through torch's own make_graphed_callables, on graphs of nothing."""
    names = {"CUDAGraph": _Graph, "synchronize": lambda: None, "Stream": object}
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_args, **_kwargs: nullcontext())
    monkeypatch.setattr("torch.cuda.graphs.graph_pool_handle", object)
    net = Net().train()
    x = torch.ones(3, 4, requires_grad=True)
    made = torch.cuda.make_graphed_callables(net, (x,))
    assert made is net
    net.forwards = 0
    return net


def test_a_graphed_module_is_run_as_it_was_captured(graphed: Net) -> None:
    """Its own forward is called, gradients are not accumulated, and its forward of the graph is
    back afterwards.
    """
    given = graphed.forward
    found = graphed_module(graphed)
    assert found is not None
    assert (len(found.inputs), len(found.parameters)) == (1, 4)
    assert found.is_differentiated
    with without_graph(found):
        as_captured(found)
    assert graphed.forwards == 1
    assert graphed.forward is given
    assert all(each.grad is None for each in graphed.parameters())


def test_a_module_in_the_other_mode_runs_no_graph(graphed: Net) -> None:
    """In eval mode torch calls the module's own forward, so nothing was captured from that."""
    assert graphed_module(graphed.eval()) is None
    assert graphed_module(Net()) is None


def inferred(module: nn.Module) -> dict[str, pd.DataFrame]:
    """Tables of a run of a module without gradients."""
    with torch.no_grad():
        prof = xsp.measure(module, torch.ones(3, 4), **QUICK)
    return {name: prof.table(name) for name in ("layers", "modules")}


def test_layers_of_a_captured_module_have_the_names_that_they_have_in_the_program() -> None:
    """Those of a block as they would be named in the model around it, functions too."""
    net = Net()
    tables = inferred(net)
    found = named_below(tables, net, "blocks.1")
    names = ["blocks.1.first", "blocks.1.rest.0", "blocks.1.rest.1", "blocks.1::tanh"]
    assert list(found["layers"]["name"][:-2]) == names
    assert list(found["layers"]["name"][-2:]) == list(tables["layers"]["name"][-2:])
    assert list(found["layers"]["module"][:2]) == ["blocks.1", "blocks.1.rest"]
    assert "blocks.1" in set(found["modules"]["name"])


def test_a_single_layer_that_was_captured_is_itself() -> None:
    """A module without children is one layer, under the name that it has in the program."""
    layer = nn.Linear(4, 8)
    tables = inferred(layer)
    found = named_below(tables, layer, "blocks.1.first")
    assert list(found["layers"]["name"][:-2]) == ["blocks.1.first"]
    assert list(found["layers"]["module"]) == ["blocks.1", "", ""]
    assert named_below(tables, layer, "Linear")["layers"].equals(tables["layers"])


@pytest.mark.parametrize("given", [3, [len, 3], {"graph": 3}])
def test_what_is_no_function_is_refused(given: Any) -> None:
    """With the ways in which functions can be given."""
    with pytest.raises(TargetError, match="captured_from must be a function without arguments"):
        Options.of(captured_from=given)


def test_without_kernels_it_is_said_that_nothing_is_led() -> None:
    """Where KERNEL is not traced, a sentence says what captured_from needs."""
    prof = xsp.measure(Net(), torch.ones(3, 4), captured_from=lambda: None, levels="M/L", **QUICK)
    (sentence,) = (each for each in prof.warnings if "graph-kernels" in each)
    assert "without KERNEL" in sentence


@pytest.mark.parametrize(
    ("captured", "facts"),
    [
        ([], {}),
        ([("one", ["gemm", "softmax"])], {"place": 1, "expected": "softmax", "found": "relu"}),
        ([("one", ["gemm", "relu"] * 2)], {}),
    ],
    ids=["nothing-given", "something-else", "twice"],
)
def test_kernels_that_are_led_nowhere_are_counted(
    captured: list[Layer], facts: dict[str, Any]
) -> None:
    """How many there are in a run, the size of the first graph of which the program is known, and
    where it differs from that.
    """
    given = [Captured(assemble([eager_run(captured)], words(["one"])))] if captured else []
    run = replaying_run([(3, ["gemm", "relu"]), (3, ["gemm", "relu"]), (4, ["gemm", "relu"])])
    found = assemble_runs([run], words([], given))
    (doubt,) = about_graphs(found)
    size = {"size": 2} if captured else {}
    assert doubt.facts == {"activities": 6, **size, **facts}


def test_kernels_in_the_layer_that_launched_the_graph_have_an_owner() -> None:
    """Graphs that compiled code launches are its own: only where more is known is it said that they
    are not led further.
    """
    run = replaying_run([(3, ["gemm", "relu"])])
    layer = {"thread": [1], "code": [0], "start_ns": [950], "end_ns": [5000]}
    events = {name: np.array(values) for name, values in layer.items()}
    run = replace(run, tables={**run.tables, "layer_events": events})
    found = assemble_runs([run], words(["compiled"]))
    assert not about_graphs(found)
    (doubt,) = about_graphs(found, in_layers_too=True)
    assert doubt.facts == {"activities": 2}


def test_a_program_without_graphs_has_no_doubt_about_them() -> None:
    """Nothing is said of graphs where there are none."""
    assert not about_graphs(Assembled({}, ()), in_layers_too=True)
