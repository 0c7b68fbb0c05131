"""The least time that a model's layers take when each is computed as fast as a library can.

Benanza (section III-D): the sequential bound is the sum over layers, the parallel one the sum along
the critical path; the Benanza Ratio is the bound over what was measured. Needs no torch: entries
come from a performance database, so that a capture can be judged anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.peaks import cpu_peaks, gpu_peaks
from xsp.database.entry import WARM, Entry, Machine
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.graph import Graph
from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, Layer
from xsp.graphs.patterns import fused
from xsp.graphs.work import flops, is_product

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.database.store import Store

LIBRARY, LAYOUT, FUSED, TENSOR_CORES, TRAFFIC = (
    "library's best",
    "best layout",
    "fused",
    "tensor cores",
    "ideal traffic",
)
GRANULARITIES = (LIBRARY, LAYOUT, FUSED, TENSOR_CORES, TRAFFIC)
"""Each lets the ideal do more than the one before: another algorithm, another layout, fused
products, narrower types, and at last nothing but reading and writing every tensor once and
computing at the peak.
"""
DEFAULTS = ("torch", "oneDNN")
"""What PyTorch takes by itself: on a CPU oneDNN for products."""
CLOCK_CHANGE = 0.05
"""Entries measured this far from the profile's clock are said to be."""
GRAPH_METHOD = "a captured graph, with the gaps between its kernels"
_PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_NARROWER = ("bfloat16", "float16")


@dataclass(frozen=True)
class Best:
    """The fastest known way to compute a layer; `time_ns` is NaN where nothing was measured."""

    time_ns: float = nan
    half_width_ns: float = nan
    algorithm: str = ""
    entry: Entry | None = None


class Known:
    """Entries of one machine, asked for the best of a layer."""

    def __init__(self, entries: Iterable[Entry], caches: str = WARM) -> None:
        self._by_layer: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            if entry.time_ns is not None and entry.caches == caches:
                key = (entry.layer.digest, entry.precision)
                self._by_layer.setdefault(key, []).append(entry)

    def of(self, layer: Layer, precision: str) -> list[Entry]:
        """Every algorithm that was timed, the fastest first."""
        found = self._by_layer.get((layer.digest, precision), [])
        return sorted(found, key=lambda entry: entry.time_ns or inf)

    def best(self, ways: Iterable[tuple[Layer, str]]) -> Best:
        """The fastest of several ways to compute a layer."""
        every = [entry for layer, precision in ways for entry in self.of(layer, precision)[:1]]
        if not every:
            return Best()
        entry = min(every, key=lambda one: one.time_ns or inf)
        return Best(
            float(entry.time_ns or nan),
            nan if entry.half_width_ns is None else entry.half_width_ns,
            entry.algorithm,
            entry,
        )


@dataclass(frozen=True)
class Bound:
    """One granularity: `sequential_ms` over all layers, `parallel_ms` along the critical path (NaN
    where dependencies are not known), `half_width_ms` of the sequential bound's 95 % interval,
    `covered`, the share of layers with an entry, and the layers on the critical path.
    """

    granularity: str
    sequential_ms: float
    parallel_ms: float
    half_width_ms: float
    covered: float
    path: tuple[str, ...] = ()


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
        clock_mhz=_clock(profile),
        launch_ns=_launch_ns(profile),
    )


def on_cpu(profile: ProfileData) -> bool:
    """Whether the model ran on the CPU."""
    from xsp.analysis.peaks import on_cpu as ran_on_cpu

    return ran_on_cpu(profile)


@dataclass(frozen=True)
class Flags:
    """How products of float32 tensors are computed: whether TF32 is allowed."""

    products: bool = False
    convolutions: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Flags:
        """As the profile's environment has it."""
        return cls(
            bool(environment.get("allow_tf32", False)),
            bool(environment.get("cudnn_allow_tf32", False)),
        )

    def precision(self, layer: Layer) -> str:
        """How this layer's products are computed."""
        allowed = self.convolutions if layer.operator == "convolution" else self.products
        if layer.dtype == "float32" and allowed and is_product(layer):
            return "tf32"
        return _PRECISIONS.get(layer.dtype, layer.dtype)


@dataclass(frozen=True)
class Peaks:
    """FLOP/s by precision and bytes/s of the memory; empty and NaN where not known."""

    flops_per_s: Mapping[str, float]
    bytes_per_s: float

    @classmethod
    def of(cls, environment: Mapping[str, Any], device: str) -> Peaks:
        """Theoretical peaks of the device, the fastest unit of each precision; the memory's
        bandwidth is the measured one where there is no other.
        """
        found = cpu_peaks(environment) if device == "cpu" else gpu_peaks(environment)
        measured = environment.get("measured_peaks") or {}
        memory = found.get("dram", (float(measured.get("dram_bytes_per_s", nan)), ""))[0]
        rates: dict[str, float] = {}
        for resource, (per_s, _) in found.items():
            precision = resource.partition(" ")[0]
            if resource != "dram":
                rates[precision] = max(rates.get(precision, 0.0), per_s)
        return cls(rates, memory)

    def roof_ns(self, layer: Layer, precision: str) -> float:
        """The least time by the peaks: all tensors once through memory, all operations at the
        peak. 0 where nothing is known.
        """
        moving = layer.traffic_bytes / self.bytes_per_s if self.bytes_per_s > 0 else 0.0
        peak = self.flops_per_s.get(precision) or self.flops_per_s.get("fp32", inf)
        return max(moving, flops(layer) / peak) * 1e9


def bound_of(
    graph: Graph,
    machine: Machine,
    entries: Sequence[Entry],
    peaks: Peaks,
    *,
    flags: Flags = Flags(),  # frozen
    latency: tuple[float, float] = (nan, nan),
    measured: Mapping[str, float] | None = None,
    clock_mhz: float = nan,
    launch_ns: float = nan,
) -> LowerBound:
    """The lower bound of a graph from entries of one machine; see `lower_bound`.

    `latency` is the model's, in ms, with half of its interval; `measured` is in ms by layer of the
    profile (`Layer.owner`).
    """
    known = Known(entries)
    narrow = fused(graph)
    chosen = {
        LIBRARY: (graph, [known.best(_as_is(each, flags)) for each in graph.layers]),
        LAYOUT: (graph, [known.best(_layouts(each, flags)) for each in graph.layers]),
        FUSED: (narrow, [known.best(_layouts(each, flags)) for each in narrow.layers]),
        TENSOR_CORES: (narrow, [known.best(_narrower(each, flags)) for each in narrow.layers]),
    }
    roofs = {
        id(own): [peaks.roof_ns(each, flags.precision(each)) for each in own.layers]
        for own in (graph, narrow)
    }
    bounds = {name: _bound(name, own, best, roofs[id(own)]) for name, (own, best) in chosen.items()}
    bounds[FUSED] = _no_worse(bounds[FUSED], bounds[LAYOUT])
    bounds[TENSOR_CORES] = _no_worse(bounds[TENSOR_CORES], bounds[FUSED])
    bounds[TRAFFIC] = _ideal(narrow, peaks, flags)
    best = chosen[LIBRARY][1]
    missing = tuple(
        layer for layer, one in zip(graph.layers, best, strict=True) if one.entry is None
    )
    return LowerBound(
        graph=graph,
        machine=machine,
        bounds=bounds,
        layers=_layers(graph, chosen, roofs[id(graph)], measured or {}, flags, known),
        latency_ms=latency[0],
        latency_ci_ms=latency[1],
        launch_ms=launch_ns * len(graph) / 1e6,
        doubts=tuple(_doubts(graph, best, missing, clock_mhz)),
        missing=missing,
    )


def _entries(store: Store | str | None, machine: Machine) -> list[Entry]:
    # SQLAlchemy takes a while to import, and a summary without a database does not need it.
    from xsp.database.store import Store

    if isinstance(store, Store):
        return store.entries(machine)
    with Store(store) as opened:
        return opened.entries(machine)


def _as_is(layer: Layer, flags: Flags) -> list[tuple[Layer, str]]:
    return [(layer, flags.precision(layer))]


def _layouts(layer: Layer, flags: Flags) -> list[tuple[Layer, str]]:
    from dataclasses import replace

    precision = flags.precision(layer)
    return [(replace(layer, layout=layout), precision) for layout in (CONTIGUOUS, CHANNELS_LAST)]


def _narrower(layer: Layer, flags: Flags) -> list[tuple[Layer, str]]:
    """Also on tensor cores: TF32 for float32, and 16-bit types."""
    found = _layouts(layer, flags)
    if layer.dtype != "float32":
        return found
    found += [(each, "tf32") for each, _ in _layouts(layer, flags)]
    for dtype in _NARROWER:
        found += _layouts(layer.with_dtype(dtype), flags)
    return found


def _bound(name: str, graph: Graph, best: Sequence[Best], roofs: Sequence[float]) -> Bound:
    """Layers without an entry count with their roof, which no library can beat."""
    times = np.array(
        [one.time_ns if one.entry else roof for one, roof in zip(best, roofs, strict=True)]
    )
    widths = [one.half_width_ns for one in best if one.entry and one.half_width_ns > 0]
    covered = sum(one.entry is not None for one in best) / max(len(best), 1)
    parallel, path = graph.critical_path(times)
    on_path = tuple(graph.layers[place].name for place in path)
    return Bound(
        name,
        float(times.sum()) / 1e6,
        parallel / 1e6 if graph.dependencies_known else nan,
        sqrt(sum(each**2 for each in widths)) / 1e6,
        covered,
        on_path if graph.dependencies_known else (),
    )


def _no_worse(bound: Bound, before: Bound) -> Bound:
    """An ideal that may do more cannot be slower: what was not measured of it does not count."""
    from dataclasses import replace

    if bound.sequential_ms <= before.sequential_ms:
        return bound
    return replace(before, granularity=bound.granularity, covered=bound.covered)


def _ideal(graph: Graph, peaks: Peaks, flags: Flags) -> Bound:
    times = [peaks.roof_ns(each, flags.precision(each)) for each in graph.layers]
    parallel, path = graph.critical_path(times)
    on_path = tuple(graph.layers[place].name for place in path)
    known = graph.dependencies_known
    return Bound(
        TRAFFIC,
        sum(times) / 1e6,
        parallel / 1e6 if known else nan,
        0.0,
        1.0,
        on_path if known else (),
    )


def _layers(
    graph: Graph,
    chosen: Mapping[str, tuple[Graph, list[Best]]],
    roofs: Sequence[float],
    measured: Mapping[str, float],
    flags: Flags,
    known: Known,
) -> pd.DataFrame:
    """One row per layer: name, owner, operator, precision, bound_ms, half_width_ms, algorithm,
    default_ms (by what PyTorch does by itself), layout_ms (in its better layout), roof_ms,
    measured_ms, ratio. A measured layer of several operations is compared with their sum.
    """
    best = chosen[LIBRARY][1]
    table = pd.DataFrame(
        {
            "name": [each.name for each in graph.layers],
            "owner": [each.owner or each.name for each in graph.layers],
            "operator": [each.operator for each in graph.layers],
            "precision": [flags.precision(each) for each in graph.layers],
            "bound_ms": [each.time_ns / 1e6 for each in chosen[LIBRARY][1]],
            "half_width_ms": [each.half_width_ns / 1e6 for each in chosen[LIBRARY][1]],
            "algorithm": [each.algorithm for each in chosen[LIBRARY][1]],
            "default_ms": [_default_ns(each.entry, known) / 1e6 for each in best],
            "layout_ms": [each.time_ns / 1e6 for each in chosen[LAYOUT][1]],
            "roof_ms": [each / 1e6 for each in roofs],
        }
    )
    table["measured_ms"] = table["owner"].map(dict(measured)).astype(float)
    whole = table.groupby("owner")["bound_ms"].transform("sum", min_count=1)
    table["ratio"] = whole / table["measured_ms"]
    return table


def _default_ns(entry: Entry | None, known: Known) -> float:
    """The time of the algorithm that PyTorch takes by itself, NaN where it is not known."""
    if entry is None:
        return nan
    every = known.of(entry.layer, entry.precision)
    mine = [each.time_ns for each in every if each.algorithm in DEFAULTS]
    return float(mine[0] or nan) if mine else nan


def _doubts(
    graph: Graph, best: Sequence[Best], missing: Sequence[Layer], clock_mhz: float
) -> list[str]:
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


def _measured(profile: ProfileData, device: str) -> dict[str, float]:
    """Milliseconds of each forward layer: on the device, or of the host on a CPU."""
    tree = profile.tree()
    layers = tree[(tree["level"] == "LAYER") & (tree["phase"] == "forward")]
    column = "device_ms" if device == "cuda" and layers["device_ms"].notna().any() else "host_ms"
    # A row is the mean of its calls.
    each = layers[column].astype(float).groupby(layers["name"]).sum(min_count=1).dropna()
    return {str(name): float(value) for name, value in each.items()}


def _clock(profile: ProfileData) -> float:
    states = profile.gpu_states
    return float(states["sm_clock_mhz"].median()) if len(states) else nan


def _launch_ns(profile: ProfileData) -> float:
    """What a launch costs the host at least: the tenth percentile of the launches recorded."""
    calls = profile.table("api_calls")
    launches = calls.loc[calls["name"].astype(str).str.contains("LaunchKernel"), "duration_ns"]
    return float(launches.quantile(0.1)) if len(launches) else nan
