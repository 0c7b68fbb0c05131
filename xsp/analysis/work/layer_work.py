"""Floating-point operations and operand bytes of layers, from their types and the shapes of their
tensors.

This is the arithmetic of a layer's definition, a multiplication and an addition counted apart and a
transcendental function counted once, whatever algorithm runs; and every tensor read or written
once, whatever caches hold. docs/analyses.md has the list.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from math import nan, prod
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xsp.analysis.work.data_types import itemsize, precision_of
from xsp.analysis.work.elementwise import elements, elementwise_flops, is_view
from xsp.analysis.work.products import Operands, Shape, Shapes, is_product, product_flops

_FACTS = (
    "type",
    "kind",
    "input_shapes",
    "input_dtypes",
    "output_shapes",
    "output_dtypes",
    "parameter_bytes",
    "weight_shape",
    "arguments",
)
"""Columns that tell the work of a layer; besides, whether it allocates."""


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
    """What each row of `layers` has to do: columns of `Work`. Equal calls are worked out once."""
    facts = layers[[name for name in _FACTS if name in layers]]
    own = facts.assign(allocates=layers["allocated_bytes"] != 0)
    same = own.groupby(list(own.columns), sort=False, dropna=False).ngroup().to_numpy()
    forward = layers["forward"].to_numpy()
    of_forward = np.where(forward < 0, -1, same[forward])
    pairs = pd.DataFrame({"own": same, "forward": of_forward})
    first = np.flatnonzero(~pairs.duplicated())
    rows = layers.iloc[first].to_dict("records")
    above = layers.iloc[np.maximum(forward[first], 0)].to_dict("records")
    works = pd.DataFrame(
        [
            _forward(row) if row["forward"] < 0 else _backward(row, origin)
            for row, origin in zip(rows, above, strict=True)
        ],
        columns=list(Work._fields),
    )
    which = pairs.groupby(["own", "forward"], sort=False).ngroup().to_numpy()
    return works.iloc[which].set_index(layers.index)


def _forward(row: Mapping[Hashable, Any]) -> Work:
    kind = row["type"].strip("_")
    layer = Operands.of_row(kind, row)
    if not layer.inputs and not layer.outputs:
        return Work()
    if is_view(kind) and row["allocated_bytes"] == 0:
        return Work(0.0, 0.0, 0.0)
    gathered = _gathered(layer)
    read = _read_bytes(layer) if gathered is None else _gathered_bytes(gathered, layer)
    write = tensor_bytes(layer.outputs, layer.output_types)
    data_type = _computed_in(layer.input_types, layer.output_types)
    if is_product(kind):
        return Work(product_flops(layer), read, write, precision_of(data_type), True)
    if gathered is not None and re.search(r"[Bb]ag$", kind):
        flops = gathered.elements  # A bag adds its rows up.
    else:
        flops = elementwise_flops(kind, layer.inputs, layer.outputs, is_complex=layer.is_complex)
    return Work(flops, read, write, _core_precision(data_type))


def _read_bytes(layer: Operands) -> float:
    """Bytes of the inputs and parameters, without what is only written to (`out=`); NaN where one
    is sparse, of which the indices are not recorded.
    """
    if layer.stored:
        return nan
    operands = _operands(layer)
    shapes, types = [shape for shape, _ in operands], [kind for _, kind in operands]
    return tensor_bytes(shapes, types) + layer.parameter_bytes


def _operands(layer: Operands) -> list[tuple[Shape, str]]:
    pairs = list(zip(layer.inputs, layer.input_types, strict=False))
    if layer.names is None:
        return pairs
    return [pair for name, pair in zip(layer.names, pairs, strict=False) if name != "out"]


def tensor_bytes(shapes: Shapes, types: Sequence[str]) -> float:
    """Bytes of tensors of these shapes and types; NaN if a type is not known."""
    return float(
        sum(prod(shape) * itemsize(kind) for shape, kind in zip(shapes, types, strict=False))
    )


def _computed_in(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """The type of the output, which under autocast is that of the arithmetic; of the input where
    there is none.
    """
    types = [*outputs, *inputs]
    floats = [kind for kind in types if "float" in kind or "complex" in kind]
    return next(iter([*floats, *types]), "")


def _core_precision(data_type: str) -> str:
    """PyTorch computes element by element in float32 for all smaller floating-point types
    (`at::opmath_type`).
    """
    precision = precision_of(data_type)
    return "fp32" if precision in {"fp16", "bf16", "fp8"} else precision


# ---- backward nodes ----

_MOVES_GRADIENT = re.compile(
    r"(ToCopy|View|UnsafeView|Reshape|Sum|T|Transpose|Permute|Clone|Cat|Stack|Slice|Select|Split|"
    r"SplitWithSizes|Unbind|Squeeze|Unsqueeze|Copy|Alias)Backward\d*$"
)
_LINEAR = re.compile(r"(Add|Sub|Neg|Expand|Mean)Backward\d*$")


def moves_gradient(node_type: str) -> bool:
    """Whether a graph node only copies, sums or views the gradient, by its type
    (`ViewBackward0`).
    """
    return _MOVES_GRADIENT.match(node_type) is not None


def _backward(row: Mapping[Hashable, Any], forward: Mapping[Hashable, Any]) -> Work:
    """A node reads the gradient of its layer's output and, unless it is linear, saved tensors as
    large as what it writes. It does twice the operations of the forward pass where that goes
    element by element; products are left to the arguments of their library calls.
    """
    kind = forward["type"].strip("_")
    node = Operands.of_row(row["type"], row)
    moves = moves_gradient(node.kind)
    if moves and forward["kind"] == "module":
        # The shapes are those of the layer; what such a node moves inside a module is a weight as
        # often as not.
        return Work(flops=0.0)
    write = tensor_bytes(node.outputs, node.output_types)
    saved = 0.0 if moves or _LINEAR.match(node.kind) else write
    read = tensor_bytes(node.inputs, node.input_types) + saved
    if is_product(kind):
        return Work(nan, read, write)
    once = elementwise_flops(kind, node.outputs, node.inputs, is_complex=node.is_complex)
    flops = 0.0 if moves else 2 * once
    data_type = _computed_in(node.input_types, node.output_types)
    return Work(flops, read, write, _core_precision(data_type))


# ---- tables of which a few rows are read ----

_EMBEDDING = re.compile(r"[Ee]mbedding(Bag|_bag)?$")
_INDEXING = re.compile(r"(index_select|gather|index|getitem|take)$")


class Gathered(NamedTuple):
    """Elements that are read from a table, and bytes of the indices that name them."""

    elements: float
    index_bytes: float


def _gathered_bytes(gathered: Gathered, layer: Operands) -> float:
    return gathered.elements * itemsize(next(iter(layer.output_types), None)) + gathered.index_bytes


def _gathered(layer: Operands) -> Gathered | None:
    """What a layer gathers; None for layers that read all of their inputs."""
    if _INDEXING.match(layer.kind):
        indices = tensor_bytes(layer.inputs[1:], layer.input_types[1:])
        return Gathered(elements(layer.outputs), indices)
    if not _EMBEDDING.match(layer.kind):
        return None
    # The table is an input where it is not a parameter, before or after the indices; offsets of
    # bags come last.
    whole = [(shape, kind) for shape, kind in _operands(layer) if "int" in kind]
    if not whole or not layer.outputs or not layer.outputs[0]:
        return Gathered(nan, nan)
    shapes, types = [shape for shape, _ in whole], [kind for _, kind in whole]
    return Gathered(elements(shapes[:1]) * layer.outputs[0][-1], tensor_bytes(shapes, types))
