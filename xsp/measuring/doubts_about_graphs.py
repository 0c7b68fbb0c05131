"""What makes it doubtful which layers the kernels of CUDA graphs belong to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.assembly import Assembled
from xsp.analysis.spans.graph_layers import Owner, Unled
from xsp.analysis.spans.outside import stands_for_outside
from xsp.doubts import Doubt, Slug
from xsp.machine.torch_internals import graphed_module
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared
from xsp.types import Level, Tables

_NEEDED = (Level.LAYER, Level.KERNEL)


def about_graphs_of(found: Assembled, prepared: Prepared, options: Options) -> list[Doubt]:
    """If kernels of a target's CUDA graphs belong to no layer that was captured, where it was said
    what was captured or torch knows: how many, and why.
    """
    missing = missing_levels(prepared.traced)
    if options.captured_from and missing:
        return [Doubt.of(Slug.GRAPH_KERNELS, activities=0, missing=missing)]
    known = bool(options.captured_from) or any(map(graphed_module, prepared.modules))
    return about_graphs(found, in_layers_too=known)


def about_graphs(found: Assembled, *, in_layers_too: bool = False) -> list[Doubt]:
    """If kernels of CUDA graphs belong to no layer at all, or with `in_layers_too` to the layer
    that launched the graph, as those of compiled code do: how many, and why.
    """
    activities = _unled_activities(found.tables, in_layers_too)
    if not activities:
        return []
    facts = _difference(found.unled[0]) if found.unled else {}
    return [Doubt.of(Slug.GRAPH_KERNELS, activities=activities, **facts)]


def missing_levels(traced: Collection[Level]) -> list[str]:
    """Of the levels that kernels of graphs are led by, those that are not traced."""
    return [level.name for level in _NEEDED if level not in traced]


def _unled_activities(tables: Tables, in_layers_too: bool) -> int:
    """In a run, of the median of the runs that have any."""
    if "graph_nodes" not in tables:
        return 0
    nodes, spans = tables["graph_nodes"], tables["spans"]
    unknown = nodes.loc[nodes["owner"] == Owner.UNKNOWN.value, "span"].to_numpy()
    above = layer_spans(spans, unknown)
    level, detail = (spans[name].to_numpy()[above] for name in ("level", "detail"))
    in_layer = level == Level.LAYER
    real = ~stands_for_outside(tables["layers"])
    in_real_layer = in_layer & real[np.where(in_layer, detail, 0)]
    counted = unknown[~in_real_layer | in_layers_too]
    counts = np.bincount(spans["run"].to_numpy()[counted])
    return int(np.median(counts[counts > 0])) if len(counted) else 0


def _difference(unled: Unled) -> dict[str, Any]:
    if unled.ambiguous:
        return {"size": unled.kernels}
    facts = {"place": unled.place, "expected": unled.expected, "found": unled.found}
    return {"size": unled.kernels, **facts}
