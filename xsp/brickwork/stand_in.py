"""A model that stands in for a graph of layers, of which there are no weights and no program: an
ONNX file, a capture, a file of `xsp graph -o`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812 # torch's own spelling
from torch import Tensor, nn

from xsp.bounds.torch_calls import call_on, can_call, operands, recurrent_module, tensor
from xsp.brickwork.model import Model, model_of
from xsp.errors import GraphError
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer, TensorType

_NAMED = 5
"""Layers that a note names."""
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def model_of_graph(graph: Graph) -> Model:
    """The graph's layers as a model with random weights and inputs.

    A layer reads what feeds it in the shape that it needs. Where a graph does not tell how (parts
    of a tensor, several outputs), it reads as many numbers of it as it needs, and numbers of its
    own where there are not enough; the notes say how many layers do. Views between layers are not
    in a graph, so their time is not in the bricks either.

    Raises GraphError where no layer can be computed here.
    """
    stand_in = StandIn(graph, "cpu")
    if not stand_in.known:
        raise GraphError(
            f"no layer of {graph.name} can be computed here ({', '.join(stand_in.unknown[:5])}); "
            "give the PyTorch model instead"
        )
    made = model_of(stand_in, tuple(stand_in.sources), name=graph.name)
    notes = (*graph.notes, *stand_in.notes())
    traced = replace(made.traced, source=graph.source, notes=notes)
    return replace(made, traced=traced, stands_in=True)


class StandIn(nn.Module):
    """Runs a graph's layers in order. `sources` are the inputs that nothing in the graph feeds."""

    def __init__(self, graph: Graph, device: str = "cpu") -> None:
        super().__init__()
        self.graph = graph
        self.unknown: list[str] = []
        self.known: list[int] = []
        self.sources: list[Tensor] = []
        self._device = device
        self._recurrent = nn.ModuleDict()
        self._reads: dict[int, list[tuple[int, int]]] = {}
        self._results: dict[int, TensorType] = {}
        self._patched: set[str] = set()
        for place, layer in enumerate(graph.layers):
            self._prepare(place, layer)
        self.eval()

    def notes(self) -> list[str]:
        """What is not as in the model."""
        found = []
        if self.unknown:
            found.append(f"these layers cannot be computed and are absent: {self._missing()}")
        if self._patched:
            found.append(
                f"{len(self._patched)} layers read numbers of their own, since the graph does not "
                "tell which of their inputs they read"
            )
        return found

    def forward(self, *sources: Tensor) -> list[Tensor]:
        """What no other layer reads."""
        results: dict[int, Tensor] = {}
        for place in self.known:
            layer = self.graph.layers[place]
            inputs = [
                _seen(results[number] if kind else sources[number], wanted)
                for (kind, number), wanted in zip(self._reads[place], layer.inputs, strict=True)
            ]
            results[place] = self._result(place, layer, inputs)
        feeding = {before for before, _ in self.graph.edges}
        return [each for place, each in results.items() if place not in feeding]

    def _missing(self) -> str:
        more = len(self.unknown) - _NAMED
        return "; ".join(self.unknown[:_NAMED]) + (f"; and {more} more" if more > 0 else "")

    def _prepare(self, place: int, layer: Layer) -> None:
        """Weights and inputs of a layer; one that fails on its own tensors is left out."""
        inputs, weights = operands(layer, "cpu")
        try:
            if not can_call(layer):
                raise GraphError("no call is known for it")
            with torch.inference_mode():
                result = _first(call_on(layer, inputs, weights)())
        except Exception as error:  # a library says in many ways that it cannot compute something
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.unknown.append(f"{layer.operator} {layer.name} ({said[0][:80]})")
            return
        self.known.append(place)
        dtype = str(result.dtype).removeprefix("torch.")
        self._results[place] = TensorType(tuple(result.shape), dtype)
        if layer.operator in _RECURRENT:
            module = recurrent_module(layer, inputs[0], weights).to(self._device)
            self._recurrent[str(place)] = module
            weights = []
        if layer.operator == "gather":
            source = [*inputs, *weights][0]
            weights.append(torch.randint(0, source.numel(), layer.parameters["size"]))
        for number, weight in enumerate(weights):
            self.register_buffer(f"layer{place}_{number}", weight.to(self._device))
        self._reads[place] = self._fed(place, layer)

    def _fed(self, place: int, layer: Layer) -> list[tuple[int, int]]:
        """For each input: (1, the layer that feeds it), or (0, a source made for it)."""
        before = [one for one, after in self.graph.edges if after == place and one in self._reads]
        found = []
        for wanted in layer.inputs:
            fits = [one for one in before if _enough(self._results[one], wanted)]
            if fits:
                found.append((1, fits[0]))
                if len(before) > 1:
                    before.remove(fits[0])
                continue
            if before:
                self._patched.add(layer.name)
            self.sources.append(tensor(wanted, self._device, layer.layout))
            found.append((0, len(self.sources) - 1))
        return found

    def _result(self, place: int, layer: Layer, inputs: list[Tensor]) -> Tensor:
        own = (name for name, _ in self.named_buffers(recurse=False))
        weights = [getattr(self, name) for name in own if name.startswith(f"layer{place}_")]
        if layer.operator in _RECURRENT:
            return _first(self._recurrent[str(place)](inputs[0]))
        if layer.operator == "embedding":
            table = weights[0] if weights else inputs[1]
            return F.embedding(inputs[0], table)
        if layer.operator == "gather":
            *weights, places = weights
            return torch.take([*inputs, *weights][0], places)
        return _first(call_on(layer, inputs, weights)())


def _enough(given: TensorType, wanted: TensorType) -> bool:
    return given.dtype == wanted.dtype and given.elements >= wanted.elements


def _seen(found: Tensor, wanted: TensorType) -> Tensor:
    """A result in the shape in which a layer reads it."""
    if tuple(found.shape) == wanted.shape:
        return found
    count = prod(wanted.shape)
    flat = found if found.numel() == count else found.reshape(-1)[:count]
    return flat.reshape(wanted.shape)


def _first(result: Tensor | Sequence[Tensor]) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]
