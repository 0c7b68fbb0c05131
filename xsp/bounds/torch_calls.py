"""A layer as a call of PyTorch on random tensors, everything but the call done beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 # torch's own spelling
from torch import Tensor

from xsp.graphs.layer import CHANNELS_LAST, Layer, TensorType
from xsp.graphs.operators import ELEMENTWISE, REDUCTIONS

Call = Callable[[], Any]


def tensor(kind: TensorType, device: str, layout: str = "") -> Tensor:
    """A tensor of random numbers; zeros would be faster, since switching bits takes power."""
    dtype = getattr(torch, kind.dtype)
    if dtype.is_floating_point:
        made = torch.randn(kind.shape, device=device).to(dtype)
    elif dtype == torch.bool:
        made = torch.rand(kind.shape, device=device) > 0.5
    else:
        made = torch.zeros(kind.shape, dtype=dtype, device=device)
    if layout == CHANNELS_LAST and made.dim() == 4:
        return made.contiguous(memory_format=torch.channels_last)
    return made


def operands(layer: Layer, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Random inputs and weights of a layer, in its layout."""
    inputs = [tensor(each, device, layer.layout) for each in layer.inputs]
    in_layout = layer.operator == "convolution"
    weights = [tensor(each, device, layer.layout if in_layout else "") for each in layer.weights]
    if layer.operator == "batch_norm":
        weights[-1].abs_()  # the variance
    return inputs, weights


def torch_call(layer: Layer, device: str) -> Call | None:
    """The layer as PyTorch computes it; None for an operator that is not known here."""
    return call_on(layer, *operands(layer, device)) if can_call(layer) else None


def call_on(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    """The layer as a call on these tensors. Raises KeyError for an operator that is not known."""
    maker = _maker(layer)
    if maker is None:
        raise KeyError(layer.operator)
    epilogue = layer.parameters.get("epilogue", [])
    if not epilogue:
        return maker(layer, inputs, weights)
    residual = [inputs.pop()] if "add" in epilogue else []
    return _followed(maker(layer, inputs, weights), epilogue, residual)


def _followed(call: Call, epilogue: Sequence[str], residual: Sequence[Tensor]) -> Call:
    """A product and what a fused kernel would do with its result, one after another."""
    activations = [_ACTIVATIONS[name] for name in epilogue if name != "add"]

    def run() -> Tensor:
        result: Tensor = call()
        for each in residual:
            result = result.add_(each.view_as(result))
        for activation in activations:
            result = activation(result)
        return result

    return run


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "clip": lambda each: each.clamp_(0.0, 6.0),
    "hardswish": F.hardswish,
}
"""What `xsp.graphs.patterns.fused` takes into products."""


def refused(error: Exception) -> Call:
    """The preparation of an algorithm that a library refused when it was asked for."""
    raise error


def can_call(layer: Layer) -> bool:
    """Whether `torch_call` knows the operator."""
    return _maker(layer) is not None


def _maker(layer: Layer) -> Callable[[Layer, list[Tensor], list[Tensor]], Call] | None:
    if layer.operator in _MAKERS:
        return _MAKERS[layer.operator]
    if layer.operator in ELEMENTWISE:
        return _elementwise
    if layer.operator in REDUCTIONS:
        return _reduction
    return _aten if layer.operator.startswith("aten::") else None


def _convolution(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    given, (source,) = layer.parameters, inputs[:1]
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    spatial = weight.dim() - 2
    source, padding = _padded(source, given["padding"], spatial)
    if given.get("transposed"):
        run = getattr(F, f"conv_transpose{spatial}d")
        extra = given["output_padding"]
        return lambda: run(
            source,
            weight,
            bias,
            given["stride"],
            padding,
            extra,
            given["groups"],
            given["dilation"],
        )
    run = getattr(F, f"conv{spatial}d")
    tail = (given["stride"], padding, given["dilation"], given["groups"])
    return lambda: run(source, weight, bias, *tail)


def _padded(source: Tensor, padding: Sequence[int], spatial: int) -> tuple[Tensor, list[int]]:
    """Uneven padding is done beforehand: libraries take one value for both ends."""
    if len(padding) == spatial:
        return source, list(padding)
    begins, ends = padding[:spatial], padding[spatial:]
    pairs = [size for pair in zip(reversed(begins), reversed(ends), strict=True) for size in pair]
    return F.pad(source, pairs), [0] * spatial


def _linear(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    if layer.dtype.startswith("float8"):
        return _scaled_linear(inputs[0], weights)
    every = [*inputs, *weights]
    return lambda: F.linear(*every)


def _scaled_linear(source: Tensor, weights: list[Tensor]) -> Call:
    """8-bit inputs and weights with a scale each, added up to bfloat16."""
    rows, columns = source.reshape(-1, source.shape[-1]), weights[0].t()
    one = torch.ones((), device=source.device)
    bias = weights[1].bfloat16() if len(weights) > 1 else None
    whole = F.ScalingType.TensorWise
    return lambda: F.scaled_mm(rows, columns, one, whole, one, whole, bias=bias)


def _matmul(_layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    left, right = (each[0] if each.dim() == 3 and len(each) == 1 else each for each in inputs[:2])
    return lambda: torch.matmul(left, right)


def _attention(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    query, key, value = (each.unsqueeze(0) for each in inputs[:3])
    causal = bool(layer.parameters.get("causal"))
    mask = None
    if layer.parameters.get("masked"):
        mask = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype, device=query.device)
    grouped = key.shape[1] != query.shape[1]
    return lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def _batch_norm(_layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    weight, bias = (weights[0], weights[1]) if len(weights) == 4 else (None, None)
    mean, variance = weights[-2:]
    return lambda: F.batch_norm(inputs[0], mean, variance, weight, bias)


def _layer_norm(_layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    columns = list(inputs[0].shape[-1:])
    weight, bias = (*weights, None, None)[:2]
    return lambda: F.layer_norm(inputs[0], columns, weight, bias)


def _rms_norm(_layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    columns = list(inputs[0].shape[-1:])
    weight = weights[0] if weights else None
    return lambda: torch.rms_norm(inputs[0], columns, weight)


def _group_norm(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    weight, bias = (*weights, None, None)[:2]
    return lambda: F.group_norm(inputs[0], layer.parameters["groups"], weight, bias)


def _instance_norm(_layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    weight, bias = (*weights, None, None)[:2]
    return lambda: F.instance_norm(inputs[0], weight=weight, bias=bias)


def _softmax(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    run = F.softmax if layer.operator == "softmax" else F.log_softmax
    return lambda: run(inputs[0], layer.parameters["dim"])


def _pooling(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    given = layer.parameters
    spatial = len(given["kernel"])
    source, padding = _padded(inputs[0], given["padding"], spatial)
    run = getattr(F, f"{layer.operator}{spatial}d")
    options = {"ceil_mode": bool(given.get("ceil_mode", False))}
    if "dilation" in given:
        options["dilation"] = given["dilation"]
    return lambda: run(source, given["kernel"], given["stride"], padding, **options)


def _adaptive(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    size = layer.parameters["size"]
    run = getattr(F, f"{layer.operator}{len(size)}d")
    return lambda: run(inputs[0], size)


def _elementwise(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    tensors = [*inputs, *weights]
    name = layer.operator
    if name == "cast":
        dtype = getattr(torch, layer.parameters["to"])
        return lambda: tensors[0].to(dtype)
    if name == "clip":
        return lambda: torch.clamp(tensors[0], 0.0, 6.0)
    if name == "masked_fill":
        mask = tensors[1] if len(tensors) > 1 else tensors[0] > 0
        return lambda: torch.masked_fill(tensors[0], mask.bool(), 0.0)
    if name == "where":
        chosen = tensors[0] if tensors[0].dtype == torch.bool else tensors[0] > 0
        other = [*tensors[1:], tensors[-1]][:2] if len(tensors) > 1 else [tensors[0], tensors[0]]
        return lambda: torch.where(chosen, *other)
    if layer.parameters.get("scalar") and len(tensors) == 1:
        return _with_a_number(name, tensors[0])
    run = getattr(F, name, None) or getattr(torch, name)
    return lambda: run(*tensors)


def _with_a_number(name: str, tensor: Tensor) -> Call:
    """PyTorch takes the larger of a tensor and a number by clamping it from below."""
    if name == "maximum":
        return lambda: torch.clamp(tensor, min=2)
    if name == "minimum":
        return lambda: torch.clamp(tensor, max=2)
    run = getattr(F, name, None) or getattr(torch, name)
    return (lambda: run(tensor, 2)) if name in _BINARY else (lambda: run(tensor))


_BINARY = frozenset({"add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge"})


def _reduction(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    dims = layer.parameters["dims"]
    if layer.operator in {"argmax", "argmin", "prod"}:
        run = getattr(torch, layer.operator)
        return lambda: run(inputs[0], dims[-1])
    run = torch.linalg.vector_norm if layer.operator == "norm" else getattr(torch, layer.operator)
    return lambda: run(inputs[0], dim=dims)


def _concat(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    every = [*inputs, *weights]
    return lambda: torch.cat(every, layer.parameters["dim"])


def _pad(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    return lambda: F.pad(inputs[0], layer.parameters["pad"])


def _embedding(_layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    table = weights[0] if weights else inputs[1]
    rows = torch.randint(0, len(table), inputs[0].shape, device=table.device)
    return lambda: F.embedding(rows, table)


def _gather(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    source = [*inputs, *weights][0]
    places = torch.randint(0, source.numel(), layer.parameters["size"], device=source.device)
    return lambda: torch.take(source, places)


def _resize(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    size, mode = layer.parameters["size"], layer.parameters["mode"]
    return lambda: F.interpolate(inputs[0], size=size, mode=mode)


def _repeat(layer: Layer, inputs: list[Tensor], _weights: list[Tensor]) -> Call:
    size = layer.parameters["size"]
    whole = [
        own // have for own, have in zip(size[-inputs[0].dim() :], inputs[0].shape, strict=True)
    ]
    times = [*size[: -inputs[0].dim()], *whole]
    return lambda: inputs[0].repeat(times)


def _recurrent(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    module = recurrent_module(layer, inputs[0], weights)
    return lambda: module(inputs[0])


def recurrent_module(layer: Layer, source: Tensor, weights: Sequence[Tensor]) -> torch.nn.RNNBase:
    """A recurrent layer as a module: cuDNN wants the weights in one piece, which the module sees
    to, and would else copy them together in every call.
    """
    kind, given = layer.operator, layer.parameters
    directions = 2 if given.get("bidirectional") else 1
    options: dict[str, Any] = {
        "num_layers": given["layers"],
        "bias": len(weights) == 4 * given["layers"] * directions,
        "bidirectional": directions == 2,
        "device": source.device,
        "dtype": source.dtype,
    }
    if kind.startswith("rnn"):
        options["nonlinearity"] = kind.partition("_")[2]
    make: Any = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(kind, torch.nn.RNN)
    module: torch.nn.RNNBase = make(source.shape[-1], weights[1].shape[-1], **options).eval()
    return module


def _aten(layer: Layer, inputs: list[Tensor], weights: list[Tensor]) -> Call:
    """An operator without a normal form, with the arguments that it was read with."""
    run = getattr(torch.ops.aten, layer.operator.removeprefix("aten::"))
    tensors = iter([*inputs, *weights])

    def filled(value: Any) -> Any:
        if value == "tensor":
            return next(tensors)
        return [filled(each) for each in value] if isinstance(value, list) else value

    given = {key: filled(value) for key, value in layer.parameters["arguments"][0].items()}
    own = given.pop("self", given.pop("input", None))
    first = [] if own is None else [own]
    return lambda: run(*first, **given)


_MAKERS: dict[str, Callable[[Layer, list[Tensor], list[Tensor]], Call]] = {
    "convolution": _convolution,
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "max_pool": _pooling,
    "avg_pool": _pooling,
    "adaptive_max_pool": _adaptive,
    "adaptive_avg_pool": _adaptive,
    "concat": _concat,
    "pad": _pad,
    "embedding": _embedding,
    "resize": _resize,
    "gather": _gather,
    "repeat": _repeat,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}
