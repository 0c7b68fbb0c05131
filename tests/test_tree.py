"""The hierarchical latency table: one row per node, numbers that add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quick import LAYERS, measured, profiled
from torch import nn

import xsp

COLUMNS = {
    "depth",
    "level",
    "name",
    "type",
    "phase",
    "calls",
    "host_ms",
    "host_ci_ms",
    "device_ms",
    "device_ci_ms",
    "share",
    "kernels",
    "input_shapes",
    "output_shapes",
    "path",
    "node",
    "parent",
}


class Block(nn.Module):
    """Two linear layers and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.two(F.relu(self.one(x))) + x
        return output


class Net(nn.Module):
    """A stem, two blocks in a container, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = (
            nn.Linear(4, 4),
            nn.Sequential(Block(), Block()),
            nn.Linear(4, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.blocks(self.stem(x)))
        return output


@pytest.fixture(scope="module")
def prof() -> xsp.Profile:
    """One profile for all tests that only read."""
    torch.manual_seed(0)
    return profiled(Net(), torch.randn(2, 4))


def test_rows_follow_the_modules_as_they_run(prof: xsp.Profile) -> None:
    """Rows are depth first in order of execution, each below its module, with the
    module's class.
    """
    tree = prof.tree()
    assert set(tree.columns) >= COLUMNS
    assert list(tree["name"]) == [
        "Net",
        "stem",
        "blocks",
        "blocks.0",
        "blocks.0.one",
        "blocks.0::relu",
        "blocks.0.two",
        "blocks.0::add",
        "(own time)",
        "blocks.1",
        "blocks.1.one",
        "blocks.1::relu",
        "blocks.1.two",
        "blocks.1::add",
        "(own time)",
        "(own time)",
        "head",
        "(own time)",
    ]
    assert list(tree["depth"]) == [0, 1, 1, 2, 3, 3, 3, 3, 3, 2, 3, 3, 3, 3, 3, 2, 1, 1]
    kinds = tree.set_index("name")["type"]
    assert (kinds["blocks"], kinds["blocks.0"], kinds["blocks.0.one"]) == (
        "Sequential",
        "Block",
        "Linear",
    )


def test_parents_are_nodes_and_paths_their_names(prof: xsp.Profile) -> None:
    """`parent` is the `node` of the row above in the hierarchy, and `path` joins the names on the
    way.
    """
    tree = prof.tree().set_index("node")
    assert tree.index.is_unique
    assert tree["path"].is_unique
    for _node, row in tree.iterrows():
        if row["parent"] < 0:
            assert row["path"] == row["name"]
        else:
            above = tree.loc[row["parent"]]
            assert row["depth"] == above["depth"] + 1
            assert row["path"] == f"{above['path']}/{row['name']}"


def test_modules_cost_what_their_layers_cost(prof: xsp.Profile) -> None:
    """With two rounds the mean is plain: a module's host time is the sum of its children's, at
    every depth.
    """
    tree = prof.tree().set_index("node")
    for node, row in tree[tree["level"] == "MODULE"].iterrows():
        assert row["host_ms"] == pytest.approx(tree.loc[tree["parent"] == node, "host_ms"].sum())


def test_layers_take_no_more_than_the_runs_they_are_read_from(prof: xsp.Profile) -> None:
    """In each run the layers lie in the model call, so their times add up to no more than its
    latency.
    """
    runs = prof.runs.set_index("run")
    layers = prof.spans[prof.spans["level"] == "LAYER"].groupby("run")["duration_ns"].sum()
    assert (layers <= runs.loc[layers.index, "latency_ns"]).all()


def test_without_a_gpu_device_columns_are_empty_not_zero(prof: xsp.Profile) -> None:
    """Device time that was not measured is missing; shares are then of the host's time."""
    tree = prof.tree()
    assert tree["device_ms"].isna().all()
    assert (tree["kernels"] == 0).all()
    layers = tree[tree["level"] == "LAYER"]
    np.testing.assert_allclose(layers["latency_ms"], layers["host_ms"])
    np.testing.assert_allclose(tree["share"], tree["latency_ms"] / tree["latency_ms"].iloc[0])
    assert tree["share"].iloc[0] == pytest.approx(1)


def test_model_row_is_the_unprofiled_latency(prof: xsp.Profile) -> None:
    """The root is the model at rung M."""
    assert prof.tree()["host_ms"].iloc[0] == pytest.approx(prof.latency_ms)
    assert prof.tree()["host_ci_ms"].iloc[0] == pytest.approx(prof.latency_ci_ms)


def test_nested_layer_spans_are_not_counted_twice() -> None:
    """Recomputed layers run inside backward nodes: sums over modules count that time once."""
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def step(x: torch.Tensor) -> None:
        torch.utils.checkpoint.checkpoint(
            inner, x.clone().requires_grad_(), use_reentrant=False
        ).sum().backward()

    measured_step = measured(step, torch.randn(2, 4))
    tree = measured_step.tree().set_index("node")
    own = tree[tree["level"] == "MODULE"]
    runs = measured_step.runs
    traced = runs.loc[runs["rung"] == "M/L", "latency_ns"].max() / 1e6
    assert (own["host_ms"] <= traced).all()


def test_layer_that_runs_several_times_counts_per_run() -> None:
    """`calls` are per run, for layers and for modules that are called repeatedly."""

    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.block(self.block(self.block(x)))
            return output

    calls = profiled(Repeated(), torch.randn(2, 4)).tree().set_index("name")["calls"]
    assert calls["block"] == calls["block.one"] == calls["block.two"] == 3


def test_several_model_calls_are_one_row() -> None:
    """Calls of one block add up in the root row, and `calls` says how many there were."""
    model = Block()
    with xsp.profile(model, **LAYERS) as prof:
        for _ in range(3):
            model(torch.randn(2, 4))
    tree = prof.tree()
    assert tree["calls"].iloc[0] == 3
    assert tree["host_ms"].iloc[0] == pytest.approx(prof.latency_ms)
    assert tree.set_index("name").loc["one", "calls"] == 3
