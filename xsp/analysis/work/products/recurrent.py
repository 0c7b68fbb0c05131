"""FLOPs of recurrent networks and their cells: every weight once at each step of each sequence,
biases left out.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from xsp.analysis.work.products.operands import Operands, require

_GATES = {"L": 4, "G": 3, "R": 1}


def cell(layer: Operands) -> float:
    """One step: g H (I + H) for each row of the input."""
    *rows, inputs = layer.source
    is_recorded = "hidden_size" in layer.options
    hidden = layer.option("hidden_size") if is_recorded else layer.outputs[-1][-1]
    gates = _GATES[layer.kind[0]]
    return 2.0 * prod(rows) * gates * hidden * (inputs + hidden)


class _Network(NamedTuple):
    """Sizes of a network; `output` is what one direction hands on at each step."""

    hidden: int
    output: int
    layers: int
    directions: int


def recurrent(layer: Operands) -> float:
    """G H (I + P) by layer and direction at each step, and P H for a projection.

    An LSTM has g = 4 gates and a GRU 3; I is the width of the layer's input and P that of its
    output. A packed sequence has one row for each step of each sequence.
    """
    source = layer.source
    network = _network_of(layer)
    gates = _GATES[layer.kind[0]] * network.hidden
    between = network.directions * network.output
    widths = [source[-1], *[between] * (network.layers - 1)]
    weights = sum(gates * (width + network.output) for width in widths)
    if network.output != network.hidden:
        weights += network.layers * network.output * network.hidden
    steps = prod(source[:-1])
    return 2.0 * steps * network.directions * weights


def _network_of(layer: Operands) -> _Network:
    if "hidden_size" not in layer.options:
        return _by_shapes(layer)
    hidden = layer.option("hidden_size")
    output = layer.option("proj_size") or hidden
    directions = 2 if layer.option("bidirectional") else 1
    return _Network(hidden, output, layer.option("num_layers"), directions)


def _by_shapes(layer: Operands) -> _Network:
    """For captures from before a module's options were recorded; they do not tell a packed
    sequence.
    """
    output, last = layer.outputs[0], layer.outputs[1]
    require(len(output) == len(last), "a packed sequence")
    size = last[-1]
    directions = output[-1] // size
    layers = last[0] // directions
    return _Network(layer.outputs[-1][-1], size, layers, directions)
