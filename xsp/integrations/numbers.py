"""The numbers of a profile or an evaluation that are worth following over runs, for loggers of
experiments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xsp.types import Level, Status

if TYPE_CHECKING:
    from xsp.evaluation.records.evaluation import Evaluation
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


def evaluation_numbers(found: Evaluation, prefix: str = "xsp/") -> dict[str, float]:
    """Every measure that is known, with the ends of its 95 % interval as `_low` and `_high`, and
    whether the test is valid (1 or 0). Units are those of the measures: latencies in ns.
    """
    values: dict[str, float | None] = {"valid": float(found.outcome.valid)}
    for each in found.measures:
        values[each.name] = each.value
        values[f"{each.name}_low"] = each.low
        values[f"{each.name}_high"] = each.high
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


def evaluation_facts(found: Evaluation) -> dict[str, str]:
    """What the numbers belong to: the evaluation's id in the database, model, runtime, scenario."""
    manifest = found.manifest
    return {
        "evaluation": found.id,
        "model": f"{manifest.model.name} {manifest.model.version}",
        "predictor": found.predictor,
        "runtime": found.runtime,
        "device": manifest.runtime.device,
        "scenario": found.outcome.scenario,
    }
