"""What was measured, and what is read off it: the only thing that analyses, tables, figures and
exports ever see.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import pandas as pd

from xsp.analysis.compiled.graph_calls import COMPILATION, TIMES
from xsp.analysis.compiled.source_layers import compiled_kernels, compiled_layers
from xsp.analysis.correction import (
    Correction,
    corrected_spans,
    correction_of,
    correction_row,
    is_current,
    most_costs,
)
from xsp.analysis.correction.charges import COST_LEVELS
from xsp.analysis.sentences import Sentences
from xsp.analysis.spans.calls import module_calls, target_calls
from xsp.analysis.spans.device_timeline import device_timeline
from xsp.analysis.spans.hierarchy import is_parted_by_shapes
from xsp.analysis.spans.latency_parts import LatencyParts, latency_parts
from xsp.analysis.spans.named import named_spans
from xsp.analysis.spans.overhead import overhead
from xsp.analysis.spans.overlap import serialized_layers
from xsp.analysis.spans.pooled_layers import COLUMNS as COLUMNS_OF_LAYERS
from xsp.analysis.spans.pooled_layers import pooled_layers
from xsp.analysis.spans.run_parts import SPANS_OF_PART
from xsp.analysis.spans.rungs import deepest_rung, runs_of, spec_of
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.tree import latency_table
from xsp.capture.file import Capture
from xsp.capture.schema import OPTIONAL_TABLES, with_sources
from xsp.errors import XspError
from xsp.machine.gpu_state import GpuState, suspect_rounds
from xsp.tracing.context import TraceContext
from xsp.types import RANGES, Level, empty

RAW_SPANS = "raw_spans"
"""Name under which `ProfileData.table` gives the file's table of spans."""


class ProfileData:
    """What was measured. Tables are DataFrames; times are ns on the host's monotonic clock unless a
    column says ms.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self._filled = capture

    def fill(self, capture: Capture) -> None:
        """Give an empty profile, such as `xsp.profile()` binds while its block runs, its
        content.
        """
        self._filled = capture

    @property
    def _capture(self) -> Capture:
        if self._filled is None:
            raise XspError(
                "this profile is still empty: its numbers are available after the `with "
                "xsp.profile(...)` block has ended"
            )
        return self._filled

    @property
    def name(self) -> str:
        """Name of the profiled model or callable."""
        return str(self._capture.meta["name"])

    @property
    def environment(self) -> dict[str, Any]:
        """GPU, driver, CUDA, torch, cuDNN, host and xsp versions the numbers were measured with."""
        return dict(self._capture.meta["environment"])

    @property
    def memory_device(self) -> str | None:
        """Where the model's memory was allocated, "cuda" or "cpu"; None where that was not
        recorded.
        """
        device = self._capture.meta.get("memory_device")
        return None if device is None else str(device)

    @property
    def gpu_states(self) -> pd.DataFrame:
        """The GPU at the end of each round: round, sm_clock_mhz, memory_clock_mhz, power_w,
        temperature_c, throttled_by, other_processes (that use the GPU), suspect (it ended throttled
        or at another clock than most), left_out (its runs are not in `runs`). Empty without a GPU
        or NVML.
        """
        states = [GpuState.from_row(row) for row in self._capture.meta.get("gpu_states", [])]
        table = pd.DataFrame(states, columns=GpuState.columns())
        kept = self._capture.tables["runs"]["round"]
        return table.assign(
            suspect=table["round"].isin(suspect_rounds(states)),
            left_out=~table["round"].isin(kept),
        )

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes these numbers doubtful or incomplete; empty when nothing does."""
        return list(self._capture.meta["warnings"])

    @property
    def clock(self) -> dict[str, Any] | None:
        """How device stamps were mapped to the host clock: method and error_ns. None where no
        device was traced.
        """
        return self._capture.meta.get("clock")

    @property
    def trace(self) -> TraceContext:
        """The trace that the spans belong to; shared with the caller's OpenTelemetry span, if one
        was open.
        """
        context = self._capture.meta["trace"]
        return TraceContext(
            int(context["trace_id"], 16),
            int(context["parent_span_id"], 16),
            context["first_span_id"],
        )

    @property
    def levels(self) -> pd.DataFrame:
        """One row per level: level, tracer, status ("traced", "unavailable", "off"), reason. Shown
        with every reason whole.
        """
        return Sentences(
            self._capture.meta["levels"], columns=["level", "tracer", "status", "reason"]
        )

    @property
    def runs(self) -> pd.DataFrame:
        """One row per timed run: run, rung, deepest, round, position, start_ns, latency_ns (call to
        device finished), host_latency_ns (call to return), lost (records dropped), unmatched
        (events the structure run did not have), orphans (device activities whose launch was not
        seen).
        """
        return self._capture.tables["runs"].copy()

    def raw_tables(self, *names: str) -> dict[str, pd.DataFrame]:
        """Tables of the capture by their names in the file (`xsp.capture.file.TABLES`); an optional
        one that it does not have is left out.
        """
        tables = self._capture.tables
        there = [name for name in names if name in tables or name not in OPTIONAL_TABLES]
        return {name: tables[name].copy() for name in there}

    def table(self, name: str) -> pd.DataFrame:
        """A table of the capture as it is in the file (`xsp.capture.file.TABLES`); that of spans,
        which `spans` reads with names and ids, is "raw_spans".

        Raises XspError for a name that no table has.
        """
        tables = self._capture.tables
        if name == "spans":
            warnings.warn(
                'prof.table("spans") is now prof.table("raw_spans"); prof.spans is another table',
                DeprecationWarning,
                stacklevel=2,
            )
        elif name == RAW_SPANS:
            name = "spans"
        elif name not in tables:
            names = ", ".join([RAW_SPANS, *(each for each in tables if each != "spans")])
            raise XspError(f"there is no table {name!r} in this profile; its tables are {names}")
        return tables[name].copy()

    @property
    def spans(self) -> pd.DataFrame:
        """One row per span of every run: run, rung, round, level, name, span_id, parent_id,
        start_ns, end_ns, duration_ns, thread, stream (-1 on the host), correlation_id (0 where it
        has none), detail (row of the level's table). `iteration` is the deprecated name of `round`.

        Ids are valid OpenTelemetry span ids in `trace`; the parent of a MODEL span is the caller's
        span or 0.
        """
        return self._spans.copy()

    @cached_property
    def _spans(self) -> pd.DataFrame:
        return named_spans(self._capture.tables, self.trace)

    @cached_property
    def _correction(self) -> Correction | None:
        return correction_of(self._capture.meta.get("correction"), self._capture.tables)

    @property
    def _capture_with_fit(self) -> Capture:
        """The capture with costs that this version fitted, so that nobody has to fit them again."""
        row = self._capture.meta.get("correction")
        if row is None or is_current(row):
            return self._capture
        meta = self._capture.meta | {"correction": correction_row(self._correction)}
        return replace(self._capture, meta=meta)

    @cached_property
    def _corrected(self) -> pd.DataFrame | None:
        correction = self._correction
        if correction is None or not correction.holds:
            return None
        return corrected_spans(self._capture.tables, correction.costs, correction.spread)

    @property
    def corrected(self) -> pd.DataFrame | None:
        """The deepest rung's spans with the tracers' cost taken out by replay: row (of `spans`),
        start_ns, duration_ns, doubt_ns (half a 95 % interval of the duration, from that of the
        costs; 0 on the device).

        None where the costs could not be fitted (only rung M was run, or fewer than four rounds
        without lost records), and where the correction fails (`closure_error`): tables, analyses
        and exports then use each level's measured times.
        """
        return None if self._corrected is None else self._corrected.copy()

    @property
    def costs(self) -> pd.DataFrame:
        """What one event of each kind cost, fitted in place, for the levels that were traced.

        Columns: kind, level, cost_ns, low_ns, high_ns (95 %), identified (False where the rungs do
        not tell this cost apart from others, or do not show it at all: it is 0 then), tight_loop_ns
        (the same event in a tight loop, as a check; 0 where it was not measured), mostly_tracing
        (share of the events of which the correction takes more than half). Empty where nothing was
        fitted.
        """
        columns = "kind level cost_ns low_ns high_ns identified tight_loop_ns mostly_tracing"
        correction = self._correction
        if correction is None:
            return pd.DataFrame([], columns=columns.split())
        costs = correction.costs
        traced = spec_of(deepest_rung(self._capture.tables)).levels
        rows = [
            (
                kind.removesuffix("_ns"),
                level.name,
                getattr(costs, kind),
                *costs.intervals[kind],
                costs.identified[kind],
                getattr(correction.tight_loops, kind),
                correction.mostly_tracing.get(kind, 0.0),
            )
            for kind, level in COST_LEVELS.items()
            if level in traced
        ]
        return pd.DataFrame(rows, columns=columns.split())

    @property
    def closure_error(self) -> pd.DataFrame:
        """By rung: (corrected total - unprofiled model latency) / unprofiled model latency, on
        rounds that the costs were not fitted on. Columns: error, low, high (95 %), rounds, fails
        (True where the error is larger than 2 % and beyond chance, or larger than 10 %: corrected
        times are not used if any rung fails). Empty where nothing was fitted.
        """
        found = self._correction.closure if self._correction else {}
        rows = [
            (one.error, one.low, one.high, len(one.by_round), one.fails) for one in found.values()
        ]
        index = pd.Index(list(found), name="rung", dtype=object)
        return pd.DataFrame(rows, index=index, columns=["error", "low", "high", "rounds", "fails"])

    def overhead(self) -> pd.DataFrame:
        """What each rung adds to each level above it; columns as in
        `xsp.analysis.spans.overhead.overhead`.
        """
        return overhead(self._capture.tables)

    def compiled(self) -> pd.DataFrame:
        """What each kernel of compiled code stands for, a row for each launch and layer that shares
        it; `xsp.analysis.compiled.source_layers.compiled_kernels`.
        """
        return compiled_kernels(self._capture.tables)

    def compiled_layers(self) -> pd.DataFrame:
        """What compiled code spends on each layer of the program;
        `xsp.analysis.compiled.source_layers.compiled_layers`.
        """
        return compiled_layers(self._capture.tables)

    def compiled_graphs(self) -> pd.DataFrame:
        """What the host spends around each compiled graph: graph, phase, calls (in one run),
        entering_ns (guards and the code before it; -1 where not known) and running_ns (in the code
        that Inductor wrote, launches included); `xsp.analysis.compiled.graph_calls.graph_times`.
        """
        return self._capture.tables.get("compiled_graphs", pd.DataFrame(columns=list(TIMES))).copy()

    @property
    def compilations(self) -> pd.DataFrame:
        """What torch.compile compiled in this process, the oldest first; the columns are those of
        `xsp.provenance.compilations.compilations`. Empty where nothing was compiled.
        """
        found = self._capture.meta.get("compiled") or {}
        return pd.DataFrame(found.get("compilations", []), columns=list(COMPILATION))

    @property
    def graph_breaks(self) -> pd.DataFrame:
        """Why Dynamo broke graphs in this process: reason and times. Empty where it did not."""
        found = self._capture.meta.get("compiled") or {}
        return pd.DataFrame(found.get("graph_breaks", []), columns=["reason", "times"])

    @property
    def serialized(self) -> pd.DataFrame:
        """Each layer's device time when no other layer runs;
        `xsp.analysis.spans.overlap.serialized_layers`.
        """
        return serialized_layers(self._capture.tables)

    def device_timeline(self) -> pd.DataFrame:
        """The device's time, divided among layers and named gaps;
        `xsp.analysis.spans.device_timeline.device_timeline`.
        """
        return device_timeline(self._capture.tables, self._corrected)

    @cached_property
    def _latency_parts(self) -> LatencyParts:
        return latency_parts(self._capture.tables, self._corrected)

    @cached_property
    def _tree(self) -> pd.DataFrame:
        return self._latency_table(pooled=False)

    def _latency_table(self, *, pooled: bool) -> pd.DataFrame:
        tables, correction = self._capture.tables, self._correction
        most = None if correction is None else most_costs(tables, correction.costs)
        return latency_table(
            tables,
            self.name,
            self._corrected,
            pooled=pooled,
            most=most,
            parts=self._latency_parts if len(tables["spans"]) <= SPANS_OF_PART else None,
        )

    def tree(self, *, pooled: bool = False) -> pd.DataFrame:
        """The hierarchical latency table; columns as in `xsp.analysis.spans.tree.latency_table`.

        With `pooled` each layer has one row, whatever the shapes of its calls, and every functional
        call its own.
        """
        return (self._pooled_tree if pooled else self._tree).copy()

    @cached_property
    def _pooled_layers(self) -> pd.DataFrame:
        """`pooled_layers`, whichever way is shortest."""
        tables = self._capture.tables
        is_large = len(tables["spans"]) > SPANS_OF_PART
        if not is_large and "_pooled_tree" not in vars(self) and is_parted_by_shapes(tables):
            return pooled_layers(tables, self.name, self._corrected, self._latency_parts)
        tree = self._pooled_tree
        return tree.loc[tree["level"] == Level.LAYER.name, COLUMNS_OF_LAYERS]

    @cached_property
    def _pooled_tree(self) -> pd.DataFrame:
        if not is_parted_by_shapes(self._capture.tables):
            return self._tree
        return self._latency_table(pooled=True)

    def calls(self, name: str | None = None) -> pd.DataFrame:
        """One row per call of the target in a run, in order; with `name` per call of that module or
        layer, such as each step of a decoder. Columns as in `xsp.analysis.spans.calls`.

        Raises XspError for a name that nothing has, and for a module of a capture that does not
        know its calls.
        """
        if name is None:
            return target_calls(self._capture.tables)
        return module_calls(self._capture.tables, self._corrected, name)

    @property
    def latency_ms(self) -> float:
        """Unprofiled model latency, call to device finished: trimmed mean over the runs at rung M.

        An imported profile has no such runs; its latency holds the cost of the tracing.
        """
        return float(self._latency[0]) / 1e6

    @property
    def latency_ci_ms(self) -> float:
        """Half width of the 95 % interval of `latency_ms`."""
        return float(self._latency[1]) / 1e6

    @cached_property
    def _latency(self) -> tuple[Any, Any]:
        runs = self._capture.tables["runs"]
        return trimmed(runs_of(runs, Level.MODEL)["latency_ns"])

    @property
    def kernel_count(self) -> int:
        """Kernels, copies and sets that one run executes on the GPU."""
        return int(self._tree["kernels"].iloc[0])

    @property
    def kernels(self) -> int:
        """Deprecated name of `kernel_count`."""
        warnings.warn(
            "Profile.kernels is now Profile.kernel_count", DeprecationWarning, stacklevel=2
        )
        return self.kernel_count

    @property
    def lost(self) -> int:
        """Events known to be missing over all runs: dropped records, and device activities without
        a launch.
        """
        runs = self._capture.tables["runs"]
        return int(runs["lost"].sum() + runs["orphans"].sum())

    @property
    def ranges(self) -> pd.DataFrame:
        """The target's own ranges (torch.cuda.nvtx, the nvtx package, `record_function` of
        torch.profiler) in runs that traced layers.

        Columns: run, rung, name, domain (of NVTX, "" for the others), source ("nvtx" or
        "record_function"), thread, start_ns, end_ns, duration_ns. Empty where there
        are none.
        """
        found = self._capture.tables.get(
            "ranges", pd.DataFrame({"run": pd.Series(dtype="int32"), **empty(RANGES)})
        )
        rungs = self._capture.tables["runs"]["rung"].to_numpy(dtype=object)
        found = with_sources(found)
        ranges = found.assign(duration_ns=found["end_ns"] - found["start_ns"])
        ranges.insert(1, "rung", rungs[ranges["run"].to_numpy()])
        return ranges

    @property
    def epoch_offset_ns(self) -> int | None:
        """Unix time minus the monotonic clock when this was recorded; None in captures that do not
        have it.
        """
        offset = self._capture.meta.get("epoch_offset_ns")
        return None if offset is None else int(offset)
