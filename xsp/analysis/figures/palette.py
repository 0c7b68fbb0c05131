"""Colours, marker symbols and patterns: by level of the stack and by kind of layer, the same in
every figure.

Every colour stands out from a white and from a dark page, and never says anything alone: a symbol,
a pattern or a text says it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LEVELS = {
    "MODEL": "#66707f",
    "MODULE": "#8a93a3",
    "LAYER": "#3f7fd1",
    "LIBRARY": "#2b9a86",
    "KERNEL": "#c2488f",
}
"""Colour of a level; modules stand between MODEL and LAYER."""

IDLE = "#9aa1ab"
"""Colour of time in which the GPU does nothing, and of what was pooled."""

BACKWARD_PATTERN = "/"
IDLE_PATTERN = "."


@dataclass(frozen=True)
class Family:
    """A kind of layer: convolutions look alike in every figure of every model."""

    name: str
    colour: str
    symbol: str
    types: re.Pattern[str]


def _family(name: str, colour: str, symbol: str, types: str) -> Family:
    return Family(name, colour, symbol, re.compile(types, re.IGNORECASE))


# The first that matches counts. The Conv1D of transformers, unlike torch's Conv1d, is a matrix
# product.
FAMILIES = (
    _family(
        "matrix product",
        "#d9722b",
        "square",
        r"(?-i:^Conv1D$)|linear|matmul|^(add|addb|baddb|b|s)?mm|einsum|^gemm",
    ),
    _family("convolution", "#3f7fd1", "circle", r"conv"),
    _family("attention", "#c2488f", "star", r"attention|attn"),
    _family("softmax and loss", "#d1495b", "x", r"softmax|loss|cross_entropy|nll"),
    _family("normalisation", "#2f9e77", "diamond", r"norm"),
    _family("pooling", "#3a9ec0", "triangle-down", r"pool|interpolate|upsample"),
    _family(
        "activation",
        "#b08f14",
        "triangle-up",
        r"relu|[gcsr]?elu|silu|glu|sigmoid|tanh|swish|mish|softplus|activation|dropout",
    ),
    _family(
        "embedding and indexing",
        "#a8744f",
        "pentagon",
        r"embed|index|gather|scatter|take|getitem|where|topk|sort",
    ),
    _family(
        "data movement",
        "#7b8f2e",
        "hexagon",
        r"cat|stack|copy|clone|transpose|permute|view|shape|contiguous|flatten|split|chunk|pad|roll|identity|^to$|cast",
    ),
    _family(
        "elementwise",
        "#8a6bd1",
        "cross",
        r"^_*(foreach_)*_*i?r?(add|sub|mul|div|pow|neg|exp|sqrt|rsqrt|sum|mean|lerp|clamp|abs|float|half|eq|lt|gt)",
    ),
)
OTHER = Family("other", "#868d98", "circle-open", re.compile(""))

PRECISIONS = {
    "fp64": "dash",
    "fp32": "solid",
    "tf32": "longdash",
    "fp16": "dashdot",
    "bf16": "dashdot",
    "fp8": "longdashdot",
    "int8": "dot",
}
"""Dash of a roof's line by precision."""


def family(layer_type: str) -> Family:
    """The kind of layer that a type belongs to (`Conv2d`, `relu`,
    `scaled_dot_product_attention`).
    """
    return next((one for one in FAMILIES if one.types.search(layer_type)), OTHER)


def family_named(name: str) -> Family:
    """The kind of layer with this name; `OTHER` if there is none."""
    return next((one for one in FAMILIES if one.name == name), OTHER)


def text_on(colour: str) -> str:
    """White or nearly black, whichever stands out more from `#rrggbb` (WCAG's contrast ratio)."""
    white, black = _luminance("#ffffff"), _luminance(_BLACK)
    here = _luminance(colour)
    return "#ffffff" if (white + 0.05) / (here + 0.05) > (here + 0.05) / (black + 0.05) else _BLACK


_BLACK = "#15181c"


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
