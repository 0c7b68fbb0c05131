"""Sizes in a compiled graph."""

from __future__ import annotations

from typing import Any


def size_when_compiled(dimension: Any) -> int:
    """A dimension's size when it was compiled; asking a symbol for its value would be a guard."""
    node = getattr(dimension, "node", None)
    return int(dimension) if node is None else int(node.hint)
