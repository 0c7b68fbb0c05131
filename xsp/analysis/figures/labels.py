"""Text that is safe inside plotly: names of layers and kernels, and what boxes say on hover."""

from __future__ import annotations

from html import escape

from xsp.words.labels import printable, shorten, telling_kernel_name

_LABEL = 64


def safe(text: str) -> str:
    """Text for plotly, which reads a part of HTML: names of C++ templates must not become tags."""
    return escape(printable(text), quote=False)


def layer_label(name: str, phase: str = "", width: int = _LABEL) -> str:
    """A layer's name, its middle left out if it is long, with a mark on backward passes."""
    return safe(shorten(name, width)) + (" (bwd)" if phase == "backward" else "")


def kernel_label(name: str, width: int = _LABEL) -> str:
    """A kernel's name without namespaces and arguments, its middle left out if it is long."""
    return safe(shorten(telling_kernel_name(name), width))


def hover(*lines: str) -> str:
    """The lines of a hover box; empty ones are left out. What comes from a program must have been
    made `safe`.
    """
    return "<br>".join(line for line in lines if line)
