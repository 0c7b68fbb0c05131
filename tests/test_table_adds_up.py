"""The latency table adds up: the rows below a node, own time among them, make the node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import LAYERS, measured, profiled
from torch import nn

import xsp
from xsp.analysis.spans.latency_parts import latency_parts
from xsp.analysis.spans.outside import NO_LAYER_KIND, OUTSIDE_LAYERS
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.tree import latency_table
from xsp.types import Level

CAPTURES = sorted((Path(__file__).parent.parent / "examples" / "captures").rglob("*.xsp"))
HOST_NODES = ["MODEL", "MODULE", "LAYER"]


def remainders(tree: pd.DataFrame) -> Iterator[tuple[str, str, float]]:
    """Path, column and node less the rows below it, of every node that has rows below it."""
    whole = tree.set_index("node")
    for column in ("host_ms", "device_ms", "latency_ms", "share"):
        below = tree[tree["parent"] >= 0].groupby("parent")[column].sum(min_count=1)
        nodes = whole.loc[below.index]
        if column == "host_ms":  # a kernel has no host time, nor a library call a row for its own
            nodes = nodes[nodes["level"].isin(HOST_NODES)]
        rest = (nodes[column] - below.reindex(nodes.index)).dropna()
        paths = whole["path"].reindex(rest.index)
        yield from (
            (str(path), column, one) for path, one in zip(paths, rest.tolist(), strict=True)
        )


def assert_adds_up(tree: pd.DataFrame) -> None:
    """Every node is what is below it, and the model's share is 1."""
    largest = tree[["host_ms", "latency_ms"]].max().max()
    wrong = [each for each in remainders(tree) if abs(each[2]) > 1e-9 * max(largest, 1)]
    assert wrong == []
    assert tree["share"].iloc[0] == pytest.approx(1)


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_the_table_of_every_bundled_capture_adds_up(path: Path) -> None:
    """Host time, device time, cost and share of each node are the sums of the rows below it; only
    the model's own host time, a difference between rungs, can be below zero, and then by less than
    its interval unless the tracers' cost is not known.
    """
    prof = xsp.load(path)
    tree = prof.tree()
    assert_adds_up(tree)
    below_zero = tree[(tree["host_ms"] < -1e-12) | (tree["latency_ms"] < -1e-12)]
    assert set(below_zero["parent"]) <= {0}
    within = below_zero["host_ms"].abs() < below_zero["host_ci_ms"]
    assert within.all() or prof.corrected is None


class Sleeps(nn.Module):
    """Python, a layer, and Python again."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        x = self.fc(x)
        time.sleep(0.01)
        return x


@pytest.mark.usefixtures("virtual_clock")
def test_python_around_a_layer_is_the_models_own() -> None:
    """Where a layer is a hundredth of the latency its share says so, in the table, in A2 and in the
    summary, and the rest has a row.
    """
    prof = profiled(Sleeps(), torch.randn(2, 4))
    tree = prof.tree().set_index("name")
    assert tree["share"]["(own time)"] > 0.9
    assert tree["share"]["fc"] < 0.1
    assert xsp.analysis.layer_information(prof)["share"].sum() < 0.1
    line = next(each for each in repr(prof).splitlines() if each.startswith("types"))
    assert float(line.split("×1 ")[1].split("%")[0].removeprefix("<")) < 10


def test_a_backward_pass_counts_once() -> None:
    """`backward()` has the time that none of the layers inside it has: rows do not add up to more
    than the latency.
    """
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def step(x: torch.Tensor) -> None:
        model(x).sum().backward()

    prof = measured(step, torch.randn(64, 64))
    assert_adds_up(prof.tree())
    layers = prof.tree().query("level == 'LAYER'")
    traced = prof.runs.query("rung == 'M/L'")["latency_ns"].max() / 1e6
    assert layers["host_ms"].sum() <= traced
    backward = layers.set_index("type").loc["backward"]
    assert backward["host_ms"] < backward["recorded_ms"]


MODULES = st.recursive(
    st.sampled_from(["Linear", "ReLU", "functional", "python"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3),
    max_leaves=6,
)


class Program(nn.Module):
    """A random tree of modules, functional calls and Python."""

    def __init__(self, parts: object) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.plan: list[object] = []
        for part in parts if isinstance(parts, list) else [parts]:
            self.plan.append(part)
            if part == "Linear":
                self.parts.append(nn.Linear(4, 4))
            elif part == "ReLU":
                self.parts.append(nn.ReLU())
            elif part not in ("functional", "python"):
                self.parts.append(Program(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modules = iter(self.parts)
        for part in self.plan:
            if part == "functional":
                x = torch.tanh(x) + x
            elif part == "python":
                time.sleep(1e-4)
            else:
                x = next(modules)(x)
        return x


@settings(max_examples=8, deadline=None)
@given(parts=MODULES, backward=st.booleans())
def test_tables_of_random_programs_add_up(parts: object, backward: bool) -> None:
    """Whatever the nesting of modules, functional calls, Python and backward work."""
    model = Program([parts, "Linear"])

    def step(x: torch.Tensor) -> None:
        result = model(x)
        if backward:
            result.sum().backward()

    prof = xsp.measure(step, torch.randn(2, 4), **LAYERS)
    assert_adds_up(prof.tree())


def timeline(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    """Tables of one run: a model call with layers on two threads and kernels that they launch."""
    end = draw(st.integers(20, 60))
    spans = [(Level.MODEL, 0, -1, 0, end, 0)]
    layers: list[Any] = []
    for thread in (0, 1):
        at = draw(st.integers(0, 5))
        while at < end and len(layers) < 8:
            length = draw(st.integers(1, 12))
            layers.append(len(spans))
            closes = min(at + length, end)
            spans.append((Level.LAYER, len(layers) - 1, 0, at, closes - at, thread))
            if closes - at > 3 and draw(st.booleans()):
                layers.append(len(spans))
                spans.append((Level.LAYER, len(layers) - 1, layers[-2], at + 1, 1, thread))
            at = closes + draw(st.integers(0, 6))
    for _ in range(draw(st.integers(0, 6)) if layers else 0):
        parent = draw(st.sampled_from(layers))
        start = draw(st.integers(spans[parent][3], end))
        length = draw(st.integers(0, end - start))
        spans.append((Level.KERNEL, 0, parent, start, length, 0))
    names = ["level", "detail", "parent", "start_ns", "duration_ns", "thread"]
    table = pd.DataFrame(spans, columns=names).assign(run=0)
    modules = [draw(st.sampled_from(["", "a", "a.b", "a.c"])) for _ in layers]
    rows = [(f"l{i}", "module", module, "forward") for i, module in enumerate(modules)]
    rows.append((OUTSIDE_LAYERS, NO_LAYER_KIND, "", "forward"))
    return {
        "spans": table.astype({"level": np.int64}),
        "runs": pd.DataFrame({"run": [0], "rung": ["M/L/Lib/K"], "deepest": ["KERNEL"]}),
        "layers": pd.DataFrame(rows, columns=["name", "kind", "module", "phase"]),
    }


TIMELINES = st.composite(timeline)()


@settings(max_examples=40, deadline=None)
@given(tables=TIMELINES)
def test_each_instant_has_one_owner(tables: dict[str, pd.DataFrame]) -> None:
    """The host's pieces fill the call without overlap, and each belongs to the layer that of all
    open ones began last.
    """
    spans = tables["spans"]
    host = latency_parts(tables, None).host
    layers = spans[spans["level"] == Level.LAYER]
    begin, end = layers["start_ns"], layers["start_ns"] + layers["duration_ns"]
    assert host["start_ns"].tolist()[1:] == host["end_ns"].tolist()[:-1]
    assert (host["start_ns"].iloc[0], host["end_ns"].iloc[-1]) == (0, spans["duration_ns"].iloc[0])
    for _, piece in host.iterrows():
        is_open = (begin <= piece["start_ns"]) & (end >= piece["end_ns"])
        if piece["layer_span"] < 0:
            assert not is_open.any()
        else:
            assert is_open[piece["layer_span"]]
            assert begin[piece["layer_span"]] == begin[is_open].max()


@settings(max_examples=40, deadline=None)
@given(tables=TIMELINES)
def test_parts_of_the_latency_follow_the_rule(tables: dict[str, pd.DataFrame]) -> None:
    """Instant by instant: a busy device counts for the kernel that began first; an idle one for the
    layer of the next kernel once the host has entered it, else for what the host is in. All parts
    make the latency.
    """
    spans = tables["spans"]
    parts = latency_parts(tables, None)
    latency = int(spans["duration_ns"].iloc[0])
    assert parts.latency_ns.tolist() == [latency]
    kernels = spans[spans["level"] == Level.KERNEL].sort_values("start_ns", kind="stable")
    if parts.kernels is None:
        assert not len(kernels)
        return
    charged = dict.fromkeys(spans.index.tolist(), 0)
    none = 0
    for now in range(latency):
        running = kernels[
            (kernels["start_ns"] <= now) & (now < kernels["start_ns"] + kernels["duration_ns"])
        ]
        coming = kernels[kernels["start_ns"] > now]
        entered: list[int] = spans["start_ns"].loc[coming["parent"]].tolist()[:1]
        if len(running):
            charged[running["parent"].iloc[0]] += 1
        elif len(coming) and entered[0] <= now:
            charged[coming["parent"].iloc[0]] += 1
        else:
            piece = parts.host[(parts.host["start_ns"] <= now) & (now < parts.host["end_ns"])]
            owner = int(piece["layer_span"].iloc[0])
            if owner < 0:
                none += 1
            else:
                charged[owner] += 1
    found = parts.host.groupby("layer_span")["cost_ns"].sum()
    of_kernels = parts.kernels.groupby("layer_span")[["busy_ns", "idle_ns"]].sum().sum(axis=1)
    total = found.add(of_kernels, fill_value=0)
    expected = pd.Series(charged, dtype=float)
    assert total.get(-1, 0) == none
    layers = spans.index[spans["level"] == Level.LAYER]
    assert total.reindex(layers, fill_value=0).tolist() == expected[layers].tolist()


def several_runs(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    """Tables of a few runs of one program whose layers make library calls, some of them inside each
    other; how long each takes differs from run to run.
    """
    shape = draw(st.lists(st.lists(st.booleans(), max_size=3), min_size=1, max_size=4))
    spans: list[tuple[Level, int, int, int, int, int, int]] = []
    runs = draw(st.integers(2, 7))
    for run in range(runs):
        model, at, details = len(spans), 1, 0
        spans.append((Level.MODEL, 0, -1, 0, 0, 0, run))
        for number, calls in enumerate(shape):
            at += draw(st.integers(0, 3))
            layer, begin = len(spans), at
            spans.append((Level.LAYER, number, model, begin, 0, 0, run))
            for inside in calls:
                at += draw(st.sampled_from([0, 0, 1, 40]))
                length = draw(st.sampled_from([0, 1, 9, 300]))
                spans.append((Level.LIBRARY, details, layer, at, length, 0, run))
                details += 1
                if inside:
                    spans.append((Level.LIBRARY, details, layer, at, length // 2, 0, run))
                    details += 1
                at += length
            at += draw(st.sampled_from([0, 0, 5]))
            spans[layer] = (*spans[layer][:4], at - begin, *spans[layer][5:])
        spans[model] = (*spans[model][:4], at, *spans[model][5:])
    names = ["level", "detail", "parent", "start_ns", "duration_ns", "thread", "run"]
    table = pd.DataFrame(spans, columns=names).astype({"level": np.int64})
    whole = table.loc[table["level"] == Level.MODEL, "duration_ns"].to_numpy()
    timed = pd.DataFrame({"run": range(runs), "round": range(runs), "latency_ns": whole})
    layers = pd.DataFrame({"name": [f"l{number}" for number in range(len(shape))]})
    facts = {"kind": "module", "type": "L", "module": "a", "phase": "forward"}
    called = [f"call{number}" for number in range(2 * sum(map(len, shape)))]
    return {
        "spans": table,
        "runs": timed.assign(rung="M/L/Lib", deepest="LIBRARY"),
        "layers": layers.assign(**facts, forward=-1, input_shapes="", output_shapes=""),
        "library_calls": pd.DataFrame({"name": called}, dtype=object),
        "kernels": pd.DataFrame({"name": []}, dtype=object),
        "calls": pd.DataFrame({"input_shapes": [""]}),
        "modules": pd.DataFrame({"name": ["a"], "type": ["A"], "calls": [1]}),
    }


@settings(max_examples=40, deadline=None)
@given(tables=st.composite(several_runs)())
def test_own_times_are_never_below_zero(tables: dict[str, pd.DataFrame]) -> None:
    """However times differ from run to run: a layer is its library calls and a rest that is not
    below zero, and the mean of its own length over runs lies in its interval.
    """
    tree = latency_table(tables, "model")
    assert_adds_up(tree)
    below = tree[tree["parent"] > 0]
    assert (below["host_ms"] >= 0).all()
    assert (below["latency_ms"] >= 0).all()
    spans = tables["spans"]
    layers = spans[spans["level"] == Level.LAYER]
    for number, mine in layers.groupby("detail"):
        [row] = tree[tree["name"] == f"l{number}"].to_dict("records")
        mean = float(trimmed(mine["duration_ns"])[0]) / 1e6
        assert abs(row["host_ms"] - mean) <= row["host_ci_ms"] + 1e-12
