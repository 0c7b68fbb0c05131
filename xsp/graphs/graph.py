"""A model as a graph of layers: who feeds whom, and the longest way through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.errors import GraphError
from xsp.graphs.layer import Layer

FORMAT = "xsp graph"
VERSION = 1


@dataclass(frozen=True)
class Graph:
    """Layers in an order in which each comes after those that feed it.

    `edges` are pairs (from, to) of places in `layers`. `dependencies_known` is False where the
    order is all that was recorded: the edges are then a chain, and nothing can be said about what
    could run side by side. `notes` say in sentences what could not be read.
    """

    name: str
    layers: tuple[Layer, ...]
    edges: tuple[tuple[int, int], ...]
    source: str
    dependencies_known: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for before, after in self.edges:
            if not 0 <= before < after < len(self.layers):
                raise GraphError(
                    f"edge {before} -> {after} of a graph of {len(self.layers)} layers goes "
                    "backwards or nowhere; give the layers in the order in which they run"
                )

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def keys(self) -> list[str]:
        """`Layer.key` of each layer."""
        return [layer.key for layer in self.layers]

    def critical_path(self, durations: npt.ArrayLike) -> tuple[float, list[int]]:
        """Sum of durations along the longest way through the graph, and the layers on it.

        This is the least time if layers that do not depend on each other run side by side
        (Benanza, section III-D, where it is found as a shortest path of negated weights). The sum
        is rounded once (`math.fsum`), so that it is never above that over all layers.
        """
        length = np.asarray(durations, dtype=np.float64)
        if length.shape != (len(self.layers),):
            raise GraphError(
                f"{length.size} durations for {len(self.layers)} layers; give one for each layer"
            )
        finish, via = length.copy(), np.full(len(length), -1)
        for after, befores in self._feeding().items():
            first = max(befores, key=finish.__getitem__)
            finish[after] += max(float(finish[first]), 0.0)
            via[after] = first
        path = _walked_back(finish, via)
        return fsum(length[path]), path

    def depths(self) -> list[int]:
        """For each layer, how many layers come before it on the longest way to it."""
        depth = [0] * len(self.layers)
        for after, befores in self._feeding().items():
            depth[after] = 1 + max(depth[before] for before in befores)
        return depth

    def table(self) -> pd.DataFrame:
        """One row per layer: name, operator, dtype, inputs, weights, outputs, parameters, layout,
        source, feeds (names of the layers that use it).
        """
        users: dict[int, list[str]] = {}
        for before, after in self.edges:
            users.setdefault(before, []).append(self.layers[after].name)
        rows = [
            {
                "name": layer.name,
                "operator": layer.operator,
                "dtype": layer.dtype,
                "inputs": " ".join(map(str, layer.inputs)),
                "weights": " ".join(map(str, layer.weights)),
                "outputs": " ".join(map(str, layer.outputs)),
                "parameters": json.dumps(dict(layer.parameters)) if layer.parameters else "",
                "layout": layer.layout,
                "source": layer.source,
                "feeds": ", ".join(users.get(place, [])),
            }
            for place, layer in enumerate(self.layers)
        ]
        return pd.DataFrame(rows, columns=_COLUMNS)

    def to_json(self) -> str:
        """Everything in it; `Graph.from_json` reads it back."""
        row = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "source": self.source,
            "dependencies_known": self.dependencies_known,
            "notes": list(self.notes),
            "layers": [layer.to_dict() for layer in self.layers],
            "edges": [list(edge) for edge in self.edges],
        }
        return json.dumps(row, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """The inverse of `to_json`. Raises GraphError for anything else."""
        try:
            row: Mapping[str, Any] = json.loads(text)
            known = row["format"] == FORMAT and row["version"] <= VERSION
        except (ValueError, KeyError, TypeError) as error:
            raise GraphError(
                "this is not an xsp graph; give a file written by `xsp graph -o FILE`"
            ) from error
        if not known:
            raise GraphError(
                f"format {row['format']!r} version {row['version']} is unknown; this xsp reads "
                f"version {VERSION} and older"
            )
        return cls(
            name=row["name"],
            layers=tuple(Layer.from_dict(layer) for layer in row["layers"]),
            edges=tuple((int(before), int(after)) for before, after in row["edges"]),
            source=row["source"],
            dependencies_known=row["dependencies_known"],
            notes=tuple(row["notes"]),
        )

    def _feeding(self) -> dict[int, list[int]]:
        """By layer, in order, those that feed it."""
        feeding: dict[int, list[int]] = {}
        for before, after in sorted(self.edges, key=lambda edge: edge[1]):
            feeding.setdefault(after, []).append(before)
        return feeding


_COLUMNS = [
    "name",
    "operator",
    "dtype",
    "inputs",
    "weights",
    "outputs",
    "parameters",
    "layout",
    "source",
    "feeds",
]


def _walked_back(finish: npt.NDArray[np.float64], via: npt.NDArray[np.int64]) -> list[int]:
    path: list[int] = []
    at = int(finish.argmax()) if len(finish) else -1
    while at >= 0:
        path.append(at)
        at = int(via[at])
    return path[::-1]


def chain(layers: Sequence[Layer]) -> tuple[tuple[int, int], ...]:
    """The edges of layers that run one after another."""
    return tuple((place, place + 1) for place in range(len(layers) - 1))


def unique_names(names: Iterable[str]) -> list[str]:
    """The names with `_1`, `_2`, … behind those that came before."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.append(f"{name}_{count}" if count else name)
    return found
