"""Colours, marker symbols and patterns: one colour for each kind of layer, the same in every figure
and view, and neutral ones for what is of no kind. Levels have no colours: where a node stands says
its level.

Every colour stands out from a white and from a dark page, and never says anything alone: a symbol,
a pattern or a text says it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

OUTER = "#5b6573"
"""Colour of the model and of modules, which hold layers of many kinds."""

BUSY = "#46566b"
"""Colour of time in which the GPU works, and of whatever is of no kind of layer."""

IDLE = "#aeb6c1"
"""Colour of time in which the GPU does nothing, and of what was pooled; always with a pattern."""

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
# product. Six colours, the grey of what is of no kind among them: no two are nearer than 24 in
# CIELAB to an eye with deuteranopia, protanopia, tritanopia or none of these.
FAMILIES = (
    _family(
        "matrix product",
        "#dd7a14",
        "square",
        r"(?-i:^Conv1D$)|linear|matmul|^(add|addb|baddb|b|s)?mm|einsum|^gemm",
    ),
    _family("convolution", "#2d6987", "circle", r"conv"),
    _family("attention", "#6a3fd4", "star", r"attention|attn"),
    _family(
        "reduction",
        "#875a2d",
        "diamond",
        r"softmax|loss|cross_entropy|nll|norm|pool|interpolate|upsample",
    ),
    _family(
        "elementwise and movement",
        "#d46ae6",
        "triangle-up",
        r"relu|[gcsr]?elu|silu|glu|sigmoid|tanh|swish|mish|softplus|activation|dropout"
        r"|embed|index|gather|scatter|take|getitem|where|topk|sort"
        r"|cat|stack|copy|clone|transpose|permute|view|shape|contiguous|flatten|split|chunk|pad"
        r"|roll|identity|^to$|cast"
        r"|^_*(foreach_)*_*i?r?"
        r"(add|sub|mul|div|pow|neg|exp|sqrt|rsqrt|sum|mean|lerp|clamp|abs|float|half|eq|lt|gt)",
    ),
)
OTHER = Family("other", "#8f9285", "circle-open", re.compile(""))

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


def node_families(
    levels: Sequence[str], types: Sequence[str], parents: Sequence[int]
) -> list[Family | None]:
    """The kind of each node of a tree: a layer's own, that of the layer around for what is in it;
    None for the model, modules and what is in no layer. `parents` are rows, each before its
    children, or -1.
    """
    found: list[Family | None] = []
    for level, kind, parent in zip(levels, types, parents, strict=True):
        inherited = found[parent] if parent >= 0 else None
        found.append(family(kind) if level == "LAYER" else inherited)
    return found


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
