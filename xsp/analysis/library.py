"""Analyses of library calls, the level that the paper names and does not have: cuBLAS, cuBLASLt,
cuDNN and the like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.kernels import placed_work
from xsp.analysis.layers import rows_of_layers
from xsp.analysis.peaks import ideal_intensities
from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.intervals import covered_ns
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.sums import sum_by_run
from xsp.analysis.spans.timed_events import timed_events
from xsp.analysis.work.call_work import call_work
from xsp.analysis.work.roofline import add_rates
from xsp.types import Level, Tables

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_TABLES = ("runs", "spans", "repeats", "layers", "library_calls")
_CALLS = [
    "index",
    "name",
    "library",
    "layer_index",
    "layer",
    "host_ms",
    "gpu_ms",
    "flops",
    "arguments",
]
_KERNELS = [
    "library_index",
    "library_call",
    "layer",
    "index",
    "kernel",
    "latency_ms",
    "flops",
    "arithmetic_intensity",
    "flops_per_s",
    "memory_bound",
]


def library_calls(profile: ProfileData) -> pd.DataFrame:
    """One row per library call of a run, in the order in which they begin.

    Columns: index (from 0), name, library, layer_index and layer (as in `layer_information`),
    host_ms (trimmed mean over the runs whose deepest level is LIBRARY), gpu_ms (GPU-busy time of
    the kernels, copies and sets that the call launched; NaN where no kernels were traced), flops
    (from the arguments; NaN where they do not tell), arguments (JSON). Empty where library calls
    were not traced.
    """
    return _calls(profile)[_CALLS].reset_index(drop=True)


def library_by_api(profile: ProfileData) -> pd.DataFrame:
    """Library calls of one function summed, those with most GPU time first.

    Columns: name, library, count (in a run), host_ms, gpu_ms, share (gpu_ms over the unprofiled
    model latency, host_ms where no kernels were traced), flops.
    """
    calls = _calls(profile)
    groups = calls.groupby(["name", "library"], sort=False)
    table = (
        groups[["host_ms", "gpu_ms", "flops"]]
        .sum(min_count=1)
        .assign(count=groups.size())
        .reset_index()
    )
    time = table["gpu_ms"].where(table["gpu_ms"].notna(), table["host_ms"])
    table["share"] = time / profile.latency_ms
    table = table.iloc[np.argsort(-time.to_numpy(np.float64), kind="stable")].reset_index(drop=True)
    return table[["name", "library", "count", "host_ms", "gpu_ms", "share", "flops"]]


def kernels_by_library_call(profile: ProfileData) -> pd.DataFrame:
    """The kernels that library calls launched, in the order of their launches.

    Columns: library_index (index of the call in `library_calls`), library_call (its name), layer,
    index (of the kernel in `kernel_information`), kernel (its name), latency_ms, flops,
    arithmetic_intensity, flops_per_s, memory_bound.
    """
    calls = _calls(profile)
    work = placed_work(profile)
    work = work[work["library_call"] >= 0]
    mine = calls.set_index("row").reindex(work["library_call"])
    table = work.assign(
        library_index=mine["index"].to_numpy(),
        library_call=mine["name"].to_numpy(object),
        index=work["position"],
        kernel=work["name"],
        layer=work["layer_name"],
        latency_ms=work["duration_ns"] / 1e6,
    ).astype({"library_index": np.int64})
    return add_rates(table, ideal_intensities(profile))[_KERNELS].reset_index(drop=True)


def _calls(profile: ProfileData) -> pd.DataFrame:
    """`library_calls` and the row of the table of that name."""
    tables = profile.raw_tables(*_TABLES)
    spans, runs, recorded = tables["spans"], tables["runs"], tables["library_calls"]
    layers = rows_of_layers(profile)
    here = spans[spans["level"] == Level.LIBRARY]
    first = here.sort_values(["run", "start_ns"], kind="stable").drop_duplicates("detail")
    deepest = runs.loc[runs["rung"] == deepest_rung({"runs": runs}), "run"]
    order = np.lexsort((first["start_ns"], first["run"], ~first["run"].isin(deepest)))
    row = first["detail"].to_numpy(np.int64)[order]
    layer = spans["detail"].to_numpy()[layer_spans(spans, first.index.to_numpy()[order])]
    table = recorded.loc[row].reset_index(drop=True)
    return table.assign(
        row=row,
        index=np.arange(len(row)),
        layer_index=layers["index"].to_numpy()[layer],
        layer=layers["name"].to_numpy(object)[layer],
        host_ms=_host_ms(tables, len(recorded))[row],
        gpu_ms=_gpu_ms(tables, len(recorded))[row],
        flops=call_work(table)["flops"],
    )


def _host_ms(tables: Tables, count: int) -> npt.NDArray[np.float64]:
    """By row of `library_calls`: host time, from the rung whose deepest level is LIBRARY."""
    events = timed_events(tables, Level.LIBRARY)
    call = tables["spans"]["detail"].to_numpy()[events.row]
    sums = sum_by_run(events.run, call, events.duration_ns.astype(np.float64), count)
    return np.asarray(trimmed(sums)[0] / 1e6)


def _gpu_ms(tables: Tables, count: int) -> npt.NDArray[np.float64]:
    """By row of `library_calls`: GPU-busy time of what the call launched; NaN where no kernels were
    traced.
    """
    spans, events = tables["spans"], timed_events(tables, Level.KERNEL)
    if not len(events.row) or not count:
        return np.full(count, np.nan)
    parent = spans["parent"].to_numpy()[events.row]
    called = spans["level"].to_numpy()[parent] == Level.LIBRARY
    call = spans["detail"].to_numpy()[parent[called]]
    runs = len(events.of)
    group = np.searchsorted(events.of, events.run[called]) * count + call
    busy = covered_ns(group, events.start_ns[called], events.end_ns[called], runs * count)
    return np.asarray(trimmed(busy.reshape(runs, count))[0] / 1e6)
