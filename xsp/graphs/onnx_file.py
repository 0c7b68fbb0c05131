"""An ONNX file made ready to be read: shapes of everything known, what is constant computed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xsp.errors import GraphError

_FOLDED_ELEMENTS = 1 << 16
"""Results up to this size are computed before the model runs; shapes and axes are far smaller."""
_ROUNDS = 32
"""Folding can make shapes known that let more be folded; nested shape computations take a few."""


def onnx_package() -> Any:
    """The package `onnx`. Raises GraphError where it is not installed."""
    try:
        import onnx
        import onnx.reference
        import onnx.shape_inference
    except ImportError as error:
        raise GraphError(
            'reading an ONNX file needs the package onnx; install it with pip install "xsp[onnx]"'
        ) from error
    return onnx


def loaded(path: str | os.PathLike[str]) -> Any:
    """The model of a file, without weights kept in other files.

    Raises GraphError for a file that is missing or no ONNX model.
    """
    onnx = onnx_package()
    source = Path(path)
    if not source.is_file():
        raise GraphError(f"there is no file {str(source)!r}; give the path of an ONNX model")
    try:
        model = onnx.load_model(str(source), load_external_data=False)
        empty = not model.graph.node
    except Exception as error:  # protobuf's own exceptions, which differ by its version
        raise GraphError(
            f"{str(source)!r} is not an ONNX model, or it is damaged ({type(error).__name__}); "
            "export or copy it again"
        ) from error
    if empty or not model.opset_import:
        raise GraphError(
            f"{str(source)!r} has no ONNX graph: nodes or the operator set are missing; export "
            "or copy it again"
        )
    return model


def prepared(
    model: Any, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any], where: str
) -> Any:
    """The model with inputs of fixed shape, shapes inferred, constants folded and conditions that
    are known taken. `values` gives inputs a value, such as a sampling rate.

    Raises GraphError where a shape stays unknown because an input's is.
    """
    onnx = onnx_package()
    _fix_inputs(onnx, model, shapes, values, where)
    known = len(model.graph.initializer)
    for _ in range(_ROUNDS):
        model = _inferred(onnx, model, where)
        _fold(onnx, model.graph, _opset(model))
        _take_branches(onnx, model.graph)
        if len(model.graph.initializer) == known:
            return model
        known = len(model.graph.initializer)
    return _inferred(onnx, model, where)


def _opset(model: Any) -> int:
    return max(
        (each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), default=17
    )


def _fix_inputs(
    onnx: Any,
    model: Any,
    shapes: Mapping[str, Sequence[int]],
    values: Mapping[str, Any],
    where: str,
) -> None:
    graph = model.graph
    held = {each.name for each in graph.initializer}
    inputs = {each.name: each for each in graph.input if each.name not in held}
    for name in (*shapes, *values):
        if name not in inputs:
            raise GraphError(
                f"{where} has no input {name!r}; its inputs are {', '.join(inputs) or 'none'}"
            )
    for name, value in values.items():
        kind = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=kind), name))
        graph.input.remove(inputs.pop(name))
    for name, sizes in shapes.items():
        _resize(name, inputs[name].type.tensor_type.shape.dim, sizes, where)
    dims = {name: entry.type.tensor_type.shape.dim for name, entry in inputs.items()}
    dynamic = {name: own for name, own in dims.items() if not all(map(_is_fixed, own))}
    if dynamic:
        raise GraphError(_about_dynamic(dynamic, where))


def _about_dynamic(dynamic: Mapping[str, Any], where: str) -> str:
    """What is not fixed, and what to give, with 1 for every size that the file leaves open."""
    said = [f"{name}=({', '.join(map(_spelled, dims))})" for name, dims in dynamic.items()]
    example = [
        f"--shape {name}={','.join(_spelled(each) if _is_fixed(each) else '1' for each in dims)}"
        for name, dims in dynamic.items()
    ]
    return (
        f"{where} has inputs of dynamic shape, {'; '.join(said)}; a graph needs fixed ones: give "
        f"the sizes of all dimensions, as in {' '.join(example)}"
    )


def _resize(name: str, dims: Any, sizes: Sequence[int], where: str) -> None:
    wanted = [int(each) for each in sizes]
    if len(dims) not in {0, len(wanted)}:
        raise GraphError(
            f"input {name!r} of {where} has {len(dims)} dimensions, and {len(wanted)} sizes were "
            "given; give one for each"
        )
    del dims[:]
    for size in wanted:
        dims.add().dim_value = size


def _is_fixed(dim: Any) -> bool:
    return bool(dim.HasField("dim_value") and dim.dim_value > 0)


def _spelled(dim: Any) -> str:
    return str(dim.dim_value) if _is_fixed(dim) else dim.dim_param or "?"


def _inferred(onnx: Any, model: Any, where: str) -> Any:
    # What inference found before folding can be less than what it finds now.
    del model.graph.value_info[:]
    for entry in model.graph.output:
        if entry.type.tensor_type.HasField("shape"):
            entry.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # onnx raises its own InferenceError, and ValueError for size
        raise GraphError(
            f"the shapes of {where} cannot be inferred ({_short(error)}); give the shapes that its "
            "inputs were exported with"
        ) from error


def _fold(onnx: Any, graph: Any, opset: int) -> None:
    """Compute nodes whose operands are all known, and shapes of tensors whose shape is."""
    values = {each.name: each for each in graph.initializer}
    types = {each.name: each.type for each in (*graph.value_info, *graph.input, *graph.output)}
    kept = []
    for node in graph.node:
        found = _computed(onnx, node, values, types, opset)
        if found is None:
            kept.append(node)
            continue
        for name, array in zip(node.output, found, strict=False):
            tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
            values[name] = tensor
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _computed(
    onnx: Any, node: Any, values: Mapping[str, Any], types: Mapping[str, Any], opset: int
) -> list[Any] | None:
    if node.op_type == "Shape" and node.input[0] in types:
        return _shape_of(node, types[node.input[0]])
    if node.op_type in {"If", "Loop", "Scan"} or node.domain not in {"", "ai.onnx"}:
        return None
    given = [name for name in node.input if name]
    if not all(name in values for name in given):
        return None
    if any(_elements(values[name]) > _FOLDED_ELEMENTS for name in given):
        return None
    try:
        feeds = {name: onnx.numpy_helper.to_array(values[name]) for name in given}
        evaluated = _evaluator(onnx, node, opset).run(None, feeds)
    except Exception:  # the reference evaluator lacks some operators; they stay nodes
        return None
    small = all(np.size(each) <= _FOLDED_ELEMENTS for each in evaluated)
    return list(evaluated) if small else None


def _evaluator(onnx: Any, node: Any, opset: int) -> Any:
    graph = onnx.helper.make_graph(
        [node],
        "one node",
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.input if name],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return onnx.reference.ReferenceEvaluator(model)


def _elements(tensor: Any) -> int:
    count = 1
    for each in tensor.dims:
        count *= int(each)
    return count


def _shape_of(node: Any, kind: Any) -> list[Any] | None:
    if not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if any(not each.HasField("dim_value") for each in dims):
        return None
    sizes = np.array([each.dim_value for each in dims], dtype=np.int64)
    bounds = {each.name: each.i for each in node.attribute}
    return [sizes[bounds.get("start", 0) : bounds.get("end", len(sizes))]]


def _take_branches(onnx: Any, graph: Any) -> None:
    """Replace every condition that is known by the nodes of the branch that is taken."""
    values = {each.name: each for each in graph.initializer}
    kept = []
    changed = False
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in values:
            kept.append(node)
            continue
        chosen = bool(onnx.numpy_helper.to_array(values[node.input[0]]).any())
        wanted = "then_branch" if chosen else "else_branch"
        branch = next(each.g for each in node.attribute if each.name == wanted)
        kept += _inlined(onnx, branch, node)
        graph.initializer.extend(branch.initializer)
        # Even where the branch is empty, the model has changed: infer once more.
        graph.initializer.append(
            onnx.numpy_helper.from_array(np.zeros(0), f"{node.output[0]} taken")
        )
        changed = True
    if changed:
        del graph.node[:]
        graph.node.extend(kept)


def _inlined(onnx: Any, branch: Any, node: Any) -> list[Any]:
    ends = [
        onnx.helper.make_node("Identity", [inner.name], [outer])
        for inner, outer in zip(branch.output, node.output, strict=True)
    ]
    return [*branch.node, *ends]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]
