"""How much of what is read is the profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsp.analysis.spans.rungs import is_separate
from xsp.summary.values import Closure, Profiler, Rung
from xsp.types import Level

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


def profiler_of(prof: ProfileData) -> Profiler:
    """What each rung added to the latency, and what is left after the correction."""
    added = prof.overhead()
    of_model = added[added["level"] == Level.MODEL.name]
    names = ["rung", "added_ms", "added_ci_ms", "added_share"]
    rungs = tuple(Rung(str(rung), *map(float, row)) for rung, *row in of_model[names].to_numpy())
    shares = [rung.share for rung in rungs] or [float("nan")]
    # The rungs of a separate ladder each add to rung M, and not to the one before.
    total = shares[-1] if is_separate(prof.runs["rung"].unique()) else sum(shares)
    clock = prof.clock or {}
    error = clock.get("error_ns") or float("nan")
    return Profiler(
        total, rungs, _closure(prof), prof.corrected is not None, prof.lost, float(error)
    )


def _closure(prof: ProfileData) -> Closure | None:
    found = prof.closure_error
    if not len(found):
        return None
    last = found.iloc[-1]
    error, low, high = (float(last[name]) for name in ("error", "low", "high"))
    return Closure(str(found.index[-1]), error, low, high)
