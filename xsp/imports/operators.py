"""Operators of PyTorch as traces name them."""

from __future__ import annotations

import json
import re

from xsp.imports.operands import operands

BACKWARD = "autograd::engine::evaluate_function: "
"""How PyTorch begins the name of the operator that runs a backward node."""

_NUMBERED = re.compile(
    r"(?P<name>.+?)(?P<numbers>(?:, seq = \d+)?(?:, op_id = \d+)?)"
    r"(?:, sizes = (?P<sizes>\[[-\d\[\], ]*\]))?(?:, input_op_ids = \[.*\])?"
)
_SCOPED = re.compile(r"\w+::[\w.]+")


def from_nvtx(text: str) -> tuple[str, bool, list[list[int]]]:
    """Name, whether it is an operator's, and input shapes, of a range.

    `torch.autograd.profiler.emit_nvtx` writes numbers behind the name that are different in every
    call; other ranges are named as they are.
    """
    found = _NUMBERED.fullmatch(text)
    if found is None or not found["numbers"]:
        return text, False, []
    name = found["name"]
    return name, name.startswith(BACKWARD) or bool(_SCOPED.fullmatch(name)), _shapes(found["sizes"])


def _shapes(sizes: str | None) -> list[list[int]]:
    try:
        return operands(json.loads(sizes or "[]"), None)[0]
    except ValueError:
        return []
