"""The numbers of a profile that are worth following over runs, for loggers of experiments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xsp.types import Level, Status

if TYPE_CHECKING:
    from xsp.profiles import Profile


def numbers(prof: Profile, prefix: str = "xsp/") -> dict[str, float]:
    """Latency with half of its 95 % interval, GPU-busy time, kernels, library calls and bytes; what
    was not measured is left out.
    """
    found = {"latency_ms": prof.latency_ms, "latency_ci_ms": prof.latency_ci_ms}
    tree, levels = prof.tree(), prof.levels
    traced = set(levels.loc[levels["status"] == Status.TRACED.value, "level"])
    if Level.KERNEL.name in traced:
        found["gpu_busy_ms"] = float(tree["device_ms"].iloc[0])
        found["kernels"] = prof.kernel_count
    if Level.LIBRARY.name in traced:
        calls = tree.loc[tree["level"] == Level.LIBRARY.name, "calls"]
        found["library_calls"] = int(calls.sum())
    found["warnings"] = len(prof.warnings)
    known = {name: float(value) for name, value in found.items() if math.isfinite(value)}
    return {f"{prefix}{name}": value for name, value in known.items()}
