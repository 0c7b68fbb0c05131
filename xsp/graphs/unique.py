"""Which layers are the same, in one model and between models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer


@dataclass(frozen=True)
class UniqueLayer:
    """A layer and every name under which it occurs, those of other models after `model/`."""

    layer: Layer
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How often it occurs."""
        return len(self.names)


def unique_layers(graphs: Sequence[Graph]) -> list[UniqueLayer]:
    """Each distinct layer once, in the order of its first occurrence (Benanza, section III-A)."""
    names: dict[str, list[str]] = {}
    layers: dict[str, Layer] = {}
    for graph in graphs:
        for layer in graph.layers:
            layers.setdefault(layer.key, layer)
            full = layer.name if len(graphs) == 1 else f"{graph.name}/{layer.name}"
            names.setdefault(layer.key, []).append(full)
    return [UniqueLayer(layer, tuple(names[key])) for key, layer in layers.items()]


def shares(graphs: Mapping[str, Graph]) -> pd.DataFrame:
    """How much of each model, and of all together, is the same.

    Columns: model, layers, unique, unique_share (of layers). The last row, "all", counts layers
    of all models, as the papers do.
    """
    counted = {name: Counter(graph.keys) for name, graph in graphs.items()}
    together = sum(counted.values(), Counter[str]())
    every = [*counted.items(), ("all", together)]
    rows = [(name, counts.total(), len(counts)) for name, counts in every]
    table = pd.DataFrame(rows, columns=["model", "layers", "unique"])
    layers = table["layers"].where(table["layers"] > 0)
    return table.assign(unique_share=table["unique"] / layers)


def similarity(graphs: Mapping[str, Graph]) -> pd.DataFrame:
    """Jaccard similarity |A ∩ B| / |A ∪ B| of the models' unique layers (DLBricks, section IV),
    a square table by name; 1 for two models without layers.
    """
    sets = {name: set(graph.keys) for name, graph in graphs.items()}
    rows = [
        [len(one & other) / len(one | other) if one | other else 1.0 for other in sets.values()]
        for one in sets.values()
    ]
    return pd.DataFrame(rows, index=list(sets), columns=list(sets))
