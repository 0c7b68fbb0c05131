"""Floating-point operations of a layer in normal form."""

from __future__ import annotations

from math import prod

from xsp.graphs.layer import Layer

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def flops(layer: Layer) -> float:
    """Multiplications and additions of products; one operation per element of the output for
    everything else, which memory bounds anyway.
    """
    if layer.operator == "convolution":
        return _convolution(layer)
    if layer.operator == "linear":
        return 2.0 * layer.inputs[0].elements * layer.weights[0].shape[0]
    if layer.operator == "matmul" and len(layer.inputs) == 2:
        left, right = layer.inputs[0].shape, layer.inputs[1].shape
        batches = int(layer.parameters.get("batches", 1))
        return 2.0 * batches * prod(left[-2:]) * right[-1]
    if layer.operator == "attention":
        query, key, value = (each.shape for each in layer.inputs[:3])
        return 2.0 * query[0] * query[1] * key[1] * (query[2] + value[2])
    if layer.operator in _GATES:
        return _recurrent(layer)
    return float(sum(each.elements for each in (layer.outputs or layer.inputs)[:1]))


def is_product(layer: Layer) -> bool:
    """Whether matrix units can compute it."""
    return layer.operator in {"convolution", "linear", "matmul", "attention", *_GATES}


def output_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of a convolution's output, from its input and parameters."""
    weight, given = layer.weights[0].shape, layer.parameters
    spatial = len(weight) - 2
    padding = given["padding"]
    both = [
        padding[place] + padding[place + spatial if len(padding) > spatial else place]
        for place in range(spatial)
    ]
    sizes = zip(
        layer.inputs[0].shape[-spatial:],
        weight[2:],
        both,
        given["stride"],
        given["dilation"],
        strict=True,
    )
    if given.get("transposed"):
        extra = given["output_padding"]
        found = [
            (size - 1) * step - pad + spread * (kernel - 1) + extra[place] + 1
            for place, (size, kernel, pad, step, spread) in enumerate(sizes)
        ]
        return (layer.inputs[0].shape[0], weight[1] * given["groups"], *found)
    found = [
        (size + pad - spread * (kernel - 1) - 1) // step + 1
        for size, kernel, pad, step, spread in sizes
    ]
    return (layer.inputs[0].shape[0], weight[0], *found)


def _convolution(layer: Layer) -> float:
    """2 N K P Q (C / groups) R S; of the input's elements where it is transposed."""
    if not layer.weights:
        return 0.0
    each = prod(layer.weights[0].shape[1:])
    if layer.parameters.get("transposed"):
        return 2.0 * layer.inputs[0].elements * each
    return 2.0 * prod(output_shape(layer)) * each


def _recurrent(layer: Layer) -> float:
    """Every weight once at each step of each sequence."""
    steps = prod(layer.inputs[0].shape[:-1])
    matrices = [each.elements for each in layer.weights if len(each.shape) == 2]
    return 2.0 * steps * sum(matrices)
