"""The deepest rung's runs in a capture as timelines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.correction.charges import (
    COST_LEVELS,
    SHARES,
    Bools,
    Costs,
    EventKind,
    Floats,
    Ints,
)
from xsp.analysis.correction.dependencies import HOST_WAITS
from xsp.analysis.correction.marks import AFTER_START, BEFORE_END
from xsp.analysis.correction.timeline import ApiKind, Timeline
from xsp.analysis.spans.doubt_of_tracing import MostCosts
from xsp.analysis.spans.graph_layers import run_by_graphs
from xsp.analysis.spans.outside import stands_for_outside
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.sums import among
from xsp.types import Columns, DeviceKind, Level, Tables


@dataclass(frozen=True, eq=False)
class CallTimeline:
    """One model call of a deepest run; `host_rows` and `device_rows` are rows of the spans table,
    the latter in the order of the timeline's device activity.
    """

    run: int
    timeline: Timeline
    host_rows: Ints
    device_rows: Ints


class Recordings:
    """Timelines of the model calls of the deepest rung's runs, built when they are asked for: a run
    takes some hundred bytes an event as a timeline.
    """

    def __init__(self, tables: Tables) -> None:
        runs = tables["runs"]
        self.tables = tables
        self.runs: list[int] = runs.loc[runs["rung"] == deepest_rung(tables), "run"].tolist()
        self._layer_kind = kinds_of_layers(tables)
        self._device_kind = _kinds_of_device_activities(tables)
        self._spans = _ByRun(tables["spans"])
        self._others = {
            "model_calls": _ByRun(tables["model_calls"]),
            "api_calls": _ByRun(_with_kinds_of_names(tables["api_calls"])),
            "synchronizations": _ByRun(tables["synchronizations"]),
        }

    def events_of(self, run: int) -> int:
        """Spans and API calls of a run: how large its timelines are."""
        return self._spans.size(run) + self._others["api_calls"].size(run)

    def calls(self, only: Collection[int] | None = None) -> Iterator[CallTimeline]:
        """The model calls of all runs, or only of these."""
        for run in self.runs:
            if only is None or run in only:
                yield from self._calls_of(run)

    def _calls_of(self, run: int) -> Iterator[CallTimeline]:
        spans, first = self._spans.columns(run), self._spans.first(run)
        others = {name: table.columns(run) for name, table in self._others.items()}
        calls, api, waits = (others[n] for n in ("model_calls", "api_calls", "synchronizations"))
        kind = _api_kind(api, spans, waits)
        of_span, of_api = self._calls_of_events(spans, api, calls["start_ns"])
        for number in range(len(calls["start_ns"])):
            mine, called = of_span == number, of_api == number
            on_device = spans["level"] == Level.KERNEL
            host, device = np.flatnonzero(mine & ~on_device), np.flatnonzero(mine & on_device)
            layers = host[self._is_paid_layer(spans, host)]
            library = host[spans["level"][host] == Level.LIBRARY]
            operators = host[spans["level"][host] == Level.OP]
            waited = among(waits["correlation_id"], api["correlation_id"][called])
            timeline = Timeline.from_columns(
                model_start_ns=int(calls["start_ns"][number]),
                host_end_ns=int(calls["host_end_ns"][number]),
                sync_end_ns=int(calls["end_ns"][number]),
                main_thread=int(calls["thread"][number]),
                layer_events=_events(spans, layers),
                library_events=_events(spans, library),
                api_calls=_events(api, called),
                device_activity=self._device(spans, device),
                synchronizations={name: column[waited] for name, column in waits.items()},
                api_kind=kind[called],
                layer_kind=self._layer_kind[spans["detail"][layers]],
                operator_events=_events(spans, operators),
            )
            yield CallTimeline(run, timeline, first + host, first + device)

    def _calls_of_events(
        self, spans: Columns, api: Columns, call_start: npt.NDArray[np.int64]
    ) -> tuple[Ints, Ints]:
        """The model call of each span and API call. A device activity belongs to the call that
        launched it, whenever it runs.
        """
        start = spans["start_ns"].copy()
        on_device = spans["level"] == Level.KERNEL
        launched = spans["parent"][on_device]
        start[on_device] = self.tables["spans"]["start_ns"].to_numpy()[launched]
        of_span = np.searchsorted(call_start, start, side="right") - 1
        of_api = np.searchsorted(call_start, api["start_ns"], side="right") - 1
        return of_span, of_api

    def _is_paid_layer(self, spans: Columns, rows: Ints) -> Bools:
        """Layer spans that a tracer paid for: not the one that stands for what lies outside
        layers, and not those of layers that CUDA graphs ran.
        """
        detail, on_level = spans["detail"][rows], spans["level"][rows] == Level.LAYER
        paid = np.zeros(len(rows), bool)
        paid[on_level] = self._layer_kind[detail[on_level]] >= 0
        return paid

    def _device(self, spans: Columns, rows: Ints) -> Columns:
        columns = _events(spans, rows)
        columns |= {name: spans[name][rows] for name in ("stream", "context")}
        kind = self._device_kind[spans["detail"][rows]] if len(rows) else np.zeros(0, np.int64)
        return columns | {"kind": kind}


class RecordingsOfParts:
    """The same of a capture that is read in parts: `parts` gives the tables of all runs, some at a
    time, and `events` says how many spans and API calls each run has.
    """

    def __init__(
        self, runs: pd.DataFrame, events: Ints, parts: Callable[[], Iterator[Tables]]
    ) -> None:
        self.runs: list[int] = runs.loc[
            runs["rung"] == deepest_rung({"runs": runs}), "run"
        ].tolist()
        self._events, self._parts = events, parts

    def events_of(self, run: int) -> int:
        """Spans and API calls of a run."""
        return int(self._events[run])

    def calls(self, only: Collection[int] | None = None) -> Iterator[CallTimeline]:
        """The model calls of all runs, or only of these; rows are those of their part."""
        for tables in self._parts():
            yield from Recordings(tables).calls(only)


class _ByRun:
    """A table's rows by run, which lie together, without copying the table."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._columns = {str(name): table[name].to_numpy() for name in table.columns}
        run = self._columns["run"]
        cuts = np.flatnonzero(np.diff(run)) + 1
        first = np.append(0, cuts)[: len(run)]
        last = np.append(cuts, len(run))[: len(first)]
        bounds = zip(first.tolist(), last.tolist(), strict=True)
        self._bounds = dict(zip(run[first].tolist(), bounds, strict=True))

    def first(self, run: int) -> int:
        return int(self._bounds.get(run, (0, 0))[0])

    def size(self, run: int) -> int:
        first, last = self._bounds.get(run, (0, 0))
        return int(last - first)

    def columns(self, run: int) -> dict[str, npt.NDArray[Any]]:
        first, last = self._bounds.get(run, (0, 0))
        return {name: column[first:last] for name, column in self._columns.items()}


def kinds_of_layers(tables: Tables) -> npt.NDArray[np.int64]:
    """The `EventKind` of each row of the layers table; -1 of what no tracer paid for: the row that
    stands for what lies outside layers, and layers that CUDA graphs ran.
    """
    layers = tables["layers"]
    codes = {
        "function": int(EventKind.FUNCTIONAL),
        # Parts of a step and ranges are told by Python too.
        "range": int(EventKind.FUNCTIONAL),
        "autograd": int(EventKind.BACKWARD),
    }
    kind = layers["kind"].map(codes).fillna(int(EventKind.LAYER)).to_numpy().astype(np.int64)
    unpaid = stands_for_outside(layers) | run_by_graphs(layers)
    kinds: npt.NDArray[np.int64] = np.where(unpaid, -1, kind)
    return kinds


def most_costs(tables: Tables, costs: Costs) -> MostCosts:
    """What tracing can have cost at most, by the intervals of the costs."""
    operator_ns = costs.intervals.get("operator_ns", (0.0, 0.0))[1]
    return MostCosts(most_of_layers(tables, costs), float(operator_ns))


def most_of_layers(tables: Tables, costs: Costs) -> Floats:
    """For each row of the layers table the most, by the intervals of the costs, that tracing one
    call costs around it and inside of it, in ns, of shape (layers, 2).
    """
    names = list(COST_LEVELS)[: len(EventKind)]
    most = np.array([costs.intervals.get(name, (0.0, 0.0))[1] for name in names])
    inside = SHARES[:, AFTER_START] + SHARES[:, BEFORE_END]
    by_kind = most[:, None] * np.stack([1 - inside, inside], axis=1)
    kind = kinds_of_layers(tables)
    found: Floats = np.where(kind[:, None] >= 0, by_kind[kind], 0.0)
    return found


def _kinds_of_device_activities(tables: Tables) -> npt.NDArray[np.int64]:
    codes = {kind.name.lower(): int(kind) for kind in DeviceKind}
    kinds = tables["kernels"]["kind"].map(codes)
    if not len(kinds):
        return np.zeros(0, np.int64)
    return np.asarray(kinds.to_numpy(dtype=np.int64, na_value=0), dtype=np.int64)


def _with_kinds_of_names(api: pd.DataFrame) -> pd.DataFrame:
    """API calls with what their names say: whether they copy and whether they synchronise."""
    code, names = pd.factorize(api["name"])
    said = pd.Series(names, dtype=object).astype(str)
    kinds = {"copies": "emcpy", "synchronizes": "ynchronize"}
    return api.drop(columns="name").assign(
        **{
            kind: np.append(said.str.contains(part).to_numpy(dtype=bool), False)[code]
            for kind, part in kinds.items()
        }
    )


def _api_kind(api: Columns, spans: Columns, waits: Columns) -> npt.NDArray[np.int64]:
    on_device = spans["level"] == Level.KERNEL
    launches = among(api["correlation_id"], spans["correlation_id"][on_device])
    waiting = waits["correlation_id"][np.isin(waits["kind"], HOST_WAITS)]
    # A copy to pageable memory returns when it is done; one that returned early is let go by the
    # timeline.
    blocking = api["synchronizes"] | (launches & api["copies"])
    blocking |= among(api["correlation_id"], waiting)
    kinds: npt.NDArray[np.int64] = launches * int(ApiKind.LAUNCH) + blocking * int(ApiKind.WAIT)
    return kinds


def _events(table: Columns, rows: Ints | Bools) -> Columns:
    start = table["start_ns"][rows]
    columns: dict[str, npt.NDArray[Any]] = {
        "thread": table["thread"][rows],
        "correlation_id": table["correlation_id"][rows],
        "start_ns": start,
        "end_ns": start + table["duration_ns"][rows],
    }
    return columns
