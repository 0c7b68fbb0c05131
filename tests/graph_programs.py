"""Programs that launch kernels by themselves and programs that replay them, as runs of all levels
written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xsp.analysis.spans.assembly import Vocabulary, columns_of
from xsp.analysis.spans.graph_layers import Captured
from xsp.capture.run import MODEL_CALLS, Run
from xsp.types import (
    API_CALLS,
    DEFAULT_LEVELS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    Columns,
    DeviceKind,
    RunSpec,
    Schema,
    empty,
)

KERNELS = ["gemm", "relu", "memset", "memcpy DtoD", "softmax", "memset32"]
"""Names of kernels; programs below name them."""

_KINDS = {"memset": DeviceKind.MEMSET, "memcpy DtoD": DeviceKind.MEMCPY}
_GAP_NS = 100
_LEVELS = RunSpec(DEFAULT_LEVELS)

Layer = tuple[str, Sequence[str]]
"""A layer's name and the kernels that it launches."""

Replay = tuple[int, Sequence[str]]
"""A graph's id and its kernels in the order of their capture."""


def words(names: Sequence[str], captured: Sequence[Captured] = ()) -> Vocabulary:
    """Words for runs in which these layers begin in this order."""
    rows = [
        {"name": name, "type": "Layer", "kind": "module", "module": "", "code": 2 * place}
        for place, name in enumerate(names)
    ]
    call: dict[str, Any] = {"name": "step", "call": 0, "input_shapes": "[]", "input_dtypes": "[]"}
    return Vocabulary(
        calls=[{**call, "batch_size": -1}],
        modules=[],
        layers=columns_of(rows),
        library_calls=[],
        symbols=[],
        library_of=str,
        kernels=KERNELS,
        api_name=lambda _domain, cbid: "cudaGraphLaunch" if cbid else "cudaLaunchKernel",
        captured=captured,
    )


def eager_run(layers: Sequence[Layer]) -> Run:
    """A run in which every layer launches its kernels one by one, each 50 ns long."""
    now = 1000
    events: list[dict[str, int]] = []
    api: list[dict[str, int]] = []
    device: list[dict[str, int]] = []
    for place, (_, kernels) in enumerate(layers):
        begin = now
        for name in kernels:
            now += _GAP_NS
            number = len(api) + 1
            api.append(_call(number, now, graph=False))
            device.append(_activity(number, now + 20, name))
        now += _GAP_NS
        events.append({"thread": 1, "code": 2 * place, "start_ns": begin, "end_ns": now})
        now += _GAP_NS
    return _run(now, events, api, device)


def replaying_run(
    replays: Sequence[Replay], number: int = 0, *, shuffled: bool = True, spec: RunSpec = _LEVELS
) -> Run:
    """A run that launches graphs outside every layer. Unless told otherwise, the records come in
    another order than that of the nodes, as those of parallel branches do.
    """
    now = 1000
    api: list[dict[str, int]] = []
    device: list[dict[str, int]] = []
    for place, (graph, kernels) in enumerate(replays):
        api.append(_call(place + 1, now, graph=True))
        order = np.random.default_rng(number).permutation(len(kernels))
        begins = {int(node): at for at, node in enumerate(order)} if shuffled else None
        for node, name in enumerate(kernels):
            start = now + 20 + 60 * (begins[node] if begins else node)
            identity = {"graph": graph, "graph_node": graph << 32 | 100 + 2 * node}
            device.append(_activity(place + 1, start, name) | identity)
        now += 100 + 60 * len(kernels)
    return _run(now, [], api, device, number, spec)


def _call(correlation: int, start: int, *, graph: bool) -> dict[str, int]:
    times = {"start_ns": start, "end_ns": start + 10}
    return {"thread": 1, "cbid": int(graph), "correlation_id": correlation, **times}


def _activity(correlation: int, start: int, name: str) -> dict[str, int]:
    return {
        "correlation_id": correlation,
        "stream": 7,
        "start_ns": start,
        "end_ns": start + 50,
        "name": KERNELS.index(name),
        "kind": _KINDS.get(name, DeviceKind.KERNEL),
    }


def _run(
    end: int,
    layers: list[dict[str, int]],
    api: list[dict[str, int]],
    device: list[dict[str, int]],
    number: int = 0,
    spec: RunSpec = _LEVELS,
) -> Run:
    times = {"start_ns": 900, "host_end_ns": end, "end_ns": end + 5000}
    device = sorted(device, key=lambda row: row["start_ns"])
    tables = {
        "layer_events": _table(LAYER_EVENTS, layers),
        "api_calls": _table(API_CALLS, api),
        "device_activity": _table(DEVICE_ACTIVITY, device),
    }
    calls = _table(MODEL_CALLS, [{"thread": 1, **times}])
    return Run(spec, number, 0, calls, tables)


def _table(schema: Schema, rows: list[dict[str, int]]) -> Columns:
    table = empty(schema, len(rows))
    for name in {name for row in rows for name in row}:
        table[name][:] = [row[name] for row in rows]
    return table


def ladder(replays: Sequence[Replay], rounds: int = 3) -> list[Run]:
    """Runs of all rungs of a program that only launches graphs."""
    runs = []
    for number in range(rounds):
        for depth in range(1, len(DEFAULT_LEVELS) + 1):
            spec = RunSpec(DEFAULT_LEVELS[:depth])
            run = replaying_run(replays, number, spec=spec)
            tables = run.tables if spec == _LEVELS else {}
            runs.append(replace(run, round=number, position=depth - 1, tables=tables))
    return runs
