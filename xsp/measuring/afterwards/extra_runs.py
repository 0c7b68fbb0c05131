"""What is run once the rounds are over, and left out where no time is left for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xsp.analysis.correction import Correction, fitted
from xsp.analysis.correction.charges import Costs
from xsp.analysis.spans.overlap import overlapping_in_a_run
from xsp.analysis.spans.rungs import runs_of
from xsp.doubts import Doubt, Slug
from xsp.machine import devices
from xsp.measuring.afterwards import compiled, memory
from xsp.measuring.afterwards.annotated import annotated_run
from xsp.measuring.afterwards.calibration import tight_loops
from xsp.measuring.afterwards.counting import Counters, count_kernels
from xsp.measuring.afterwards.memory import LayerMemory
from xsp.measuring.afterwards.serialized import expected_s, serialize_layers
from xsp.measuring.deadline import Deadline, fit_s
from xsp.measuring.executor import Executor
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared
from xsp.measuring.stopping import MINIMUM_ROUNDS
from xsp.types import Level

if TYPE_CHECKING:
    import pandas as pd

_LOOPS = "the tracers' costs in tight loops"


@dataclass
class ExtraRuns:
    """Runs of their own, whose latencies are not used; they add tables.

    `shared` counts activities that overlap another layer's, `has_looped` says whether there was
    time for tight loops, `cut_off` what is missing.
    """

    executor: Executor
    prepared: Prepared
    options: Options
    tables: dict[str, pd.DataFrame]
    deadline: Deadline
    loops: Costs = field(default_factory=Costs)
    has_looped: bool = True
    shared: int = 0
    counters: Counters | None = None
    memory: LayerMemory | None = None
    cut_off: list[Doubt | str] = field(default_factory=list)

    def before_the_fit(self, device: int | None) -> None:
        """The tracers' costs in tight loops, layers alone, and hardware counters."""
        deepest_runs = len(runs_of(self.tables["runs"], Level.KERNEL))
        self.shared = overlapping_in_a_run(self.tables, deepest_runs)
        self._time_loops(device)
        self._serialize()
        if self.options.metrics:
            self.counters = count_kernels(
                self.executor,
                self.tables,
                self.options.metrics,
                self.options.caches,
                self.options.progress,
            )
            self.tables["counters"] = self.counters.table

    def _time_loops(self, device: int | None) -> None:
        """The tracers' costs in tight loops, unless there is no time for the fit after them."""
        # Each rank by itself, as it fits.
        self.has_looped = self.deadline.fits(self.deadline.corrected_s(len(self.tables["spans"])))
        if self.has_looped:
            with self._dispensable(_LOOPS), devices.on(device):
                self.loops = tight_loops(self.prepared.tracers)

    def fit(self, rounds: int) -> Correction | None:
        """The fit of costs, where there is time for it and there was for rounds enough."""
        what = "corrected times, costs and closure error"
        # Each rank fits for itself, so none asks the others.
        if not self.deadline.fits(fit_s(len(self.tables["spans"]))):
            self._say_missing(what)
            return None
        if not self.has_looped:
            self._say_missing(_LOOPS)
        correction = None
        with self._dispensable(what):
            correction = fitted(self.tables, self.loops)
            several = self.tables["runs"]["rung"].nunique() > 1
            is_short = rounds < MINIMUM_ROUNDS and self.deadline.is_limited
            if correction is None and several and is_short:
                self._say_missing(what)
        return correction

    def after_the_fit(self) -> None:
        """Memory and ranges for other tools: the fit matters more if time is short."""
        # After the counters: torch's profiler, once used, keeps CUPTI's callbacks, which flushing
        # the caches needs.
        what = "bytes allocated per layer"
        seconds = memory.expected_s(self.prepared.structure_s, len(self.prepared.structure.layers))
        if self._all_have_time(seconds, what):
            with self._dispensable(what):
                self.memory, doubts = memory.measure_memory(
                    self.executor.run, self.prepared.structure
                )
                self.cut_off += doubts
        if self.memory is not None:
            self.tables["layers"] = memory.fill_bytes(self.tables["layers"], self.memory)
        self._lead_compiled_kernels()
        if self.options.nvtx:
            layers = Level.LAYER in self.prepared.traced
            with self._dispensable("NVTX ranges for other tools"):
                annotated_run(self.executor, self.prepared.structure, layers=layers)

    def _serialize(self) -> None:
        """Layers with the device to themselves, if that was asked for, or if layers overlapped on
        any rank and there is time.
        """
        what = "layers with the device to themselves"
        asked, traced = self.options.serialize, self.prepared.traced
        overlapping = self.executor.ranks.any(self.shared > 0)
        wanted = asked or (asked is None and overlapping)
        if wanted and not asked:
            latest_ns = self.tables["runs"]["latency_ns"].iloc[-len(traced) :]
            seconds = expected_s(float(latest_ns.max())) + fit_s(len(self.tables["spans"]))
            wanted = self._all_have_time(seconds, what)
        missing = [level.name for level in (Level.LAYER, Level.KERNEL) if level not in traced]
        if asked and missing:
            self.cut_off.append(Doubt.of(Slug.NOT_SERIALIZED, missing=missing))
        elif wanted and not missing:
            with self._dispensable(what):
                self.tables["serialized"] = serialize_layers(
                    self.executor, self.executor.target, self.prepared
                )

    def _lead_compiled_kernels(self) -> None:
        """Which source layers compiled kernels come from, where any rank's target runs some. Not
        for whole calls alone: code may have to be generated once more, which takes minutes.
        """
        what = "source layers of compiled kernels"
        if self.prepared.traced[-1] == Level.MODEL:
            return
        if not self.executor.ranks.any(self.prepared.runs_compiled_code):
            return
        latest_ns = float(self.tables["runs"]["latency_ns"].max())
        if self._all_have_time(compiled.expected_s(latest_ns), what):
            with self._dispensable(what):
                tables, doubts = compiled.lead_kernels(
                    self.executor, self.prepared, self.tables, self.deadline
                )
                self.tables |= tables
                self.cut_off += doubts

    def _all_have_time(self, seconds: float, what: str) -> bool:
        """Whether every rank has time for so many seconds of what all do together; if not, it is
        said to be missing.
        """
        late = self.executor.ranks.any(not self.deadline.fits(seconds))
        if late:
            self._say_missing(what)
        return not late

    def _say_missing(self, what: str) -> None:
        self.cut_off.append(Doubt.of(Slug.OUT_OF_TIME, missing=what))

    @contextmanager
    def _dispensable(self, what: str) -> Iterator[None]:
        """Work whose interruption costs what it would have given, but not the rounds."""
        try:
            yield
        except KeyboardInterrupt:
            self.cut_off.append(Doubt.of(Slug.CUT_SHORT, missing=what))
