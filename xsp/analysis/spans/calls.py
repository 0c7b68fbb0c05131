"""The calls of the target, or of one of its modules or layers, one by one and in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans
from xsp.analysis.spans.corrected_times import timeline_spans
from xsp.analysis.spans.device_timeline import kernel_turns
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.spans.statistics import trimmed_known
from xsp.errors import XspError
from xsp.types import Level, Tables

Array = npt.NDArray[np.float64]

_COLUMNS = (
    "call",
    "name",
    "input_shapes",
    "host_ms",
    "host_ci_ms",
    "device_ms",
    "device_ci_ms",
    "layers",
    "kernels",
)


def target_calls(tables: Tables) -> pd.DataFrame:
    """One row per call of the target in a run: columns as in `module_calls`.

    host_ms is unprofiled, from the call to the device finished.
    """
    calls, spans, every = tables["calls"], tables["spans"], tables["model_calls"]
    untraced = runs_of(tables["runs"], Level.MODEL)["run"]
    unprofiled = every[every["run"].isin(untraced)]
    place = unprofiled.groupby("run").cumcount().to_numpy().astype(np.int64)
    length = (unprofiled["end_ns"] - unprofiled["start_ns"]).to_numpy()
    host = _matrix(unprofiled["run"].to_numpy(), place, length, len(calls), "sum")
    owner = _target_call_of(spans)
    return _table(tables, None, calls["name"], calls["input_shapes"], host, owner)


def _target_call_of(spans: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Which call of the target in its run each span is in, -1 for the calls themselves."""
    models = spans[spans["level"] == Level.MODEL]
    number = pd.Series(models.groupby("run").cumcount().to_numpy(), index=models.index)
    rows = np.flatnonzero((spans["level"] > Level.MODEL).to_numpy())
    owner = np.full(len(spans), -1, dtype=np.int64)
    owner[rows] = number.reindex(model_spans(spans, rows)).to_numpy()
    return owner


def module_calls(tables: Tables, corrected: pd.DataFrame | None, name: str) -> pd.DataFrame:
    """One row per forward call of a module or layer in a run, in order.

    Columns: call (from 0), name, input_shapes (JSON), host_ms and host_ci_ms (of a layer its
    interval, of a module from the start of its first layer to the end of its last one; without the
    tracers' cost if that is known, else from the rung whose deepest level is LAYER), device_ms and
    device_ci_ms (GPU-busy time of the kernels below; NaN where none were traced), layers and
    kernels (in the call). Trimmed means over runs, with half a 95 % interval.

    Raises XspError for a name that nothing has, and for a module of a capture that does not know
    its calls.
    """
    called = _called(tables, name)
    owner = _calls_of_spans(tables, called)
    timed = _timed_layers(tables, corrected)
    timed = timed[owner[timed.index] >= 0]
    number = owner[timed.index]
    run = timed["run"].to_numpy()
    start = timed["start_ns"].to_numpy()
    end = start + timed["duration_ns"].to_numpy()
    first = _matrix(run, number, start, len(called), "min")
    last = _matrix(run, number, end, len(called), "max")
    names = pd.Series([name] * len(called))
    return _table(tables, corrected, names, called["input_shapes"], last - first, owner)


def _calls_of_spans(tables: Tables, called: pd.DataFrame) -> npt.NDArray[np.int64]:
    """For each span the number of the call that its forward layer belongs to, or -1."""
    spans, layers = tables["spans"], tables["layers"]
    call = np.full(len(layers), -1, dtype=np.int64)
    # Of calls inside each other, as a module makes that calls itself, the inner ones come later.
    for number, (first, last) in enumerate(called[["first", "last"]].itertuples(index=False)):
        call[first:last] = number
    call[(layers["phase"] != "forward").to_numpy()] = -1
    is_layer = (spans["level"] == Level.LAYER).to_numpy()
    owner = np.full(len(spans), -1, dtype=np.int64)
    owner[is_layer] = call[spans["detail"].to_numpy()[is_layer]]
    deeper = np.flatnonzero((spans["level"] > Level.LAYER).to_numpy())
    owner[deeper] = owner[layer_spans(spans, deeper)]
    return owner


def _timed_layers(tables: Tables, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """The spans of layers that tell their time."""
    spans = tables["spans"]
    if corrected is None:
        own = runs_of(tables["runs"], Level.LAYER)["run"]
        timed = spans[spans["run"].isin(own)]
    else:
        timed = timeline_spans(spans, corrected)
    return timed[timed["level"] == Level.LAYER]


def _called(tables: Tables, name: str) -> pd.DataFrame:
    """The calls of a module or layer: first and last (row of `layers`, exclusive), input_shapes."""
    layers = tables["layers"]
    rows = layers.index[(layers["name"] == name) & (layers["phase"] == "forward")]
    if len(rows):
        shapes = layers.loc[rows, "input_shapes"].to_numpy()
        return pd.DataFrame({"first": rows, "last": rows + 1, "input_shapes": shapes})
    modules = tables["modules"]
    known = modules.loc[(modules["name"] == name) | (modules["type"] == name), "name"]
    if not len(known):
        raise XspError(
            f"no module or layer is called {name!r}; prof.table('modules')['name'] has the names"
        )
    if "calls_of_modules" not in tables:
        raise XspError(
            f"this capture has no calls of modules such as {name!r}, only those of layers: "
            "measure again"
        )
    every = tables["calls_of_modules"]
    return every[every["module"].isin(known)].reset_index(drop=True)


def _table(
    tables: Tables,
    corrected: pd.DataFrame | None,
    names: pd.Series[Any],
    shapes: pd.Series[Any],
    host: Array,
    owner: npt.NDArray[np.int64],
) -> pd.DataFrame:
    count = len(names)
    host_mean, host_half = trimmed_known(host)
    device_mean, device_half, kernels = _device(tables, corrected, owner, count)
    layers = tables["spans"][(tables["spans"]["level"] == Level.LAYER).to_numpy() & (owner >= 0)]
    last = layers[layers["run"] == layers["run"].max()]
    columns = {
        "call": np.arange(count),
        "name": names.to_numpy(object),
        "input_shapes": shapes.to_numpy(object),
        "host_ms": host_mean / 1e6,
        "host_ci_ms": host_half / 1e6,
        "device_ms": device_mean / 1e6,
        "device_ci_ms": device_half / 1e6,
        "layers": np.bincount(owner[last.index], minlength=count),
        "kernels": kernels,
    }
    return pd.DataFrame(columns)[list(_COLUMNS)]


def _device(
    tables: Tables, corrected: pd.DataFrame | None, owner: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]:
    turns = kernel_turns(tables, timeline_spans(tables["spans"], corrected))
    if not len(turns):
        unknown = np.full(count, np.nan)
        return unknown, unknown, np.zeros(count, dtype=np.int64)
    runs = turns["run"].nunique()
    turns = turns[owner[turns["row"]] >= 0]
    number = owner[turns["row"]]
    busy = _matrix(turns["run"].to_numpy(), number, turns["busy_ns"].to_numpy(), count, "sum")
    mean, half = trimmed_known(np.nan_to_num(busy)) if len(busy) else (np.zeros(count),) * 2
    kernels = np.rint(np.bincount(number, minlength=count) / runs).astype(np.int64)
    return mean, half, kernels


def _matrix(
    run: npt.NDArray[Any],
    call: npt.NDArray[np.int64],
    amount: npt.NDArray[Any],
    calls: int,
    how: str,
) -> Array:
    """Amounts reduced by run and call, as a matrix; NaN where a run lacks the call."""
    table = pd.DataFrame({"run": run, "call": call, "amount": amount})
    reduced = table.groupby(["run", "call"])["amount"].agg(how)
    wide = reduced.unstack().reindex(columns=pd.RangeIndex(calls))
    matrix: Array = wide.to_numpy(np.float64)
    return matrix
