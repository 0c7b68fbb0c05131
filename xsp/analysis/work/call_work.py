"""What library calls have to do, from their decoded arguments: operations, operand bytes,
precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from math import isnan, nan, prod
from typing import Any

import pandas as pd

from xsp.analysis.work.data_types import itemsize, precision_of
from xsp.analysis.work.layer_work import Work
from xsp.analysis.work.products.attention import attention_flops


def call_work(library_calls: pd.DataFrame) -> pd.DataFrame:
    """What each row of `library_calls` has to do: columns of `Work`. Bytes are those of the
    operands, once each.
    """
    flops = library_calls["flops"].to_numpy(float, na_value=nan)
    known = [None if isnan(each) else each for each in flops.tolist()]
    works = [
        _work_of(text, each) for text, each in zip(library_calls["arguments"], known, strict=True)
    ]
    return pd.DataFrame(works, columns=list(Work._fields), index=library_calls.index)


@lru_cache(maxsize=4096)
def _work_of(arguments: str, flops: float | None) -> Work:
    """Models make the same calls again and again."""
    return _work(json.loads(arguments), nan if flops is None else flops)


def _work(call: Mapping[str, Any], flops: float) -> Work:
    operations = call.get("operations")
    if isinstance(operations, list):
        return _graph(operations, flops)
    if "m" in call and "n" in call and "k" in call:
        return _product(call, flops)
    convolution = _convolution(call)
    return (
        Work(flops, *convolution, is_product=True)
        if convolution
        else Work(flops, is_product=not isnan(flops))
    )


def _product(call: Mapping[str, Any], flops: float) -> Work:
    """C = A B: reads both operands and writes the result; an addend, of which beta tells, is not
    counted.
    """
    data_type = call.get("data_type")
    a, b, c = (call.get(f"{name}_type") or call.get("a_type") or data_type for name in "abc")
    m, n, k = call["m"], call["n"], call["k"]
    batch = call.get("batch_count", 1)
    read = batch * (m * k * itemsize(a) + k * n * itemsize(b))
    written = batch * m * n * itemsize(c)
    precision = precision_of(a)
    if precision == "fp32":
        computed = str(call.get("compute_type", ""))
        precision = next((name for word, name in _FAST.items() if word in computed), precision)
    return Work(flops, float(read), float(written), precision, True)


_FAST = {"FAST_TF32": "tf32", "FAST_16BF": "bf16", "FAST_16F": "fp16"}
"""cuBLAS compute types that say in what float32 operands are multiplied."""

_OUTPUTS = ("dX", "dW", "dx", "dw", "Y", "y")
"""What a convolution writes: the first of these that it has. Backward passes have `dY`, which they
read.
"""
_OPERANDS = ("X", "W", "Y", "dX", "dW", "dY", "x", "w", "y", "dx", "dw", "dy")


def _graph(operations: list[Mapping[str, Any]], flops: float) -> Work:
    """A cuDNN graph. Which tensors of a fused graph never reach memory it does not say, so bytes
    need a single node.
    """
    if [node["operation"] for node in operations] == ["SDPA_FWD"]:
        return _attention(operations[0])
    heavy = [
        node for node in operations if str(node["operation"]).startswith(("CONVOLUTION", "MATMUL"))
    ]
    types = [
        tensor.get("type")
        for node in heavy
        for key in (*_OPERANDS, "matA")
        if isinstance(tensor := node.get(key), Mapping)
    ]
    precision = precision_of(types[0]) if types else ""
    found = _convolution(operations[0]) if len(operations) == 1 else None
    return Work(
        flops, found[0] if found else nan, found[1] if found else nan, precision, bool(heavy)
    )


def _attention(node: Mapping[str, Any]) -> Work:
    """The FLOPs too are from the tensors: captures of earlier versions lack them."""
    tensors = [node[name] for name in "QKVO"]
    dims = [each["dims"] for each in tensors]
    *read, written = (prod(each["dims"]) * itemsize(each["type"]) for each in tensors)
    precision = precision_of(tensors[0]["type"])
    return Work(attention_flops(*dims), float(sum(read)), float(written), precision, True)


def _convolution(call: Mapping[str, Any]) -> tuple[float, float, str] | None:
    """Bytes read and written by a convolution or one of its gradients, and the precision of its
    operands.
    """
    tensors = {
        key: call[key]
        for key in _OPERANDS
        if isinstance(call.get(key), Mapping) and "dims" in call[key]
    }
    written = next((key for key in _OUTPUTS if key in tensors), None)
    if written is None or len(tensors) != 3:
        return None
    size = {key: prod(tensor["dims"]) * itemsize(tensor["type"]) for key, tensor in tensors.items()}
    read = sum(bytes_ for key, bytes_ in size.items() if key != written)
    operand = next(tensor for key, tensor in tensors.items() if key != written)
    return float(read), float(size[written]), precision_of(operand["type"])
