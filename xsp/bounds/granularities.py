"""What an ideal may change about a model, step by step, and what it then takes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, nan

import numpy as np
import numpy.typing as npt

from xsp.bounds.known import Best, Known
from xsp.bounds.roofs import PRECISIONS, Flags, Peaks
from xsp.bounds.variants import in_eight_bits, layouts, narrower
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer
from xsp.graphs.patterns import Replaced, fused_with_parts

LIBRARY, LAYOUT, FUSED, TENSOR_CORES, TRAFFIC = (
    "library's best",
    "best layout",
    "fused",
    "tensor cores",
    "ideal traffic",
)
"""Each lets the ideal do more than the one before: another algorithm, another layout, fused
products, narrower types, and at last nothing but reading and writing every tensor once and
computing at the peak.
"""
EIGHT_BIT = "8-bit products"
"""Only where a GPU computes them: linear layers also in 8-bit floats."""

Floats = npt.NDArray[np.float64]


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
class Ideal:
    """A model under one granularity: by layer of its graph the time in ns, half of its interval,
    whether this very way was tried, and the entry that was best.
    """

    graph: Graph
    time_ns: Floats
    half_width_ns: Floats
    tried: npt.NDArray[np.bool_]
    best: tuple[Best, ...]

    def bound(self, name: str) -> Bound:
        """Sums of it, and the critical path where dependencies are known."""
        parallel, path = self.graph.critical_path(self.time_ns)
        known = self.graph.dependencies_known
        return Bound(
            name,
            fsum(self.time_ns) / 1e6,
            parallel / 1e6 if known else nan,
            float(np.sqrt((self.half_width_ns**2).sum())) / 1e6,
            float(self.tried.mean()) if len(self.tried) else 0.0,
            tuple(self.graph.layers[place].name for place in path) if known else (),
        )


def ideals(graph: Graph, known: Known, flags: Flags, peaks: Peaks) -> dict[str, Ideal]:
    """The model under every granularity.

    A layer of which nothing was measured counts with its roof, which no library can beat. From
    there on, what was not measured of an ideal does not count: a fused product without an entry
    takes what its parts take.
    """
    library = _as_is(graph, known, flags, peaks)
    layout = _in_layouts(library, known, flags)
    one = fused_with_parts(graph)
    fused = _fused(one, layout, known, flags)
    cores = _on_tensor_cores(fused, known)
    found = {LIBRARY: library, LAYOUT: layout, FUSED: fused, TENSOR_CORES: cores}
    eight = _in_eight_bits(cores, known)
    if eight is not None:
        found[EIGHT_BIT] = eight
    return found | {TRAFFIC: _roofs(one.graph, flags, peaks)}


def _as_is(graph: Graph, known: Known, flags: Flags, peaks: Peaks) -> Ideal:
    best = [known.best([(each, way) for way in flags.ways(each)]) for each in graph.layers]
    return _better(_roofs(graph, flags, peaks), best, _found(best), otherwise=False)


def _in_layouts(before: Ideal, known: Known, flags: Flags) -> Ideal:
    layers = before.graph.layers
    best = [known.best(_every_layout(each, flags)) for each in layers]
    others = [layouts(each)[1:] for each in layers]
    tried = [
        not other or known.best([(other[0], flags.precision(each))]).entry is not None
        for each, other in zip(layers, others, strict=True)
    ]
    return _better(before, best, tried)


def _fused(one: Replaced, before: Ideal, known: Known, flags: Flags) -> Ideal:
    parts = [list(each) for each in one.parts]
    apart = Ideal(
        one.graph,
        np.array([before.time_ns[each].sum() for each in parts], dtype=np.float64),
        np.sqrt([float((before.half_width_ns[each] ** 2).sum()) for each in parts]),
        np.zeros(len(parts), dtype=bool),
        tuple(before.best[each[0]] if len(each) == 1 else Best() for each in parts),
    )
    best = [known.best(_every_layout(each, flags)) for each in one.graph.layers]
    return _better(apart, best, _found(best))


def _on_tensor_cores(before: Ideal, known: Known) -> Ideal:
    layers = before.graph.layers
    best = [known.best(_on_cores(each)) for each in layers]
    found = _found(best)
    tried = [
        own if each.dtype == "float32" else earlier
        for own, each, earlier in zip(found, layers, before.tried.tolist(), strict=True)
    ]
    return _better(before, best, tried)


def _in_eight_bits(before: Ideal, known: Known) -> Ideal | None:
    """None where nothing was measured so, as on GPUs that have no such units."""
    narrow = [in_eight_bits(each) for each in before.graph.layers]
    best = [Best() if each is None else known.best([(each, "fp8")]) for each in narrow]
    found = _found(best)
    if not any(found):
        return None
    tried = [own or each is None for own, each in zip(found, narrow, strict=True)]
    return _better(before, best, tried)


def _roofs(graph: Graph, flags: Flags, peaks: Peaks) -> Ideal:
    """Nothing but every tensor once through memory, and the operations at the peak."""
    times = [peaks.roof_ns(each, flags.precision(each)) for each in graph.layers]
    count = len(graph)
    everything = np.ones(count, dtype=bool)
    return Ideal(
        graph, np.array(times, dtype=np.float64), np.zeros(count), everything, (Best(),) * count
    )


def _better(
    before: Ideal, best: Sequence[Best], tried: Sequence[bool], *, otherwise: bool = True
) -> Ideal:
    """What is known of each layer; with `otherwise`, what it took before where that is faster."""
    time, half = before.time_ns.copy(), before.half_width_ns.copy()
    kept = list(before.best)
    for place, one in enumerate(best):
        if one.entry is None or (otherwise and one.time_ns >= time[place]):
            continue
        time[place], half[place] = one.time_ns, np.nan_to_num(one.half_width_ns)
        kept[place] = one
    return Ideal(before.graph, time, half, np.array(tried, dtype=bool), tuple(kept))


def _found(best: Sequence[Best]) -> list[bool]:
    return [one.entry is not None for one in best]


def _every_layout(layer: Layer, flags: Flags) -> list[tuple[Layer, str]]:
    return [(each, way) for each in layouts(layer) for way in flags.ways(layer)]


def _on_cores(layer: Layer) -> list[tuple[Layer, str]]:
    """TF32 for float32, and 16-bit types, in every layout."""
    if layer.dtype != "float32":
        return []
    found = [(each, "tf32") for each in layouts(layer)]
    return found + [(each, PRECISIONS[each.dtype]) for each in narrower(layer)]
