"""Kernels of replayed CUDA graphs, led to the layers whose work was captured.

A replay launches all that was captured with one call of the host, so nothing in its records says
which layer a kernel is of. CUPTI numbers the nodes of a graph in the order in which they were
captured (`graphNodeId`), which is the order of the launches in the program that was captured. So
the kernels, copies and sets of a replay, in the order of their nodes, are compared with those that
the same program launches when it runs eagerly. Only where every one is equal is any of them led to
a layer.

A layer that a graph runs has a span of no length where the graph was launched: its time on the
device is known, and on the host the launcher has all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.graph_launches import activities_of, codes_of, last_run, replayed_in
from xsp.analysis.spans.graph_matching import Launches, Mismatch, Program, find_sequences
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.types import DEPTH_OF_NUMBER, Level, Tables

Ints = npt.NDArray[np.int64]

OF_GRAPH = "of_graph"
"""Column of `layers`: whether only graphs run this layer."""


class Owner(str, Enum):
    """How the layer of a replayed kernel is known: all kernels of the graph are, in order, those of
    the layers; and if these occur several times, the turn of the launch tells which they are.
    """

    ORDER = "order"
    TURN = "turn"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Captured:
    """Tables of an eager run of what was captured, and CUPTI's ids of the graphs that hold it, none
    where that is not known.
    """

    tables: Tables
    graphs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unled:
    """A sequence of kernels that was led to no layers, as `Mismatch` has it, with the names of the
    kernels that differ; "" where there is none.
    """

    kernels: int
    place: int
    expected: str
    found: str
    ambiguous: bool


@dataclass(frozen=True)
class Led:
    """Tables in which kernels of graphs belong to layers, and the sequences where they do not."""

    tables: dict[str, pd.DataFrame]
    unled: tuple[Unled, ...]


def run_by_graphs(layers: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """For each row of `layers` whether only graphs run it: no tracer paid for its spans."""
    if OF_GRAPH not in layers:
        return np.zeros(len(layers), dtype=np.bool_)
    return layers[OF_GRAPH].to_numpy(dtype=np.bool_)


def lead_to_layers(tables: Tables, captured: Sequence[Captured]) -> Led:
    """The tables with kernels of graphs below the layers of the programs that were `captured`.

    Every layer of these that has device work gets a row in `layers`, with OF_GRAPH set, before the
    two that stand for no layer. Column `owner` of `graph_nodes` says of each kernel how its layer
    is known. Runs that traced no layers stay as they are.
    """
    replayed = replayed_in(tables)
    if not len(replayed) or not captured:
        return Led(dict(tables), ())
    eager = [each.tables for each in captured]
    activities = [activities_of(each, last_run(each)) for each in eager]
    codes = codes_of([tables["kernels"], *(each["kernels"] for each in eager)])
    programs = [
        Program(code[part["kernel"]], each.graphs)
        for code, part, each in zip(codes[1:], activities, captured, strict=True)
    ]
    launches = _launches(replayed, codes[0])
    found = find_sequences(launches, programs)
    layers = _LayersOf(tables["layers"], eager, activities)
    owner = np.where(found.by_turn, Owner.TURN.value, Owner.ORDER.value)
    replayed = replayed.assign(
        launch=launches.launch,
        layer=layers.rows(found.program, found.place),
        owner=np.where(found.program >= 0, owner, Owner.UNKNOWN.value),
    )
    unled = tuple(_named(each, codes, [tables, *eager]) for each in found.mismatches)
    return Led(_placed(tables, replayed, layers, eager), unled)


def _launches(replayed: pd.DataFrame, codes: Ints) -> Launches:
    keys = replayed[["run", "launch_ns", "correlation_id"]]
    return Launches(
        codes[replayed["kernel"]],
        keys.groupby(list(keys), sort=False).ngroup().to_numpy().astype(np.int64),
        replayed["graph"].to_numpy(np.int64),
        replayed["run"].to_numpy(np.int64),
    )


def _named(mismatch: Mismatch, codes: Sequence[Ints], tables: Sequence[Tables]) -> Unled:
    names = np.concatenate([each["kernels"]["name"].to_numpy(dtype=object) for each in tables])
    _, first = np.unique(np.concatenate(codes), return_index=True)
    expected, found = (
        str(names[first[code]]) if code >= 0 else "" for code in (mismatch.expected, mismatch.found)
    )
    return Unled(mismatch.kernels, mismatch.place, expected, found, mismatch.ambiguous)


class _LayersOf:
    """Rows of `layers` for the layers of the eager programs, from row `first` on."""

    def __init__(
        self, layers: pd.DataFrame, eager: Sequence[Tables], programs: Sequence[pd.DataFrame]
    ) -> None:
        self.first = len(layers) - 2
        parts: list[pd.DataFrame] = []
        self._rows: list[Ints] = []
        start = self.first
        for tables, activities in zip(eager, programs, strict=True):
            own = _own_layer(tables, activities)
            part, place = _taken(tables["layers"], own, start)
            self._rows.append(np.where(own >= 0, place[own], -1))
            parts.append(part)
            start += len(part)
        self.table = pd.concat(parts, ignore_index=True)

    def rows(self, program: Ints, place: Ints) -> Ints:
        """Row of `layers` of the activities at these places of these programs, -1 for none."""
        result = np.full(len(program), -1, dtype=np.int64)
        for number, rows in enumerate(self._rows):
            mine = program == number
            result[mine] = rows[place[mine]]
        return result


def _own_layer(tables: Tables, activities: pd.DataFrame) -> Ints:
    """Row of the eager program's `layers` that each activity is of, -1 outside all layers."""
    spans = tables["spans"]
    level, parent = spans["level"].to_numpy(), spans["parent"].to_numpy()
    above = nearest(parent, level <= Level.LAYER, activities["parent"].to_numpy())
    detail = spans["detail"].to_numpy()[above].astype(np.int64)
    in_layer = (above >= 0) & (level[above] == Level.LAYER)
    real = (tables["layers"]["kind"] != NO_LAYER_KIND).to_numpy()
    return np.where(in_layer & real[np.where(in_layer, detail, 0)], detail, -1)


def _taken(layers: pd.DataFrame, own: Ints, start: int) -> tuple[pd.DataFrame, Ints]:
    """The rows of these layers, and of the forward calls of those that are backward work, to follow
    row `start`; and where each row has gone.
    """
    used = np.unique(own[own >= 0])
    forward = layers["forward"].to_numpy()[used]
    used = np.unique(np.concatenate([used, forward[forward >= 0]])).astype(np.int64)
    place = np.full(len(layers) + 1, -1, dtype=np.int64)
    place[used] = start + np.arange(len(used))
    part = layers.iloc[used].assign(**{OF_GRAPH: True})
    moved = np.where(part["forward"] >= 0, place[part["forward"].to_numpy()], -1)
    return part.assign(forward=moved), place


def _placed(
    tables: Tables, replayed: pd.DataFrame, layers: _LayersOf, eager: Sequence[Tables]
) -> dict[str, pd.DataFrame]:
    added = len(layers.table)
    spans = _shifted(tables["spans"], layers.first, added)
    of_layers, kernels = _spans_of_layers(spans, replayed)
    every = pd.concat([spans, of_layers], ignore_index=True)
    depth = np.array(DEPTH_OF_NUMBER)[every["level"]]
    order = np.lexsort((np.arange(len(every)), depth, every["run"]))
    place = np.empty(len(every), dtype=np.int64)
    place[order] = np.arange(len(every))
    parent = every["parent"].to_numpy().astype(np.int64)
    parent[kernels["row"]] = len(spans) + kernels["span"].to_numpy()
    moved = np.where(parent >= 0, place[parent], -1).astype(np.int32)
    result = dict(tables)
    result["spans"] = every.assign(parent=moved).iloc[order].reset_index(drop=True)
    for name, column in (("api_calls", "parent"), ("repeats", "span"), ("graph_nodes", "span")):
        if name in result:
            rows = place[result[name][column].to_numpy()].astype(np.int32)
            result[name] = result[name].assign(**{column: rows})
    result["graph_nodes"] = _with_owners(result["graph_nodes"], place, replayed)
    result["layers"] = _with_layers(tables["layers"], layers)
    result["modules"] = _with_modules(tables["modules"], eager)
    return result


def _shifted(spans: pd.DataFrame, first: int, added: int) -> pd.DataFrame:
    """Spans of layers with the rows that `layers` has after `added` ones were put at `first`."""
    detail = spans["detail"].to_numpy()
    moves = (spans["level"] == Level.LAYER).to_numpy() & (detail >= first)
    return spans.assign(detail=np.where(moves, detail + added, detail).astype(detail.dtype))


def _spans_of_layers(
    spans: pd.DataFrame, replayed: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A span for each layer of each launch, in the order of their first kernels; and the rows of
    the kernels with the number of their layer's span.
    """
    led = replayed[replayed["layer"] >= 0]
    number = led.groupby(["launch", "layer"], sort=False).ngroup().to_numpy()
    first = led.iloc[np.unique(number, return_index=True)[1]]
    # A layer is never inside a library call, and an operator that launches a graph is not its work.
    above = nearest(
        spans["parent"].to_numpy(),
        (spans["level"] <= Level.LAYER).to_numpy(),
        first["parent"].to_numpy(),
    )
    columns: dict[str, Any] = {
        "run": first["run"].to_numpy(),
        "level": Level.LAYER,
        "detail": first["layer"].to_numpy(),
        "parent": above,
        "start_ns": first["launch_ns"].to_numpy(),
        "duration_ns": 0,
        "thread": first["thread"].to_numpy(),
        "stream": -1,
        "context": 0,
        "correlation_id": 0,
    }
    made = pd.DataFrame(columns)[list(spans.columns)].astype(spans.dtypes.to_dict())
    return made, pd.DataFrame({"row": led["row"].to_numpy(), "span": number})


def _with_owners(nodes: pd.DataFrame, place: Ints, replayed: pd.DataFrame) -> pd.DataFrame:
    owner = pd.Series(replayed["owner"].to_numpy(), index=place[replayed["row"].to_numpy()])
    return nodes.assign(owner=owner.reindex(nodes["span"], fill_value=Owner.UNKNOWN.value).array)


def _with_layers(layers: pd.DataFrame, added: _LayersOf) -> pd.DataFrame:
    own = layers.assign(**{OF_GRAPH: False})
    parts = [own.iloc[: added.first], added.table, own.iloc[added.first :]]
    columns = list(own.columns)
    return pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)


def _with_modules(modules: pd.DataFrame, eager: Sequence[Tables]) -> pd.DataFrame:
    """Modules that only the eager programs call are added; the program calls them through graphs,
    never by themselves.
    """
    others = [each["modules"] for each in eager]
    return pd.concat([modules, *others], ignore_index=True).drop_duplicates(
        "name", ignore_index=True
    )
