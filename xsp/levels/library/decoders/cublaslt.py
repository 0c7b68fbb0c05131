"""cuBLASLt's descriptors (cublasLt.h: cublasLtMatrixLayoutAttribute_t,
cublasLtMatmulDescAttributes_t).
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_int32, c_int64, c_void_p
from typing import Any

from xsp.levels.library import enums
from xsp.levels.library.decoders.getters import Getters

_LAYOUT_TYPE, _LAYOUT_ORDER, _LAYOUT_ROWS = 0, 1, 2
_LAYOUT_COLS, _LAYOUT_LD, _LAYOUT_BATCH = 3, 4, 5
_DESC_COMPUTE, _DESC_SCALE, _DESC_TRANSA, _DESC_TRANSB, _DESC_EPILOGUE = 0, 1, 3, 4, 7


def _attribute(getters: Getters, function: str, descriptor: int, attribute: int, bits: int) -> int:
    value = c_int64(0) if bits == 64 else c_int32(0)
    written = ctypes.c_size_t(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    getters.call(
        function, c_void_p(descriptor), c_int(attribute), byref(value), size, byref(written)
    )
    return value.value


def layout(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cublasLtMatrixLayout_t`: type, order and sizes of a matrix."""

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


def matmul(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cublasLtMatmulDesc_t`: what a product does with its matrices."""

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


def product(call: dict[str, Any]) -> dict[str, Any]:
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
