"""Modules, annotations and operators of a trace of torch.profiler as ranges, and which of them is
the backward work of which.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.ancestors import nearest_above
from xsp.imports.foreign import RANGE_COLUMNS, table
from xsp.imports.kineto_events import MODULE, Event, bounds_ns, host_table
from xsp.imports.nesting import parents
from xsp.imports.operands import operands
from xsp.imports.operators import BACKWARD

_COUNTED = re.compile(r"_\d+$")


def ranges(
    modules: list[Event], annotations: list[Event], operators: list[Event], flows: list[Event]
) -> pd.DataFrame:
    """Modules, operators outside innermost modules and in no other operator, and annotations around
    either.
    """
    module, annotation, operator = (
        host_table(modules),
        host_table(annotations),
        host_table(operators),
    )
    above = _parents(module)
    is_leaf = ~np.isin(np.arange(len(module)), above)
    opaque = pd.concat([module[is_leaf], operator], ignore_index=True)
    outermost = _outside(operator, opaque, np.arange(len(operator)) + int(is_leaf.sum()))
    free = _outside(annotation, opaque, None)
    kept = np.flatnonzero(outermost)
    rows = [
        *map(_module_row, modules),
        *(_annotation_row(annotations[one]) for one in np.flatnonzero(free)),
    ]
    first = len(rows)
    rows += [_operator_row(operators[one]) for one in kept]
    found = table(rows, RANGE_COLUMNS)
    is_layer = np.r_[
        is_leaf, np.zeros(first - len(modules), dtype=bool), np.ones(len(kept), dtype=bool)
    ]
    forward = _forward(found, np.flatnonzero(is_layer), flows)
    phase = np.where(forward >= 0, "backward", found["phase"])
    return found.assign(forward=forward, phase=phase)


def _parents(ranges: pd.DataFrame) -> Any:
    return parents(*(ranges[name].to_numpy() for name in ("thread", "start_ns", "end_ns")))


def _outside(ranges: pd.DataFrame, opaque: pd.DataFrame, own: Any) -> Any:
    """Which ranges lie inside none of the opaque ones; `own` are their rows there, if they are
    opaque themselves.
    """
    every, rows = opaque, own
    if own is None:
        every = pd.concat([opaque, ranges], ignore_index=True)
        rows = np.arange(len(opaque), len(every))
    is_opaque = np.arange(len(every)) < len(opaque)
    return nearest_above(_parents(every), is_opaque)[rows] < 0


def _module_row(event: Event) -> tuple[Any, ...]:
    name = event["name"].removeprefix(MODULE)
    return (
        event["tid"],
        *bounds_ns(event),
        name,
        _COUNTED.sub("", name),
        "module",
        "forward",
        -1,
        True,
        False,
        "",
        [],
        [],
    )


def _annotation_row(event: Event) -> tuple[Any, ...]:
    kind = event.get("args", {}).get("type", "annotation")
    return (
        event["tid"],
        *bounds_ns(event),
        event["name"],
        kind,
        "function",
        "forward",
        -1,
        True,
        False,
        "",
        [],
        [],
    )


def _operator_row(event: Event) -> tuple[Any, ...]:
    known, name = event.get("args", {}), event["name"]
    described = operands(known.get("Input Dims"), known.get("Input type"))
    place = (event["tid"], *bounds_ns(event))
    if "kind" in known:
        # Written by `Profile.to_chrome`: name, type and phase are xsp's own.
        own = (name, known.get("type", ""), known["kind"], known.get("phase", "forward"))
        return (*place, *own, -1, False, True, known.get("module", ""), *described)
    if name.startswith(BACKWARD):
        bare = name.removeprefix(BACKWARD)
        return (*place, bare, bare, "autograd", "backward", -1, False, False, "", *described)
    return (*place, name, name, "function", "forward", -1, False, False, "", *described)


def _forward(ranges: pd.DataFrame, layers: Any, flows: list[Event]) -> Any:
    """For each range the layer (of these rows) whose backward work it is, -1 for none: by the
    arrows between them.
    """
    forward = np.full(len(ranges), -1, dtype=np.int64)
    ends: dict[str, dict[Any, tuple[int, int]]] = {"s": {}, "f": {}}
    for event in flows:
        ends.get(event["ph"], {})[event["id"]] = (event["tid"], int(event["ts"] * 1000))
    both = [(*ends["s"][one], *ends["f"][one]) for one in ends["s"].keys() & ends["f"].keys()]
    if both and len(layers):
        points = np.array(sorted(both), dtype=np.int64)
        of_layers = ranges.iloc[layers]
        source, target = (
            _at(of_layers, points[:, 0], points[:, 1]),
            _at(of_layers, points[:, 2], points[:, 3]),
        )
        known = (source >= 0) & (target >= 0) & (source != target)
        forward[layers[target[known]]] = layers[source[known]]
    return forward


def _at(layers: pd.DataFrame, thread: Any, time: Any) -> Any:
    """Index of the layer that runs at each time on a thread, -1 for none."""
    asked = pd.DataFrame(
        {"thread": thread, "time": time, "index": np.arange(len(time))}
    ).sort_values("time")
    known = pd.DataFrame(
        {"thread": layers["thread"].to_numpy(), "time": layers["start_ns"].to_numpy()}
    )
    known = known.assign(row=np.arange(len(layers))).sort_values("time", kind="stable")
    found = pd.merge_asof(asked, known, on="time", by="thread").sort_values("index")
    row = found["row"].fillna(-1).to_numpy(dtype=np.int64)
    return np.where((row >= 0) & (layers["end_ns"].to_numpy()[row] >= time), row, -1)
