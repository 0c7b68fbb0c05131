"""What a profile says before its table: sentences shared by terminal and notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsp.analysis.spans.rungs import is_separate
from xsp.doubts import Slug
from xsp.report.findings import findings
from xsp.types import Level, Status
from xsp.words import numbers
from xsp.words.slugs import slug_of

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_TOLD_LOST = {Slug.LOST_RECORDS.value, Slug.NO_LAUNCH.value}
"""Warnings that already say how many events are missing."""

Fact = tuple[str, str]
"""A heading of one word and a sentence."""


def is_traced(prof: ProfileData, level: Level) -> bool:
    """Whether the profile has spans of `level`."""
    rows = prof.levels[prof.levels["level"] == level.name]
    return bool((rows["status"] == Status.TRACED.value).any())


def latency(prof: ProfileData) -> str:
    """`1.234 ms ±0.012`: the unprofiled model latency."""
    value, half = prof.latency_ms, prof.latency_ci_ms
    decimals = numbers.decimals_for(value)
    interval = numbers.plus_minus(half, decimals)
    return f"{numbers.milliseconds(value, decimals)} ms" + (f" {interval}" if interval else "")


def facts(prof: ProfileData) -> list[Fact]:
    """Heading and sentence for each thing to know before reading the numbers."""
    return [*_measurement(prof), *findings(prof), *conditions(prof)]


def conditions(prof: ProfileData) -> list[Fact]:
    """What the numbers were measured on, at what cost, and which levels are missing."""
    return [*_slowdown(prof), *_environment(prof), *_levels(prof), *_clock(prof)]


def _measurement(prof: ProfileData) -> list[Fact]:
    rounds = numbers.quantity(int(prof.runs["round"].nunique()), "round")
    how = "unprofiled" if "M" in set(prof.runs["rung"]) else "as traced"
    found = [
        ("latency", f"{latency(prof)} {how}, call to device finished (95 % interval, {rounds})")
    ]
    root = prof.tree().iloc[0]
    if is_traced(prof, Level.KERNEL):
        busy = numbers.milliseconds(root["device_ms"], numbers.decimals_for(prof.latency_ms))
        share = numbers.percent(float(root["device_ms"]) / prof.latency_ms)
        found.append(("GPU busy", f"{busy} ms, {share} of the latency"))
    counts = []
    if is_traced(prof, Level.KERNEL):
        counts.append(f"{numbers.quantity(prof.kernel_count, 'kernel')}, copies and sets included")
    if is_traced(prof, Level.LIBRARY):
        counts.append(numbers.quantity(library_calls(prof), "library call"))
    if counts:
        found.append(("per run", "; ".join(counts)))
    return found


def _slowdown(prof: ProfileData) -> list[Fact]:
    """What tracing added in total: the deepest rung against rung M in the same rounds."""
    added = prof.overhead()
    of_model = added[added["level"] == Level.MODEL.name]
    if not len(of_model):
        return []
    shares = of_model["added_share"]
    # The rungs of a separate ladder each add to rung M, and not to the one before.
    total = shares.iloc[-1] if is_separate(prof.runs["rung"].unique()) else shares.sum()
    steps = ", ".join(f"{row.rung} {row.added_share:+.1%}" for row in of_model.itertuples())
    return [
        (
            "tracing",
            f"{total:+.1%} on the model latency when all levels are traced ({steps}); host ms "
            "excludes it",
        )
    ]


def library_calls(prof: ProfileData) -> int:
    """Library calls that one run makes."""
    tree = prof.tree()
    return int(tree.loc[tree["level"] == Level.LIBRARY.name, "calls"].sum())


def _environment(prof: ProfileData) -> list[Fact]:
    known = prof.environment
    cuda, driver = known.get("cuda"), known.get("driver")
    parts = [
        str(known.get("gpu") or known.get("cpu") or ""),
        f"torch {known['torch']}" if known.get("torch") else "",
        f"CUDA {cuda}" if cuda else "",
        f"driver {driver}" if driver else "",
    ]
    text = ", ".join(filter(None, parts))
    return [("on", text)] if text else []


def _levels(prof: ProfileData) -> list[Fact]:
    rows = prof.levels
    traced = rows[rows["status"] == Status.TRACED.value]
    found = [("levels", ", ".join(traced["level"]) + " traced")]
    for level, status, reason in rows.loc[
        rows["status"] != Status.TRACED.value, ["level", "status", "reason"]
    ].to_numpy():
        found.append(("", f"{level} {status}: {reason}" if reason else f"{level} {status}"))
    return found


def _clock(prof: ProfileData) -> list[Fact]:
    clock = prof.clock
    if clock is None:
        return []
    error = clock.get("error_ns")
    return (
        [("clock", f"device times are on the host's clock to within {numbers.nanoseconds(error)}")]
        if error
        else []
    )


def doubts(prof: ProfileData) -> list[str]:
    """Warnings, one sentence each, and the number of lost events where no warning speaks of it."""
    found = prof.warnings
    if prof.lost and not _TOLD_LOST & {slug_of(each) for each in found}:
        found = [
            *found,
            f"{numbers.quantity(prof.lost, 'event')} lost over all runs; counts and times are too "
            "low by them",
        ]
    return found


def footnote(prof: ProfileData) -> str:
    """Where the columns' numbers come from."""
    host = "without" if prof.corrected is not None else "with"
    share = (
        "the GPU's busy time for the node and the idle time that it causes"
        if is_traced(prof, Level.KERNEL)
        else "the host's time (no kernels traced)"
    )
    return (
        f"Host ms: the host's time {host} the cost of tracing. Device ms: GPU-busy time below the "
        f"node. Share: the node's part of the latency, {share}. (own time): what a node has "
        "besides the rows below it: Python between layers, waiting. Rows add up to the row above. "
        f"{numbers.UNKNOWN}: not measured. "
        f"{closure(prof)} Events lost: {prof.lost}."
    )


def closure(prof: ProfileData) -> str:
    """How far the corrected timeline is from the truth, or why there is none."""
    found = prof.closure_error
    if not len(found):
        return "Closure error: unknown, fewer than four complete rounds or one rung only."
    rung, last = str(found.index[-1]), found.iloc[-1]
    used = " Corrected times are not used." if prof.corrected is None else ""
    return (
        f"Closure error of the corrected timeline ({rung}): {last['error']:+.1%}, 95 % interval "
        f"{last['low']:+.1%} to {last['high']:+.1%}, on rounds its costs were not fitted on.{used}"
    )
