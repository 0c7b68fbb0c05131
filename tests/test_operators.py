"""OP level: the operators below layers, counted beside torch.profiler, timed and attributed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick import QUICK
from small_models import Convolutional, HandWritten, Recurrent, Transformer
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import xsp
from xsp.analysis.from_disk import tree_from_file
from xsp.analysis.spans.doubt_of_tracing import MostCosts, sums_of_measured
from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.levels.op import calls, tracer
from xsp.levels.op.tracer import OperatorTracer
from xsp.types import Level

pytestmark = pytest.mark.skipif(
    tracer.availability() is not None, reason=str(tracer.availability())
)

OPERATORS: dict[str, Any] = {**QUICK, "levels": "M/L/O"}
ENGINE = "autograd::engine::evaluate_function: "


def counted_by_torch(target: Callable[[], object], folder: Path) -> Counter[str]:
    """Operators and nodes of one execution by name, as torch.profiler writes them to its trace."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        target()
    path = folder / "trace.json"
    found.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "cpu_op"]
    return Counter(name for name in names if not name.startswith(ENGINE))


def operators(prof: xsp.Profile) -> pd.DataFrame:
    """Spans of operators of the last run that traced them, as they began."""
    spans = prof.spans[prof.spans["level"] == "OP"]
    last: pd.DataFrame = spans[spans["run"] == spans["run"].max()]
    return last.sort_values("start_ns", kind="stable")


def training(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        torch.manual_seed(1)
        model(*inputs).float().square().sum().backward()

    return step


def inference(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = model.eval()(*inputs)
            return output

    return call


def recomputing() -> Callable[[], None]:
    """A checkpoint, whose backward pass runs forward layers again."""
    block = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    x = torch.randn(4, 8, requires_grad=True)

    def step() -> None:
        checkpoint(block, x, use_reentrant=True).sum().backward()

    return step


def optimizing() -> Callable[[], None]:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(4, 8)

    def step() -> None:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    return step


class Cube(torch.autograd.Function):
    """A function of the program's own, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = ctx.saved_tensors[0]
        return gradients[0] * 3 * x * x


def custom_function() -> Callable[[], None]:
    x = torch.randn(4, requires_grad=True)

    def step() -> None:
        Cube.apply(x.exp()).sum().backward()  # type: ignore[no-untyped-call] # torch's own

    return step


PROGRAMS = {
    "convolutions": training(Convolutional(), torch.randn(2, 3, 32, 32)),
    "transformer": inference(Transformer(), torch.randint(0, 50, (2, 10))),
    "recurrent": training(Recurrent(), torch.randn(2, 5, 8)),
    "by hand": training(HandWritten(), torch.randn(2, 10, 32)),
    "checkpoint": recomputing(),
    "optimizer": optimizing(),
    "custom function": custom_function(),
}


def assert_adds_up(tree: pd.DataFrame) -> None:
    """Rows below each node add up to it."""
    known = tree.set_index("node")
    for column in ("host_ms", "latency_ms", "share"):
        sums = tree.groupby("parent")[column].sum().drop(-1)
        np.testing.assert_allclose(sums, known.loc[sums.index, column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_operators_are_those_that_torchs_profiler_counts(name: str, tmp_path: Path) -> None:
    """Every operator and backward node that ran, nested ones too, is there as often as in
    torch.profiler's trace, in every run; none is lost. The rows of the tree add up.
    """
    target = PROGRAMS[name]
    target()
    expected = counted_by_torch(target, tmp_path)
    prof = xsp.measure(target, **OPERATORS)
    spans = prof.spans[prof.spans["level"] == "OP"]
    runs = [Counter(mine["name"].astype(str)) for _, mine in spans.groupby("run")]
    assert runs == [expected] * QUICK["iterations"]
    assert_adds_up(prof.tree())
    assert prof.lost == 0


@pytest.fixture(scope="module")
def trained() -> xsp.Profile:
    """Two linear layers, a functional call between them, forward and backward."""
    first, second = nn.Linear(6, 5), nn.Linear(5, 4)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(3, 6)

    def step() -> None:
        (model(x) * 2).sum().backward()

    return xsp.measure(step, **{**OPERATORS, "iterations": 6})


def below(tree: pd.DataFrame, name: str, phase: str) -> list[str]:
    """Names of what lies directly below a layer, besides its own time."""
    layer = tree[(tree["name"] == name) & (tree["phase"] == phase) & (tree["level"] == "LAYER")]
    inner = tree[(tree["parent"] == layer["node"].item()) & (tree["level"] != "OWN")]
    return [str(name) for name in inner["name"]]


def test_operators_lie_below_the_layer_that_called_them(trained: xsp.Profile) -> None:
    """A layer's operators are below it in the tree, in order, what they call below them, and those
    of its backward pass below its backward row.
    """
    tree = trained.tree()
    assert below(tree, "0", "forward") == ["aten::linear"]
    assert below(tree, "step::mul", "forward") == ["aten::mul"]
    assert below(tree, "2", "backward")[0] == "AddmmBackward0"
    paths = set(tree.loc[tree["level"] == "OP", "path"])
    assert any(path.endswith("0/aten::linear/aten::addmm") for path in paths)
    assert any(path.endswith("2/AddmmBackward0/aten::mm") for path in paths)


def test_equal_operators_below_one_parent_are_one_row(trained: xsp.Profile) -> None:
    """The two products of a linear layer's backward pass are one row of two calls."""
    tree = trained.tree()
    path = "step/2/AddmmBackward0/aten::mm"
    products = tree[tree["path"] == path]
    assert products["calls"].tolist() == [2]


def test_rows_add_up_to_the_row_above(trained: xsp.Profile) -> None:
    """Operators and a row for the rest add up to their layer or operator, in the host's time, the
    cost and the share.
    """
    tree = trained.tree()
    assert_adds_up(tree)
    assert (tree.loc[tree["level"] == "OP", "host_ms"] > 0).all()


def test_a_rung_of_their_own(trained: xsp.Profile) -> None:
    """Layers are timed in runs without operators: M, M/L and M/L/O are run, and only the last has
    spans of operators.
    """
    assert set(trained.runs["rung"]) == {"M", "M/L", "M/L/O"}
    spans = trained.spans
    assert set(spans.loc[spans["level"] == "OP", "rung"]) == {"M/L/O"}
    tree = trained.tree()
    linear = tree[(tree["name"] == "0") & (tree["level"] == "LAYER")].iloc[0]
    alone = spans[(spans["rung"] == "M/L") & (spans["name"] == "0")]
    forward = trained.table("layers").query("name == '0' and phase == 'forward'").index
    alone = alone[alone["detail"].isin(forward)]
    durations = np.sort(alone["duration_ns"].to_numpy())
    assert durations[0] <= linear["recorded_ms"] * 1e6 <= durations[-1]


def test_costs_and_closure_of_the_rung_are_there(trained: xsp.Profile) -> None:
    """What tracing an operator costs is a row of prof.costs, how far the rung closes one of
    prof.closure_error, what it adds to layers one of prof.overhead().
    """
    costs = {row["kind"]: row for row in trained.costs.to_dict("records")}
    assert costs["operator"]["level"] == "OP"
    assert costs["operator"]["tight_loop_ns"] >= 0
    assert "M/L/O" in trained.closure_error.index
    added = trained.overhead()
    events = added.loc[added["rung"] == "M/L/O", "events"]
    assert set(events) == {len(operators(trained))}


def test_a_capture_keeps_its_operators(trained: xsp.Profile, tmp_path: Path) -> None:
    """A saved profile has the same tree, read whole or a few runs at a time. The numbers of the
    other levels in files are what they were before there were operators.
    """
    path = trained.save(tmp_path / "a.xsp")
    loaded = xsp.load(path)
    pd.testing.assert_frame_equal(loaded.tree(), trained.tree())
    pd.testing.assert_frame_equal(tree_from_file(path), trained.tree())
    assert [int(Level[name]) for name in ("MODEL", "LAYER", "LIBRARY", "KERNEL", "OP")] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert set(loaded.table("raw_spans")["level"]) == {0, 1, 4}


def test_exports_have_them(trained: xsp.Profile, tmp_path: Path) -> None:
    """Chrome's format has operators as torch.profiler does, with their names; flame graphs have
    them as frames, and the text shows them.
    """
    trained.to_chrome(tmp_path / "a.json", rung="M/L/O")
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    names = Counter(event["name"] for event in events if event.get("cat") == "cpu_op")
    mine = Counter(operators(trained)["name"].astype(str))
    assert {name: names[name] for name in mine} == dict(mine)
    trained.to_folded(tmp_path / "a.folded")
    assert "aten::linear;aten::addmm" in (tmp_path / "a.folded").read_text()
    assert "aten::linear" in str(trained)


def test_off_unless_asked_for() -> None:
    """Without levels operators are not traced, and prof.levels says how they could be."""
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **QUICK)
    row = prof.levels.set_index("level").loc["OP"]
    assert row["status"] == "off"
    assert "OP" not in set(prof.spans["level"].astype(str))


def test_outputs_are_what_they_are_without() -> None:
    """What a model returns and which random numbers it draws do not change."""
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout()), torch.randn(4, 8)
    kept: list[torch.Tensor] = []

    def target() -> torch.Tensor:
        torch.manual_seed(3)
        output: torch.Tensor = model(x)
        kept.append(output.detach().clone())
        return output

    expected = target()
    xsp.measure(target, **OPERATORS)
    assert len(kept) > 2
    assert all(torch.equal(each, expected) for each in kept)


def test_nothing_is_recorded_afterwards() -> None:
    """After a profile, and after a target that raised while its operators were traced, no operator
    is recorded any more.
    """
    calls_so_far = 0

    def target() -> torch.Tensor:
        nonlocal calls_so_far
        calls_so_far += 1
        x = torch.ones(2).neg()
        if calls_so_far > 6:
            raise ValueError("no more")
        return x

    with pytest.raises(ValueError, match="no more"):
        xsp.measure(target, **{**OPERATORS, "iterations": 20})
    native = calls.functions()
    calls.collect(native)
    torch.ones(2).exp()
    assert native.xsp_operators_collect(None, 0) == 0


def test_operators_of_other_threads_are_outside_layers() -> None:
    """What a thread of the program's own computes is in no layer, and is below "(outside layers)"
    with its time.
    """
    x = torch.randn(64, 64)

    def target() -> None:
        thread = threading.Thread(target=lambda: x.cosh())
        thread.start()
        thread.join()

    tree = xsp.measure(target, **OPERATORS).tree()
    outside = tree[tree["name"] == "(outside layers)"].iloc[0]
    inner = tree[tree["parent"] == outside["node"]].set_index("name")
    assert "aten::cosh" in inner.index
    assert inner.loc["aten::cosh", "host_ms"] > 0


def test_torchs_profiler_sees_the_same_beside_it() -> None:
    """A torch.profiler session and the tracer record the same operators at the same time."""
    mine = OperatorTracer()
    x = torch.randn(3)
    with profile(activities=[ProfilerActivity.CPU]) as theirs:
        mine.start()
        x.tanh()
        mine.stop()
    events = mine.collect()["operator_events"]
    assert [mine.names[name] for name in events["name"]] == ["aten::tanh"]
    assert "aten::tanh" in {event.key for event in theirs.key_averages()}


def test_what_has_no_room_is_lost_and_counted() -> None:
    """Beyond the limit operators are left out and counted; the next run has room again."""
    mine, x = OperatorTracer(record_limit=1), torch.randn(3)
    for _ in range(2):
        mine.start()
        for _ in range(3000):
            x.neg()
        mine.stop()
        kept = len(mine.collect()["operator_events"]["name"])
        lost = mine.lost()
        assert 0 < kept < 3000
        assert kept + lost == 3000


def test_only_one_records_at_a_time() -> None:
    """A second tracer says that one is on, and does not end its recording."""
    first, second, x = OperatorTracer(), OperatorTracer(), torch.randn(3)
    first.start()
    try:
        with pytest.raises(xsp.TracingError, match="another OperatorTracer"):
            second.start()
        second.stop()
        x.sinh()
    finally:
        first.stop()
    names = [first.names[name] for name in first.collect()["operator_events"]["name"]]
    assert "aten::sinh" in names


def test_a_separate_ladder_says_that_it_has_none() -> None:
    """Where operators cannot be traced as asked for the profile is made without them, and
    prof.levels says why.
    """
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **OPERATORS, ladder="separate")
    row = prof.levels.set_index("level").loc["OP"]
    assert row["status"] == "unavailable"
    assert "ladder='nested'" in row["reason"]
    assert "OP" not in set(prof.spans["level"].astype(str))


def test_a_torch_without_the_functions_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch does not export what is needed the level is unavailable, with a sentence, and
    nothing else is missing.
    """
    monkeypatch.setattr(tracer, "record_function_symbols", lambda: None)
    tracer._why_not_announced.cache_clear()
    try:
        prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **OPERATORS)
    finally:
        tracer._why_not_announced.cache_clear()
    row = prof.levels.set_index("level").loc["OP"]
    assert row["status"] == "unavailable"
    assert "at::addGlobalCallback" in row["reason"]
    assert set(prof.runs["rung"]) == {"M", "M/L"}


def test_along_a_loop() -> None:
    """A profile along the program's own loop has operators too."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(2, 4)
    with xsp.profile(model, **OPERATORS) as prof:
        for _ in range(40):
            model(x).sum().backward()
            prof.step()
    names = set(operators(prof)["name"].astype(str))
    assert {"aten::linear", "aten::addmm", "aten::relu", "ReluBackward0"} <= names


def test_two_profiles_differ_in_operators() -> None:
    """A comparison says which operators a layer calls now and did not before."""

    class Leaf(nn.Module):
        def __init__(self, more: bool) -> None:
            super().__init__()
            self.more = more

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cos().sin() if self.more else x.cos()

    x = torch.randn(8)
    models = [nn.Sequential(nn.Identity(), Leaf(more)) for more in (False, True)]
    one, other = (xsp.measure(model, x, **OPERATORS) for model in models)
    found = xsp.compare(one, other)
    operators_of = found.nodes[found.nodes["level"] == "OP"].set_index("name")
    assert operators_of.loc["aten::cos", "change"] == "same"
    assert operators_of.loc["aten::sin", "change"] == "appeared"
    assert "aten::sin" in found.to_markdown()


def test_what_was_not_corrected_has_the_doubt_of_tracing() -> None:
    """Where times are not corrected, the interval of an operator allows for what tracing those
    inside it can have cost; one without any inside has no such doubt.
    """
    levels = [Level.MODEL, Level.LAYER, Level.OP, Level.OP, Level.OP]
    spans = pd.DataFrame(
        {
            "run": 0,
            "level": np.array([int(level) for level in levels], dtype=np.int8),
            "detail": [0, 0, 0, 1, 2],
            "parent": [-1, 0, 1, 2, 2],
        }
    )
    tree = Hierarchy(of_span=np.arange(5))
    for number, level in enumerate(levels):
        tree.node((number,), spans["parent"][number], level.name, str(number))
    tables = {"runs": pd.DataFrame({"run": [0], "rung": ["M/L/O"]}), "spans": spans}
    sums = sums_of_measured(tree, tables, MostCosts(np.zeros((1, 2)), 400.0))
    assert sums.operators is not None
    assert sums.operators.tolist() == [[0, 0, 800, 0, 0]]
