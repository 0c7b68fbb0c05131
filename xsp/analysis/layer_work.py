"""Floating-point operations and operand bytes of layers, from their types and the shapes of their tensors.

This is the arithmetic of a layer's definition, a multiplication and an addition counted apart and a transcendental
function counted once, whatever algorithm runs; and every tensor read or written once, whatever caches hold.
docs/analyses.md has the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from math import isqrt, nan, prod
from typing import Any, NamedTuple

import pandas as pd

from xsp.analysis.data_types import itemsize, precision_of

Shapes = Sequence[Sequence[int]]


class Work(NamedTuple):
    """Operations and bytes, NaN where unknown; the precision of the operations; whether they are matrix products."""

    flops: float = nan
    read_bytes: float = nan
    write_bytes: float = nan
    precision: str = ""
    is_product: bool = False


def layer_work(layers: pd.DataFrame) -> pd.DataFrame:
    """What each row of `layers` has to do: columns of `Work`."""
    rows = layers.to_dict("records")
    works = [_forward(row) if row["forward"] < 0 else _backward(row, rows[row["forward"]]) for row in rows]
    return pd.DataFrame(works, columns=list(Work._fields), index=layers.index)


def _forward(layer: Mapping[Hashable, Any]) -> Work:
    inputs, outputs, *types = (json.loads(layer[column]) for column in _TENSORS)
    if not inputs and not outputs:
        return Work()
    kind = layer["type"].strip("_")
    read, write = tensor_bytes(inputs, types[0]), tensor_bytes(outputs, types[1])
    if _VIEWS.match(kind) and layer["allocated_bytes"] == 0:
        return Work(0.0, 0.0, 0.0)
    if _GATHERS.match(kind):
        read = write + tensor_bytes(inputs[-1:], types[0][-1:])
    else:
        read += layer["parameter_bytes"]
    data_type = _computed_in(*types)
    product = _product(kind, inputs, outputs, layer["parameter_bytes"], types)
    if product is not None:
        return Work(product, read, write, precision_of(data_type), True)
    return Work(_elementwise(kind, inputs, outputs), read, write, _core_precision(data_type))


_TENSORS = ("input_shapes", "output_shapes", "input_dtypes", "output_dtypes")


def tensor_bytes(shapes: Shapes, types: Sequence[str]) -> float:
    """Bytes of tensors of these shapes and types; NaN if a type is not known."""
    return float(sum(prod(shape) * itemsize(kind) for shape, kind in zip(shapes, types, strict=False)))


def _computed_in(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """The type of the output, which under autocast is that of the arithmetic; of the input where there is none."""
    floats = [kind for kind in [*outputs, *inputs] if "float" in kind or "complex" in kind]
    return floats[0] if floats else next(iter([*outputs, *inputs]), "")


def _core_precision(data_type: str) -> str:
    """PyTorch computes element by element in float32 for all smaller floating-point types (`at::opmath_type`)."""
    precision = precision_of(data_type)
    return "fp32" if precision in {"fp16", "bf16", "fp8"} else precision


# ---- backward nodes ----

_MOVES_GRADIENT = re.compile(
    r"(ToCopy|View|UnsafeView|Reshape|Sum|T|Transpose|Permute|Clone|Cat|Stack|Slice|Select|Split|SplitWithSizes|Unbind|"
    r"Squeeze|Unsqueeze|Copy|Alias)Backward\d*$"
)
_LINEAR = re.compile(r"(Add|Sub|Neg|Expand|Mean)Backward\d*$")


def _backward(node: Mapping[Hashable, Any], forward: Mapping[Hashable, Any]) -> Work:
    """A node reads the gradient of its layer's output and, unless it is linear, saved tensors as large as what it
    writes. It does twice the operations of the forward pass where that goes element by element; products are left to
    the arguments of their library calls.
    """
    kind = forward["type"].strip("_")
    inputs, outputs, *types = (json.loads(node[column]) for column in _TENSORS)
    moves = _MOVES_GRADIENT.match(node["type"])
    if moves and forward["kind"] == "module":
        # The shapes are those of the layer; what such a node moves inside a module is a weight as often as not.
        return Work(flops=0.0)
    saved = 0.0 if moves or _LINEAR.match(node["type"]) else tensor_bytes(outputs, types[1])
    traffic = tensor_bytes(inputs, types[0]) + saved, tensor_bytes(outputs, types[1])
    if _product(kind, outputs, inputs, 0, types) is not None:
        return Work(nan, *traffic)
    flops = 0.0 if moves else 2 * _elementwise(kind, outputs, inputs)
    return Work(flops, *traffic, _core_precision(_computed_in(*types)))


# ---- products ----


def _product(
    kind: str, inputs: Shapes, outputs: Shapes, parameter_bytes: int, types: Sequence[Sequence[str]]
) -> float | None:
    """FLOPs of a layer that is a matrix product, an attention or a convolution; None for others, NaN if unknown."""
    if not outputs or not inputs:
        return None
    if _LINEAR_MAP.match(kind):
        return _inner(inputs[0], outputs[0])
    if _MATRIX_PRODUCT.match(kind):
        return _inner(inputs[-2] if len(inputs) > 1 else (), outputs[0])
    if kind == "scaled_dot_product_attention":
        return _attention(inputs)
    if re.fullmatch(r"Conv[123]d", kind):
        return _convolution(inputs[0], outputs[0], parameter_bytes, types)
    return nan if _OTHER_PRODUCT.match(kind) else None


_LINEAR_MAP = re.compile(r"(Linear|linear|Conv1D|NonDynamicallyQuantizableLinear)$")
_MATRIX_PRODUCT = re.compile(r"_*(r?matmul|mm|bmm|addmm|baddbmm|mv|dot)_*$")
_OTHER_PRODUCT = re.compile(
    r"(Lazy)?Conv|conv[123_]|conv_transpose|MultiheadAttention|einsum|tensordot|Bilinear|LSTM|GRU|RNN"
)


def _inner(left: Sequence[int], output: Sequence[int]) -> float:
    """A product whose left operand has the summed dimension last: 2 k for each element of the output."""
    return float(2 * prod(output) * left[-1]) if left else nan


def _attention(inputs: Shapes) -> float:
    """Query, key and value: 2 L S E for the scores and 2 L S E_v for the output, per batch and head; causal in full."""
    if len(inputs) < 3:
        return nan
    query, key, value = inputs[:3]
    return float(2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _convolution(
    source: Sequence[int], output: Sequence[int], parameter_bytes: int, types: Sequence[Sequence[str]]
) -> float:
    """2 N K P Q (C / groups) R S, with the filter's size from the bytes of the parameters.

    NaN where these bytes do not tell: with half precision, which autocast may have made from wider parameters, and
    with groups that leave open whether there is a bias.
    """
    known = types[0][:1] == types[1][:1] and types[0][0] in {"float32", "float64"}
    channels, filters = (shape[1] if len(shape) > 2 else 0 for shape in (source, output))
    if not known or not channels or not filters:
        return nan
    each = parameter_bytes / itemsize(types[0][0]) / filters
    for size in (each, each - 1):
        whole = int(size)
        dense = channels > 1 and whole % channels == 0
        depthwise = channels == filters and isqrt(max(whole, 0)) ** 2 == whole and whole % 2
        if size == whole > 0 and (dense or depthwise):
            return float(2 * prod(output) * whole)
    return nan


# ---- the rest ----

_GATHERS = re.compile(r"Embedding$|embedding$|index_select$|gather$|index$|__?getitem_*$|take$")
_VIEWS = re.compile(
    r"(Flatten|Unflatten|Identity|flatten|unflatten|view|view_as|reshape|permute|transpose|t|squeeze|unsqueeze|expand|"
    r"expand_as|split|chunk|unbind|narrow|select|detach|getitem|contiguous|to|float|half|double|type)$"
)
"""Functions that give another view of their input where they need not copy it; then they allocate nothing."""
_NO_ARITHMETIC = re.compile(
    r"ReLU6?$|relu6?$|Hardtanh|hardtanh|clamp|max_?pool|MaxPool|AdaptiveMaxPool|adaptive_max_pool|Identity|Flatten|"
    r"Unflatten|Embedding$|embedding$|index_select$|gather$|index$|__?getitem_*$|take$|to$|float$|half$|double$|"
    r"bfloat16$|type$|clone$|contiguous$|copy$|cat$|concat|stack$|permute$|reshape$|view$|transpose$|t$|flatten$|"
    r"split$|chunk$|unbind$|expand$|repeat|roll$|pad$|full|zeros|ones|arange$|empty|where$|masked_fill|"
    r"eq$|ne$|lt$|le$|gt$|ge$|max$|min$|maximum$|minimum$|argmax$|argmin$|topk$|sort$|PixelShuffle|pixel_shuffle|"
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
        (r"\w*RMSNorm$|rms_norm$", 4),
        (r"(log_)?softmax$|(Log)?Softmax$", 4),
        (r"Sigmoid$|sigmoid$", 3),
        (r"SiLU(Activation)?$|silu$|Hardswish$|hardswish$", 4),
        (r"(New|Fast|Quick)?GELU(Activation)?$|gelu$", 5),
        (r"Dropout[123]?d?$|dropout$", 1),
    )
)
_PER_INPUT = re.compile(r"(Adaptive)?AvgPool[123]d$|(adaptive_)?avg_pool[123]d$|(mean|sum)$")


def _elementwise(kind: str, inputs: Shapes, outputs: Shapes) -> float:
    """Operations of a layer that treats its elements one by one or in rows; NaN for a type that is not listed."""
    if _NO_ARITHMETIC.match(kind):
        return 0.0
    if _PER_INPUT.match(kind):
        return _elements(inputs[:1])
    each = next((each for pattern, each in _PER_OUTPUT if pattern.match(kind)), nan)
    return each * _elements(outputs[:1])


def _elements(shapes: Shapes) -> float:
    return float(sum(prod(shape) for shape in shapes))
