"""What the manifest of a capture must hold: the rules of docs/captures.md, as code."""

from __future__ import annotations

from typing import Any

from xsp.capture.rules import (
    Rule,
    flag,
    hexadecimal,
    items,
    mapping,
    one_of,
    optional,
    plain,
    real,
    record,
    text,
    whole,
)
from xsp.types import Level, Status

_COSTS = ("layer_ns", "functional_ns", "library_ns", "launch_ns", "api_ns", "kernel_ns")
_LATER_COSTS = ("backward_ns", "operator_ns")
"""Captures of early versions have one cost for layers forward and backward. That of operators is
there where they were traced.
"""

_PAIR = items(real(), least=2, most=2)


def _by_cost(rule: Rule) -> Rule:
    return record(dict.fromkeys(_COSTS, rule), dict.fromkeys(_LATER_COSTS, rule), closed=True)


_FACTS: dict[str, Rule] = {"intervals": mapping(_PAIR), "identified": mapping(flag)}
_COST_NUMBERS: dict[str, Rule] = dict.fromkeys(_COSTS, real(0))
_LATER_NUMBERS: dict[str, Rule] = dict.fromkeys(_LATER_COSTS, real(0))

_FITTED = record(
    {**_COST_NUMBERS, "intervals": _by_cost(_PAIR), "identified": _by_cost(flag)},
    _LATER_NUMBERS,
    closed=True,
)
_LOOPS = record({}, {**_COST_NUMBERS, **_LATER_NUMBERS, **_FACTS}, closed=True)
_CLOSURE = record(
    {"error": real(), "low": real(), "high": real(), "by_round": items(real())}, closed=True
)
_KINDS = len(_COSTS) + len(_LATER_COSTS)


def _square(value: Any) -> str:
    """A number for each two costs, those of operators included or not."""
    size = _KINDS if isinstance(value, list) and len(value) == _KINDS else _KINDS - 1
    return items(items(real(), least=size, most=size), least=size, most=size)(value)


_CORRECTION = record(
    {"costs": _FITTED, "closure": mapping(_CLOSURE)},
    {
        "version": whole(1),
        "tight_loops": _LOOPS,
        "spread": _square,
        "mostly_tracing": mapping(real(0)),
        "unshown": items(one_of([level.name for level in Level])),
        "host_closure": mapping(_CLOSURE),
        "taken": _PAIR,
    },
    closed=True,
)

_GPU_STATE = record(
    {
        "round": whole(0),
        "sm_clock_mhz": whole(0),
        "memory_clock_mhz": whole(0),
        "power_w": real(0),
        "temperature_c": whole(),
        "throttled_by": text,
        "other_processes": whole(0),
    }
)

_LEVEL = record(
    {
        "level": one_of([level.name for level in Level]),
        "tracer": text,
        "status": one_of([status.value for status in Status]),
        "reason": text,
    }
)


def _digits(value: Any) -> str:
    """A compute capability: major and minor number."""
    said = text(value)
    if not said and not value.replace(".", "", 1).isdecimal():
        said = f" must be two numbers separated by a point, such as 9.0, not {ascii(value)[:40]}"
    return said


_ENVIRONMENT = record(
    {},
    {
        **dict.fromkeys(
            ("python", "torch", "cuda", "platform", "cpu", "gpu", "driver", "xsp"), optional(text)
        ),
        **dict.fromkeys(
            (
                "cpu_count",
                "cpu_cores",
                "torch_threads",
                "gpu_count",
                "gpu_memory_bytes",
                "multiprocessors",
                "memory_bus_bits",
            ),
            optional(whole(0)),
        ),
        **dict.fromkeys(
            ("max_sm_clock_mhz", "max_memory_clock_mhz", "cpu_max_mhz", "power_limit_w"),
            optional(real(0)),
        ),
        "compute_capability": optional(_digits),
        "cpu_flags": optional(items(text)),
        "measured_peaks": mapping(real(0)),
    },
)

_COUNTERS = record({}, {"metrics": items(text), "spread": mapping(optional(real())), "why": plain})

_KNOWN_NS = optional(whole(0))
_COMPILED = record(
    {
        "compilations": items(
            record(
                {
                    **dict.fromkeys(("id", "function", "source", "reason", "failed"), text),
                    "no_cudagraph": text,
                    "phase": one_of(("forward", "backward")),
                    "when": one_of(("before", "within")),
                    "guards": optional(whole(0)),
                    **dict.fromkeys(("guard_check_ns", "total_ns"), _KNOWN_NS),
                    **dict.fromkeys(("inductor_ns", "triton_ns"), _KNOWN_NS),
                }
            )
        ),
        "graph_breaks": items(record({"reason": text, "times": whole(0)})),
    }
)

_RANK = record({"rank": whole(0), "size": whole(1), "host": text, "boot": text}, closed=True)

META = record(
    {
        "name": text,
        "levels": items(_LEVEL, least=1),
        "environment": _ENVIRONMENT,
        "warnings": items(text),
        "trace": record(
            {
                "trace_id": hexadecimal(32),
                "parent_span_id": hexadecimal(16),
                "first_span_id": whole(1, 2**63 - 1),
            }
        ),
    },
    {
        "stopped": optional(text),
        "memory_device": optional(text),
        "clock": optional(record({}, {"method": text, "error_ns": optional(real(0))})),
        "epoch_offset_ns": optional(whole()),
        "rank": optional(_RANK),
        "gpu_states": items(_GPU_STATE),
        "correction": optional(_CORRECTION),
        "counters": optional(_COUNTERS),
        "compiled": optional(_COMPILED),
    },
)
"""The rule of `meta`."""
