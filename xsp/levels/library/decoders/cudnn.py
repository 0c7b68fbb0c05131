"""cuDNN's descriptors of the API that names each operation."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import byref, c_int, c_uint32, c_void_p
from typing import Any

from xsp.levels.library import enums
from xsp.levels.library.decoders.getters import Getters

MAXIMUM_DIMENSIONS = 8
"""`CUDNN_DIM_MAX`"""

Spatial = c_int * (MAXIMUM_DIMENSIONS - 2)
"""Sizes of all dimensions but batch and channels."""


def _used(rank: c_int, **sizes: Iterable[int]) -> dict[str, list[int]]:
    """Of arrays with room for as many dimensions as there can be, those that there are."""
    return {name: list(array)[: rank.value] for name, array in sizes.items()}


def tensor(getters: Getters, pointer: int) -> dict[str, Any] | None:
    """A `cudnnTensorDescriptor_t`, None for a null pointer."""
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
        **_used(rank, dims=dims, strides=strides),
        "type": enums.CUDNN_DATA_TYPE.get(data_type.value),
    }


def filter_(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cudnnFilterDescriptor_t`."""
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
        **_used(rank, dims=dims),
        "layout": ("NCHW", "NHWC", "NCHW_VECT_C")[layout.value],
        "type": enums.CUDNN_DATA_TYPE.get(data_type.value),
    }


def convolution(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cudnnConvolutionDescriptor_t` with its number of groups."""
    rank, mode, compute, groups = c_int(0), c_int(0), c_int(0), c_int(1)
    pads, strides, dilations = Spatial(), Spatial(), Spatial()
    getters.call(
        "cudnnGetConvolutionNdDescriptor",
        *(c_void_p(pointer), c_int(len(pads)), byref(rank)),
        *(pads, strides, dilations, byref(mode), byref(compute)),
    )
    getters.call("cudnnGetConvolutionGroupCount", c_void_p(pointer), byref(groups))
    return {
        **_used(rank, pads=pads, strides=strides, dilations=dilations),
        "groups": groups.value,
        "compute_type": enums.CUDNN_DATA_TYPE.get(compute.value),
    }


def pooling(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cudnnPoolingDescriptor_t`."""
    mode, propagation, rank = c_int(0), c_int(0), c_int(0)
    window, pads, strides = Spatial(), Spatial(), Spatial()
    getters.call(
        "cudnnGetPoolingNdDescriptor",
        *(c_void_p(pointer), c_int(len(pads)), byref(mode), byref(propagation)),
        *(byref(rank), window, pads, strides),
    )
    return {
        "mode": enums.POOLING.get(mode.value),
        **_used(rank, window=window, pads=pads, strides=strides),
    }


def rnn(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cudnnRNNDescriptor_t`."""
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


def rnn_data(getters: Getters, pointer: int) -> dict[str, Any]:
    """A `cudnnRNNDataDescriptor_t`, without the length of each sequence."""
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
