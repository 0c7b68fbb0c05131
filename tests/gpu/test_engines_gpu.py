"""A serving engine on a GPU: its steps measured as it serves, and a captured decode step."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import xsp

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import plain_engine as engines
import serving_engine as recipe

pytestmark = pytest.mark.gpu

REQUESTS = 48


def test_steps_of_an_engine_have_their_kernels() -> None:
    """Clients get the tokens that they get without a profile, and each kind of steps has its
    kernels below the layers that launched them.
    """
    engine = engines.Engine("cuda")
    expected = asyncio.run(engines.clients(engine, REQUESTS))
    prof, tokens = recipe.profiled(engine, REQUESTS, iterations=2, warmup=1, levels="M/L/K")
    engine.close()
    assert tokens == expected
    assert prof.name == "Decoder execute_model (decode of 4)"
    for part in (prof, *prof.groups.values()):
        rows = part.tree()
        assert part.kernel_count > 0
        assert not part.runs["unmatched"].any()
        below = rows[rows["name"].isin(["qkv", "head"])]
        assert (below["kernels"] > 0).all()


@torch.no_grad()
def test_a_captured_decode_step_has_its_layers() -> None:
    """A decode step that an engine replays from a CUDA graph is led to the model's layers, off the
    loop, by what it was captured from.
    """
    runner = engines.ModelRunner("cuda")
    inputs: Any = (
        runner.tensor([[1], [2], [3], [4]]),
        runner.tensor([0, 1, 2, 3]),
        runner.tensor([[4], [4], [4], [4]]),
    )
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            runner.model(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        runner.model(*inputs)
    prof = xsp.measure(
        graph.replay, captured_from=lambda: runner.model(*inputs), iterations=3, warmup=1
    )
    owners = prof.table("graph_nodes")["owner"]
    assert len(owners)
    assert (owners != "unknown").all(), prof.warnings
    layers = xsp.analysis.kernels_by_layer(prof)
    assert {"blocks.0.attention.qkv", "blocks.1.mlp", "head"} <= set(layers["layer"])
