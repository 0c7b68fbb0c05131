"""Floating-point operations of one library call, a multiplication and an addition counted apart.

Formulas: LAPACK Working Note 41, appendix C, for BLAS, of which only the leading term is kept; a
complex multiply-add is four times a real one. Convolutions are counted as direct ones whatever
algorithm runs, and matrix products inside an attention graph in full also under a causal mask, as
vendors do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isnan, prod
from typing import Any

from xsp.analysis.work.products.attention import attention_flops

_PRODUCT = re.compile(r"cublas(Lt)?(\w?gemm|Gemm|Matmul)(?!AlgoGet|GroupedBatched)")
_TRIANGULAR = re.compile(r"cublas\wtr[sm]m")


def flops(symbol: str, call: Mapping[str, Any]) -> int | None:
    """FLOPs of a call from its decoded arguments (`LibraryTracer.details`), or None where that is
    not defined.
    """
    if symbol == "cudnnBackendExecute":
        counts = [_graph_node(node) for node in call.get("operations", ())]
        return sum(counts) if any(counts) else None
    if symbol.startswith("cudnnConvolution"):
        return _legacy_convolution(call)
    if symbol.startswith("cusparseSp"):
        return _sparse(symbol, call)
    return _blas(symbol, call)


def _blas(symbol: str, call: Mapping[str, Any]) -> int | None:
    real = 4 if str(call.get("data_type", call.get("a_type", ""))).startswith("CUDA_C") else 1
    m, n, batch = call.get("m"), call.get("n"), call.get("batch_count", 1)
    if m is None or n is None:
        return None
    if _PRODUCT.match(symbol) and "k" in call:
        return int(2 * m * n * call["k"] * batch * real)
    if re.match(r"cublas\wge(mv|r)", symbol):
        return int(2 * m * n * real)
    if _TRIANGULAR.match(symbol):
        order = m if call["side"] == "CUBLAS_SIDE_LEFT" else n
        return int(m * n * order * batch * real)
    if re.match(r"cublas\w(sy|he)mm", symbol):
        return int(2 * m * n * (m if call["side"] == "CUBLAS_SIDE_LEFT" else n) * real)
    return None


def _sparse(symbol: str, call: Mapping[str, Any]) -> int | None:
    """2 nnz per column of the dense operand."""
    if symbol not in ("cusparseSpMM", "cusparseSpMV") or "a" not in call:
        return None
    columns = call["c"]["cols"] if symbol == "cusparseSpMM" else 1
    real = 4 if str(call["compute_type"]).startswith("CUDA_C") else 1
    return int(2 * call["a"]["nonzeros"] * columns * real)


def _convolution(output: Mapping[str, Any], weight: Mapping[str, Any]) -> int:
    """2 N K P Q (C / groups) R S; a filter is laid out K, C / groups, R, S, and all three passes
    cost the same.
    """
    return int(2 * prod(output["dims"]) * prod(weight["dims"][1:]))


def _legacy_convolution(call: Mapping[str, Any]) -> int | None:
    output, weight = call.get("y") or call.get("dy"), call.get("w") or call.get("dw")
    return _convolution(output, weight) if output and weight else None


def _graph_node(node: Mapping[str, Any]) -> int:
    if node["operation"].startswith("CONVOLUTION"):
        output, weight = node.get("Y") or node.get("dY"), node.get("W") or node.get("dW")
        return _convolution(output, weight) if output and weight else 0
    if node["operation"] == "MATMUL":
        return int(2 * prod(node["matC"]["dims"]) * node["matA"]["dims"][-1])
    if node["operation"] == "SDPA_FWD":
        output = node.get("O", node["Q"])
        operands = (node["Q"], node["K"], node["V"], output)
        count = attention_flops(*(tensor["dims"] for tensor in operands))
        return 0 if isnan(count) else int(count)
    return 0
