"""What descriptor arguments say, asked of the library that made them, while the call is being made.

Each decoder takes the `Getters` of the library that is being called and the pointer that was
passed, and returns plain values. They run in the untimed structure run only. A getter that reports
an error raises `DecodingError`, which the tracer turns into `{"undecoded": reason}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xsp.levels.library.decoders import cublaslt, cudnn, cudnn_plans, cusparse
from xsp.levels.library.decoders.getters import DecodingError, Getters

__all__ = ["DESCRIPTORS", "FINISHERS", "DecodingError", "Getters"]

Decoder = Callable[[Getters, int], Any]

DESCRIPTORS: Mapping[str, Decoder] = {
    "lt_layout": cublaslt.layout,
    "lt_matmul": cublaslt.matmul,
    "plan": cudnn_plans.plan,
    "tensor": cudnn.tensor,
    "filter": cudnn.filter_,
    "convolution": cudnn.convolution,
    "pooling": cudnn.pooling,
    "rnn": cudnn.rnn,
    "rnn_data": cudnn.rnn_data,
    "sparse_matrix": cusparse.sparse_matrix,
    "dense_matrix": cusparse.dense_matrix,
    "dense_vector": cusparse.dense_vector,
}
"""Decoder by kind of parameter in the symbol table."""

FINISHERS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "cublasLtMatmul": cublaslt.product,
    "cudnnBackendExecute": lambda call: dict(call["plan"]),
    "cublasLtMatmulAlgoGetHeuristic": cublaslt.product,
}
"""Last step for symbols whose meaning lies in several descriptors together."""
