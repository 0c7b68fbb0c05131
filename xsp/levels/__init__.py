"""One module per level of the stack, and the one place that chooses among them."""

from __future__ import annotations

from collections.abc import Iterable

from xsp.types import Level, LevelStatus, Status

_TRACERS = {
    Level.MODEL: "host clock and device synchronisation",
    Level.LIBRARY: "import slots",
    Level.KERNEL: "CUPTI activity",
}


def tracer_of(level: Level) -> str:
    """What serves a level here, in words."""
    if level is Level.LAYER:
        from xsp.levels.layer.tracer import tracer_name

        return tracer_name()
    return _TRACERS[level]


def why_unavailable(level: Level) -> str | None:
    """None if `level` can be traced in this process now, else one sentence: what is missing and
    what would bring it.
    """
    if level is Level.LIBRARY:
        from xsp.levels.library import tracer as library

        return library.availability()
    if level is Level.KERNEL:
        from xsp.levels.kernel import tracer as kernel

        return kernel.availability()
    return None


def statuses(requested: Iterable[Level]) -> list[LevelStatus]:
    """What can be traced of what was asked for, one row per level, outermost first."""
    wanted = set(requested)
    rows = []
    for level in Level:
        # Finding out whether CUPTI works runs a kernel: not for a level that nobody asked for.
        reason = why_unavailable(level) if level in wanted else "not asked for"
        status = (
            Status.OFF if level not in wanted else Status.UNAVAILABLE if reason else Status.TRACED
        )
        rows.append(LevelStatus(level, tracer_of(level), status, reason or ""))
    return rows
