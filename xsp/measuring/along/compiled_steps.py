"""Steps of a loop in which calls of compiled graphs are noted. The loop makes them as it makes all
others: nothing is run again, and what is made of them is made when the loop is over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from xsp.analysis.spans.assembly import Vocabulary
from xsp.analysis.spans.graph_launches import replayed_in
from xsp.capture.run import Run
from xsp.machine.compiler_internals import MovedError, has_graph_trees
from xsp.measuring.along.step_watch import Step
from xsp.measuring.deadline import Deadline
from xsp.measuring.ladder import rungs_for
from xsp.measuring.leading import GENERATED_S, TIMED_RUNS, Watched, led, not_led, noted
from xsp.measuring.switching import switched
from xsp.provenance.calls import Entries, GraphCalls
from xsp.provenance.recording import Recorder
from xsp.types import Level, RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from xsp.types import Tables

Visit = Callable[[RunSpec], Generator[None, Step, Run | None]]
"""A step of the loop at a rung; None where it does not come in time."""

_TOO_FEW = "the loop ended, or its steps came too rarely, before two more could be watched for it"

_AS_CAPTURED = (
    "replays of the compiler's CUDA graphs are told by the names of their kernels alone, since "
    "along a loop nothing is run without these graphs; measure a step with xsp.measure(step)"
)


@dataclass
class CompiledSteps:
    """Steps of one kind under watch: the deepest rung once, and MODEL and LAYER up to five times.

    `recorder` wrote down what was compiled while the loop was followed.
    """

    model: nn.Module
    recorder: Recorder
    traced: Sequence[Level]
    entries: Entries = field(default_factory=Entries)
    moved: str = ""

    def __post_init__(self) -> None:
        self._deepest: list[Run] = []
        self._timed: list[Run] = []
        self._calls, self._timed_calls = GraphCalls(), GraphCalls()

    def watch(self, visit: Visit) -> Generator[None, Step, None]:
        """Two or more steps; fewer where they do not come."""
        spec = RunSpec(tuple(each for each in self.traced if each <= Level.LAYER))
        try:
            with switched(self.entries.watched()):
                yield from self._note(visit, rungs_for(self.traced)[-1], self._deepest, self._calls)
            for _ in range(TIMED_RUNS if self._deepest else 0):
                yield from self._note(visit, spec, self._timed, self._timed_calls)
        except MovedError as error:
            self.moved = str(error)

    def _note(
        self, visit: Visit, spec: RunSpec, runs: list[Run], calls: GraphCalls
    ) -> Generator[None, Step, None]:
        with switched(calls.watched()):
            run = yield from visit(spec)
        if run is not None:
            runs.append(run)

    def tables(
        self, tables: Tables, words: Vocabulary, deadline: Deadline
    ) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """Tables and sentences of `leading.led`. Code that was compiled before it was watched is
        generated once more as long as there is time.
        """
        if self.moved or not self._timed:
            return {}, [not_led(self.moved or _TOO_FEW)]
        model, entries = self.model, self.entries
        deepest = noted(self._calls, self._deepest, words, model, entries=entries)
        timed = noted(self._timed_calls, self._timed, words, model, deepest.graphs)
        is_replaying = has_graph_trees() and len(replayed_in(deepest.tables)) > 0
        doubts = (not_led(_AS_CAPTURED),) if is_replaying else ()
        watched = Watched(deepest, timed, None, entries, doubts)
        return led(
            watched,
            self.recorder,
            self.traced,
            tables,
            lambda: deadline.fits(GENERATED_S),
        )
