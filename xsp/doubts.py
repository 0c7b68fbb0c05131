"""What makes a profile's numbers doubtful or incomplete: `Profile.warnings`. docs/warnings.md explains each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.analysis.correction import Correction
from xsp.analysis.statistics import trimmed
from xsp.stopping import TARGET
from xsp.types import Level


def about_runs(tables: dict[str, pd.DataFrame], why: str, device_work: int | None) -> list[str]:
    """Sentences on what is missing or uncertain."""
    runs = tables["runs"]
    latency, half = trimmed(runs.loc[runs["deepest"] == Level.MODEL.name, "latency_ns"])
    doubts = [why] if "interrupted" in why or "budget" in why else []
    if not doubts and not half <= TARGET * latency:
        known = f"to ±{half / latency:.1%} only" if np.isfinite(half) else "from too few rounds for an interval"
        doubts.append(f"the model latency is known {known}; more iterations narrow it")
    if lost := int(runs["lost"].sum()):
        doubts.append(f"{lost} records were lost; counts and device times are too low by what they held")
    if orphans := int(runs["orphans"].sum()):
        doubts.append(f"{orphans} device activities had no launch record and are in no table")
    if unmatched := int(runs["unmatched"].sum()):
        doubts.append(
            f"{unmatched} layer or library events did not occur in the structure run: the control flow depends on "
            "data, and their names and shapes are unknown"
        )
    return [*doubts, *_changed_work(tables, device_work)]


def _changed_work(tables: dict[str, pd.DataFrame], device_work: int | None) -> list[str]:
    if device_work is None:
        return []
    spans, runs = tables["spans"], tables["runs"]
    counts = spans.loc[spans["level"] == Level.KERNEL, "run"].value_counts()
    deepest = runs.loc[runs["deepest"] == Level.KERNEL.name, "run"]
    seen = sorted(set(counts.reindex(deepest, fill_value=0)))
    if seen == [device_work]:
        return []
    return [
        f"without layer and library tracing the program ran {device_work} kernels, copies and sets, with it "
        f"{' to '.join(map(str, sorted({seen[0], seen[-1]})))}: it does other work when traced, or from run to run"
    ]


def about_overlap(activities: int, serialized: bool) -> list[str]:
    """A sentence if kernels of different layers ran at the same time."""
    if not activities:
        return []
    remedy = "`prof.serialized` has each layer's time alone" if serialized else "serialize=True measures each alone"
    return [
        f"{activities} kernels, copies and sets of a run overlapped those of another layer on the device, so device "
        f"times of these layers include each other's: {remedy}"
    ]


def about_closure(correction: Correction | None) -> list[str]:
    """A sentence if the corrected timeline is certainly off, and by more than the precision that is aimed at."""
    if correction is None:
        return []
    rung, closure = list(correction.closure.items())[-1]
    if closure.low <= 0 <= closure.high or max(abs(closure.low), abs(closure.high)) <= TARGET:
        return []
    return [
        f"the corrected timeline of {rung} is {closure.error:+.1%} off the unprofiled latency, more than chance "
        f"explains ({closure.low:+.1%} to {closure.high:+.1%}): its corrected times are wrong by about as much"
    ]
