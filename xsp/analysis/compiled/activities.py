"""Which launch of a compiled graph each kernel, copy and set of its calls comes from.

The compiler can capture a graph's launches into CUDA graphs and replay these. A replay makes no
library calls that would tell its kernels apart; so it is compared with a run in which the same code
launches one by one, and takes over what that run tells if all that both launch is equal, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.compiled.matching import BY_CALL, BY_KIND, NOT_MATCHED, match_launches
from xsp.analysis.spans.graph_launches import codes_of
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.sequence import activity_sequence
from xsp.types import Tables

INPUTS = "inputs"
"""How a copy was told by which the compiler puts an input where a captured graph reads it: it is no
launch of the graph.
"""

TOLD = ("launch", "by", "flops")

_NAMED = frozenset({"triton", "template"})
"""Kinds of launches whose kernels bear the names that the wrapper has for them."""


@dataclass(frozen=True)
class CalledGraphs:
    """Calls of compiled graphs in one run (`CALLS`), in order, the tables of that run, and when the
    compiler copied inputs for a captured graph (thread, start_ns, end_ns).
    """

    calls: pd.DataFrame
    tables: Tables
    copying: pd.DataFrame

    def activities(self) -> pd.DataFrame:
        """What the calls launched, in order, as `activity_sequence` has it, with the number of the
        call, its graph, and `is_input`, whether it was launched to copy inputs.
        """
        every = activity_sequence(self.tables)
        call = _within(every, self.calls)
        is_input = _within(every, self.copying) >= 0
        graph = np.append(self.calls["graph"].to_numpy(), -1)[call]
        return every.assign(call=call, graph=graph, is_input=is_input)[call >= 0]


def _within(activities: pd.DataFrame, intervals: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The interval on the host in which each was launched, -1 for none."""
    launched = activities["launch_ns"].to_numpy()
    return innermost(
        intervals["thread"].to_numpy(np.int64),
        intervals["start_ns"].to_numpy(np.int64),
        intervals["end_ns"].to_numpy(np.int64),
        activities["thread"].to_numpy(),
        launched,
        launched,
    )


def led_activities(
    called: CalledGraphs, singly: CalledGraphs | None, launches: pd.DataFrame
) -> pd.DataFrame:
    """What compiled graphs launched, in order: kind, position (as `activity_sequence` has it),
    graph, launch (row of `launches`, -1 for none), by, and flops (of the library call, at the first
    kernel of it; missing for others and where that is not known).

    Args:
        called: the calls whose launches are asked for.
        singly: the same calls in a run in which nothing is replayed, None where nothing is replayed
            anyway, or no such run could be made.
        launches: the table `compiled_launches`.

    """
    own = called.activities()
    told = _told(own, called.tables, launches)
    if singly is not None:
        told = _taken_over(own, called, told, singly, launches)
    found = pd.concat([own[["kind", "position", "graph"]], told], axis=1)
    return found.reset_index(drop=True)


def _taken_over(
    own: pd.DataFrame,
    called: CalledGraphs,
    told: pd.DataFrame,
    singly: CalledGraphs,
    launches: pd.DataFrame,
) -> pd.DataFrame:
    """What `singly` tells of each call that launches the same there, and of the others what is told
    already.
    """
    if called.calls["graph"].tolist() != singly.calls["graph"].tolist():
        return told
    other = singly.activities()
    codes, others = codes_of([called.tables["kernels"], singly.tables["kernels"]])
    known = _told(other, singly.tables, launches)
    result = told.copy()
    ours, theirs = own[~own["is_input"]], other[~other["is_input"]]
    groups = theirs.groupby("call").groups
    for call, rows in ours.groupby("call").groups.items():
        same = groups.get(call)
        if same is None or len(same) != len(rows):
            continue
        mine = codes[own.loc[rows, "kernel"].to_numpy()]
        if np.array_equal(mine, others[other.loc[same, "kernel"].to_numpy()]):
            for name in TOLD:
                result.loc[rows, name] = known.loc[same, name].array
    return result


def _told(activities: pd.DataFrame, tables: Tables, launches: pd.DataFrame) -> pd.DataFrame:
    """TOLD of these activities, by names, places and library calls."""
    parts = [_of_call(rows, launches) for _, rows in activities.groupby("call")]
    columns = {"launch": np.int64, "by": object}
    nothing = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    told = pd.concat(parts) if parts else nothing
    return told.reindex(activities.index).assign(flops=_flops(activities, tables))


def _of_call(activities: pd.DataFrame, launches: pd.DataFrame) -> pd.DataFrame:
    own = launches[launches["graph"] == activities["graph"].iloc[0]]
    told = pd.DataFrame({"launch": -1, "by": NOT_MATCHED}, index=activities.index)
    told.loc[activities["is_input"], "by"] = INPUTS
    launched = activities[~activities["is_input"]]
    kernels = launched[launched["kind"] == "kernel"]
    is_named = own["kind"].isin(_NAMED).to_numpy()
    launch, how = match_launches(
        kernels["name"].tolist(),
        kernels["call_span"].to_numpy(),
        own["kernel"].tolist(),
        is_named.tolist(),
    )
    told.loc[kernels.index, "by"] = how
    told.loc[kernels.index, "launch"] = launch
    _add_copies(launched, told, is_named)
    found = told["launch"].to_numpy()
    rows = np.append(own.index.to_numpy(), -1)
    return told.assign(launch=rows[np.where(found >= 0, found, len(own))])


def _add_copies(
    launched: pd.DataFrame, told: pd.DataFrame, is_named: npt.NDArray[np.bool_]
) -> None:
    """Fill in copies and sets: those that a library call makes are its launch's; a set prepares the
    kernel after it, unless that is a kernel of Triton, which needs none.
    """
    is_kernel = (launched["kind"] == "kernel").to_numpy()
    if is_kernel.all():
        return
    call, launch = launched["call_span"], told.loc[launched.index, "launch"]
    led = is_kernel & (call >= 0).to_numpy() & (launch >= 0).to_numpy()
    of_call = launch[led].set_axis(call[led]).groupby(level=0).first()
    by_call = call.map(of_call).where(call >= 0)
    after = launch.where(is_kernel).bfill().fillna(-1).astype(np.int64)
    is_other = (after >= 0) & ~np.append(is_named, True)[after]
    by_place = after.where(is_other & (launched["kind"] == "memset"))
    found = by_call.fillna(by_place)
    rows = found.index[~is_kernel & found.notna()]
    told.loc[rows, "launch"] = found[rows].astype(np.int64)
    told.loc[rows, "by"] = np.where(by_call[rows].notna(), BY_CALL, BY_KIND)


def _flops(activities: pd.DataFrame, tables: Tables) -> pd.Series[int]:
    """FLOPs of the library call of which each is the first kernel, missing for others."""
    is_kernel = (activities["kind"] == "kernel") & (activities["call_span"] >= 0)
    first = activities[is_kernel].drop_duplicates("call_span")
    known = tables["library_calls"]["flops"].array[first["library_call"].to_numpy()]
    return pd.Series(known, index=first.index, dtype="Int64").reindex(activities.index)


def split_by_kind(led: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `compiled_kernels` and `compiled_copies`."""
    is_kernel = led["kind"] == "kernel"
    kernels = led[is_kernel].drop(columns="kind").sort_values("position", ignore_index=True)
    copies = led[~is_kernel].drop(columns=["kind", "flops"])
    return kernels, copies.sort_values("position", ignore_index=True)
