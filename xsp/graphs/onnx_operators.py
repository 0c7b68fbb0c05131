"""ONNX operators as operations of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xsp.graphs import operators
from xsp.graphs.layer import TensorType
from xsp.graphs.operators import Operation, Value


@dataclass(frozen=True)
class Node:
    """A node: operator, operands (None where an optional one is left out), attributes, and the
    values of operands that are known, such as axes.
    """

    operator: str
    operands: Sequence[Value | None]
    attributes: Mapping[str, Any]
    known: Mapping[int, Any]
    outputs: Sequence[TensorType]

    def operand(self, place: int) -> Value | None:
        """An operand, None where it is left out."""
        return self.operands[place] if place < len(self.operands) else None

    @property
    def source(self) -> Value:
        """The first operand."""
        found = self.operand(0)
        assert found is not None  # noqa: S101 # the first operand of these operators is required
        return found

    @property
    def given(self) -> list[Value]:
        """The operands that are there."""
        return [each for each in self.operands if each is not None]

    def axes(self) -> list[int] | None:
        """Axes, as an attribute or as the second operand; None for all."""
        found = self.attributes.get("axes", self.known.get(1))
        return None if found is None else [int(each) for each in found]


_VIEW_NAMES = (
    "Reshape Flatten Transpose Squeeze Unsqueeze Expand Slice Split Identity Dropout "
    "SpaceToDepth SequenceAt SplitToSequence"
)
VIEWS = frozenset(_VIEW_NAMES.split())
"""Operators that give another view of their input: no layers."""

SHAPES = frozenset(["Shape", "Size", "ConstantOfShape", "Range", "Constant", "NonZero"])
"""Operators of which nothing but small constants comes."""

_ELEMENTWISE = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "Mish": "mish",
    "HardSwish": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "Swish": "silu",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Selu": "selu",
    "Celu": "celu",
    "Clip": "clip",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Abs": "abs",
    "Neg": "neg",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Not": "logical_not",
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Pow": "pow",
    "Max": "maximum",
    "Min": "minimum",
    "Where": "where",
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "And": "logical_and",
    "Or": "logical_or",
    "Mod": "remainder",
    "IsNaN": "isnan",
    "Sum": "add",
}
_REDUCTIONS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "amax",
    "ReduceMin": "amin",
    "ReduceProd": "prod",
    "ReduceL2": "norm",
}


def is_view(node: Node) -> bool:
    """Whether a node is not a layer; see `xsp.graphs.aten.is_view`."""
    if node.operator == "Cast":
        before, after = node.source.type.dtype, node.outputs[0].dtype
        return before == after or not ("float" in before and "float" in after)
    return node.operator in VIEWS or (node.operator == "Gather" and _selects(node))


def _selects(node: Node) -> bool:
    """Whether it takes a known place of an activation: a view."""
    return 1 in node.known and not node.source.constant


def operation_of(node: Node) -> Operation:
    """The operation; operators without a normal form keep their name, as `onnx::Name`, and their
    plain attributes.
    """
    if node.operator in _FORMS:
        return _FORMS[node.operator](node)
    if node.operator in _ELEMENTWISE:
        only_first = node.operator == "Clip"
        operands = node.given[:1] if only_first else node.given
        return operators.elementwise(_ELEMENTWISE[node.operator], *operands)
    if node.operator in _REDUCTIONS:
        return operators.reduction(_REDUCTIONS[node.operator], node.source, node.axes())
    plain = {
        key: value
        for key, value in node.attributes.items()
        if isinstance(value, int | float | str | list)
    }
    return operators.operation(f"onnx::{node.operator}", *node.given, attributes=[plain])


def _convolution(node: Node) -> Operation:
    weight = node.operand(1)
    assert weight is not None  # noqa: S101 # Conv requires it
    spatial = len(weight.type.shape) - 2
    stride = node.attributes.get("strides", [1] * spatial)
    dilation = node.attributes.get("dilations", [1] * spatial)
    return operators.convolution(
        node.source,
        weight,
        node.operand(2),
        stride,
        _padding(node, weight.type.shape[2:], dilation, stride),
        dilation,
        int(node.attributes.get("group", 1)),
        transposed=node.operator == "ConvTranspose",
        output_padding=node.attributes.get("output_padding", [0]),
    )


def _padding(
    node: Node, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> list[int]:
    if str(node.attributes.get("auto_pad", "NOTSET")).startswith("SAME"):
        source = node.source.type.shape[2:]
        return operators.same_padding(kernel, dilation, stride, source)
    return list(node.attributes.get("pads", [0] * 2 * len(kernel)))


def _pooling(node: Node) -> Operation:
    kernel = node.attributes["kernel_shape"]
    stride = node.attributes.get("strides", [1] * len(kernel))
    dilation = node.attributes.get("dilations", [1] * len(kernel))
    return operators.pooling(
        "max_pool" if node.operator == "MaxPool" else "avg_pool",
        node.source,
        kernel,
        stride,
        _padding(node, kernel, dilation, stride),
        dilation,
        bool(node.attributes.get("ceil_mode", 0)),
    )


def _global_pooling(node: Node) -> Operation:
    dims = list(range(2, len(node.source.type.shape)))
    operator = "mean" if node.operator == "GlobalAveragePool" else "amax"
    return operators.reduction(operator, node.source, dims)


def _gemm(node: Node) -> Operation:
    weight, bias = node.operand(1), node.operand(2)
    assert weight is not None  # noqa: S101 # Gemm requires it
    source = node.source
    if node.attributes.get("transA", 0):
        source = source.shaped(*reversed(source.type.shape))
    if not node.attributes.get("transB", 0):
        weight = weight.shaped(*reversed(weight.type.shape))
    return operators.linear(source, weight, bias)


def _product(node: Node) -> Operation:
    left, right = node.given[:2]
    return operators.product(left, right)


def _batch_norm(node: Node) -> Operation:
    return operators.operation("batch_norm", *node.given)


def _row_norm(node: Node) -> Operation:
    axis = int(node.attributes.get("axis", -1)) % len(node.source.type.shape)
    columns = 1
    for each in node.source.type.shape[axis:]:
        columns *= each
    name = "rms_norm" if "RMS" in node.operator else "layer_norm"
    return operators.normalized_rows(name, node.source, columns, *node.operands[1:3])


def _group_norm(node: Node) -> Operation:
    groups = int(node.attributes.get("num_groups", 1))
    return operators.operation("group_norm", *node.given, groups=groups)


def _instance_norm(node: Node) -> Operation:
    return operators.operation("instance_norm", *node.given)


def _softmax(node: Node) -> Operation:
    name = "log_softmax" if node.operator == "LogSoftmax" else "softmax"
    return operators.softmax(name, node.source, int(node.attributes.get("axis", -1)))


def _concat(node: Node) -> Operation:
    rank = max(len(node.outputs[0].shape), 1)
    tensors = [each for each in node.given if each.type.elements]
    return operators.operation("concat", *tensors, dim=int(node.attributes["axis"]) % rank)


def _resize(node: Node) -> Operation:
    mode = node.attributes.get("mode", "nearest")
    size = node.outputs[0].shape[2:]
    named = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return operators.operation("resize", node.source, mode=named, size=size)


def _pad(node: Node) -> Operation:
    """ONNX gives all begins, then all ends; torch the ends of the last dimension first."""
    pads = [int(each) for each in node.attributes.get("pads", node.known.get(1, []))]
    dimensions = len(pads) // 2
    begins, ends = pads[:dimensions], pads[dimensions:]
    pairs = [size for pair in zip(begins[::-1], ends[::-1], strict=False) for size in pair]
    while pairs and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    return operators.operation("pad", node.source, pad=pairs)


def _gather(node: Node) -> Operation:
    table, indices = node.given[:2]
    if table.constant and int(node.attributes.get("axis", 0)) == 0:
        return operators.operation("embedding", indices, table)
    return operators.operation("gather", table, indices, size=node.outputs[0].shape)


def _cast(node: Node) -> Operation:
    return operators.operation("cast", node.source, to=node.outputs[0].dtype)


def _recurrent(node: Node) -> Operation:
    """ONNX stacks directions, and both biases behind each other, in one tensor."""
    weight, inner, bias = (node.operand(place) for place in (1, 2, 3))
    assert weight is not None  # noqa: S101 # required
    assert inner is not None  # noqa: S101 # required
    directions, rows = weight.type.shape[:2]
    one = [weight.shaped(*weight.type.shape[1:]), inner.shaped(*inner.type.shape[1:])]
    if bias is not None:
        one += [bias.shaped(rows), bias.shaped(rows)]
    kind = "rnn_tanh" if node.operator == "RNN" else node.operator.lower()
    return operators.recurrent(kind, node.source, one * directions, 1, directions == 2)


def _attention(node: Node) -> Operation:
    query, key, value = node.given[:3]
    causal = bool(node.attributes.get("is_causal", 0))
    return operators.attention(query, key, value, node.operand(3), causal)


def _tile(node: Node) -> Operation:
    return operators.operation("repeat", node.source, size=node.outputs[0].shape)


_FORMS: Mapping[str, Callable[[Node], Operation]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "GlobalAveragePool": _global_pooling,
    "GlobalMaxPool": _global_pooling,
    "Gemm": _gemm,
    "MatMul": _product,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _row_norm,
    "RMSNormalization": _row_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Concat": _concat,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Gather": _gather,
    "GatherElements": _gather,
    "GatherND": _gather,
    "Cast": _cast,
    "Tile": _tile,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
}
