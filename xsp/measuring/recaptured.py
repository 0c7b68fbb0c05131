"""Layers of a function as it runs while it is captured into a CUDA graph, for functions that launch
something else then than they launch eagerly: some ask `torch.cuda.is_current_stream_capturing`.

The function is captured into a graph of its own with its layers and API calls traced, and this
graph is replayed once. Each launch, copy or set between the beginning and the end of the capture
makes a node, in order, so that the record of a replayed node tells what the call launched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xsp.analysis.spans.assembly import assemble
from xsp.analysis.spans.graph_launches import NODE_MASK
from xsp.capture.run import Run, sorted_by_start, within_model
from xsp.levels._native.signals import held
from xsp.levels.kernel.cupti import api_name
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import after_rounds
from xsp.measuring.switching import tracing
from xsp.measuring.vocabulary import words_of
from xsp.types import API_CALLS, Columns, DeviceKind, IntArray, Level, Tables

_NODES = (
    (re.compile("(cuda|cu)Launch(Cooperative)?Kernel"), DeviceKind.KERNEL),
    (re.compile("(cuda|cu)Memcpy"), DeviceKind.MEMCPY),
    (re.compile("(cuda|cu)Memset"), DeviceKind.MEMSET),
)
"""API functions that make a node, by the beginning of their names, and what kind of node."""

_BEGIN, _END = (re.compile(f"(cuda|cu)Stream{what}Capture") for what in ("Begin", "End"))


class Recapture:
    """Captures a function whenever it is called, and keeps the last graph."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.graph: Any = None

        @wraps(function)
        def called() -> None:
            stream = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    function()
            finally:
                # A capture that fails leaves its own stream as the current one.
                torch.cuda.set_stream(stream)
            self.graph = graph

        self.function = called
        """What to call: it has the name and the variables of the function."""

    def tables(self, prepared: Prepared) -> Tables | None:
        """Tables of a run in which the function is captured, as if its kernels had been launched
        eagerly; None where its launches are not its nodes, one by one.
        """
        ladder = Ladder(rungs_for(prepared.traced)[-1:])
        (run,), _ = climb(prepared.executor, ladder, prepared.tracers, after_rounds(1))
        tracer = prepared.tracers[Level.KERNEL]
        with held(), tracing([tracer], "while a graph was replayed"):
            self.graph.replay()
        device = as_launched(run, tracer.collect()["device_activity"])
        if device is None:
            return None
        launched = replace(run, tables={**run.tables, "device_activity": device})
        return assemble([launched], words_of(prepared.executor.target, prepared))


def as_launched(run: Run, replayed: Columns) -> Columns | None:
    """The nodes of a replay, as if the API calls that made them in this run had launched them; None
    where these are not as many or of other kinds.
    """
    calls, _ = within_model(sorted_by_start(run.table("api_calls", API_CALLS)), run.model_calls)
    names = [api_name(*pair) for pair in zip(calls["domain"], calls["cbid"], strict=True)]
    rows, kinds = _calls_that_make_nodes(names)
    nodes = np.flatnonzero(replayed["graph"] > 0)
    nodes = nodes[np.argsort(replayed["graph_node"][nodes] & np.uint64(NODE_MASK), kind="stable")]
    if not _are_of(replayed["kind"][nodes], kinds):
        return None
    device = {name: column[nodes] for name, column in replayed.items()}
    start = calls["start_ns"][rows]
    device["end_ns"] = start + device["end_ns"] - device["start_ns"]
    device["start_ns"] = start
    device["correlation_id"] = calls["correlation_id"][rows]
    device["graph"], device["graph_node"] = (
        np.zeros_like(device[name]) for name in ("graph", "graph_node")
    )
    return device


def _are_of(replayed: npt.NDArray[np.uint8], asked: npt.NDArray[np.uint8]) -> bool:
    """Whether nodes are of the kinds that calls asked for; sets can run as kernels in a graph."""
    if len(replayed) != len(asked):
        return False
    is_set_by_kernel = (asked == DeviceKind.MEMSET) & (replayed == DeviceKind.KERNEL)
    return bool(((replayed == asked) | is_set_by_kernel).all())


def _calls_that_make_nodes(names: Sequence[str]) -> tuple[IntArray, npt.NDArray[np.uint8]]:
    """Of API calls in order of time those that make nodes of the last capture, with their kinds."""
    began = [place for place, name in enumerate(names) if _BEGIN.match(name)]
    first = began[-1] if began else len(names)
    found: list[tuple[int, DeviceKind]] = []
    for place in range(first, len(names)):
        if _END.match(names[place]):
            break
        found += [(place, kind) for begins, kind in _NODES if begins.match(names[place])]
    rows = np.array([place for place, _ in found], dtype=np.int64)
    return rows, np.array([kind for _, kind in found], dtype=np.uint8)
