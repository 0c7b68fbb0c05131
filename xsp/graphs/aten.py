"""PyTorch's operators (ATen) as operations of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xsp.graphs import operators
from xsp.graphs.layer import TensorType
from xsp.graphs.operators import ELEMENTWISE, REDUCTIONS, Operation, Value


@dataclass(frozen=True)
class Call:
    """A call of an operator: its name without namespace and overload, its arguments by name with
    `Value` in place of tensors, and what it returned.
    """

    operator: str
    arguments: Mapping[str, Any]
    outputs: Sequence[TensorType]

    def tensor(self, *names: str) -> Value | None:
        """The first of these arguments that is a tensor."""
        found = (self.arguments.get(name) for name in names)
        return next((each for each in found if isinstance(each, Value)), None)

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, `default` where it was not given or is None."""
        found = self.arguments.get(name)
        return default if found is None else found

    @property
    def tensors(self) -> list[Value]:
        """All tensors among the arguments, in order, those in lists too."""
        return _tensors(list(self.arguments.values()))

    @property
    def source(self) -> Value:
        """The first tensor."""
        return self.tensors[0]


_VIEW_NAMES = (
    "view reshape _reshape_alias flatten unflatten permute transpose t mT swapaxes movedim "
    "squeeze unsqueeze expand expand_as view_as slice select split split_with_sizes chunk "
    "unbind narrow detach detach_ alias contiguous clone dropout alpha_dropout "
    "feature_dropout lift_fresh_copy lift_fresh broadcast_to unsafe_split unsafe_chunk "
    "tensor_split diagonal as_strided native_dropout identity numpy_T real type_as "
    "_unsafe_view unfold channel_shuffle pixel_unshuffle hsplit vsplit view_as_real "
    "view_as_complex ravel"
)
VIEWS = frozenset(_VIEW_NAMES.split())
"""Operators that give another view of their input, or a copy that an ideal program would not make:
no layers (Benanza, too, counts them as nothing).
"""

_CONSTANT_NAMES = (
    "zeros ones full empty arange linspace eye scalar_tensor zeros_like ones_like full_like "
    "empty_like new_zeros new_ones new_full new_empty tensor tril_indices triu_indices"
)
CONSTANTS = frozenset(_CONSTANT_NAMES.split())
"""Operators whose result is known from shapes: it could be computed once."""

_SAME = {
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "special_erf": "erf",
    "hardtanh": "clip",
    "relu6": "clip",
    "clamp": "clip",
    "clamp_min": "clip",
    "clamp_max": "clip",
    "rsub": "sub",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "concatenate": "cat",
    "concat": "cat",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool1d_with_indices": "max_pool1d",
    "max_pool3d_with_indices": "max_pool3d",
    "__and__": "logical_and",
    "bitwise_and": "logical_and",
    "__or__": "logical_or",
    "bitwise_or": "logical_or",
    "bitwise_not": "logical_not",
    "constant_pad_nd": "pad",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_to_copy": "to",
    "_conv_depthwise2d": "conv2d",
    "_scaled_dot_product_flash_attention": "scaled_dot_product_attention",
    "_scaled_dot_product_efficient_attention": "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
    "hardtanh_": "clip",
}


def is_view(call: Call) -> bool:
    """Whether a call is not a layer: a view, or a change of type between integers."""
    name = canonical_name(call.operator)
    if name != "to":
        return name in VIEWS
    before, after = call.source.type.dtype, call.outputs[0].dtype
    return before == after or not ("float" in before and "float" in after)


def canonical_name(operator: str) -> str:
    """`relu_` and `relu` are one operator, `hardtanh` and `clamp` too."""
    bare = operator if operator.startswith("__") else operator.rstrip("_")
    return _SAME.get(bare, bare)


def operation_of(call: Call) -> Operation:
    """The operation; operators without a normal form keep their name, as `aten::name`, and their
    other arguments.
    """
    name = canonical_name(call.operator)
    if name in _FORMS:
        return _FORMS[name](call)
    if name in ELEMENTWISE:
        return operators.elementwise(name, *call.tensors, *_scalars(call))
    if name in REDUCTIONS:
        return operators.reduction(name, call.source, call.get("dim"))
    arguments = {key: _placed(each) for key, each in call.arguments.items() if each is not None}
    return operators.operation(f"aten::{call.operator}", *call.tensors, arguments=[arguments])


def _placed(value: Any) -> Any:
    """An argument with "tensor" in place of tensors, as JSON keeps it."""
    if isinstance(value, Value):
        return "tensor"
    if isinstance(value, list | tuple):
        return [_placed(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _tensors(values: Sequence[Any]) -> list[Value]:
    found: list[Value] = []
    for each in values:
        if isinstance(each, Value):
            found.append(each)
        elif isinstance(each, list | tuple):
            found += _tensors(each)
    return found


def _scalars(call: Call) -> list[Value]:
    """A number as an operand of a binary operation, as a constant of one element."""
    other = call.get("other", call.get("exponent"))
    binary = isinstance(other, int | float) and not isinstance(other, bool)
    return [Value(TensorType((), call.source.type.dtype), constant=True)] if binary else []


# ---- convolutions and products ----


def _convolution(call: Call) -> Operation:
    weight = call.tensor("weight")
    assert weight is not None  # noqa: S101 # the schema requires it
    spatial = len(weight.type.shape) - 2
    stride, dilation = _list(call, "stride", 1), _list(call, "dilation", 1)
    padding = call.get("padding", [0])
    if isinstance(padding, str):
        sizes = weight.type.shape[2:], (dilation * spatial)[:spatial], (stride * spatial)[:spatial]
        source = call.source.type.shape[-spatial:]
        padding = [0] if padding == "valid" else operators.same_padding(*sizes, source)
    return operators.convolution(
        call.source,
        weight,
        call.tensor("bias"),
        stride,
        padding,
        dilation,
        int(call.get("groups", 1)),
        transposed=bool(call.get("transposed", "transpose" in call.operator)),
        output_padding=_list(call, "output_padding", 0),
    )


def _linear(call: Call) -> Operation:
    weight = call.tensor("weight")
    assert weight is not None  # noqa: S101 # the schema requires it
    return operators.linear(call.source, weight, call.tensor("bias"))


def _product(call: Call) -> Operation:
    left, right = call.tensors[-2:]
    return operators.product(left, right)


def _added_product(call: Call) -> Operation:
    bias, left, right = call.tensors
    return operators.product(left, right, bias if bias.constant else None)


def _attention(call: Call) -> Operation:
    query, key, value = call.tensors[:3]
    causal = bool(call.get("is_causal", False))
    return operators.attention(query, key, value, call.tensor("attn_mask", "attn_bias"), causal)


# ---- normalisation ----


def _batch_norm(call: Call) -> Operation:
    weights = (call.tensor(name) for name in ("weight", "bias", "running_mean", "running_var"))
    return operators.operation("batch_norm", call.source, *weights)


def _group_norm(call: Call) -> Operation:
    groups = int(call.get("num_groups", call.get("group", 1)))
    weights = call.tensor("weight"), call.tensor("bias")
    return operators.operation("group_norm", call.source, *weights, groups=groups)


def _instance_norm(call: Call) -> Operation:
    return operators.operation(
        "instance_norm", call.source, call.tensor("weight"), call.tensor("bias")
    )


def _row_norm(call: Call) -> Operation:
    columns = 1
    for each in call.get("normalized_shape", [1]):
        columns *= int(each)
    name = canonical_name(call.operator)
    weights = call.tensor("weight"), call.tensor("bias")
    return operators.normalized_rows(name, call.source, columns, *weights)


def _softmax(call: Call) -> Operation:
    return operators.softmax(canonical_name(call.operator), call.source, int(call.get("dim", -1)))


# ---- pooling and resizing ----


def _pooling(call: Call) -> Operation:
    kind = "max_pool" if "max" in call.operator else "avg_pool"
    return operators.pooling(
        kind,
        call.source,
        _list(call, "kernel_size", 1),
        call.get("stride", []),
        _list(call, "padding", 0),
        _list(call, "dilation", 1),
        bool(call.get("ceil_mode", False)),
    )


def _adaptive(call: Call) -> Operation:
    kind = "max_pool" if "max" in call.operator else "avg_pool"
    size = call.get("output_size", [1])
    return operators.adaptive_pooling(kind, call.source, [size] if isinstance(size, int) else size)


def _resize(call: Call) -> Operation:
    mode = "nearest" if "nearest" in call.operator else call.operator.split("_")[1].rstrip("123d")
    rank = len(call.source.type.shape) - 2
    size = call.outputs[0].shape[-rank:]
    return operators.operation("resize", call.source, mode=mode, size=size)


# ---- moving data ----


def _concat(call: Call) -> Operation:
    tensors = [each for each in call.tensors if each.type.elements]
    dim = int(call.get("dim", 0)) % max(len(call.outputs[0].shape), 1)
    return operators.operation("concat", *tensors, dim=dim)


def _pad(call: Call) -> Operation:
    return operators.operation("pad", call.source, pad=call.get("pad", []))


def _embedding(call: Call) -> Operation:
    table, indices = call.tensor("weight"), call.tensor("indices")
    return operators.operation("embedding", indices, table)


def _gather(call: Call) -> Operation:
    return operators.operation("gather", *call.tensors, size=call.outputs[0].shape)


def _cast(call: Call) -> Operation:
    return operators.operation("cast", call.source, to=call.outputs[0].dtype)


def _repeat(call: Call) -> Operation:
    return operators.operation("repeat", call.source, size=call.outputs[0].shape)


def _recurrent(call: Call) -> Operation:
    kind = call.operator.split("_")[0]
    source = call.source
    shape = source.type.shape
    if call.get("batch_first", False) and len(shape) == 3:
        source = source.shaped(shape[1], shape[0], shape[2])
    weights = [each for each in _tensors([call.get("params", [])]) if each.constant]
    return operators.recurrent(
        kind,
        source,
        weights,
        int(call.get("num_layers", 1)),
        bool(call.get("bidirectional", False)),
    )


def _list(call: Call, name: str, default: int) -> list[int]:
    found = call.get(name, [default])
    return [int(found)] if isinstance(found, int) else [int(each) for each in found] or [default]


_FORMS: Mapping[str, Callable[[Call], Operation]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    "scaled_dot_product_attention": _attention,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _row_norm,
    "rms_norm": _row_norm,
    "softmax": _softmax,
    "log_softmax": _softmax,
    **{f"{kind}_pool{d}d": _pooling for kind in ("max", "avg") for d in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{d}d": _adaptive for kind in ("max", "avg") for d in (1, 2, 3)},
    **{f"upsample_nearest{d}d": _resize for d in (1, 2, 3)},
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d"), _resize),
    "cat": _concat,
    "stack": _concat,
    "pad": _pad,
    "embedding": _embedding,
    **dict.fromkeys(("gather", "index_select", "index", "take_along_dim"), _gather),
    "to": _cast,
    "repeat": _repeat,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}
