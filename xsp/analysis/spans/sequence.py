"""The kernels of one run, or all of its device activities, in the order of their launches, and how
long each takes over all runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.align import match_events
from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.graph_launches import graph_nodes
from xsp.analysis.spans.launches import launch_ns
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.statistics import trimmed_known
from xsp.analysis.spans.timed_events import TimedEvents, timed_events
from xsp.types import IntArray, Level, Tables

COLUMNS = {
    "position": np.int64,
    "kernel": np.int64,
    "name": object,
    "layer": np.int64,
    "library_call": np.int64,
    "layer_span": np.int64,
    "call_span": np.int64,
    "launch_ns": np.int64,
    "thread": np.int64,
    "duration_ns": np.float64,
    "duration_ci_ns": np.float64,
}


SEQUENCE_TABLES = (
    "runs",
    "spans",
    "repeats",
    "graph_nodes",
    "api_calls",
    "layers",
    "library_calls",
    "kernels",
)
"""What `kernel_sequence` reads, with what says of layers and calls what they are."""


def kernel_sequence(tables: Tables) -> pd.DataFrame:
    """The kernels (no copies, no sets) of the last run of the deepest rung, in the order of their
    launching API calls, those of one graph in the order of its nodes.

    Columns: position (from 0), kernel (row of `kernels`), name, layer (row of `layers`),
    library_call (row of `library_calls`, -1 for none), layer_span and call_span (rows of `spans` in
    that run, call_span -1 for none), launch_ns and thread (start of the launching call in that run,
    and who made it), duration_ns and duration_ci_ns (trimmed mean and half a 95 %
    interval over the runs of the deepest rung that have the same kernel in the same layer for the
    same time of asking; over the runs that traced kernels alone, if there are some). Empty where no
    kernels were traced.
    """
    found = _sequence(tables, (tables["kernels"]["kind"] == "kernel").to_numpy())
    return found[list(COLUMNS)]


def activity_sequence(tables: Tables) -> pd.DataFrame:
    """The same of kernels, copies and sets, with the column `kind` ("kernel", "memcpy", "memset").
    `position` counts kernels, as in `kernel_sequence`, and by itself what is none.
    """
    kinds = tables["kernels"]["kind"]
    found = _sequence(tables, np.ones(len(kinds), dtype=bool))
    found["kind"] = kinds.to_numpy(dtype=object)[found["kernel"]]
    found["position"] = found.groupby(found["kind"] == "kernel").cumcount()
    return found


def _sequence(tables: Tables, wanted: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """What is `wanted` of the rows of `kernels`, in order."""
    every = _launched(tables, wanted)
    if not len(every):
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})
    last = every[every["run"] == every["run"].max()].reset_index(drop=True)
    codes = last["code"].to_numpy()
    alone = timed_events(tables, Level.KERNEL)
    samples = _durations_alone(every, alone, codes) if alone.alone else _durations(every, codes)
    mean, half = trimmed_known(samples)
    names = tables["kernels"]["name"].to_numpy(dtype=object)
    facts = {"position": np.arange(len(last)), "name": names[last["kernel"]]}
    found: pd.DataFrame = last.assign(**facts, duration_ns=mean, duration_ci_ns=half)[list(COLUMNS)]
    return found


def _launched(tables: Tables, wanted: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """What is wanted of the deepest rung's runs by run and launch: run, kernel, layer,
    library_call, spans, code.
    """
    spans, runs = tables["spans"], tables["runs"]
    own = runs.loc[runs["rung"] == deepest_rung(tables), "run"]
    detail, level = spans["detail"].to_numpy(), spans["level"].to_numpy()
    kernels = np.flatnonzero((level == Level.KERNEL) & spans["run"].isin(own).to_numpy())
    kernels = kernels[wanted[detail[kernels]]]
    if not len(kernels):
        return pd.DataFrame(columns=["run"])
    layer_span, parent = layer_spans(spans, kernels), spans["parent"].to_numpy()[kernels]
    called = level[parent] == Level.LIBRARY
    run, start = spans["run"].to_numpy()[kernels], spans["start_ns"].to_numpy()[kernels]
    node = graph_nodes(tables)[1][kernels]
    launched = launch_ns(tables["api_calls"], spans.loc[kernels])
    order = np.lexsort((start, node, launched, run))
    table = pd.DataFrame(
        {
            "run": run,
            "row": kernels,
            "kernel": detail[kernels].astype(np.int64),
            "layer": detail[layer_span].astype(np.int64),
            "library_call": np.where(called, detail[parent], -1).astype(np.int64),
            "layer_span": layer_span.astype(np.int64),
            "call_span": np.where(called, parent, -1).astype(np.int64),
            "launch_ns": launched.astype(np.int64),
            "thread": spans["thread"].to_numpy()[kernels].astype(np.int64),
            "ns": spans["duration_ns"].to_numpy()[kernels],
        }
    )
    table["code"] = table["kernel"] * len(tables["layers"]) + table["layer"]
    return table.iloc[order].reset_index(drop=True)


def _durations(every: pd.DataFrame, codes: IntArray) -> npt.NDArray[np.float64]:
    """Durations as a matrix (runs, positions), NaN where a run lacks the kernel."""
    runs = every["run"].unique()
    result = np.full((len(runs), len(codes)), np.nan)
    for row, (_, one) in zip(result, every.groupby("run", sort=True), strict=True):
        place = match_events(one["code"].to_numpy(), codes)
        row[place[place >= 0]] = one["ns"].to_numpy()[place >= 0]
    return result


def _durations_alone(
    every: pd.DataFrame, alone: TimedEvents, codes: IntArray
) -> npt.NDArray[np.float64]:
    """The same of the runs that traced kernels alone. All repeat the same annotated run, so what is
    found for its kernels holds for theirs.
    """
    annotated = every[every["row"].isin(alone.row)]
    place = np.full(int(max(alone.row.max(), annotated["row"].max())) + 1, -1, dtype=np.int64)
    place[annotated["row"]] = match_events(annotated["code"].to_numpy(), codes)
    at = place[alone.row]
    result = np.full((len(alone.of), len(codes)), np.nan)
    run = np.searchsorted(alone.of, alone.run)
    result[run[at >= 0], at[at >= 0]] = alone.duration_ns[at >= 0]
    return result
