"""The least time that a model's layers take when each is computed as fast as a library can.

Benanza (section III-D): the sequential bound is the sum over layers, the parallel one the sum along
the critical path; the Benanza Ratio is the bound over what was measured. Needs no torch: entries
come from a performance database, so that a capture can be judged anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.peaks import on_cpu
from xsp.bounds.bound_doubts import above_measured, doubts_of
from xsp.bounds.granularities import LAYOUT, LIBRARY, Bound, Ideal, ideals
from xsp.bounds.known import Known
from xsp.bounds.roofs import WITHOUT_TF32, Flags, Peaks
from xsp.database.entry import Entry, Machine
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.database.store import Store


@dataclass(frozen=True, eq=False)
class LowerBound:
    """Bounds of a model by granularity, and of each layer.

    `latency_ms` and `latency_ci_ms` are what was measured, NaN where nothing was. `doubts` say in
    sentences why a number here may be no bound; where there are none, it is one.
    """

    graph: Graph
    machine: Machine
    bounds: Mapping[str, Bound]
    layers: pd.DataFrame
    latency_ms: float
    latency_ci_ms: float
    launch_ms: float
    doubts: tuple[str, ...]
    missing: tuple[Layer, ...]

    @property
    def is_bound(self) -> bool:
        """Whether the library's best is a lower bound: every layer is known, as it would run."""
        return not self.doubts

    @property
    def sequential_ms(self) -> float:
        """The library's best, one layer after another."""
        return self.bounds[LIBRARY].sequential_ms

    @property
    def parallel_ms(self) -> float:
        """The library's best along the critical path."""
        return self.bounds[LIBRARY].parallel_ms

    @property
    def ratio(self) -> float:
        """The Benanza Ratio: sequential bound over measured latency; at 1 nothing is left."""
        return self.sequential_ms / self.latency_ms

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per granularity: granularity, sequential_ms, half_width_ms, parallel_ms, ratio,
        parallel_ratio, covered.
        """
        rows = [
            {
                "granularity": each.granularity,
                "sequential_ms": each.sequential_ms,
                "half_width_ms": each.half_width_ms,
                "parallel_ms": each.parallel_ms,
                "ratio": each.sequential_ms / self.latency_ms,
                "parallel_ratio": each.parallel_ms / self.latency_ms,
                "covered": each.covered,
            }
            for each in self.bounds.values()
        ]
        return pd.DataFrame(rows)


def lower_bound(
    profile: ProfileData,
    store: Store | str | None = None,
    *,
    graph: Graph | None = None,
) -> LowerBound:
    """The lower bound of what a profile measured, from the entries that a database has of its
    machine.

    Args:
        profile: a profile, live or loaded.
        store: a database or its place; the user's by default.
        graph: the model's graph, where it is at hand: it knows dependencies, which a capture does
            not.

    Layers that the database lacks count with their ideal traffic, are listed in `missing`, and
    `doubts` says so; `xsp bound` measures them.

    """
    read = graph or graph_of_profile(profile)
    environment = profile.environment
    device = "cpu" if on_cpu(profile) else "cuda"
    machine = Machine.of(environment, device)
    peaks = Peaks.of(environment, device)
    entries = _entries(store, machine)
    return bound_of(
        read,
        machine,
        entries,
        peaks,
        flags=Flags.of(environment),
        latency=(profile.latency_ms, profile.latency_ci_ms),
        measured=_measured(profile, device),
        busy_ms=_busy_ms(profile, device),
        clock_mhz=_clock(profile),
        launch_ns=_launch_ns(profile),
    )


def bound_of(
    graph: Graph,
    machine: Machine,
    entries: Sequence[Entry],
    peaks: Peaks,
    *,
    flags: Flags = WITHOUT_TF32,
    latency: tuple[float, float] = (nan, nan),
    measured: Mapping[str, float] | None = None,
    busy_ms: float = nan,
    clock_mhz: float = nan,
    launch_ns: float = nan,
) -> LowerBound:
    """The lower bound of a graph from entries of one machine; see `lower_bound`.

    `latency` is the model's, in ms, with half of its interval; `measured` is in ms by layer of the
    profile (`Layer.owner`), `busy_ms` how long the device worked for the whole model.
    """
    known = Known(entries)
    found = ideals(graph, known, flags, peaks)
    library = found[LIBRARY]
    missing = tuple(
        layer for layer, tried in zip(graph.layers, library.tried, strict=True) if not tried
    )
    bounds = {name: each.bound(name) for name, each in found.items()}
    layers = _layers(graph, found, peaks, measured or {}, flags, known)
    doubts = doubts_of(graph, library.best, missing, clock_mhz)
    doubts += above_measured(bounds[LIBRARY], layers, busy_ms)
    return LowerBound(
        graph=graph,
        machine=machine,
        bounds=bounds,
        layers=layers,
        latency_ms=latency[0],
        latency_ci_ms=latency[1],
        launch_ms=launch_ns * len(graph) / 1e6,
        doubts=tuple(doubts),
        missing=missing,
    )


def _entries(store: Store | str | None, machine: Machine) -> list[Entry]:
    # SQLAlchemy takes a while to import, and a summary without a database does not need it.
    from xsp.database.store import Store

    if isinstance(store, Store):
        return store.entries(machine)
    with Store(store) as opened:
        return opened.entries(machine)


def _layers(
    graph: Graph,
    found: Mapping[str, Ideal],
    peaks: Peaks,
    measured: Mapping[str, float],
    flags: Flags,
    known: Known,
) -> pd.DataFrame:
    """One row per layer: name, owner, operator, precision, bound_ms, half_width_ms, algorithm,
    default_ms (by what PyTorch does by itself), layout_ms (in its better layout), roof_ms,
    measured_ms, ratio. A measured layer of several operations is compared with their sum.
    """
    best = found[LIBRARY].best
    precisions = [flags.precision(each) for each in graph.layers]
    table = pd.DataFrame(
        {
            "name": [each.name for each in graph.layers],
            "owner": [each.owner or each.name for each in graph.layers],
            "operator": [each.operator for each in graph.layers],
            "precision": precisions,
            "bound_ms": [each.time_ns / 1e6 for each in best],
            "half_width_ms": [each.half_width_ns / 1e6 for each in best],
            "algorithm": [each.algorithm for each in best],
            "default_ms": [known.default_ns(each.entry) / 1e6 for each in best],
            "layout_ms": [each.time_ns / 1e6 for each in found[LAYOUT].best],
            "roof_ms": [
                peaks.roof_ns(layer, precision) / 1e6
                for layer, precision in zip(graph.layers, precisions, strict=True)
            ],
        }
    )
    table["measured_ms"] = table["owner"].map(dict(measured)).astype(float)
    whole = table.groupby("owner")["bound_ms"].transform("sum", min_count=1)
    table["ratio"] = whole / table["measured_ms"]
    return table


def _measured(profile: ProfileData, device: str) -> dict[str, float]:
    """Milliseconds of each forward layer: on the device, or of the host on a CPU."""
    tree = profile.tree()
    layers = tree[(tree["level"] == "LAYER") & (tree["phase"] == "forward")]
    has_device = device == "cuda" and layers["device_ms"].notna().any()
    times = layers["device_ms" if has_device else "host_ms"].astype(float)
    # A row is the mean of its calls.
    by_layer = times.groupby(layers["name"]).sum(min_count=1).dropna()
    return {str(name): float(value) for name, value in by_layer.items()}


def _busy_ms(profile: ProfileData, device: str) -> float:
    """How long the device was busy in a call, on a CPU how long the call took at most."""
    if device == "cpu":
        return profile.latency_ms + profile.latency_ci_ms
    return float(profile.tree()["device_ms"].iloc[0])


def _clock(profile: ProfileData) -> float:
    states = profile.gpu_states
    return float(states["sm_clock_mhz"].median()) if len(states) else nan


def _launch_ns(profile: ProfileData) -> float:
    """What a launch costs the host at least: the tenth percentile of the launches recorded."""
    calls = profile.table("api_calls")
    launches = calls.loc[calls["name"].astype(str).str.contains("LaunchKernel"), "duration_ns"]
    return float(launches.quantile(0.1)) if len(launches) else nan
