"""A profile's summary, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsp.analysis.layers import layer_information
from xsp.bounds.findings import is_asked, try_first
from xsp.doubts import Slug
from xsp.summary.bound import bound_of
from xsp.summary.places import places
from xsp.summary.tracing import profiler_of
from xsp.summary.values import Counts, Latency, LevelState, Summary, Try
from xsp.types import Level, Status
from xsp.words.slugs import slug_of

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

TOP = 3
_TOLD_LOST = {Slug.LOST_RECORDS.value, Slug.NO_LAUNCH.value}
"""Warnings that already say how many events are missing."""


def summarize(prof: ProfileData, top: int = TOP) -> Summary:
    """The answers to a reader's questions, with the `top` largest costs of each kind."""
    return Summary(
        prof.name,
        latency_of(prof),
        bound_of(prof),
        places(prof, top),
        tries_of(prof),
        profiler_of(prof),
        counts_of(prof),
        levels_of(prof),
        tuple(doubts_of(prof)),
        _machine(prof),
    )


def latency_of(prof: ProfileData) -> Latency:
    """The latency with its interval."""
    rounds = int(prof.runs["round"].nunique())
    return Latency(prof.latency_ms, prof.latency_ci_ms, rounds, "M" in set(prof.runs["rung"]))


def is_traced(prof: ProfileData, level: Level) -> bool:
    """Whether the profile has spans of `level`."""
    rows = prof.levels[prof.levels["level"] == level.name]
    return bool((rows["status"] == Status.TRACED.value).any())


def tries_of(prof: ProfileData) -> tuple[Try, ...]:
    """At most five findings, the most gain first; none where nothing promises anything, or where
    the profile has no corrected timeline.
    """
    if not is_traced(prof, Level.LAYER):
        return ()
    return tuple(
        Try(
            each.advice,
            each.evidence,
            each.layer,
            each.gain_ms,
            each.half_width_ms,
            each.check,
            each.lines,
        )
        for each in try_first(prof)
    )


def counts_of(prof: ProfileData) -> Counts:
    """Layers, library calls and kernels of a run. A layer that is called at several places of its
    module has several rows in the tree, and counts once, as in the analyses.
    """
    tree = prof.tree()
    layers = len(layer_information(prof))
    calls = int(tree.loc[tree["level"] == Level.LIBRARY.name, "calls"].sum())
    return Counts(
        layers if is_traced(prof, Level.LAYER) else None,
        calls if is_traced(prof, Level.LIBRARY) else None,
        prof.kernel_count if is_traced(prof, Level.KERNEL) else None,
    )


def levels_of(prof: ProfileData) -> tuple[LevelState, ...]:
    """Every level with its status."""
    rows = prof.levels[["level", "status", "reason"]].to_numpy()
    return tuple(LevelState(level, status, reason or "") for level, status, reason in rows)


def doubts_of(prof: ProfileData) -> list[str]:
    """Warnings, one sentence each, and the number of lost events where no warning speaks of it."""
    found = list(prof.warnings)
    if prof.lost and not _TOLD_LOST & {slug_of(each) for each in found}:
        noun = "event" if prof.lost == 1 else "events"
        found.append(f"{prof.lost} {noun} lost over all runs; counts and times are too low by them")
    if is_traced(prof, Level.LAYER) and not is_asked(prof):
        layers = len(prof.table("layers"))
        found.append(
            f"what to try first was not worked out for {layers} layers, which takes longer than "
            "all the rest of this; `prof.findings()` does"
        )
    return found


def _machine(prof: ProfileData) -> tuple[str, ...]:
    known = prof.environment
    cuda, driver = known.get("cuda"), known.get("driver")
    parts = (
        str(known.get("gpu") or known.get("cpu") or ""),
        f"torch {known['torch']}" if known.get("torch") else "",
        f"CUDA {cuda}" if cuda else "",
        f"driver {driver}" if driver else "",
    )
    return tuple(filter(None, parts))
