"""What a baseline's JSON must hold, as code: the rules of `Comparable.to_json`."""

from __future__ import annotations

from typing import Any

from xsp.capture import rules
from xsp.capture.rules import items, mapping, one_of, optional, plain, real, record, whole
from xsp.capture.schema import names_of_any_version
from xsp.comparing.node_facts import COUNTS
from xsp.types import Level

_COUNT = whole(0)
_TIMES = items(optional(real(0)))
_TIME = optional(real(0))
_LEVELS = tuple(level.name for level in Level)

_NODE = record(
    {"level": one_of((*_LEVELS, "MODULE")), "name": rules.text},
    {
        **dict.fromkeys(("type", "phase", "kind"), rules.text),
        **dict.fromkeys(("input_shapes", "output_shapes"), rules.json_text(items(plain))),
        **dict.fromkeys(("input_dtypes", "output_dtypes"), names_of_any_version),
        **dict.fromkeys((*COUNTS, "calls", "parameter_bytes"), _COUNT),
        "parent": whole(-1),
        "order": whole(),
        "metric": one_of(("latency", "host", "device")),
        "ms": _TIME,
        "ci_ms": _TIME,
        "host_ms": _TIMES,
        "device_ms": _TIMES,
    },
)


def _nodes(value: Any) -> str:
    """Nodes, parents before their children; the first is the model."""
    if said := items(_NODE, least=1)(value):
        return said
    for place, node in enumerate(value):
        parent = node.get("parent", 0)
        if not ((parent < 0) if place == 0 else (0 <= parent < place)):
            return f"[{place}].parent must be a node before it, and -1 of the first, not {parent}"
    return "" if value[0]["level"] == "MODEL" else "[0].level must be MODEL"


COMPARABLE = record(
    {
        "name": rules.text,
        "levels": items(one_of(_LEVELS)),
        "notes": items(rules.text),
        "environment": mapping(plain),
        "counts": record(dict.fromkeys((*COUNTS, "layers"), _COUNT)),
        "nodes": _nodes,
    }
)

SESSION = record(
    {
        "saved": rules.text,
        "ms": mapping(real(0)),
        "version": whole(0, 2**31),
    }
)

BASELINE = record(
    {},
    {
        "test": rules.text,
        "saved": rules.text,
        "graph_breaks": optional(mapping(_COUNT)),
        "sessions": items(SESSION),
    },
)
"""The facts about the test that a baseline has in front."""
