"""Hardware counters for a profile: distinct kernels measured in runs of their own, after the rounds.

Nothing of these runs but the counters is kept: under kernel replay every kernel runs alone, so their durations mean
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from xsp.analysis.correction import deepest_rung
from xsp.analysis.distinct import Plan, planned, shared, spread
from xsp.analysis.sequence import kernel_sequence
from xsp.driver import Executor, tracing
from xsp.errors import LevelError, TracingError
from xsp.levels._native.launches import Seen
from xsp.levels.cupti import CuptiLibrary
from xsp.levels.kernel_counters import measure
from xsp.levels.metrics import Choice, chosen
from xsp.levels.names import demangle
from xsp.levels.range_profiler import Configuration, MetricHost, chip_name, current_context, unsupported
from xsp.progress import bar
from xsp.slugs import tagged

CACHE = "in place"
"""Caches are neither flushed nor warmed: a kernel finds what the kernels before it left, as in the program."""

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Gpu:
    """What counts: a chip and the CUDA context in which the target runs."""

    host: MetricHost
    context: int

    @classmethod
    def current(cls) -> Gpu:
        """The GPU of this thread. Raises LevelError if CUPTI cannot count on it."""
        return cls.of(CuptiLibrary.loaded(), torch.cuda.current_device(), current_context())

    @classmethod
    def of(cls, library: CuptiLibrary, device: int, context: int) -> Gpu:
        """A GPU by its number. Raises LevelError if CUPTI cannot count on it."""
        reason = unsupported(library, device)
        if reason:
            raise LevelError(reason)
        return cls(MetricHost(library, chip_name(library, device)), context)


@dataclass(frozen=True)
class Counters:
    """The table `counters`, the facts about it for the manifest, and sentences for the profile's warnings."""

    table: pd.DataFrame
    facts: dict[str, Any]
    doubts: tuple[str, ...]


def no_counters() -> pd.DataFrame:
    """The table of a profile without counters."""
    return pd.DataFrame({name: np.zeros(0, np.int64) for name in ("position", "kernel", "sample")})


def counted(
    executor: Executor,
    tables: Tables,
    requested: Sequence[str],
    progress: bool | None = None,
    gpu: Callable[[], Gpu] = Gpu.current,
) -> Counters:
    """Collect `requested`, names that passed `parse_metrics`, for the kernels of the deepest rung's last run.

    Where counters cannot be had, the table is empty and a sentence says why; what the target raises passes through.
    """
    begin = time.perf_counter()
    facts: dict[str, Any] = {"metrics": [], "cache": CACHE, "passes": 0, "runs": 0, "measured": 0, "shared": 0}
    facts |= {"spread": {}, "seconds": 0.0, "why": None}
    try:
        plan = _plan(tables)
        counting = gpu()
        choice = chosen(requested, counting.host)
        if not choice.configurations:
            raise LevelError("; ".join(choice.missing))
        values = _collected(executor, plan, counting, choice, progress)
    except (LevelError, TracingError, KeyboardInterrupt) as error:
        # Interrupting costs the counters, not the rounds that were measured before them.
        why = f"hardware counters were not collected: {str(error) or 'interrupted'}"
        return Counters(no_counters(), facts | {"why": why}, (tagged("no-counters", why),))
    facts |= {
        "metrics": list(choice.metrics),
        "passes": choice.passes,
        "runs": len(choice.configurations),
        "measured": len(plan.measured),
        "shared": len(plan.keys) - len(plan.measured),
        "spread": spread(plan, choice.metrics, values),
        "seconds": time.perf_counter() - begin,
    }
    return Counters(
        shared(plan, choice.metrics, values), facts, tuple(tagged("unknown-metric", one) for one in choice.missing)
    )


def _plan(tables: Tables) -> Plan:
    sequence = kernel_sequence(tables)
    if not len(sequence):
        raise LevelError("the KERNEL level was not traced, or the target ran no kernels")
    runs = tables["runs"]
    last = runs.loc[runs["rung"] == deepest_rung(tables), "run"].max()
    calls = tables["api_calls"]
    if calls.loc[calls["run"] == last, "name"].astype(str).str.contains("GraphLaunch").any():
        raise LevelError(
            "the target launches CUDA graphs, whose kernels CUPTI cannot measure one by one: profile it without them"
        )
    spans = tables["spans"]
    contexts = spans.loc[(spans["run"] == last) & (spans["context"] > 0), "context"].nunique()
    if contexts > 1:
        raise LevelError(
            f"the target ran kernels in {contexts} CUDA contexts, and only one can be measured: use one GPU"
        )
    return planned(sequence, tables)


def _collected(
    executor: Executor, plan: Plan, gpu: Gpu, choice: Choice, progress: bool | None
) -> npt.NDArray[np.float64]:
    """A row per measured position, a column per metric; one run for each configuration."""
    runs, passes = len(choice.configurations), choice.passes
    title = f"xsp {executor.target.name}: counters of {len(plan.measured)} of {len(plan.keys)} kernels, {passes} passes"
    parts = []
    with tracing([], "while hardware counters were collected"), bar(title, runs, progress) as shown:
        for configuration in choice.configurations:
            values, seen = measure(gpu.host, gpu.context, configuration, plan.wanted, executor.run)
            _require_same(plan, seen, configuration, values)
            parts.append(values)
            shown.update()
    return np.concatenate(parts, axis=1)


def _require_same(plan: Plan, seen: Seen, configuration: Configuration, values: npt.NDArray[np.float64]) -> None:
    """Values are matched to kernels by the order of launches, so the launches must be those of the profile."""
    if seen.launches != len(plan.keys):
        raise TracingError(f"the target launched {seen.launches} kernels where it launched {len(plan.keys)} before")
    if seen.graphs or seen.foreign or seen.overlaps:
        raise TracingError(
            f"the order of launches is not certain: {seen.graphs} of CUDA graphs, {seen.foreign} in other CUDA "
            f"contexts, {seen.overlaps} at the same time as another thread's"
        )
    for position, (found, expected) in enumerate(zip(seen.names, plan.names, strict=True)):
        if found and demangle(found) != expected:
            raise TracingError(f"launch {position} was of {demangle(found)}, before it was of {expected}")
    if len(values) != len(plan.measured):
        raise TracingError(f"CUPTI measured {len(values)} kernels, {len(plan.measured)} were asked for")
    if np.isnan(values).any():
        named = ", ".join(np.array(configuration.metrics)[np.isnan(values).any(axis=0)])
        raise TracingError(f"CUPTI gave no value of {named} for some kernels")
