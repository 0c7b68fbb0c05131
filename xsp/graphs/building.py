"""Putting a graph together while a model is read, whatever it is read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xsp.graphs.graph import Graph, unique_names
from xsp.graphs.layer import CONTIGUOUS, Layer, TensorType
from xsp.graphs.operators import Operation, Value


class GraphBuilder:
    """Collects layers and who feeds them. Values are known by the reader's own keys."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self._layers: list[Layer] = []
        self._edges: set[tuple[int, int]] = set()
        self.notes: list[str] = []

    def add_input(self, key: str, tensor: TensorType) -> None:
        """An input of the model."""
        self.values[key] = Value(tensor)

    def add_constant(self, key: str, tensor: TensorType) -> None:
        """A weight, or what can be computed before the model runs."""
        self.values[key] = Value(tensor, constant=True)

    def add_view(self, key: str, of: str, tensor: TensorType) -> None:
        """Another shape or part of a tensor: no layer, since nothing need be computed for it."""
        self.values[key] = replace(self.values[of], type=tensor)

    def add_layer(
        self,
        keys: Sequence[str],
        found: Operation,
        outputs: Sequence[TensorType],
        *,
        name: str,
        source: str,
        owner: str = "",
        layout: str = CONTIGUOUS,
    ) -> None:
        """One operation. What is computed from constants alone is a constant and no layer."""
        activations = [each for each in found.operands if not each.constant]
        if not activations:
            for key, tensor in zip(keys, outputs, strict=False):
                self.add_constant(key, tensor)
            return
        place = len(self._layers)
        self._layers.append(
            Layer(
                name=name,
                operator=found.operator,
                inputs=tuple(each.type for each in activations),
                weights=tuple(each.type for each in found.operands if each.constant),
                outputs=tuple(outputs),
                parameters=dict(found.parameters),
                layout=layout,
                source=source,
                owner=owner or name,
            )
        )
        for each in activations:
            if each.producer is not None:
                self._edges.add((each.producer, place))
        for key, tensor in zip(keys, outputs, strict=False):
            self.values[key] = Value(tensor, producer=place)

    def graph(self, name: str, source: str) -> Graph:
        """The graph; layers of one name are numbered."""
        names = unique_names(layer.name for layer in self._layers)
        layers = tuple(layer.renamed(own) for layer, own in zip(self._layers, names, strict=True))
        return Graph(name, layers, tuple(sorted(self._edges)), source, notes=tuple(self.notes))
