"""The same layer in another layout or a narrower type: what an ideal may change. Needs no torch."""

from __future__ import annotations

from dataclasses import replace

from xsp.graphs.layer import CHANNELS_LAST, CONTIGUOUS, Layer

_WITH_LAYOUTS = frozenset({"convolution", "max_pool", "avg_pool", "batch_norm"})
NARROWER = ("float16", "bfloat16")
"""Types for which tensor cores are made, in which a float32 layer could be computed."""


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
