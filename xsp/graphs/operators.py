"""The operators of a graph: one normal form for what PyTorch, ONNX and captures spell differently.

An operation's parameters are those that decide how long it takes. What only changes the numbers
(an epsilon, a slope) is left out, and so are shapes that mean the same work: a linear layer on
`[2, 5, 16]` is one on `[10, 16]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from xsp.graphs.layer import TensorType, frozen

_ELEMENTWISE_NAMES = (
    "relu sigmoid tanh gelu silu mish hardswish hardsigmoid elu leaky_relu prelu softplus "
    "softsign selu celu clip exp log sqrt rsqrt reciprocal abs neg erf sin cos floor ceil "
    "round sign cast logical_not add sub mul div pow maximum minimum where eq ne lt le gt ge "
    "logical_and logical_or remainder floor_divide isnan masked_fill log1p expm1 tan atan "
    "square"
)
ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
"""Operators that treat their elements one by one."""

_REDUCTION_NAMES = "mean sum amax amin prod argmax argmin var std norm any all"
REDUCTIONS = frozenset(_REDUCTION_NAMES.split())


@dataclass(frozen=True)
class Value:
    """A tensor while a graph is read: its type, the layer that gives it (None for inputs of the
    model), and whether it is known before the model runs (a weight, or computed from weights).
    """

    type: TensorType
    producer: int | None = None
    constant: bool = False

    def shaped(self, *shape: int) -> Value:
        """The same tensor seen in another shape."""
        return replace(self, type=TensorType(tuple(shape), self.type.dtype))


@dataclass(frozen=True)
class Operation:
    """What a layer computes, before it has a name."""

    operator: str
    operands: tuple[Value, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def operation(operator: str, *operands: Value | None, **parameters: Any) -> Operation:
    """An operation; operands that are not there are left out."""
    given = tuple(each for each in operands if each is not None)
    return Operation(operator, given, {name: frozen(each) for name, each in parameters.items()})


def convolution(
    source: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool = False,
    output_padding: Sequence[int] = (),
) -> Operation:
    """A convolution of any dimension. `padding` has a value for each dimension, or one for each end
    of each: all begins, then all ends.
    """
    spatial = len(weight.type.shape) - 2
    found: dict[str, Any] = {
        "stride": _each(stride, spatial),
        "padding": symmetric(padding, spatial),
        "dilation": _each(dilation, spatial),
        "groups": groups,
    }
    if transposed:
        found |= {"transposed": True, "output_padding": _each(output_padding or [0], spatial)}
    return operation("convolution", source, weight, bias, **found)


def same_padding(
    kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int], source: Sequence[int]
) -> list[int]:
    """Begins, then ends, of the padding that keeps ceil(input / stride) outputs; the odd one comes
    last (ONNX's SAME_UPPER, torch's "same").
    """
    begins, ends = [], []
    for size, spread, step, length in zip(kernel, dilation, stride, source, strict=True):
        outputs = -(-length // step)
        total = max((outputs - 1) * step + (size - 1) * spread + 1 - length, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return [*begins, *ends]


def linear(source: Value, weight: Value, bias: Value | None) -> Operation:
    """X Wᵀ + b, with W of shape [out, in] and all dimensions of x but the last taken as one."""
    shape = source.type.shape
    return operation("linear", source.shaped(prod(shape[:-1]), shape[-1]), weight, bias)


def matmul(left: Value, right: Value) -> Operation:
    """A product of activations; batches are taken as one dimension."""
    first, second = left.type.shape, right.type.shape
    if len(first) < 2 or len(second) < 2:
        return operation("matmul", left, right)
    batches = max(prod(first[:-2]), prod(second[:-2]))
    # Operands that are shared by all batches stay as they are: they are read once.
    own = (
        left.shaped(prod(first[:-2]), *first[-2:]),
        right.shaped(prod(second[:-2]), *second[-2:]),
    )
    return operation("matmul", *own, batches=batches)


def product(left: Value, right: Value, bias: Value | None = None) -> Operation:
    """A matrix product: a linear layer where the right operand is a weight of shape [in, out]."""
    if right.constant and not left.constant and len(right.type.shape) == 2:
        return linear(left, right.shaped(*reversed(right.type.shape)), bias)
    return matmul(left, right)


def attention(
    query: Value, key: Value, value: Value, mask: Value | None = None, causal: bool = False
) -> Operation:
    """Softmax(Q Kᵀ) V; batches and heads are taken as one dimension, [heads, length, size]."""

    def three(each: Value) -> Value:
        shape = each.type.shape
        return each.shaped(prod(shape[:-2]), *shape[-2:])

    parameters: dict[str, Any] = {"causal": True} if causal else {}
    if mask is not None:
        parameters["masked"] = True
    return operation("attention", three(query), three(key), three(value), **parameters)


def normalized_rows(
    operator: str, source: Value, columns: int, *weights: Value | None
) -> Operation:
    """A layer or RMS normalisation over the last dimensions, taken as one of `columns`."""
    return operation(
        operator, source.shaped(source.type.elements // max(columns, 1), columns), *weights
    )


def softmax(operator: str, source: Value, dim: int) -> Operation:
    """A softmax along one dimension."""
    return operation(operator, source, dim=dim % max(len(source.type.shape), 1))


def pooling(
    operator: str,
    source: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Operation:
    """A maximum or mean over windows; without strides, windows lie side by side."""
    spatial = len(source.type.shape) - 2
    window = _each(kernel, spatial)
    found: dict[str, Any] = {
        "kernel": window,
        "stride": _each(stride, spatial) if stride else window,
        "padding": symmetric(padding, spatial),
    }
    if any(each != 1 for each in dilation):
        found["dilation"] = _each(dilation, spatial)
    if ceil_mode and not _divides(source.type.shape[2:], found):
        found["ceil_mode"] = True
    if window == [1] * spatial and found["stride"] == window:
        return operation("identity", source)
    return operation(operator, source, **found)


def adaptive_pooling(operator: str, source: Value, size: Sequence[int | None]) -> Operation:
    """A pooling to a given size: a reduction for size 1, windows of equal size where they fit."""
    shape = source.type.shape
    first = len(shape) - len(size)
    spatial = shape[first:]
    wanted = [own if each is None else each for each, own in zip(size, spatial, strict=True)]
    if set(wanted) <= {1}:
        dims = list(range(first, len(shape)))
        return reduction("mean" if operator == "avg_pool" else "amax", source, dims)
    parts = [divmod(own, each) for own, each in zip(spatial, wanted, strict=True)]
    if not any(rest for _, rest in parts):
        window = [length for length, _ in parts]
        return pooling(operator, source, window, window, [0])
    return operation(f"adaptive_{operator}", source, size=wanted)


def reduction(operator: str, source: Value, dims: Sequence[int] | int | None) -> Operation:
    """A reduction over some dimensions, all where none are given."""
    rank = len(source.type.shape)
    given = [dims] if isinstance(dims, int) else dims
    over = sorted(each % max(rank, 1) for each in given) if given else list(range(rank))
    return operation(operator, source, dims=over)


def elementwise(operator: str, *operands: Value | None) -> Operation:
    """An operation element by element; constants of one element are left out."""
    given = [each for each in operands if each is not None]
    kept = [each for each in given if not each.constant or each.type.elements != 1]
    if operator in {"add", "mul", "maximum", "minimum", "eq", "ne"}:
        kept.sort(key=lambda each: (each.constant, -each.type.elements))
    has_scalar = len(kept) < len(given)
    parameters = {"scalar": True} if has_scalar else {}
    return operation(operator, *(kept or given[:1]), **parameters)


def recurrent(
    operator: str,
    source: Value,
    weights: Sequence[Value],
    layers: int,
    bidirectional: bool,
) -> Operation:
    """An LSTM, GRU or RNN on [length, batch, features]."""
    found: dict[str, Any] = {"layers": layers}
    if bidirectional:
        found["bidirectional"] = True
    return operation(operator, source, *weights, **found)


def symmetric(padding: Sequence[int], dimensions: int) -> list[int]:
    """One value for each dimension where both ends have the same, else begins, then ends."""
    given = _each(padding, dimensions)
    begins, ends = given[:dimensions], given[dimensions:]
    return begins if not ends or begins == ends else given


def _each(values: Sequence[int], dimensions: int) -> list[int]:
    given = list(values)
    return given * dimensions if len(given) == 1 else given


def _divides(spatial: Sequence[int], pool: Mapping[str, Any]) -> bool:
    """Whether windows fit without a rest, so that rounding up changes nothing."""
    padding = pool["padding"]
    if len(padding) != len(spatial):
        return False
    return all(
        (size + 2 * pad - window) % step == 0
        for size, pad, window, step in zip(
            spatial, padding, pool["kernel"], pool["stride"], strict=True
        )
    )
