"""What Dynamo and Inductor compiled, why, and how long that took."""

from __future__ import annotations

from typing import Any

from xsp.machine import compiler_internals as compiler

BEFORE, WITHIN = "before", "within"
"""When something was compiled: before the profile began, or within it (in its warm-up, unless a
doubt says otherwise)."""

_LONGEST = 500
"""Characters kept of a reason: those of guards can be a page."""


def facts_of_compiling(begun_ns: int) -> dict[str, Any] | None:
    """What a capture says of torch.compile, JSON-able: `compilations`, and `graph_breaks` with how
    often Dynamo broke a graph in this process, by reason. None where nothing was compiled.
    """
    rows = compilations(begun_ns)
    if not rows:
        return None
    reasons = compiler.graph_break_reasons().items()
    breaks = [{"reason": reason[:_LONGEST], "times": times} for reason, times in reasons]
    return {"compilations": rows, "graph_breaks": breaks}


def compilations(begun_ns: int) -> list[dict[str, Any]]:
    """A row for each compilation that Dynamo remembers, the oldest first, JSON-able.

    `id` is Dynamo's (`frame/compilation`, such as "0/1" for the second time that the first frame
    was compiled); `phase` is "backward" for a backward graph that was compiled when it first ran;
    `reason` says why it was compiled again, "" for a first time; `failed` why it was not compiled,
    `no_cudagraph` why it is no CUDA graph. Times are cold: `total_ns` from start to end, of which
    `inductor_ns` in Inductor and `triton_ns` in Triton. `guard_check_ns` is what Dynamo measured
    for one check of its guards, of which there are `guards`. What is not known is None.

    Args:
        begun_ns: when the profile began, in ns since 1970.

    """
    return [_row(each, begun_ns) for each in compiler.compilation_metrics()]


def _row(metrics: Any, begun_ns: int) -> dict[str, Any]:
    start_ns = _ns(metrics, "start_time_us")
    return {
        "id": _text(metrics, "compile_id"),
        "function": _text(metrics, "co_name"),
        "source": _source(metrics),
        "phase": "backward" if getattr(metrics, "is_forward", True) is False else "forward",
        "when": WITHIN if start_ns is not None and start_ns >= begun_ns else BEFORE,
        "reason": _text(metrics, "recompile_reason"),
        "failed": _text(metrics, "fail_reason"),
        "no_cudagraph": _text(metrics, "cudagraph_skip_reason"),
        "guards": getattr(metrics, "guard_count", None),
        "guard_check_ns": _ns(metrics, "guard_latency_us"),
        "total_ns": _ns(metrics, "duration_us"),
        "inductor_ns": _ns(metrics, "inductor_cumulative_compile_time_us"),
        "triton_ns": _ns(metrics, "triton_compile_time_us"),
    }


def _text(metrics: Any, name: str) -> str:
    return str(getattr(metrics, name, None) or "")[:_LONGEST]


def _source(metrics: Any) -> str:
    path = _text(metrics, "co_filename")
    return f"{path}:{getattr(metrics, 'co_firstlineno', None)}" if path else ""


def _ns(metrics: Any, name_us: str) -> int | None:
    value = getattr(metrics, name_us, None)
    return None if value is None else round(value * 1000)
