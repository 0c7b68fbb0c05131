"""What makes a profile's numbers doubtful or incomplete: `Profile.warnings`. docs/warnings.md
explains each.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from xsp.analysis.correction import Correction
from xsp.analysis.spans.statistics import trimmed
from xsp.measuring.stopping import TARGET
from xsp.types import Level
from xsp.words.warning import no_launch, tagged

VISIBLE = 0.05
"""Share of a time from which on an error in it is worth a sentence."""


def about_runs(tables: dict[str, pd.DataFrame], why: str, device_work: int | None) -> list[str]:
    """Sentences on what is missing or uncertain."""
    runs = tables["runs"]
    latency, half = trimmed(runs.loc[runs["deepest"] == Level.MODEL.name, "latency_ns"])
    doubts = [tagged("imprecise", why)] if "interrupted" in why or "budget" in why else []
    if not doubts and not half <= TARGET * latency:
        known = (
            f"to ±{half / latency:.1%} only"
            if np.isfinite(half)
            else "from too few rounds for an interval"
        )
        doubts.append(
            tagged("imprecise", f"the model latency is known {known}; more iterations narrow it")
        )
    if lost := int(runs["lost"].sum()):
        doubts.append(
            tagged(
                "lost-records",
                f"{lost} records were lost; counts and device times are too low by what they held",
            )
        )
    doubts += no_launch(int(runs["orphans"].sum()))
    if unmatched := int(runs["unmatched"].sum()):
        sentence = (
            f"{unmatched} layer or library events did not occur in the structure run: the control "
            "flow depends on "
            "data, and their names and shapes are unknown"
        )
        doubts.append(tagged("unknown-events", sentence))
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
    sentence = (
        f"without layer and library tracing the program ran {device_work} kernels, copies and "
        "sets, with it "
        f"{' to '.join(map(str, sorted({seen[0], seen[-1]})))}: it does other work when traced, or "
        "from run to run"
    )
    return [tagged("changed-work", sentence)]


def about_shared(generators: Collection[str]) -> list[str]:
    """A sentence on random generators that not only the target drew from, if there are any."""
    if not generators:
        return []
    sentence = (
        f"{' and '.join(sorted(generators))} random generator was used by more than the target: it "
        "is put back before each run, so another thread drew the same numbers again and again"
    )
    return [tagged("shared-generators", sentence)]


def about_modified(names: list[str]) -> list[str]:
    """A sentence if the model writes to its inputs or parameters: each run starts from what the
    last one left.
    """
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    sentence = (
        f"the model writes to its inputs or parameters in place ({', '.join(names[:3])}{more}): "
        "this is not put back, "
        "and each run starts from what the run before it left"
    )
    return [tagged("modified-in-place", sentence)]


def about_several_gpus(tables: dict[str, pd.DataFrame]) -> list[str]:
    """A sentence if kernels ran on more than one GPU: each has a CUDA context of its own."""
    contexts = tables["spans"].loc[tables["spans"]["level"] == Level.KERNEL, "context"].nunique()
    if contexts < 2:
        return []
    sentence = (
        f"kernels ran on {contexts} GPUs: the GPU counts as busy while any of them is, and clocks, "
        "throttling and "
        "ceilings are those of the one that holds most of the target"
    )
    return [tagged("several-gpus", sentence)]


def about_overlap(activities: int, serialized: bool) -> list[str]:
    """A sentence if kernels of different layers ran at the same time."""
    if not activities:
        return []
    remedy = (
        "`prof.serialized` has each layer's time alone"
        if serialized
        else "serialize=True measures each alone"
    )
    sentence = (
        f"{activities} kernels, copies and sets of a run overlapped those of another layer on the "
        "device, so device "
        f"times of these layers include each other's: {remedy}"
    )
    return [tagged("overlap", sentence)]


def about_short_kernels(tables: dict[str, pd.DataFrame], added_ns: float) -> list[str]:
    """A sentence if much of the device's time is in kernels so short that tracing is a visible part
    of their time.

    `added_ns` is what tracing adds to a short kernel, from repeated launches between two events
    (calibration.py).
    """
    spans = tables["spans"]
    duration = spans.loc[spans["level"] == Level.KERNEL, "duration_ns"]
    short = duration[duration < added_ns / VISIBLE]
    if not len(duration) or short.sum() < VISIBLE * duration.sum():
        return []
    sentence = (
        f"{short.sum() / duration.sum():.0%} of the device time is in the "
        f"{len(short) / len(duration):.0%} of kernels "
        f"that are shorter than {added_ns / VISIBLE / 1e3:.1f} us: tracing adds "
        f"{added_ns / 1e3:.2f} us to a short "
        f"kernel here, more than {VISIBLE:.0%} of their time"
    )
    return [tagged("short-kernels", sentence)]


def about_closure(correction: Correction | None) -> list[str]:
    """A sentence for each rung whose corrected latency is off by more than its interval."""
    closures = correction.closure if correction else {}
    return [
        tagged(
            "closure",
            f"the corrected timeline of {rung} is {found.error:+.1%} off the unprofiled latency, "
            "more than chance "
            f"explains ({found.low:+.1%} to {found.high:+.1%}): its corrected times are wrong by "
            "about as much",
        )
        for rung, found in closures.items()
        if not found.low <= 0 <= found.high
    ]
