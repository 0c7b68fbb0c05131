"""Which layers and which kernels are convolutions, and which are matrix products."""

from __future__ import annotations

import json
import re

import numpy as np
import numpy.typing as npt
import pandas as pd

CONVOLUTION, GEMM = "convolution", "GEMM"

_CONVOLUTION_TYPE = re.compile(r"[Cc]onv(_?[Tt]ranspose)?[123]d|convolution$")
# Conv1D, with a capital D, is what transformers calls a linear layer.
_GEMM_TYPE = re.compile(
    r".*[Ll]inear|Conv1D|r?matmul|mm|bmm|mv|addmm|addmv|addbmm|baddbmm|chain_matmul|multi_dot|tensordot|einsum|"
    r"(scaled_)?(grouped_)?mm"
)
_CONVOLUTION_CALL = re.compile(r"cudnn\w*Convolution")
_GEMM_CALL = re.compile(r"cublas\w*([Gg]em[mv]|Matmul)")
# Kernels outside library calls: PyTorch's own convolutions, and what it brings of CUTLASS.
_ATTENTION_KERNEL = re.compile(r"fmha|flash|sdpa|attention", re.IGNORECASE)
_CONVOLUTION_KERNEL = re.compile(
    r"conv(?!ert)|[fdw](prop|grad)_|winograd|im2col|vol2col", re.IGNORECASE
)
_GEMM_KERNEL = re.compile(r"gem[mv]|nvjet|splitKreduce|grouped_mm", re.IGNORECASE)


def layer_operation(layer_type: str) -> str:
    """Operation of a layer: CONVOLUTION (`Conv2d`, `conv2d`), GEMM (`Linear`, `matmul`,
    transformers' `Conv1D`) or "".

    Layers that hold several operations, such as attention or an LSTM, are neither.
    """
    if _GEMM_TYPE.fullmatch(layer_type):
        return GEMM
    return CONVOLUTION if _CONVOLUTION_TYPE.search(layer_type) else ""


def kernel_operations(
    names: pd.Series, calls: npt.NDArray[np.int64], library_calls: pd.DataFrame
) -> npt.NDArray[np.object_]:
    """Operation of each kernel by the library call that launched it, else by its own name: as
    above.

    `names` are kernel names, `calls` rows of `library_calls` (-1 for none), equally long. What a
    convolution's call launches beside its main kernel, such as a change of layout, is the
    convolution's.
    """
    by_call = [
        call_operation(*row)
        for row in zip(library_calls["name"], library_calls["arguments"], strict=True)
    ]
    called = np.array([*by_call, ""], dtype=object)[calls]
    code, distinct = pd.factorize(names)
    named = np.array([_kernel(str(name)) for name in distinct], dtype=object)[code]
    return np.where(calls >= 0, called, named)


def call_operation(name: str, arguments: str) -> str:
    """Operation of a library call; a graph of cuDNN's is told by its nodes.

    A graph with matrix products and reductions is attention, which is neither.
    """
    if name == "cudnnBackendExecute":
        nodes = {str(node["operation"]) for node in json.loads(arguments).get("operations", [])}
        if any(node.startswith("CONVOLUTION") for node in nodes):
            return CONVOLUTION
        return GEMM if "MATMUL" in nodes and "REDUCTION" not in nodes else ""
    if _CONVOLUTION_CALL.match(name):
        return CONVOLUTION
    return GEMM if _GEMM_CALL.match(name) else ""


def _kernel(name: str) -> str:
    if _ATTENTION_KERNEL.search(name):
        return ""
    if _CONVOLUTION_KERNEL.search(name):
        return CONVOLUTION
    return GEMM if _GEMM_KERNEL.search(name) else ""
