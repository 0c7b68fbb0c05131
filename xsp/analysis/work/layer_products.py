"""Floating-point operations of layers that are matrix products, attention, convolutions or
recurrent networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isqrt, nan, prod
from typing import NamedTuple

from xsp.analysis.work.data_types import itemsize

Shapes = Sequence[Sequence[int]]


class Operands(NamedTuple):
    """What is recorded of a layer: its type, the shapes of its tensors, types of these, bytes of
    its parameters, and the shape of its weight, empty in captures from before that was recorded.
    """

    kind: str
    inputs: Shapes
    outputs: Shapes
    input_types: Sequence[str]
    output_types: Sequence[str]
    parameter_bytes: int
    weight: Sequence[int] = ()


def is_product(kind: str) -> bool:
    """Whether layers of this type are computed by products, so that tensor cores can
    compute them.
    """
    return _UNKNOWN.match(kind) is not None or any(
        pattern.fullmatch(kind) for pattern, _ in _FORMULAS
    )


def product_flops(layer: Operands) -> float:
    """FLOPs of a layer for which `is_product` holds; NaN where what is recorded does not tell."""
    formula = next(
        (formula for pattern, formula in _FORMULAS if pattern.fullmatch(layer.kind)), None
    )
    try:
        return float(formula(layer)) if formula else nan
    except (IndexError, ZeroDivisionError):
        # Another class of the same name, which takes other tensors.
        return nan


def _linear(layer: Operands) -> float:
    """2 k for each element of the output."""
    return 2 * prod(layer.outputs[0]) * layer.inputs[0][-1]


def _matrix(layer: Operands) -> float:
    """The same; the operands come last, after an addend."""
    left, right = layer.inputs[-2:]
    # They need not be in this order if they were passed by name.
    return 2 * prod(layer.outputs[0]) * left[-1] if left[-1] == right[-2:][0] else nan


def _grouped(layer: Operands) -> float:
    """Groups of rows, each multiplied by a matrix of its own; or groups of columns, each summed
    over by a product.
    """
    left, output = layer.inputs[0], layer.outputs[0]
    columns = len(left) == 2 and len(output) == 3
    return 2 * prod(output[1:] if columns else output) * left[-1]


def _attention(layer: Operands) -> float:
    query, key, value = (layer.inputs[at] for at in range(3))
    return attention_flops(query, key, value)


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> float:
    """2 L S E for the scores and 2 L S E_v for the output, per batch and head; causal in full.

    From the dimensions of query, key and value; NaN where they do not fit together.
    """
    fits = query[-1] == key[-1] and key[-2] == value[-2]
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1]) if fits else nan


def _convolution(layer: Operands) -> float:
    """2 N K P Q (C / groups) R S, or 2 N C H W (K / groups) R S where the convolution is
    transposed.

    Without the filters' shape, their size comes from the bytes of the parameters; NaN where these
    do not tell: with half precision, which autocast may have made from wider parameters, and where
    they leave open whether there is a bias or whether there are groups. Depthwise filters are taken
    to be odd squares.
    """
    transposed = "Transpose" in layer.kind
    if len(layer.weight) == 2 + int(layer.kind[-2]):
        return 2 * prod((layer.inputs if transposed else layer.outputs)[0]) * prod(layer.weight[1:])
    return nan if transposed else _convolution_by_bytes(layer)


def _convolution_by_bytes(layer: Operands) -> float:
    data_type = layer.input_types[0]
    if data_type != layer.output_types[0] or data_type not in {"float32", "float64"}:
        return nan
    place = -1 - int(layer.kind[4])
    channels, filters = layer.inputs[0][place], layer.outputs[0][place]
    each = layer.parameter_bytes / itemsize(data_type) / filters
    fitting = {size for size in (int(each), int(each) - 1) if _is_filter(size, channels, filters)}
    return (
        2 * prod(layer.outputs[0]) * fitting.pop()
        if each == int(each) and len(fitting) == 1
        else nan
    )


def _is_filter(size: int, channels: int, filters: int) -> bool:
    """Whether a filter can have so many weights: dense, or one channel deep."""
    dense = channels > 1 and size % channels == 0
    depthwise = channels == filters and isqrt(max(size, 0)) ** 2 == size and size % 2 == 1
    return size > 0 and (dense or depthwise)


def _functional_convolution(layer: Operands) -> float:
    """2 for each weight of a filter and element of the output; of the input where the convolution
    is transposed.

    The filters are an operand here, so that groups and biases need not be known. NaN where the
    operands were passed by name in another order.
    """
    image, filters, output = layer.inputs[0], layer.inputs[1], layer.outputs[0]
    place = -1 - int(layer.kind[-2])
    source, result = (output, image) if "transpose" in layer.kind else (image, output)
    fits = (
        len(filters) == 1 - place
        and filters[0] == result[place]
        and source[place] % filters[1] == 0
    )
    return 2 * prod(result) * prod(filters[1:]) if fits else nan


_GATES = {"L": 4, "G": 3, "R": 1}


def _cell(layer: Operands) -> float:
    """One step: every weight once, biases left out."""
    source, hidden = layer.inputs[0], layer.outputs[-1][-1]
    return 2 * prod(source[:-1]) * _GATES[layer.kind[0]] * hidden * (source[-1] + hidden)


def _recurrent(layer: Operands) -> float:
    """Every weight once at each step of each sequence: g H (I + P) by layer and direction, and P H
    for a projection.

    An LSTM has g = 4 gates and a GRU 3; I is the width of the layer's input and P that of its
    output.
    """
    source, output, last = layer.inputs[0], layer.outputs[0], layer.outputs[1]
    if len(output) != len(last):  # a packed sequence
        return nan
    width, projected, hidden = output[-1], last[-1], layer.outputs[-1][-1]
    directions = width // projected
    layers = last[0] // directions
    gates = (
        _GATES[layer.kind[0]] * hidden * (source[-1] + (layers - 1) * width + layers * projected)
    )
    projection = layers * projected * hidden if projected != hidden else 0
    return 2 * prod(source[:-1]) * directions * (gates + projection)


_FORMULAS: tuple[tuple[re.Pattern[str], Callable[[Operands], float]], ...] = tuple(
    (re.compile(pattern), formula)
    for pattern, formula in (
        (r"Linear|linear|Conv1D|NonDynamicallyQuantizableLinear", _linear),
        (r"matmul|mm|bmm|addmm|baddbmm|mv|dot", _matrix),
        (r"grouped_mm", _grouped),
        (r"scaled_dot_product_attention", _attention),
        (r"Conv(Transpose)?[123]d", _convolution),
        (r"conv(_transpose)?[123]d", _functional_convolution),
        (r"(LSTM|GRU|RNN)Cell", _cell),
        (r"LSTM|GRU|RNN", _recurrent),
    )
)
_UNKNOWN = re.compile(
    r"(Lazy)?Conv|conv_|MultiheadAttention|einsum|tensordot|Bilinear|LSTM|GRU|RNN|rmatmul"
)
