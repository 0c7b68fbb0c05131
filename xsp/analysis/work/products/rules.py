"""Which layers are computed by products, and the rule for the FLOPs of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from math import nan
from typing import NamedTuple

from xsp.analysis.work.products import attention, contraction, convolution, matrix, recurrent
from xsp.analysis.work.products.operands import Operands, UnknownWorkError

_COMPLEX_PRODUCT = 4
"""Real multiply-adds of a complex one: LAPACK Working Note 41, appendix C."""


class _Rule(NamedTuple):
    """`kind` matches whole types of layers; `order` is that of the tensors in the signature, for
    captures from before the names of arguments were recorded. A rule `takes_lists` where several
    tensors of one argument are not parts of a nested one.
    """

    kind: re.Pattern[str]
    order: tuple[str, ...]
    flops: Callable[[Operands], float]
    takes_lists: bool = False


def _rule(
    kind: str,
    order: str,
    flops: Callable[[Operands], float],
    *,
    takes_lists: bool = False,
) -> _Rule:
    return _Rule(re.compile(kind), tuple(order.split()), flops, takes_lists)


_RULES = (
    _rule(r"Linear|Conv1D|NonDynamicallyQuantizableLinear", "input", matrix.linear),
    _rule(r"linear", "input weight bias", matrix.linear),
    _rule(r"matmul|linalg_matmul", "input other", matrix.pair("input", "other")),
    _rule(r"rmatmul", "input other", matrix.pair("other", "input")),
    _rule(r"mm|bmm|int_mm|scaled_mm|smm", "input mat2", matrix.pair("input", "mat2")),
    _rule(r"sparse_mm", "sparse dense", matrix.pair("sparse", "dense")),
    _rule(r"(sparse_|ss?p?)?addmm", "input mat1 mat2", matrix.pair("mat1", "mat2")),
    _rule(r"sparse_sampled_addmm", "input mat1 mat2", matrix.sampled_product),
    _rule(r"baddbmm", "input batch1 batch2", matrix.pair("batch1", "batch2")),
    _rule(r"addbmm", "input batch1 batch2", matrix.summed_product),
    _rule(r"mv", "input vec", matrix.pair("input", "vec")),
    _rule(r"addmv", "input mat vec", matrix.pair("mat", "vec")),
    _rule(r"dot", "input tensor", matrix.pair("input", "tensor")),
    _rule(r"vdot", "input other", matrix.pair("input", "other")),
    _rule(r"inner", "input other", matrix.inner_product),
    _rule(r"(scaled_)?grouped_mm", "input mat2", matrix.grouped_product),
    _rule(r"linalg_multi_dot", "", matrix.chain_product, takes_lists=True),
    _rule(r"chain_matmul", "", matrix.chain_product, takes_lists=True),
    _rule(r"einsum", "", contraction.einsum, takes_lists=True),
    _rule(r"tensordot", "a b", contraction.tensordot),
    _rule(
        r"scaled_dot_product_attention",
        "query key value attn_mask",
        attention.scaled_dot_product,
    ),
    _rule(r"multi_head_attention_forward", "query key value", attention.multi_head),
    _rule(r"Conv(Transpose)?[123]d", "input", convolution.convolution_module),
    _rule(
        r"conv(_transpose)?[123]d|convolution",
        "input weight bias",
        convolution.functional_convolution,
    ),
    _rule(r"conv_tbc", "input weight bias", convolution.time_batch_channel),
    _rule(r"(LSTM|GRU|RNN)Cell", "input", recurrent.cell, takes_lists=True),
    _rule(r"LSTM|GRU|RNN", "input", recurrent.recurrent, takes_lists=True),
)
_WITHOUT_RULE = re.compile(
    r"(Lazy)?Conv|conv_|MultiheadAttention|(native_)?multi_head|transformer_encoder|Bilinear|"
    r"bilinear|LSTM|GRU|RNN|lstm|gru|rnn|quantized|matrix_power|linalg_matrix_power|"
    r"cdist|cov$|corrcoef|linalg_vecdot|hspmm|weight_int|fp8"
)


def _rule_of(kind: str) -> _Rule | None:
    return next((rule for rule in _RULES if rule.kind.fullmatch(kind)), None)


@lru_cache(maxsize=4096)
def is_product(kind: str) -> bool:
    """Whether layers of this type are computed by products, so that tensor cores can compute
    them.
    """
    return _rule_of(kind) is not None or _WITHOUT_RULE.match(kind) is not None


def product_flops(layer: Operands) -> float:
    """FLOPs of a layer for which `is_product` holds; NaN where there is no rule, or what is
    recorded does not tell.

    A multiplication and an addition count apart; of a complex product the real ones.
    """
    rule = _rule_of(layer.kind)
    if rule is None:
        return nan
    named = layer.named(rule.order)
    try:
        parts = [named] if rule.takes_lists else named.parts()
        flops = sum(rule.flops(part) for part in parts)
    except (UnknownWorkError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        # Another class or function of the same name, which takes other tensors.
        return nan
    return flops * (_COMPLEX_PRODUCT if layer.is_complex else 1)
