"""What torch.compile did, and what the host spends around compiled graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import xsp
from xsp.analysis.compiled.graph_calls import graph_times
from xsp.provenance.compilations import compilations, facts_of_compiling
from xsp.types import Level


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def _broken(x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    torch._dynamo.graph_break()
    return x * 2


def test_what_was_compiled_again_says_why() -> None:
    """Each compilation has its function, its time and whether it fell into the profile; a second
    one of a function has the reason.
    """
    compiled = torch.compile(torch.sin, backend="eager", dynamic=False)
    compiled(torch.randn(4))
    begun_ns = time.time_ns()
    own = torch.compile(lambda x: x.cos(), backend="eager", dynamic=False)
    own(torch.randn(4))
    own(torch.randn(5))
    rows = pd.DataFrame(compilations(begun_ns))
    within = rows[rows["when"] == "within"]
    assert "before" in set(rows["when"])
    assert within["id"].str.split("/").str[1].tolist() == ["0", "1"]
    first, again = within["reason"].tolist()
    assert not first
    assert "size mismatch" in again
    assert (within["total_ns"] > 0).all()
    assert within["source"].str.contains("test_compilations.py:").all()


def test_graph_breaks_have_their_reasons() -> None:
    """Dynamo's reasons for breaking a graph are told with how often it did."""
    torch.compile(_broken, backend="eager")(torch.randn(4))
    facts = facts_of_compiling(0)
    assert facts is not None
    (only,) = facts["graph_breaks"]
    assert only["times"] == 1
    assert "graph_break()" in only["reason"]


def _spans(*layers: tuple[int, int]) -> pd.DataFrame:
    start, end = np.array(layers).T
    return pd.DataFrame(
        {"level": Level.LAYER, "thread": 7, "start_ns": start, "duration_ns": end - start}
    )


def test_host_time_before_a_graph_begins_where_the_layer_does() -> None:
    """A graph is entered from the start of its layer, or from the end of the graph before it in the
    same layer; both are medians over the runs.
    """
    rows = [
        (0, 0, 7, 130, 150),
        (0, 1, 7, 155, 190),
        (1, 0, 7, 1110, 1140),
        (1, 1, 7, 1145, 1180),
    ]
    calls = pd.DataFrame(rows, columns=["run", "graph", "thread", "start_ns", "end_ns"])
    found = graph_times(calls, _spans((100, 200), (1100, 1200)), ["forward", "forward"])
    assert found["calls"].tolist() == [1, 1]
    assert found["entering_ns"].tolist() == [20, 5]
    assert found["running_ns"].tolist() == [25, 35]


def test_host_time_before_a_graph_outside_every_layer_is_not_known() -> None:
    """Without a layer around it nothing says when the compiled code was entered."""
    calls = pd.DataFrame(
        [(0, 0, 7, 130, 150)], columns=["run", "graph", "thread", "start_ns", "end_ns"]
    )
    found = graph_times(calls, _spans((300, 400)), ["backward"])
    assert found["entering_ns"].tolist() == [-1]
    assert found["phase"].tolist() == ["backward"]


QUICK: dict[str, Any] = {"iterations": 2, "warmup": 0, "levels": "M/L", "progress": False}


def _in_a_block(net: nn.Module, step: Callable[[], None]) -> None:
    with xsp.profile(net, **QUICK):
        step()


def _along_calls(net: nn.Module, step: Callable[[], None]) -> None:
    with xsp.profile(net, along=True, **QUICK):
        for _ in range(12):
            step()


def _along_steps(net: nn.Module, step: Callable[[], None]) -> None:
    with xsp.profile(net, optimizer=torch.optim.SGD(net.parameters()), **QUICK) as prof:
        for _ in range(12):
            step()
            prof.step()


@pytest.mark.parametrize("profiled", [_in_a_block, _along_calls, _along_steps])
def test_a_model_that_only_its_compiled_form_calls_is_told(
    profiled: Callable[[nn.Module, Callable[[], None]], None],
) -> None:
    """The program runs the code that it had before, nothing of xsp is compiled into it, and the
    error says what to profile.
    """
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(4, 8)
    compiled = torch.compile(net, backend="eager")

    def step() -> None:
        compiled(x).sum().backward()

    step()
    before = torch._dynamo.utils.counters["frames"].copy()
    with pytest.raises(xsp.NothingRecordedError, match=r"torch\.compile made of it"):
        profiled(net, step)
    step()
    assert torch._dynamo.utils.counters["frames"] == before
