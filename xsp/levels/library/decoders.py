"""What descriptor arguments say, asked of the library that made them, while the call is being made.

Each decoder takes the `Getters` of the library that is being called and the pointer that was
passed, and returns plain values. They run in the untimed structure run only. A getter that reports
an error raises `DecodingError`, which the tracer turns into `{"undecoded": reason}`.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Mapping
from ctypes import byref, c_char, c_int, c_int32, c_int64, c_uint32, c_void_p
from typing import Any

from xsp.levels.library import enums

MAXIMUM_DIMENSIONS = 8
"""`CUDNN_DIM_MAX`"""


class DecodingError(Exception):
    """A getter refused; the message names it and the status it returned."""


class Getters:
    """The exported functions of the library file that a call goes to. Nothing is loaded that was
    not.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a getter, all of which return 0 for success.

        Raises:
            DecodingError: the library lacks the function or it returned a status other than
            success.

        """
        function = getattr(self._library, name, None)
        if function is None:
            msg = f"the library has no {name}"
            raise DecodingError(msg)
        status = function(*arguments)
        if status:
            msg = f"{name} returned {status}"
            raise DecodingError(msg)


# ---- cuBLASLt (cublasLt.h: cublasLtMatrixLayoutAttribute_t, cublasLtMatmulDescAttributes_t) ----

_LAYOUT_TYPE, _LAYOUT_ORDER, _LAYOUT_ROWS, _LAYOUT_COLS, _LAYOUT_LD, _LAYOUT_BATCH = (
    0,
    1,
    2,
    3,
    4,
    5,
)
_DESC_COMPUTE, _DESC_SCALE, _DESC_TRANSA, _DESC_TRANSB, _DESC_EPILOGUE = 0, 1, 3, 4, 7


def _attribute(getters: Getters, function: str, descriptor: int, attribute: int, bits: int) -> int:
    value = c_int64(0) if bits == 64 else c_int32(0)
    written = ctypes.c_size_t(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    getters.call(
        function, c_void_p(descriptor), c_int(attribute), byref(value), size, byref(written)
    )
    return value.value


def _lt_layout(getters: Getters, pointer: int) -> dict[str, Any]:
    def get(attribute: int, bits: int) -> int:
        return _attribute(getters, "cublasLtMatrixLayoutGetAttribute", pointer, attribute, bits)

    return {
        "type": enums.DATA_TYPE.get(get(_LAYOUT_TYPE, 32)),
        "order": get(_LAYOUT_ORDER, 32),
        "rows": get(_LAYOUT_ROWS, 64),
        "cols": get(_LAYOUT_COLS, 64),
        "ld": get(_LAYOUT_LD, 64),
        "batch_count": get(_LAYOUT_BATCH, 32),
    }


def _lt_matmul(getters: Getters, pointer: int) -> dict[str, Any]:
    def get(attribute: int) -> int:
        return _attribute(getters, "cublasLtMatmulDescGetAttribute", pointer, attribute, 32)

    epilogue = get(_DESC_EPILOGUE)
    return {
        "transa": enums.ENUMERATIONS["operation"].get(get(_DESC_TRANSA)),
        "transb": enums.ENUMERATIONS["operation"].get(get(_DESC_TRANSB)),
        "compute_type": enums.COMPUTE_TYPE.get(get(_DESC_COMPUTE)),
        "scale_type": enums.DATA_TYPE.get(get(_DESC_SCALE)),
        "epilogue": enums.EPILOGUE.get(epilogue, f"CUBLASLT_EPILOGUE {epilogue}"),
    }


def _finish_lt(call: dict[str, Any]) -> dict[str, Any]:
    """Name a cuBLASLt product as the other GEMMs are: D is m by n, and k is the inner size of
    op(A).
    """
    desc, a, d = call.pop("desc"), call["a"], call["d"]
    k = a["cols"] if desc["transa"] == "CUBLAS_OP_N" else a["rows"]
    return {
        **desc,
        "m": d["rows"],
        "n": d["cols"],
        "k": k,
        "batch_count": d["batch_count"],
        **{f"{name}_type": call[name]["type"] for name in "abcd"},
        **{f"ld{name}": call[name]["ld"] for name in "abcd"},
        **{key: value for key, value in call.items() if key not in "abcd"},
    }


# ---- cuDNN, graph API ----

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


def _plan(getters: Getters, pointer: int) -> dict[str, Any]:
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


# ---- cuDNN, legacy API ----


def _tensor(getters: Getters, pointer: int) -> dict[str, Any] | None:
    if not pointer:
        return None
    data_type, rank = c_int(0), c_int(0)
    dims, strides = (c_int * MAXIMUM_DIMENSIONS)(), (c_int * MAXIMUM_DIMENSIONS)()
    getters.call(
        "cudnnGetTensorNdDescriptor",
        *(
            c_void_p(pointer),
            c_int(MAXIMUM_DIMENSIONS),
            byref(data_type),
            byref(rank),
            dims,
            strides,
        ),
    )
    return {
        "dims": list(dims)[: rank.value],
        "strides": list(strides)[: rank.value],
        "type": enums.CUDNN_DATA_TYPE.get(data_type.value),
    }


def _filter(getters: Getters, pointer: int) -> dict[str, Any]:
    data_type, layout, rank = c_int(0), c_int(0), c_int(0)
    dims = (c_int * MAXIMUM_DIMENSIONS)()
    getters.call(
        "cudnnGetFilterNdDescriptor",
        *(
            c_void_p(pointer),
            c_int(MAXIMUM_DIMENSIONS),
            byref(data_type),
            byref(layout),
            byref(rank),
            dims,
        ),
    )
    return {
        "dims": list(dims)[: rank.value],
        "layout": ("NCHW", "NHWC", "NCHW_VECT_C")[layout.value],
        "type": enums.CUDNN_DATA_TYPE.get(data_type.value),
    }


def _convolution(getters: Getters, pointer: int) -> dict[str, Any]:
    rank, mode, compute, groups = c_int(0), c_int(0), c_int(0), c_int(1)
    room = MAXIMUM_DIMENSIONS - 2
    pads, strides, dilations = (c_int * room)(), (c_int * room)(), (c_int * room)()
    getters.call(
        "cudnnGetConvolutionNdDescriptor",
        *(
            c_void_p(pointer),
            c_int(room),
            byref(rank),
            pads,
            strides,
            dilations,
            byref(mode),
            byref(compute),
        ),
    )
    getters.call("cudnnGetConvolutionGroupCount", c_void_p(pointer), byref(groups))
    return {
        "pads": list(pads)[: rank.value],
        "strides": list(strides)[: rank.value],
        "dilations": list(dilations)[: rank.value],
        "groups": groups.value,
        "compute_type": enums.CUDNN_DATA_TYPE.get(compute.value),
    }


def _pooling(getters: Getters, pointer: int) -> dict[str, Any]:
    mode, propagation, rank = c_int(0), c_int(0), c_int(0)
    room = MAXIMUM_DIMENSIONS - 2
    window, pads, strides = (c_int * room)(), (c_int * room)(), (c_int * room)()
    getters.call(
        "cudnnGetPoolingNdDescriptor",
        *(
            c_void_p(pointer),
            c_int(room),
            byref(mode),
            byref(propagation),
            byref(rank),
            window,
            pads,
            strides,
        ),
    )
    return {
        "mode": enums.POOLING.get(mode.value),
        "window": list(window)[: rank.value],
        "pads": list(pads)[: rank.value],
        "strides": list(strides)[: rank.value],
    }


def _rnn(getters: Getters, pointer: int) -> dict[str, Any]:
    values = [c_int(0) for _ in range(12)]
    dropout, flags = c_void_p(), c_uint32(0)
    getters.call(
        "cudnnGetRNNDescriptor_v8",
        c_void_p(pointer),
        *map(byref, values),
        byref(dropout),
        byref(flags),
    )
    _, cell, _, direction, _, data_type, math_type, _, inputs, hidden, projection, layers = (
        v.value for v in values
    )
    return {
        "cell": enums.RNN_CELL.get(cell),
        "direction": enums.RNN_DIRECTION.get(direction),
        "type": enums.CUDNN_DATA_TYPE.get(data_type),
        "compute_type": enums.CUDNN_DATA_TYPE.get(math_type),
        "input_size": inputs,
        "hidden_size": hidden,
        "projection_size": projection,
        "layers": layers,
    }


def _rnn_data(getters: Getters, pointer: int) -> dict[str, Any]:
    data_type, layout, length, batch, vector = (c_int(0) for _ in range(5))
    lengths, padding = (c_int * 1)(), ctypes.c_double(0)  # not optional, though not of interest
    getters.call(
        "cudnnGetRNNDataDescriptor",
        *(c_void_p(pointer), *map(byref, (data_type, layout, length, batch, vector))),
        *(c_int(len(lengths)), lengths, byref(padding)),
    )
    return {
        "type": enums.CUDNN_DATA_TYPE.get(data_type.value),
        "sequence_length": length.value,
        "batch_size": batch.value,
        "vector_size": vector.value,
    }


# ---- cuSPARSE ----


def _sparse_matrix(getters: Getters, pointer: int) -> dict[str, Any]:
    rows, cols, nonzeros = c_int64(0), c_int64(0), c_int64(0)
    getters.call(
        "cusparseSpMatGetSize", c_void_p(pointer), byref(rows), byref(cols), byref(nonzeros)
    )
    return {"rows": rows.value, "cols": cols.value, "nonzeros": nonzeros.value}


def _dense_matrix(getters: Getters, pointer: int) -> dict[str, Any]:
    rows, cols, ld = c_int64(0), c_int64(0), c_int64(0)
    values, data_type, order = c_void_p(), c_int(0), c_int(0)
    getters.call(
        "cusparseDnMatGet",
        *(
            c_void_p(pointer),
            *map(byref, (rows, cols, ld)),
            byref(values),
            byref(data_type),
            byref(order),
        ),
    )
    return {
        "rows": rows.value,
        "cols": cols.value,
        "ld": ld.value,
        "type": enums.DATA_TYPE.get(data_type.value),
    }


def _dense_vector(getters: Getters, pointer: int) -> dict[str, Any]:
    size, values, data_type = c_int64(0), c_void_p(), c_int(0)
    getters.call(
        "cusparseDnVecGet", c_void_p(pointer), byref(size), byref(values), byref(data_type)
    )
    return {"size": size.value, "type": enums.DATA_TYPE.get(data_type.value)}


Decoder = Callable[[Getters, int], Any]

DESCRIPTORS: Mapping[str, Decoder] = {
    "lt_layout": _lt_layout,
    "lt_matmul": _lt_matmul,
    "plan": _plan,
    "tensor": _tensor,
    "filter": _filter,
    "convolution": _convolution,
    "pooling": _pooling,
    "rnn": _rnn,
    "rnn_data": _rnn_data,
    "sparse_matrix": _sparse_matrix,
    "dense_matrix": _dense_matrix,
    "dense_vector": _dense_vector,
}
"""Decoder by kind of parameter in the symbol table."""

FINISHERS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "cublasLtMatmul": _finish_lt,
    "cudnnBackendExecute": lambda call: dict(call["plan"]),
    "cublasLtMatmulAlgoGetHeuristic": _finish_lt,
}
"""Last step for symbols whose meaning lies in several descriptors together."""
