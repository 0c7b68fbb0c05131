"""The layers of a capture as a graph: what was recorded, in the order in which it ran."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xsp.analysis.spans.ancestors import layer_spans
from xsp.graphs import operators
from xsp.graphs.aten import CONSTANTS, VIEWS
from xsp.graphs.graph import Graph, chain, unique_names
from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, Layer, TensorType
from xsp.graphs.operators import ELEMENTWISE, REDUCTIONS, Operation, Value
from xsp.types import Level

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

CAPTURE = "capture"


@dataclass(frozen=True)
class Recorded:
    """A row of a capture's layers, with the convolution that its library call described, if any."""

    kind: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    weight: tuple[int, ...]
    parameter_bytes: int
    convolution: Mapping[str, Any] | None

    def value(self, place: int = 0) -> Value:
        """An input of the layer."""
        return Value(self.inputs[place])

    def constant(self, *shape: int) -> Value:
        """A weight of this shape, in the type of the layer's inputs."""
        return Value(TensorType(tuple(shape), self.inputs[0].dtype), constant=True)

    def bias(self, weight: Value, size: int) -> Value | None:
        """A bias, where the parameters have room for one beside the weight."""
        own = self.constant(size)
        whole = weight.type.size_bytes + own.type.size_bytes
        return own if self.parameter_bytes >= whole else None


def graph_of_profile(profile: ProfileData) -> Graph:
    """The forward layers of a capture.

    A capture has no data dependencies, so the layers form a chain and `dependencies_known` is
    False. A convolution's strides come from its library call; where that was not traced they
    follow from shapes, for odd filters padded to keep the size. Layers whose work is not recorded
    are left out and named in `notes`.
    """
    calls = _convolutions(profile)
    rows = profile.table("layers")
    forward = rows[(rows["phase"] == "forward") & rows["kind"].isin(["module", "function"])]
    layers: list[Layer] = []
    unknown: list[str] = []
    for place, row in zip(forward.index, forward.to_dict("records"), strict=True):
        found = _recorded(row, calls.get(int(place)))
        name = _operator_name(found.kind)
        if name in VIEWS or name in CONSTANTS or name in _NOTHING or not found.inputs:
            continue
        operation = _operation(name, found)
        if operation is None:
            unknown.append(str(row["name"]))
        elif operation.operator != "identity":
            layers.append(_layer(str(row["name"]), operation, found))
    names = unique_names(layer.name for layer in layers)
    named = [layer.renamed(name) for layer, name in zip(layers, names, strict=True)]
    notes = [f"what {', '.join(unknown[:5])} do is not recorded: {len(unknown)} layers left out"]
    return Graph(
        profile.name,
        tuple(named),
        chain(named),
        CAPTURE,
        dependencies_known=False,
        notes=tuple(notes if unknown else []),
    )


def _layer(name: str, operation: Operation, found: Recorded) -> Layer:
    return Layer(
        name=name,
        operator=operation.operator,
        inputs=tuple(each.type for each in operation.operands if not each.constant),
        weights=tuple(each.type for each in operation.operands if each.constant),
        outputs=found.outputs,
        parameters=dict(operation.parameters),
        layout=_layout(found),
        source=found.kind,
        owner=name,
    )


def _layout(found: Recorded) -> str:
    described = (found.convolution or {}).get("X", {})
    strides = described.get("strides", [])
    last = len(strides) == 4 and strides[1] == 1 and described["dims"][1] > 1
    return CHANNELS_LAST if last else CONTIGUOUS


def _recorded(row: Mapping[Any, Any], convolution: Mapping[str, Any] | None) -> Recorded:
    def tensors(part: str) -> tuple[TensorType, ...]:
        shapes, types = json.loads(row[f"{part}_shapes"]), json.loads(row[f"{part}_dtypes"])
        return tuple(TensorType(tuple(one), own) for one, own in zip(shapes, types, strict=True))

    weight = row.get("weight_shape")
    return Recorded(
        kind=str(row["type"]),
        inputs=tensors("input"),
        outputs=tensors("output"),
        weight=tuple(json.loads(weight)) if isinstance(weight, str) and weight else (),
        parameter_bytes=int(row["parameter_bytes"]),
        convolution=convolution,
    )


def _convolutions(profile: ProfileData) -> dict[int, Mapping[str, Any]]:
    """By row of the layers table, the convolution that cuDNN was asked for."""
    spans, calls = profile.table("raw_spans"), profile.table("library_calls")
    own = spans[(spans["level"] == Level.LIBRARY) & (spans["parent"] >= 0)]
    above = spans.iloc[layer_spans(spans, own.index.to_numpy())]
    in_layer = (above["level"] == Level.LAYER).to_numpy()
    pairs = zip(above["detail"][in_layer], own["detail"].to_numpy()[in_layer], strict=True)
    by_call = [_convolution_of(text) for text in calls["arguments"]]
    found: dict[int, Mapping[str, Any]] = {}
    for layer, call in set(pairs):
        described = by_call[call]
        if described is not None:
            found[int(layer)] = described
    return found


def _convolution_of(arguments: str) -> Mapping[str, Any] | None:
    """The convolution among the nodes of a cuDNN graph, as the library level decoded it."""
    read = json.loads(arguments) if arguments else {}
    nodes = read.get("operations") if isinstance(read, dict) else None
    if not isinstance(nodes, list):
        return None
    return next((each for each in nodes if each["operation"] == "CONVOLUTION_FORWARD"), None)


_NOTHING = frozenset(
    ["getitem", "to", "float", "double", "half", "bfloat16", "type", "size", "stochastic_depth"]
)
"""Functions that a capture names apart and that compute nothing, or a type at most."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAMES = {
    "batch_norm1d": "batch_norm",
    "batch_norm2d": "batch_norm",
    "batch_norm3d": "batch_norm",
    "frozen_batch_norm2d": "batch_norm",
    "re_lu6": "clip",
    "relu6": "clip",
    "hardtanh": "clip",
    "clamp": "clip",
    "leaky_re_lu": "leaky_relu",
    "geluactivation": "gelu",
    "newgeluactivation": "gelu",
    "new_geluactivation": "gelu",
    "iadd": "add",
    "radd": "add",
    "imul": "mul",
    "rmul": "mul",
    "truediv": "div",
    "rsub": "sub",
    "isub": "sub",
    "concat": "cat",
    "addmm": "linear",
    "bmm": "matmul",
    "mm": "matmul",
    "max": "amax",
    "min": "amin",
    "interpolate": "resize",
    "upsample": "resize",
}


def _operator_name(kind: str) -> str:
    """`BatchNorm2d` and `batch_norm` by one name."""
    if kind == "Conv1D":
        return "linear"
    snake = kind.lower() if kind.lower() in ELEMENTWISE else _WORDS.sub("_", kind).lower()
    return _NAMES.get(snake, snake)


def _operation(name: str, found: Recorded) -> Operation | None:
    try:
        form = next((form for pattern, form in _FORMS if pattern.fullmatch(name)), None)
        if form is not None:
            return form(found)
        if name in ELEMENTWISE:
            return operators.elementwise(name, *map(Value, found.inputs))
        if name in REDUCTIONS and found.outputs:
            return operators.reduction(name, found.value(), _reduced(found))
    except (IndexError, ValueError):
        # Another class of the same name, which takes other tensors.
        return None
    return None


def _reduced(found: Recorded) -> Sequence[int] | None:
    """The dimensions that a reduction took out, as far as the shapes tell."""
    before, after = found.inputs[0].shape, found.outputs[0].shape
    if len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [place for place, (own, left) in enumerate(pairs) if own != left]
    return list(range(len(after), len(before)))


def _convolution(found: Recorded) -> Operation | None:
    source = found.value()
    call = found.convolution
    if call is not None and tuple(call["X"]["dims"]) == source.type.shape:
        weight = found.constant(*call["W"]["dims"])
        groups = source.type.shape[1] // weight.type.shape[1]
        bias = found.bias(weight, weight.type.shape[0])
        spatial = call["stride"], call["pad"], call["dilation"]
        return operators.convolution(source, weight, bias, *spatial, groups)
    shape = found.weight or (found.inputs[1].shape if len(found.inputs) > 1 else ())
    if len(shape) < 3 or len(shape) != len(source.type.shape):
        return None
    weight = found.constant(*shape)
    kernel, output = shape[2:], found.outputs[0].shape[2:]
    stride = [
        max(round(own / left), 1) for own, left in zip(source.type.shape[2:], output, strict=True)
    ]
    padding = [
        max(((left - 1) * step + size - own + 1) // 2, 0)
        for own, left, step, size in zip(source.type.shape[2:], output, stride, kernel, strict=True)
    ]
    groups = source.type.shape[1] // shape[1]
    bias = found.bias(weight, shape[0])
    return operators.convolution(source, weight, bias, stride, padding, [1], groups)


def _linear(found: Recorded) -> Operation:
    source, columns = found.value(), found.outputs[0].shape[-1]
    weight = found.constant(columns, source.type.shape[-1])
    return operators.linear(source, weight, found.bias(weight, columns))


def _product(found: Recorded) -> Operation:
    return operators.matmul(found.value(0), found.value(1))


def _attention(found: Recorded) -> Operation:
    mask = found.value(3) if len(found.inputs) > 3 else None
    return operators.attention(found.value(0), found.value(1), found.value(2), mask)


def _batch_norm(found: Recorded) -> Operation:
    channels = found.inputs[0].shape[1]
    return operators.operation("batch_norm", found.value(), *[found.constant(channels)] * 4)


def _layer_norm(found: Recorded) -> Operation:
    columns = found.inputs[0].shape[-1]
    weights = [found.constant(columns)] * (2 if found.parameter_bytes else 0)
    return operators.normalized_rows("layer_norm", found.value(), columns, *weights)


def _embedding(found: Recorded) -> Operation:
    indices = next(each for each in found.inputs if "int" in each.dtype)
    shape = found.weight or (1, found.outputs[0].shape[-1])
    table = Value(TensorType(tuple(shape), found.outputs[0].dtype), constant=True)
    return operators.operation("embedding", Value(indices), table)


def _softmax(found: Recorded) -> Operation:
    return operators.softmax("softmax", found.value(), -1)


def _concat(found: Recorded) -> Operation:
    first, result = found.inputs[0].shape, found.outputs[0].shape
    pairs = enumerate(zip(first, result, strict=True))
    dim = next((place for place, (own, whole) in pairs if own != whole), 0)
    return operators.operation("concat", *map(Value, found.inputs), dim=dim)


def _max_pool(found: Recorded) -> Operation:
    return _windows("max_pool", found)


def _avg_pool(found: Recorded) -> Operation:
    return _windows("avg_pool", found)


def _windows(operator: str, found: Recorded) -> Operation:
    """The windows of a pooling are not recorded; those that lie side by side read as much."""
    before, after = found.inputs[0].shape[2:], found.outputs[0].shape[2:]
    return operators.adaptive_pooling(operator, found.value(), after if before else [1])


_FORMS: tuple[tuple[re.Pattern[str], Callable[[Recorded], Operation | None]], ...] = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"conv[123]d", _convolution),
        (r"linear|non_dynamically_quantizable_linear", _linear),
        (r"r?matmul", _product),
        (r"scaled_dot_product_attention", _attention),
        (r"batch_norm", _batch_norm),
        (r"layer_norm", _layer_norm),
        (r"embedding", _embedding),
        (r"softmax", _softmax),
        (r"cat", _concat),
        (r"(adaptive_)?max_?pool[123]d", _max_pool),
        (r"(adaptive_)?avg_?pool[123]d", _avg_pool),
    )
)
