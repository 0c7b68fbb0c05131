"""cuDNN's execution plans: what the graph API computes, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ctypes import byref, c_char, c_int, c_int64, c_void_p
from typing import Any

from xsp.levels.library.decoders.getters import DecodingError, Getters

_PLAN_JSON, _TYPE_CHAR = 405, 24
"""`CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION` and `CUDNN_TYPE_CHAR` (cudnn_graph.h)"""


def _plan_json(getters: Getters, plan: int) -> dict[str, Any]:
    def read(room: int, out: Any) -> int:
        count = c_int64(0)
        kind = (c_int(_PLAN_JSON), c_int(_TYPE_CHAR))
        getters.call(
            "cudnnBackendGetAttribute", c_void_p(plan), *kind, c_int64(room), byref(count), out
        )
        return count.value

    size = read(0, None)
    text = (c_char * (size + 1))()
    read(size, text)
    decoded = json.loads(text.value)
    if not isinstance(decoded, dict) or "operationGraph" not in decoded:
        msg = "the plan's JSON has no operationGraph"
        raise DecodingError(msg)
    return decoded


def _operation(node: dict[str, Any], tensors: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A node of the graph with tensors in place of their names."""
    name = (
        str(node["operation"]).removeprefix("CUDNN_BACKEND_OPERATION_").removesuffix("_DESCRIPTOR")
    )
    rest = {
        key: tensors.get(value, value) if isinstance(value, str) else value
        for key, value in node.items()
    }
    return {**rest, "operation": name}


def plan(getters: Getters, pointer: int) -> dict[str, Any]:
    """What a plan computes and by which engine, without the description of the GPU that its JSON
    also holds.
    """
    decoded = _plan_json(getters, pointer)
    graph, engine = decoded["operationGraph"], decoded.get("engine", {})
    tensors = {
        str(tensor["name"]): {
            "dims": tensor["dim"],
            "strides": tensor["stride"],
            "type": tensor["dataType"],
        }
        for tensor in graph["tensors"]
    }
    return {
        "graph": graph.get("finalizeMode"),
        "operations": [_operation(node, tensors) for node in graph["nodes"]],
        "engine": engine.get("engineId"),
        "knobs": engine.get("knobChoices", {}),
    }
