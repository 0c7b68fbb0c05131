"""Why the library's best may be no lower bound, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import pandas as pd

from xsp.bounds.granularities import Bound
from xsp.bounds.known import Best
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer

CLOCK_CHANGE = 0.05
"""Entries measured this far from the profile's clock are said to be."""
GRAPH_METHOD = "a captured graph, with the gaps between its kernels"


def doubts_of(
    graph: Graph, best: Sequence[Best], missing: Sequence[Layer], clock_mhz: float
) -> list[str]:
    """Layers without an entry, entries timed otherwise or at another clock, wide intervals."""
    found = []
    if missing:
        names = ", ".join(sorted({each.operator for each in missing})[:6])
        found.append(
            f"{len(missing)} of {len(graph)} layers ({names}) are not in the database and count "
            "with their ideal traffic only: the bound is lower than necessary; `xsp bound` "
            "measures them"
        )
    entries = [each.entry for each in best if each.entry is not None]
    methods = {str(each.provenance.get("method")) for each in entries}
    if GRAPH_METHOD in methods:
        found.append(
            "some entries were timed as a captured graph, with the gaps between kernels: these are "
            "no lower bound of kernel time; install xsp[cuda13] to time by kernel records"
        )
    clocks = [float(each.provenance.get("sm_clock_mhz", nan)) for each in entries]
    other = [each for each in clocks if abs(each / clock_mhz - 1) > CLOCK_CHANGE]
    if other:
        found.append(
            f"{len(other)} layers were timed at {min(other):.0f} to {max(other):.0f} MHz, the "
            f"profile at {clock_mhz:.0f}: at another clock times are not bound"
        )
    wide = [
        each for each in best if each.entry is not None and each.half_width_ns > 0.1 * each.time_ns
    ]
    if wide:
        found.append(
            f"{len(wide)} of {len(graph)} layers are known to ±10 % or worse only; measure on a "
            "quieter machine"
        )
    return found


def above_measured(bound: Bound, layers: pd.DataFrame, busy_ms: float) -> list[str]:
    """A bound above what was measured bounds nothing: something in it is not what ran.

    `busy_ms` is how long the device was busy (on a CPU, how long the model took), NaN where that is
    not known; `layers` are those of `LowerBound`. The layers that are furthest above their own
    measured time are named.
    """
    if not bound.sequential_ms - bound.half_width_ms > busy_ms:
        return []
    whole = layers.groupby("owner", sort=False)["bound_ms"].sum()
    measured = layers.groupby("owner", sort=False)["measured_ms"].first()
    excess = (whole - measured).nlargest(3)
    named = ", ".join(str(name) for name in excess.index[excess > 0])
    most = f"; most by {named}" if named else ""
    return [
        f"the bound of {bound.sequential_ms:.3g} ms is above the {busy_ms:.3g} ms that the model "
        f"was measured to work{most}: what the database has of these layers is not what ran (a "
        "layout, a data type or another state of caches), or kernels ran side by side"
    ]
