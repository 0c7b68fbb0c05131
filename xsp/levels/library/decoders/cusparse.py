"""cuSPARSE's descriptors of matrices and vectors."""

from __future__ import annotations

from ctypes import byref, c_int, c_int64, c_void_p
from typing import Any

from xsp.levels.library import enums
from xsp.levels.library.decoders.getters import Getters


def sparse_matrix(getters: Getters, pointer: int) -> dict[str, Any]:
    """The sizes of a `cusparseSpMatDescr_t`."""
    rows, cols, nonzeros = c_int64(0), c_int64(0), c_int64(0)
    getters.call(
        "cusparseSpMatGetSize", c_void_p(pointer), byref(rows), byref(cols), byref(nonzeros)
    )
    return {"rows": rows.value, "cols": cols.value, "nonzeros": nonzeros.value}


def dense_matrix(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cusparseDnMatDescr_t`."""
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


def dense_vector(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cusparseDnVecDescr_t`."""
    size, values, data_type = c_int64(0), c_void_p(), c_int(0)
    getters.call(
        "cusparseDnVecGet", c_void_p(pointer), byref(size), byref(values), byref(data_type)
    )
    return {"size": size.value, "type": enums.DATA_TYPE.get(data_type.value)}
