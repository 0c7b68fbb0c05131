"""The same layer in another layout or a narrower type: what an ideal may change. Needs no torch."""

from __future__ import annotations

from dataclasses import replace

from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, Layer

_WITH_LAYOUTS = frozenset({"convolution", "max_pool", "avg_pool", "batch_norm"})
NARROWER = ("float16", "bfloat16")
"""Types for which tensor cores are made, in which a float32 layer could be computed."""


EIGHT_BITS = "float8_e4m3fn"
_EIGHT_BIT_STEP = 16
"""Both sizes of a weight must be multiples of it for a product in 8 bits."""


def layouts(layer: Layer) -> list[Layer]:
    """The layer in its own layout first, then in the other one where it has two."""
    if layer.operator not in _WITH_LAYOUTS or len(layer.inputs[0].shape) != 4:
        return [layer]
    other = CONTIGUOUS if layer.layout == CHANNELS_LAST else CHANNELS_LAST
    return [layer, replace(layer, layout=other)]


def narrower(layer: Layer) -> list[Layer]:
    """A float32 layer in 16-bit types and every layout, what promises most first: tensor cores
    take NHWC as it is.
    """
    if layer.dtype != "float32":
        return []
    turned = sorted(layouts(layer), key=lambda each: each.layout != CHANNELS_LAST)
    return [each.with_dtype(dtype) for dtype in NARROWER for each in turned]


def in_eight_bits(layer: Layer) -> Layer | None:
    """A linear layer with 8-bit inputs and weights, None where there is no such product: other
    operators, sizes that do not fit, a residual that would be added in 8 bits.
    """
    residual = "add" in layer.parameters.get("epilogue", [])
    if layer.operator != "linear" or residual or "float" not in layer.dtype:
        return None
    fits = all(size % _EIGHT_BIT_STEP == 0 for size in layer.weights[0].shape)
    return layer.with_dtype(EIGHT_BITS) if fits else None
