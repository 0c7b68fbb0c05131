"""On a GPU: kernels of replayed CUDA graphs belong to the layers that were captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import xsp

pytestmark = pytest.mark.gpu

QUICK: dict[str, Any] = {"iterations": 3, "warmup": 1, "progress": False}


def captured(function: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of the function, after runs on a side stream that choose its algorithms."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def kernels_by_layer(prof: xsp.Profile) -> pd.Series[int]:
    """Kernels, copies and sets of each layer that has any, by name and phase."""
    layers = prof.tree().query("level == 'LAYER' and kernels > 0")
    return layers.set_index(["name", "phase"])["kernels"].sort_index()


def assert_led(prof: xsp.Profile, eager: xsp.Profile) -> None:
    """All that the graph launches is led to layers, to each as much as it launches eagerly."""
    assert set(prof.table("graph_nodes")["owner"]) == {"order"}
    assert not [sentence for sentence in prof.warnings if "graph-kernels" in sentence]
    found, expected = kernels_by_layer(prof), kernels_by_layer(eager)
    outside = found.index.get_level_values("name") == "(outside layers)"
    # A replay first sets the seed and the offset of dropout: these are no nodes of the graph.
    assert found[outside].sum() in {0, 2}
    pd.testing.assert_series_equal(found[~outside], expected)
    tree = prof.tree()
    model, below = tree.iloc[0], tree[tree["parent"] == 0]
    assert below["device_ms"].sum() == pytest.approx(model["device_ms"])
    assert below["latency_ms"].sum() == pytest.approx(model["latency_ms"])
    assert model["kernels"] == found.sum()


def convolutions() -> Callable[[], object]:
    """Convolutions and normalisation, with a copy to the device and a set."""
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(16 * 30 * 30, 10)).cuda().eval()
    x, host = torch.zeros(4, 3, 32, 32, device="cuda"), torch.ones(4, 3, 32, 32).pin_memory()

    def infer() -> object:
        x.zero_()
        x.copy_(host, non_blocking=True)
        with torch.no_grad():
            return model(x)

    return infer


def attention() -> Callable[[], object]:
    """A transformer with dropout, in training mode."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda().train()
    x = torch.randn(4, 16, 64, device="cuda")
    return lambda: model(x)


def training() -> Callable[[], object]:
    """A whole training step with a fused optimizer."""
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 8)).cuda()
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    x = torch.randn(16, 64, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(x).square().mean().backward()
        optimizer.step()

    return step


def branches() -> Callable[[], object]:
    """Two streams at once."""
    one, other = nn.Linear(512, 512).cuda(), nn.Linear(512, 512).cuda()
    x, side = torch.randn(64, 512, device="cuda"), torch.cuda.Stream()

    def both() -> object:
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.no_grad():
            with torch.cuda.stream(side):
                first = one(x).relu()
            second = other(x).tanh()
            current.wait_stream(side)
            return first + second

    return both


@pytest.mark.parametrize(
    ("program", "ladder"),
    [
        (convolutions, "nested"),
        (attention, "nested"),
        (training, "nested"),
        (branches, "nested"),
        (branches, "separate"),
    ],
)
def test_replayed_kernels_belong_to_the_captured_layers(
    program: Callable[[], Callable[[], object]], ladder: str
) -> None:
    """Of a graph captured before it is measured, every kernel, copy and set, on both ladders."""
    torch.manual_seed(0)
    function = program()
    graph = captured(function)
    prof = xsp.measure(graph.replay, captured_from=function, ladder=ladder, **QUICK)
    assert_led(prof, xsp.measure(function, **QUICK))


def test_what_runs_otherwise_while_it_is_captured_is_captured_once_more() -> None:
    """A program that asks whether it is being captured, as models of transformers do, launches
    other kernels eagerly: its layers are those of the capture.
    """
    first, second = nn.Linear(64, 64).cuda(), nn.Linear(64, 64).cuda()
    x = torch.randn(8, 64, device="cuda")

    def infer() -> object:
        with torch.no_grad():
            y = first(x)
            if torch.cuda.is_current_stream_capturing():
                y = torch.tanh(y)
                y = torch.cumsum(y, 1).clone().zero_() + y
            return second(y)

    graph = captured(infer)
    prof = xsp.measure(graph.replay, captured_from=infer, **QUICK)
    assert set(prof.table("graph_nodes")["owner"]) == {"order"}
    names = set(kernels_by_layer(prof).index.get_level_values("name"))
    functions = {name.rpartition("::")[2] for name in names}
    assert {"first", "second", "tanh", "cumsum", "add"} <= functions
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_a_graph_of_something_else_is_led_nowhere() -> None:
    """The kernels stay with the launcher, and the warning says what differs."""
    x = torch.randn(64, 64, device="cuda")
    graph = captured(lambda: (x @ x).relu())
    prof = xsp.measure(graph.replay, captured_from=lambda: (x @ x).tanh(), **QUICK)
    assert set(prof.table("graph_nodes")["owner"]) == {"unknown"}
    (sentence,) = (each for each in prof.warnings if "graph-kernels" in each)
    assert "number" in sentence
    assert "tanh" in sentence


def test_equal_blocks_in_graphs_of_their_own_are_told_apart() -> None:
    """Two graphs of equal blocks, replayed in turn, are the first and the second block of the
    whole; which graph is which can be said too, and holds in any order.
    """
    first, second = nn.Linear(64, 64).cuda(), nn.Linear(64, 64).cuda()
    x = torch.randn(8, 64, device="cuda")
    one, two = captured(lambda: first(x)), captured(lambda: second(x))

    def replay() -> None:
        one.replay()
        two.replay()

    prof = xsp.measure(replay, captured_from=lambda: (first(x), second(x)), **QUICK)
    assert set(prof.table("graph_nodes")["owner"]) == {"turn"}
    named = {two: lambda: second(x), one: lambda: first(x)}
    said = xsp.measure(replay, captured_from=named, **QUICK)
    assert set(said.table("graph_nodes")["owner"]) == {"order"}
    for each in (prof, said):
        names = each.tree().query("level == 'LAYER' and kernels > 0")["name"]
        assert sorted(names) == ["first", "second"]


def test_graphed_callables_are_led_by_themselves() -> None:
    """Forward and backward kernels of a module that went through make_graphed_callables belong to
    its layers, in the model around it, without being told what was captured.
    """
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Dropout(0.1))
    equal = (
        nn.Sequential(nn.Linear(128, 128), nn.GELU()),
        nn.Sequential(nn.Linear(128, 128), nn.GELU()),
    )
    single = nn.Linear(128, 8)
    model = nn.Sequential(block, *equal, single).cuda().train()
    x = torch.randn(16, 64, device="cuda", requires_grad=True)
    between = torch.randn(16, 128, device="cuda", requires_grad=True)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    expected = kernels_by_layer(xsp.measure(step, **QUICK))
    inputs = ((x,), (between,), (between,), (between,))
    torch.cuda.make_graphed_callables((block, *equal, single), inputs)
    prof = xsp.measure(step, **QUICK)
    nodes = prof.table("graph_nodes")
    assert set(nodes["owner"]) == {"order"}
    assert nodes["graph"].nunique() == 8
    found = kernels_by_layer(prof)
    for layer in ("0.0", "0.1", "0.2", "0.3", "1.0", "1.1", "2.0", "2.1"):
        assert found[layer, "forward"] == expected[layer, "forward"]
        assert found[layer, "backward"] >= 1
    # A layer by itself launches its graph, and before that a copy of its input.
    assert found["3", "forward"] - expected["3", "forward"] in {0, 1}


def test_reduce_overhead_stays_one_layer() -> None:
    """Graphs of the compiler's own are the compiled region's, and no kernel is elsewhere."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).cuda().eval()
    x = torch.randn(16, 64, device="cuda")
    compiled = torch.compile(model, mode="reduce-overhead")

    def infer() -> object:
        with torch.no_grad():
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(x)

    for _ in range(4):
        infer()
    prof = xsp.measure(infer, **QUICK)
    assert set(prof.table("graph_nodes")["owner"]) == {"unknown"}
    found = kernels_by_layer(prof)
    assert "(outside layers)" not in found.index.get_level_values("name")
    assert found.sum() == prof.tree().iloc[0]["kernels"]
    assert not [sentence for sentence in prof.warnings if "graph-kernels" in sentence]


def test_all_that_reads_a_profile_reads_one_of_graphs(tmp_path: Path) -> None:
    """The table adds up, the file opens again, and exports and the text are made."""
    function = convolutions()
    graph = captured(function)
    prof = xsp.measure(graph.replay, captured_from=function, iterations=8, progress=False)
    tree = prof.tree()
    model, below = tree.iloc[0], tree[tree["parent"] == 0]
    assert below["latency_ms"].sum() == pytest.approx(model["latency_ms"])
    assert below["device_ms"].sum() == pytest.approx(model["device_ms"])
    assert str(prof)
    prof.to_perfetto(tmp_path / "a.pftrace")
    prof.save(tmp_path / "a.xsp")
    pd.testing.assert_frame_equal(xsp.load(tmp_path / "a.xsp").tree(), tree)
    print(prof)  # noqa: T201 - read by people when the test is run with -s
