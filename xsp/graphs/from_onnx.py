"""An ONNX file as a graph: Benanza's own input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xsp.errors import GraphError
from xsp.graphs import onnx_file
from xsp.graphs.building import GraphBuilder
from xsp.graphs.graph import Graph
from xsp.graphs.layer import TensorType
from xsp.graphs.onnx_operators import SHAPES, Node, is_view, operation_of
from xsp.graphs.patterns import merged

ONNX = "onnx"


def graph_of_onnx(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Graph:
    """The layers of an ONNX model and who feeds whom; weights are not read.

    Args:
        path: the file.
        shapes: of inputs that the file leaves dynamic, by name.
        values: of inputs on which a condition depends, such as a sampling rate, by name.

    Operators that an export took apart (GELU, SiLU, attention, a product and its bias) are put
    together again, so that a model has the graph that PyTorch gives.

    Raises GraphError for a damaged file, a dynamic shape, a condition that depends on the input,
    and an operator that is not ONNX's own.

    """
    where = repr(Path(path).name)
    model = onnx_file.loaded(path)
    ready = onnx_file.prepared(model, shapes or {}, values or {}, where)
    reader = _Reader(ready.graph, where)
    for node in ready.graph.node:
        reader.read(node)
    return merged(reader.builder.graph(Path(path).stem, ONNX))


class _Reader:
    def __init__(self, graph: Any, where: str) -> None:
        self._onnx = onnx_file.onnx_package()
        self._where = where
        self.builder = GraphBuilder()
        self._arrays = {each.name: each for each in graph.initializer}
        entries = (*graph.value_info, *graph.input, *graph.output)
        self._types = {each.name: each.type.tensor_type for each in entries}
        for tensor in graph.initializer:
            self.builder.add_constant(
                tensor.name, TensorType(tuple(tensor.dims), self._dtype(tensor.data_type))
            )
        for entry in graph.input:
            if entry.name not in self._arrays:
                self.builder.add_input(entry.name, self._type(entry.name, entry.name))

    def read(self, node: Any) -> None:
        """Take one node in."""
        self._check(node)
        outputs = [name for name in node.output if name]
        types = [self._type(name, node.name or node.op_type) for name in outputs]
        operands = [self.builder.values[name] if name else None for name in node.input]
        found = Node(node.op_type, operands, self._attributes(node), self._known(node), types)
        if node.op_type in SHAPES or not found.given:
            for name, tensor in zip(outputs, types, strict=True):
                self.builder.add_constant(name, tensor)
        elif is_view(found):
            for name, tensor in zip(outputs, types, strict=True):
                self.builder.add_view(name, node.input[0], tensor)
        else:
            self._layer(node, found, outputs, types)

    def _layer(
        self, node: Any, found: Node, outputs: Sequence[str], types: Sequence[TensorType]
    ) -> None:
        operation = operation_of(found)
        if operation.operator == "identity":
            self.builder.add_view(outputs[0], node.input[0], types[0])
            return
        name = node.name or outputs[0]
        self.builder.add_layer(outputs, operation, types, name=name, source=node.op_type)

    def _check(self, node: Any) -> None:
        name = node.name or node.op_type
        if node.domain not in {"", "ai.onnx", "ai.onnx.ml"}:
            raise GraphError(
                f"node {name!r} of {self._where} has the operator {node.domain}::{node.op_type}, "
                "which is not part of ONNX and unknown to xsp; export the model without it"
            )
        if node.op_type in {"If", "Loop", "Scan"}:
            raise GraphError(
                f"node {name!r} of {self._where} is {node.op_type} on a value that depends on an "
                "input, so its layers cannot be determined; give the value of that input, such "
                "as --value sr=16000, or export the model without this operator"
            )

    def _type(self, name: str, node: str) -> TensorType:
        found = self._types.get(name)
        if found is None or not found.HasField("shape"):
            raise GraphError(
                f"the shape of {name!r}, an output of node {node!r} in {self._where}, cannot be "
                "inferred: it depends on values, or the operator is unknown; export the model "
                "with fixed shapes"
            )
        if any(not each.HasField("dim_value") for each in found.shape.dim):
            raise GraphError(
                f"the shape of {name!r}, an output of node {node!r} in {self._where}, depends on "
                "values; export the model with fixed shapes"
            )
        shape = tuple(int(each.dim_value) for each in found.shape.dim)
        return TensorType(shape, self._dtype(found.elem_type))

    def _dtype(self, code: int) -> str:
        name = str(self._onnx.TensorProto.DataType.Name(code)).lower()
        return {"float": "float32", "double": "float64"}.get(name, name)

    def _attributes(self, node: Any) -> dict[str, Any]:
        read = self._onnx.helper.get_attribute_value
        found = {each.name: read(each) for each in node.attribute}
        return {
            key: value.decode(errors="replace") if isinstance(value, bytes) else value
            for key, value in found.items()
        }

    def _known(self, node: Any) -> dict[int, Any]:
        """The values of operands that are small constants."""
        read = self._onnx.numpy_helper.to_array
        return {
            place: read(self._arrays[name]).reshape(-1).tolist()
            for place, name in enumerate(node.input)
            if name in self._arrays and _is_small(self._arrays[name])
        }


def _is_small(tensor: Any) -> bool:
    elements = 1
    for each in tensor.dims:
        elements *= int(each)
    return elements <= 64 and not tensor.external_data
