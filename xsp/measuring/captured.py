"""Eager runs of what a target's CUDA graphs were captured from, so that kernels of replays can be
led to layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np

from xsp.analysis.spans.assembly import Assembled, assemble
from xsp.analysis.spans.graph_layers import Owner, Unled
from xsp.doubts import Doubt, Slug
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared, prepare
from xsp.measuring.progress import Phases
from xsp.measuring.stopping import after_rounds
from xsp.measuring.target import target_of
from xsp.measuring.vocabulary import words_of
from xsp.types import Level, Tables

_NEEDED = (Level.LAYER, Level.KERNEL)


def with_captured(prepared: Prepared, options: Options, shown: Phases) -> Prepared:
    """The same with the tables of eager runs of `captured_from`, where layers and kernels are
    traced.

    What these functions change stays changed, but for what is put back before every run of the
    target. Raises what they raise.
    """
    if _missing(prepared.traced):
        return prepared
    found = [_run_eagerly(each, options, prepared, shown) for each in options.captured_from]
    return replace(prepared, captured=tuple(found))


def _run_eagerly(
    function: Callable[..., Any], options: Options, known: Prepared, shown: Phases
) -> Tables:
    target = target_of(function, (), {})
    executor = Executor(target, accept_changed=options.accept_changed, ranks=known.executor.ranks)
    levels = (Level.MODEL, *_NEEDED)
    once = replace(options, levels=levels, iterations=1, stop=None, warmup=1)
    prepared = prepare(executor, once, Deadline.of(once), shown)
    ladder = Ladder(rungs_for(prepared.traced)[-1:])
    runs, _ = climb(executor, ladder, prepared.tracers, after_rounds(1))
    return assemble(runs, words_of(target, prepared))


def about_graphs(found: Assembled, options: Options, traced: Collection[Level]) -> list[Doubt]:
    """If kernels of CUDA graphs belong to no layer that was captured: how many, and why."""
    if options.captured_from and (missing := _missing(traced)):
        return [Doubt.of(Slug.GRAPH_KERNELS, activities=0, missing=missing)]
    activities = _unled_activities(found.tables)
    if not activities:
        return []
    facts = _difference(found.unled[0]) if found.unled else {}
    return [Doubt.of(Slug.GRAPH_KERNELS, activities=activities, **facts)]


def _missing(traced: Collection[Level]) -> list[str]:
    return [level.name for level in _NEEDED if level not in traced]


def _unled_activities(tables: Tables) -> int:
    """In a run, of the median of the runs that have any."""
    if "graph_nodes" not in tables:
        return 0
    nodes = tables["graph_nodes"]
    unknown = nodes.loc[nodes["owner"] == Owner.UNKNOWN.value, "span"].to_numpy()
    counts = np.bincount(tables["spans"]["run"].to_numpy()[unknown])
    return int(np.median(counts[counts > 0])) if len(unknown) else 0


def _difference(unled: Unled) -> dict[str, Any]:
    if unled.ambiguous:
        return {"size": unled.kernels}
    facts = {"place": unled.place, "expected": unled.expected, "found": unled.found}
    return {"size": unled.kernels, **facts}
