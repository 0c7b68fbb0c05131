"""Floating-point operations and operand bytes of layers, from their types and the shapes of their
tensors.

This is the arithmetic of a layer's definition, a multiplication and an addition counted apart and a
transcendental function counted once, whatever algorithm runs; and every tensor read or written
once, whatever caches hold. docs/analyses.md has the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from math import nan, prod
from typing import Any, NamedTuple

import pandas as pd

from xsp.analysis.work.data_types import itemsize, precision_of
from xsp.analysis.work.layer_products import Operands, Shapes, is_product, product_flops


class Work(NamedTuple):
    """Operations and bytes, NaN where unknown; the precision of the operations; whether they are
    matrix products.
    """

    flops: float = nan
    read_bytes: float = nan
    write_bytes: float = nan
    precision: str = ""
    is_product: bool = False


def layer_work(layers: pd.DataFrame) -> pd.DataFrame:
    """What each row of `layers` has to do: columns of `Work`."""
    rows = layers.to_dict("records")
    works = [
        _forward(row) if row["forward"] < 0 else _backward(row, rows[row["forward"]])
        for row in rows
    ]
    return pd.DataFrame(works, columns=list(Work._fields), index=layers.index)


def _forward(layer: Mapping[Hashable, Any]) -> Work:
    inputs, outputs, *types = (json.loads(layer[column]) for column in _TENSORS)
    if not inputs and not outputs:
        return Work()
    kind = layer["type"].strip("_")
    read, write = tensor_bytes(inputs, types[0]), tensor_bytes(outputs, types[1])
    if _VIEWS.match(kind) and layer["allocated_bytes"] == 0:
        return Work(0.0, 0.0, 0.0)
    gathered = _gathered(kind, inputs, outputs, types[0])
    if gathered is not None:
        read = gathered.elements * itemsize(next(iter(types[1]), None)) + gathered.index_bytes
    else:
        read += layer["parameter_bytes"]
    data_type = _computed_in(*types)
    if is_product(kind):
        weight = json.loads(layer.get("weight_shape", "[]"))
        operands = Operands(
            kind, inputs, outputs, types[0], types[1], layer["parameter_bytes"], weight
        )
        return Work(product_flops(operands), read, write, precision_of(data_type), True)
    # A bag adds its rows up.
    added = gathered.elements if gathered is not None and re.search(r"[Bb]ag$", kind) else None
    flops = _elementwise(kind, inputs, outputs) if added is None else added
    return Work(flops, read, write, _core_precision(data_type))


_TENSORS = ("input_shapes", "output_shapes", "input_dtypes", "output_dtypes")


def tensor_bytes(shapes: Shapes, types: Sequence[str]) -> float:
    """Bytes of tensors of these shapes and types; NaN if a type is not known."""
    return float(
        sum(prod(shape) * itemsize(kind) for shape, kind in zip(shapes, types, strict=False))
    )


def _computed_in(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """The type of the output, which under autocast is that of the arithmetic; of the input where
    there is none.
    """
    floats = [kind for kind in [*outputs, *inputs] if "float" in kind or "complex" in kind]
    return floats[0] if floats else next(iter([*outputs, *inputs]), "")


def _core_precision(data_type: str) -> str:
    """PyTorch computes element by element in float32 for all smaller floating-point types
    (`at::opmath_type`).
    """
    precision = precision_of(data_type)
    return "fp32" if precision in {"fp16", "bf16", "fp8"} else precision


# ---- backward nodes ----

_MOVES_GRADIENT = re.compile(
    r"(ToCopy|View|UnsafeView|Reshape|Sum|T|Transpose|Permute|Clone|Cat|Stack|Slice|Select|Split|SplitWithSizes|Unbind|"
    r"Squeeze|Unsqueeze|Copy|Alias)Backward\d*$"
)
_LINEAR = re.compile(r"(Add|Sub|Neg|Expand|Mean)Backward\d*$")


def moves_gradient(node_type: str) -> bool:
    """Whether a graph node only copies, sums or views the gradient, by its type
    (`ViewBackward0`).
    """
    return _MOVES_GRADIENT.match(node_type) is not None


def _backward(node: Mapping[Hashable, Any], forward: Mapping[Hashable, Any]) -> Work:
    """A node reads the gradient of its layer's output and, unless it is linear, saved tensors as
    large as what it writes. It does twice the operations of the forward pass where that goes
    element by element; products are left to the arguments of their library calls.
    """
    kind = forward["type"].strip("_")
    inputs, outputs, *types = (json.loads(node[column]) for column in _TENSORS)
    moves = moves_gradient(node["type"])
    if moves and forward["kind"] == "module":
        # The shapes are those of the layer; what such a node moves inside a module is a weight as
        # often as not.
        return Work(flops=0.0)
    saved = 0.0 if moves or _LINEAR.match(node["type"]) else tensor_bytes(outputs, types[1])
    traffic = tensor_bytes(inputs, types[0]) + saved, tensor_bytes(outputs, types[1])
    if is_product(kind):
        return Work(nan, *traffic)
    flops = 0.0 if moves else 2 * _elementwise(kind, outputs, inputs)
    return Work(flops, *traffic, _core_precision(_computed_in(*types)))


# ---- tables of which a few rows are read ----

_EMBEDDING = re.compile(r"[Ee]mbedding(Bag|_bag)?$")
_INDEXING = re.compile(r"(index_select|gather|index|getitem|take)$")


class Gathered(NamedTuple):
    """Elements that are read from a table, and bytes of the indices that name them."""

    elements: float
    index_bytes: float


def _gathered(kind: str, inputs: Shapes, outputs: Shapes, types: Sequence[str]) -> Gathered | None:
    """What a layer gathers; None for layers that read all of their inputs."""
    if _INDEXING.match(kind):
        return Gathered(_elements(outputs), tensor_bytes(inputs[1:], types[1:]))
    if not _EMBEDDING.match(kind):
        return None
    # The table is an input where it is no parameter, before or after the indices; offsets of bags
    # come last.
    whole = [
        (shape, data_type)
        for shape, data_type in zip(inputs, types, strict=False)
        if "int" in data_type
    ]
    if not whole or not outputs or not outputs[0]:
        return Gathered(nan, nan)
    return Gathered(
        _elements([whole[0][0]]) * outputs[0][-1], tensor_bytes(*zip(*whole, strict=True))
    )


# ---- the rest ----

_VIEWS = re.compile(
    r"(Flatten|Unflatten|Identity|flatten|unflatten|view|view_as|reshape|permute|transpose|t|squeeze|unsqueeze|expand|"
    r"expand_as|split|chunk|unbind|narrow|select|detach|getitem|contiguous|to|float|half|double|type)$"
)
"""Functions that give another view of their input where they need not copy it; then they allocate
nothing.
"""
_NO_ARITHMETIC = re.compile(
    r"ReLU6?$|relu6?$|Hardtanh|hardtanh|clamp|max_?pool|MaxPool|AdaptiveMaxPool|adaptive_max_pool|Identity|Flatten|"
    r"Unflatten|Embedding$|embedding$|index_select$|gather$|index$|[gs]etitem$|take$|to$|float$|half$|double$|"
    r"bfloat16$|type$|clone$|contiguous$|copy$|cat$|concat|stack$|permute$|reshape$|view$|transpose$|t$|flatten$|"
    r"split$|chunk$|unbind$|expand$|repeat|roll$|pad$|full|zeros|ones|arange$|empty|where$|masked_fill|"
    r"eq$|ne$|lt$|le$|gt$|ge$|any$|all$|isinf$|isnan$|max$|min$|maximum$|minimum$|argmax$|argmin$|topk$|sort$|PixelShuffle|pixel_shuffle|"
    r"ChannelShuffle|channel_shuffle|detach$|item$|squeeze$|unsqueeze$|tril$|triu$",
)
_PER_OUTPUT: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern), float(each))
    for pattern, each in (
        (r"[ir]?(add|sub|mul|div|truediv)$|neg$", 1),
        (r"(tanh|Tanh|exp|log|sqrt|rsqrt|reciprocal|erf|sin|cos)$", 1),
        (r"(pow|square|abs)$", 1),
        (r"BatchNorm[123]d$|FrozenBatchNorm2d$|batch_norm$", 2),
        (r"(Layer|Group|Instance)Norm([123]d|2d)?$|(layer|group|instance)_norm$", 8),
        (r"(\w*RMS|T5Layer)Norm$|rms_norm$", 4),
        (r"(log_)?softmax$|(Log)?Softmax$", 4),
        (r"Sigmoid$|sigmoid$", 3),
        (r"SiLU(Activation)?$|silu$|Hardswish$|hardswish$", 4),
        (r"(New|Fast|Quick)?GELU(Activation)?$|gelu$", 5),
        (r"Dropout[123]?d?$|dropout$", 1),
    )
)
_PER_INPUT = re.compile(r"(Adaptive)?AvgPool[123]d$|(adaptive_)?avg_pool[123]d$|(mean|sum)$")


def _elementwise(kind: str, inputs: Shapes, outputs: Shapes) -> float:
    """Operations of a layer that treats its elements one by one or in rows; NaN for a type that is
    not listed.
    """
    if _NO_ARITHMETIC.match(kind):
        return 0.0
    if _PER_INPUT.match(kind):
        return _elements(inputs[:1])
    each = next((each for pattern, each in _PER_OUTPUT if pattern.match(kind)), nan)
    return each * _elements(outputs[:1])


def _elements(shapes: Shapes) -> float:
    return float(sum(prod(shape) for shape in shapes))
