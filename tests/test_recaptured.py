"""A function that is captured once more: its API calls are the nodes of its graph, or it is left
alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_programs import KERNELS, replaying_run, words

from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.assembly import assemble
from xsp.capture.run import Run
from xsp.measuring.recaptured import as_launched
from xsp.types import API_CALLS, LAYER_EVENTS, Columns, DeviceKind, Level, empty

CALLS = [
    "cudaLaunchKernel",
    "cudaStreamBeginCapture",
    "cudaMemsetAsync",
    "cudaLaunchKernelExC",
    "cudaEventRecordWithFlags",
    "cuLaunchKernel",
    "cudaMemcpyAsync",
    "cudaStreamEndCapture",
    "cudaLaunchKernel",
]
"""Of a run in which a function is captured: what lies outside of the capture makes no node."""

NODES = ["memset", "gemm", "relu", "memcpy DtoD"]


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    """API calls have their places in CALLS as numbers."""
    monkeypatch.setattr("xsp.measuring.recaptured.api_name", lambda _domain, cbid: CALLS[cbid])


def capturing_run(calls: list[int]) -> Run:
    """A run of two layers, the second from the fourth call on, that makes these calls."""
    api = empty(API_CALLS, len(calls))
    api["cbid"][:] = calls
    api["correlation_id"][:] = 50 + np.arange(len(calls))
    api["start_ns"][:] = 1000 + 100 * np.arange(len(calls))
    api["end_ns"][:] = api["start_ns"] + 10
    api["thread"][:] = 1
    layers = empty(LAYER_EVENTS, 2)
    layers["thread"][:] = 1
    layers["code"][:] = [0, 2]
    layers["start_ns"][:] = [950, 1390]
    layers["end_ns"][:] = [1350, 1690]
    run = replaying_run([(3, ["gemm"] * max(40, 2 * len(calls)))])  # lasts long enough
    return replace(run, tables={"api_calls": api, "layer_events": layers})


def replayed(nodes: list[str] = NODES) -> Columns:
    """The records of a replay, which come in another order than that of the nodes."""
    columns = replaying_run([(3, nodes)], number=1).tables["device_activity"]
    return {name: column[::-1] for name, column in columns.items()}


def test_nodes_belong_to_the_layers_whose_calls_made_them() -> None:
    """In order: the calls of the first layer made the set and the first kernel, those of the second
    the rest.
    """
    run = capturing_run(list(range(len(CALLS))))
    device = as_launched(run, replayed())
    assert device is not None
    assert [KERNELS[index] for index in device["name"]] == NODES
    lengths = replayed()["end_ns"] - replayed()["start_ns"]
    assert sorted(device["end_ns"] - device["start_ns"]) == sorted(lengths)
    launched = replace(run, tables={**run.tables, "device_activity": device})
    named = replace(words(["one", "two"]), api_name=lambda _domain, cbid: str(cbid))
    spans = assemble([launched], named)["spans"]
    kernels = np.flatnonzero(spans["level"] == Level.KERNEL)
    assert spans["detail"].to_numpy()[layer_spans(spans, kernels)].tolist() == [0, 0, 1, 1]


def test_a_large_graph_is_led_too() -> None:
    """Hundreds of kernels, one by one."""
    begin, launch, end = 1, 3, 7
    run = capturing_run([begin, *[launch] * 300, end])
    assert as_launched(run, replayed(["gemm"] * 300)) is not None
    assert as_launched(run, replayed(["gemm"] * 299)) is None


def test_a_set_can_run_as_a_kernel() -> None:
    """A call that sets memory made its node also where the graph does it by a kernel; one that
    copies did not, and a call that launches a kernel did not make a set.
    """
    run = capturing_run(list(range(len(CALLS))))
    by_kernel = replayed()
    is_set = by_kernel["kind"] == DeviceKind.MEMSET
    by_kernel["kind"][is_set] = DeviceKind.KERNEL
    assert as_launched(run, by_kernel) is not None
    is_copy = by_kernel["kind"] == DeviceKind.MEMCPY
    by_kernel["kind"][is_copy] = DeviceKind.KERNEL
    assert as_launched(run, by_kernel) is None
    by_kernel["kind"][:] = DeviceKind.MEMSET
    assert as_launched(run, by_kernel) is None


@pytest.mark.parametrize("calls", [[1, 2, 3, 5, 7], [1, 2, 3, 5, 5, 7], [2, 3, 5, 6], []])
def test_calls_that_are_not_the_nodes_lead_nowhere(calls: list[int]) -> None:
    """One call too few, a kernel for a copy, no capture, or no call at all."""
    assert as_launched(capturing_run(calls), replayed()) is None
