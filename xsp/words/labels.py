"""Short names for nodes of the hierarchy, whose full names are too long to read in a table."""

from __future__ import annotations

import json
import re

from xsp.words.mangled import readable

_ANONYMOUS = re.compile(r"\(anonymous namespace\)::|<unnamed>::")
_QUALIFIER = re.compile(r"(?:[A-Za-z_]\w*::)+")
_RETURN_TYPE = re.compile(r"^(?:void|static|inline)\s+")

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?!\w*::)")
_DULL = frozenset(
    {
        "unsigned",
        "integral_constant",
        "__half2",
        "__nv_bfloat16",
        "BFloat16",
        "TensorListMetadata",
        "TensorIteratorBase",
        "OffsetCalculator",
        "TrivialOffsetCalculator",
        "ReduceOp",
        "func_wrapper_t",
        "gpu_kernel_impl",
        "gpu_kernel_impl_nocast",
        "BinaryFunctor",
        "AUnaryFunctor",
        "BUnaryFunctor",
        "cudnnKernelDataType_t",
        "Warp_specialized_params",
        "enable_3x_kernel_for_sm9x",
    }
)
"""Identifiers that wrap what a kernel does and do not say it."""
_TELLING = 7
"""Characters of a template argument that says something; `float` and `4` do not."""


def short_name(level: str, name: str, parent: str) -> str:
    """Name below its parent: `layer1.0.conv1` below `layer1.0` is `conv1`; kernels lose namespaces
    and arguments.
    """
    if level == "KERNEL":
        return kernel_name(name)
    if level in {"LAYER", "MODULE"} and parent and name.startswith(parent):
        rest = name[len(parent) :]
        if rest.startswith((".", "::")) and rest != ".":
            return rest.removeprefix(".")
    return name


def kernel_name(name: str) -> str:
    """A C++ declaration, or a mangled one, without return type, namespaces, template arguments and
    parameters.
    """
    text = _RETURN_TYPE.sub("", _ANONYMOUS.sub("", readable(name).strip()))
    head = text.split("(", 1)[0]
    base, template, _ = head.partition("<")
    short = _QUALIFIER.sub("", base).strip()
    if not short or not short.isprintable():
        return name
    return f"{short}<…>" if template else short


def telling_kernel_name(name: str) -> str:
    """`kernel_name`, with what sets an instance of a template apart where an argument names it.

    `vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, …>(…)` is
    `vectorized_elementwise_kernel<CUDAFunctor_add…>`.
    """
    short = kernel_name(name)
    if not short.endswith("<…>"):
        return short
    arguments = _ANONYMOUS.sub("", readable(name)).partition("<")[2].rpartition("(")[0]
    telling = next(
        (
            word
            for word in _IDENTIFIER.findall(arguments)
            if len(word) >= _TELLING and word not in _DULL
        ),
        "",
    )
    return f"{short.removesuffix('<…>')}<{telling}…>" if telling else short


def shapes(text: str) -> str:
    """JSON list of shapes as `32×3×224×224, 64`; scalars are `()`; at most the first two, the rest
    counted.
    """
    try:
        every = json.loads(text) if text else []
    except ValueError:
        return text
    shown = ["×".join(map(str, shape)) or "()" for shape in every[:2] if isinstance(shape, list)]
    more = len(every) - len(shown)
    return ", ".join(shown) + (f" +{more}" if more > 0 else "")


def short_source(source: str) -> str:
    """`model.py:12` of `/home/me/project/model.py:12`."""
    return source.replace("\\", "/").rpartition("/")[2]


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, its middle replaced by an ellipsis: both ends of a
    kernel's name matter.
    """
    if len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    head = (width - 1 + 1) // 2
    tail = width - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :] if tail else ''}"


_MARKDOWN = re.compile(r"([\\`*|\[\]])")


def escape_markdown(text: str) -> str:
    """`text` for a line or a cell of Markdown: shown as it is, and one line."""
    escaped = _MARKDOWN.sub(r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def in_unicode(text: str) -> str:
    """`text` with the replacement character for each half of a surrogate pair: a program can give
    its modules names that no file can hold.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: str) -> str:
    """`text` with control characters, ANSI escapes among them, shown as escapes: names come from
    any program.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def markdown_sentence(text: str) -> str:
    """A sentence of xsp's own for a line of Markdown, which marks names with backticks: these stay
    code, and everything outside them is shown as it is.
    """
    parts = printable(text).split("`")
    if len(parts) % 2 == 0:
        return escape_markdown(text)
    return "`".join(
        escape_markdown(part) if place % 2 == 0 else part for place, part in enumerate(parts)
    )
