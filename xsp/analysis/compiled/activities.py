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

INPUTS, AROUND = "inputs", "around"
"""How was told what is no launch of a graph: a copy by which the compiler puts an input where a
captured graph reads it; what autograd runs around a graph: before it a copy of a gradient into the
layout that the graph was compiled for, after it sums with gradients that leaves have.
"""

TOLD = ("launch", "by", "flops")

_NAMED = frozenset({"triton", "template"})
"""Kinds of launches whose kernels bear the names that the wrapper has for them."""


@dataclass(frozen=True)
class CalledGraphs:
    """Calls of compiled graphs in one run (`CALLS`), in order, and the tables of that run.

    `copying` is when the compiler copied inputs for a captured graph (thread, start_ns, end_ns),
    `around` when the code around a graph ran, the graph included (`CALLS`).
    """

    calls: pd.DataFrame
    tables: Tables
    copying: pd.DataFrame
    around: pd.DataFrame

    def activities(self) -> pd.DataFrame:
        """What the calls and the code around them launched, in order, as `activity_sequence` has
        it, with the number of the call, the graph, and `aside`: INPUTS or AROUND for what is no
        launch of the graph, NOT_MATCHED for what is.
        """
        every = activity_sequence(self.tables)
        call, around = _within(every, self.calls), _within(every, self.around)
        of_call, of_around = _graphs_at(self.calls, call), _graphs_at(self.around, around)
        is_input = _within(every, self.copying) >= 0
        aside = np.select([call < 0, is_input], [AROUND, INPUTS], NOT_MATCHED)
        graph = np.where(call >= 0, of_call, of_around)
        own = every.assign(call=call, graph=graph, aside=aside.astype(object))
        return own[(call >= 0) | (around >= 0)]


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


def _graphs_at(calls: pd.DataFrame, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The graph of the call at each place, -1 for the place -1."""
    return np.append(calls["graph"].to_numpy(), -1)[place]


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
    ours, theirs = (each[each["aside"] == NOT_MATCHED] for each in (own, other))
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
    told = pd.DataFrame({"launch": -1, "by": activities["aside"]}, index=activities.index)
    launched = activities[activities["aside"] == NOT_MATCHED]
    for _, rows in launched.groupby("call"):
        _tell(rows, launches[launches["graph"] == rows["graph"].iloc[0]], told)
    return told.assign(flops=_flops(activities, tables))


def _tell(launched: pd.DataFrame, launches: pd.DataFrame, told: pd.DataFrame) -> None:
    """Fill in what one call launched, of a graph with these launches."""
    kernels = launched[launched["kind"] == "kernel"]
    is_named = launches["kind"].isin(_NAMED).to_numpy()
    launch, how = match_launches(
        kernels["name"].tolist(),
        kernels["call_span"].to_numpy(),
        launches["kernel"].tolist(),
        is_named.tolist(),
    )
    told.loc[kernels.index, "by"] = how
    told.loc[kernels.index, "launch"] = launch
    _add_copies(launched, told, is_named)
    found = told.loc[launched.index, "launch"].to_numpy()
    rows = np.append(launches.index.to_numpy(), -1)
    told.loc[launched.index, "launch"] = rows[np.where(found >= 0, found, len(launches))]


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
