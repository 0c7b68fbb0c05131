"""Taking the tracers' cost out of a capture: timelines from its tables, costs from its rungs, spans
by replay.

docs/replay.md has the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.costs import MIN_ROUNDS, Closure, Round, closure_by_rung, fit_costs
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import ApiKind, Timeline
from xsp.analysis.spans.outside import stands_for_outside
from xsp.analysis.spans.rungs import deepest_rung, spec_of
from xsp.types import Columns, DeviceKind, Level, Tables

_SYNC_CALLS = (1, 3, 4)
"""CUpti_ActivitySynchronizationType of waits of the host: event, stream and context synchronize."""


@dataclass(frozen=True, eq=False)
class CallTimeline:
    """One model call of a deepest run; `host_rows` and `device_rows` are rows of the spans table,
    the latter in the order of the timeline's device activity.
    """

    run: int
    timeline: Timeline
    host_rows: npt.NDArray[np.int64]
    device_rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Correction:
    """What the tracers cost, how far the replay without these costs is from the unprofiled latency,
    by rung, and what the same events cost in tight loops.
    """

    costs: Costs
    closure: Mapping[str, Closure]
    tight_loops: Costs = field(default_factory=Costs)


def correction_row(correction: Correction | None) -> dict[str, Any] | None:
    """The correction as JSON-able values, for the manifest of a capture."""
    if correction is None:
        return None
    return {
        "costs": asdict(correction.costs),
        "closure": {rung: asdict(closure) for rung, closure in correction.closure.items()},
        "tight_loops": asdict(correction.tight_loops),
    }


def correction_of(row: Mapping[str, Any] | None) -> Correction | None:
    """The inverse of `correction_row`."""
    if row is None:
        return None
    costs = {
        **row["costs"],
        "intervals": {name: tuple(pair) for name, pair in row["costs"]["intervals"].items()},
    }
    # Older captures have one cost for layers forward and backward.
    costs.setdefault("backward_ns", costs["layer_ns"])
    for facts in ("intervals", "identified"):
        costs[facts].setdefault("backward_ns", costs[facts]["layer_ns"])
    closure = {
        rung: Closure(**{**one, "by_round": tuple(one["by_round"])})
        for rung, one in row["closure"].items()
    }
    return Correction(Costs(**costs), closure, Costs(**row.get("tight_loops", {})))


def fitted(tables: Tables, tight_loops: Costs | None = None) -> Correction | None:
    """Costs and cross-validated closure; None where there are too few complete rounds or only rung
    M.

    `tight_loops` is kept beside the costs and does not enter them.
    """
    rounds = _rounds(tables)
    if len(rounds) <= MIN_ROUNDS or len(rounds[0].latency_ns) < 2:
        return None
    costs = fit_costs(rounds)
    by_rung = closure_by_rung(rounds, costs)
    return Correction(
        costs, {rung.name: found for rung, found in by_rung.items()}, tight_loops or Costs()
    )


def corrected_spans(tables: Tables, costs: Costs) -> pd.DataFrame:
    """Start and duration of the deepest rung's spans without the tracers' cost.

    Columns: row (of the spans table), start_ns, duration_ns. Device spans keep their duration.
    """
    calls = list(_timelines(tables))
    typical = Latencies.observed([call.timeline for call in calls], costs)
    parts = [_corrected(call, costs, typical, tables["spans"]) for call in calls]
    rows, start, end = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(rows)
    return pd.DataFrame(
        {"row": rows[order], "start_ns": start[order], "duration_ns": (end - start)[order]}
    )


def _corrected(
    call: CallTimeline, costs: Costs, typical: Latencies, spans: pd.DataFrame
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    played = replay(call.timeline, costs, typical)
    mine = spans.iloc[call.host_rows]
    begin, thread = mine["start_ns"].to_numpy(), mine["thread"].to_numpy()
    start, end = begin.copy(), begin + mine["duration_ns"].to_numpy()
    for one in np.unique(thread):
        at = thread == one
        start[at], end[at] = played.host(int(one), start[at]), played.host(int(one), end[at])
    rows = np.concatenate([call.host_rows, call.device_rows])
    return (
        rows,
        np.concatenate([start, played.device_start_ns]),
        np.concatenate([end, played.device_end_ns]),
    )


def _rounds(tables: Tables) -> list[Round]:
    """One Round per round of the ladder that has all rungs and lost no records: the costs would
    make up for these.

    Latencies are means over the model calls of a run.
    """
    runs, calls = tables["runs"], len(tables["calls"])
    by_run: dict[int, list[Timeline]] = {}
    for call in _timelines(tables):
        by_run.setdefault(call.run, []).append(call.timeline)
    rungs = runs["rung"].nunique()
    found = []
    for _, mine in runs.groupby("round"):
        if mine["rung"].nunique() < rungs or mine["lost"].any():
            continue
        timelines = tuple(one for run in mine["run"] for one in by_run.get(int(run), []))
        latency = mine.groupby("rung")["latency_ns"].mean() / calls
        found.append(
            Round(timelines, {spec_of(str(rung)): float(value) for rung, value in latency.items()})
        )
    return found


def _timelines(tables: Tables) -> Iterator[CallTimeline]:
    runs = tables["runs"]
    by_run = {
        name: dict(iter(tables[name].groupby("run")))
        for name in ("model_calls", "api_calls", "synchronizations")
    }
    spans = dict(iter(tables["spans"].groupby("run")))
    for run in runs.loc[runs["rung"] == deepest_rung(tables), "run"]:
        parts = {name: groups.get(run, tables[name].iloc[:0]) for name, groups in by_run.items()}
        yield from _of_run(int(run), spans[run], parts, tables)


def _of_run(run: int, spans: pd.DataFrame, parts: Tables, tables: Tables) -> Iterator[CallTimeline]:
    calls, api, waits = parts["model_calls"], parts["api_calls"], parts["synchronizations"]
    kind = _api_kind(api, spans, waits)
    # A device activity belongs to the call that launched it, whenever it runs.
    start = spans["start_ns"].to_numpy().copy()
    on_device = (spans["level"] == Level.KERNEL).to_numpy()
    launched = spans["parent"].to_numpy()[on_device]
    start[on_device] = tables["spans"]["start_ns"].to_numpy()[launched]
    of_span = np.searchsorted(calls["start_ns"], start, side="right") - 1
    of_api = np.searchsorted(calls["start_ns"], api["start_ns"], side="right") - 1
    for number, call in enumerate(calls.astype("int64").to_dict("records")):
        mine, called = spans[of_span == number], of_api == number
        device = mine[mine["level"] == Level.KERNEL]
        host = mine[mine["level"] != Level.KERNEL]
        layers = _real_layers(host, tables["layers"])
        waited = waits[np.isin(waits["correlation_id"], api.loc[called, "correlation_id"])]
        timeline = Timeline.from_columns(
            model_start_ns=int(call["start_ns"]),
            host_end_ns=int(call["host_end_ns"]),
            sync_end_ns=int(call["end_ns"]),
            main_thread=int(call["thread"]),
            layer_events=_events(layers),
            library_events=_events(host[host["level"] == Level.LIBRARY]),
            api_calls=_events(api[called]),
            device_activity=_device(device, tables["kernels"]),
            synchronizations={name: waited[name].to_numpy() for name in waited.columns},
            api_kind=kind[called],
            layer_kind=kinds_of_layers(tables)[layers["detail"]],
        )
        yield CallTimeline(run, timeline, host.index.to_numpy(), device.index.to_numpy())


def _api_kind(api: pd.DataFrame, spans: pd.DataFrame, waits: pd.DataFrame) -> npt.NDArray[np.int64]:
    names = api["name"].astype(str)
    launches = np.isin(
        api["correlation_id"], spans.loc[spans["level"] == Level.KERNEL, "correlation_id"]
    )
    host_waits = waits.loc[waits["kind"].isin(_SYNC_CALLS), "correlation_id"]
    # A copy to pageable memory returns when it is done; one that returned early is let go by the
    # timeline.
    copies = launches & names.str.contains("emcpy").to_numpy()
    blocking = (
        np.isin(api["correlation_id"], host_waits)
        | names.str.contains("ynchronize").to_numpy()
        | copies
    )
    return launches.astype(np.int64) * int(ApiKind.LAUNCH) + blocking.astype(np.int64) * int(
        ApiKind.WAIT
    )


def kinds_of_layers(tables: Tables) -> npt.NDArray[np.int64]:
    """The `EventKind` of each row of the layers table."""
    kind = tables["layers"]["kind"].map(
        {"function": EventKind.FUNCTIONAL, "autograd": EventKind.BACKWARD}
    )
    codes: npt.NDArray[np.int64] = kind.fillna(EventKind.LAYER).to_numpy().astype(np.int64)
    return codes


def _real_layers(host: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Layer spans that a tracer paid for: not the one that stands for what lies outside layers."""
    outside = np.flatnonzero(stands_for_outside(layers))
    return host[(host["level"] == Level.LAYER) & ~host["detail"].isin(outside)]


def _events(rows: pd.DataFrame) -> Columns:
    start = rows["start_ns"].to_numpy()
    columns: dict[str, npt.NDArray[Any]] = {
        "thread": rows["thread"].to_numpy(),
        "correlation_id": rows["correlation_id"].to_numpy(),
        "start_ns": start,
        "end_ns": start + rows["duration_ns"].to_numpy(),
    }
    return columns


def _device(rows: pd.DataFrame, kernels: pd.DataFrame) -> Columns:
    codes = {kind.name.lower(): int(kind) for kind in DeviceKind}
    kind = (
        kernels["kind"].map(codes).to_numpy(dtype=np.int64, na_value=0)
        if len(kernels)
        else np.zeros(0, np.int64)
    )
    columns = _events(rows)
    columns |= {name: rows[name].to_numpy() for name in ("stream", "context")}
    return columns | {"kind": kind[rows["detail"]] if len(rows) else np.zeros(0, np.int64)}
