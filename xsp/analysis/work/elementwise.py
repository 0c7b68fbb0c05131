"""Operations of layers that treat their elements one by one or in rows, by the layer's type."""

from __future__ import annotations

import re
from math import nan, prod

from xsp.analysis.work.products import Shapes

_VIEWS = re.compile(
    r"(Flatten|Unflatten|Identity|flatten|unflatten|view|view_as|reshape|permute|transpose|t|"
    r"squeeze|unsqueeze|expand|expand_as|split|chunk|unbind|narrow|select|detach|getitem|"
    r"contiguous|to|float|half|double|type)$"
)
_NO_ARITHMETIC = re.compile(
    r"ReLU6?$|relu6?$|Hardtanh|hardtanh|clamp|max_?pool|MaxPool|AdaptiveMaxPool|"
    r"adaptive_max_pool|Identity|Flatten|Unflatten|Embedding$|embedding$|index_select$|gather$|"
    r"index$|[gs]etitem$|take$|to$|float$|half$|double$|bfloat16$|type$|clone$|contiguous$|copy$|"
    r"cat$|concat|stack$|permute$|reshape$|view$|transpose$|t$|flatten$|split$|chunk$|unbind$|"
    r"expand$|repeat|roll$|pad$|full|zeros|ones|arange$|empty|where$|masked_fill|"
    r"eq$|ne$|lt$|le$|gt$|ge$|any$|all$|isinf$|isnan$|max$|min$|maximum$|minimum$|argmax$|"
    r"argmin$|topk$|sort$|PixelShuffle|pixel_shuffle|ChannelShuffle|channel_shuffle|detach$|"
    r"item$|squeeze$|unsqueeze$|tril$|triu$",
)
_PER_OUTPUT: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern), float(each))
    for pattern, each in (
        (r"[ir]?(add|sub|mul|div|truediv)$|neg$", 1),
        (r"(tanh|Tanh|exp|log|sqrt|rsqrt|reciprocal|erf|sin|cos)$", 1),
        (r"(pow|square|abs|outer|ger)$", 1),
        (r"BatchNorm[123]d$|FrozenBatchNorm2d$|batch_norm$", 2),
        (r"(Layer|Group|Instance)Norm([123]d|2d)?$|(layer|group|instance)_norm$", 8),
        (r"(\w*RMS|T5Layer)Norm$|rms_norm$", 4),
        (r"(log_)?softmax$|(Log)?Softmax$", 4),
        (r"Sigmoid$|sigmoid$", 3),
        (r"SiLU(Activation)?$|silu$|Hardswish$|hardswish$", 4),
        (r"(New|Fast|Quick)?GELU(Activation)?$|gelu$", 5),
        (r"Dropout[123]?d?$|dropout$", 1),
    )
)
_PER_INPUT = re.compile(r"(Adaptive)?AvgPool[123]d$|(adaptive_)?avg_pool[123]d$|(mean|sum)$")
_COMPLEX = {"add": 2.0, "sub": 2.0, "neg": 2.0, "mul": 6.0}
"""Real operations of a complex one: LAPACK Working Note 41, appendix C."""


def is_view(kind: str) -> bool:
    """Whether layers of this type give another view of their input where they need not copy it;
    then they allocate nothing.
    """
    return _VIEWS.match(kind) is not None


def elementwise_flops(
    kind: str, inputs: Shapes, outputs: Shapes, *, is_complex: bool = False
) -> float:
    """Operations of a layer on tensors of these shapes; NaN for a type that is not listed."""
    if _NO_ARITHMETIC.match(kind):
        return 0.0
    if is_complex:
        return _COMPLEX.get(kind.lstrip("ir"), nan) * elements(outputs[:1])
    if _PER_INPUT.match(kind):
        return elements(inputs[:1])
    each = next((each for pattern, each in _PER_OUTPUT if pattern.match(kind)), nan)
    return each * elements(outputs[:1])


def elements(shapes: Shapes) -> float:
    """Elements of tensors of these shapes, all together."""
    return float(sum(prod(shape) for shape in shapes))
