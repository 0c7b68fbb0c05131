"""Steps of the user's own loop as runs of the ladder.

What one step is for comes from a generator: each `yield` is one step of the loop, and what is
switched on around the `yield` is switched on during the step. Nothing is run again.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import Optimizer

from xsp import levels as level_table
from xsp.capture.file import Capture
from xsp.capture.run import Run, latency_ns
from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.errors import NothingRecordedError, TargetError
from xsp.levels._native.signals import held
from xsp.levels.layer.discovery import Discovered, discovered
from xsp.levels.layer.function_mode import FunctionalMode
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.machine import devices
from xsp.machine.gpu_state import GpuWatch
from xsp.machine.torch_internals import compiled_frames, modes
from xsp.measuring.along.others import difference, different_layers
from xsp.measuring.along.result import Known, LoopRuns, captured
from xsp.measuring.along.step_watch import Step, StepWatch
from xsp.measuring.deadline import WARM_UP_SHARE, Deadline
from xsp.measuring.executor import executing, refuse_nested
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, checked, gathered, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.progress import Phases, phases
from xsp.measuring.stopping import rule_for
from xsp.measuring.switching import switched, tracing
from xsp.measuring.turns import in_call, turn
from xsp.measuring.warmup import MAXIMUM_RUNS, is_settled
from xsp.tracing import context
from xsp.types import RunSpec, Status, Tracer

Steps = Generator[None, Step, Any]
"""Each `yield` is a step of the loop, and gives it when it has ended."""

_NEED_RUNS = ("metrics", "serialize", "nvtx", "restore")


class Loop:
    """A loop that calls `step` at the end of each of its steps.

    The first call of `step` begins; `close` ends what is on, `capture` gives the result.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], options: Options) -> None:
        self.name = f"{type(model).__name__} step"
        self._model, self._options = model, options
        self._watch = StepWatch(model, optimizers)
        self._thread = threading.get_ident()
        self._modes = modes()
        self._steps: Steps | None = None
        self._others: Counter[str] = Counter()
        self._known: Known | None = None
        self._runs = LoopRuns()
        self.made = 0

    def step(self) -> None:
        """A step of the loop has ended, and the next one begins.

        Raises TargetError where it cannot be followed: on another thread than the block's, or
        inside a torch function mode that was entered within the block.
        """
        self.made += 1
        if self.made > 1 and self._steps is None:
            return
        self._require_place()
        ended = self._watch.end() if self._steps is not None else None
        with held():
            self._go_on(ended)

    def close(self) -> None:
        """Switch everything off; entered in `held()`."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def capture(self) -> Capture:
        """What was measured. Raises NothingRecordedError if the loop was too short for a round."""
        if self._known is None or not self._runs.runs:
            raise NothingRecordedError(self._too_short())
        return captured(self._known, self._runs, self._others, self.made)

    def _go_on(self, ended: Step | None) -> None:
        try:
            if ended is None:
                self._steps = self._followed()
                next(self._steps)
            elif self._steps is not None:
                self._steps.send(ended)
        except StopIteration:
            self._steps = None
            return
        except BaseException:
            self._steps = None
            raise
        self._watch.begin()

    def _require_place(self) -> None:
        if threading.get_ident() != self._thread:
            raise TargetError(
                "prof.step() was called on another thread than the one that entered the block: "
                "call it where the loop runs"
            )
        entered = [mode for mode in modes() if not isinstance(mode, FunctionalMode)]
        if entered != self._modes:
            raise TargetError(
                f"prof.step() was called inside {type(entered[-1]).__name__ if entered else 'none'}"
                ", a torch function mode that the block itself entered or left (such as `with "
                "torch.device(...)`): call prof.step() outside of it, or enter it before the block"
            )

    def _followed(self) -> Steps:
        refuse_nested(self.name)
        refuse_options(self._options)
        with ExitStack() as undo:
            undo.enter_context(turn(self.name))
            undo.enter_context(in_call())
            undo.enter_context(executing())
            undo.enter_context(switched(self._watch.on()))
            deadline = Deadline.of(self._options)
            shown = undo.enter_context(phases(f"xsp {self.name}", self._options, deadline))
            shown.begin("structure step")
            self._known = yield from self._become_known(deadline)
            if self._known is None:
                return
            shown.begin("warm-up")
            yield from self._warm_up(self._known, deadline)
            shown.begin("rounds")
            yield from self._climb(self._known, deadline, shown)

    def _become_known(self, deadline: Deadline) -> Generator[None, Step, Known | None]:
        """Two steps alike: one under watch for the modules it calls, then the structure step. None
        where no two were alike for a whole budget.
        """
        device = devices.most_used((*self._model.parameters(), *self._model.buffers()))
        with devices.on(device):
            statuses = tuple(level_table.statuses(self._options.levels))
            watch = GpuWatch()
        traced = [status.level for status in statuses if status.status is Status.TRACED]
        while True:
            found = Discovered()
            with switched(discovered(found, blame=False)):
                first = yield
            recorder = StructureRecorder(
                found, "step", ranges_are_layers=self._options.ranges_as_layers
            )
            others = level_table.recorders(traced)
            with tracing(list(others.values()), "in the structure step"), switched(recorder):
                recorder.new_run()
                step = yield
            if step.events == first.events:
                break
            self._others[difference(first, step)] += 1
            if deadline.elapsed_s > self._options.budget_s:
                return None
        structure = recorder.within(step.stamps)
        return Known(
            self.name,
            statuses,
            structure,
            {level: tracer.recorded(step.stamps) for level, tracer in others.items()},
            level_table.timed_tracers(traced, structure),
            step,
            device,
            watch,
            compiled_frames(),
            context.current(),
        )

    def _warm_up(self, known: Known, deadline: Deadline) -> Steps:
        latencies: list[int] = []
        least_left_s = deadline.left_s - WARM_UP_SHARE * self._options.budget_s
        asked = self._options.warmup
        while len(latencies) < (MAXIMUM_RUNS if asked is None else asked):
            step = yield
            latencies.append(latency_ns(step.stamps))
            if asked is None and is_settled(latencies):
                return
            if asked is None and deadline.left_s < least_left_s:
                break
        if asked is None:
            known.doubts.append(Doubt.of(Slug.UNSETTLED, runs=len(latencies)))

    def _climb(self, known: Known, deadline: Deadline, shown: Phases) -> Steps:
        ladder = Ladder(rungs_for(known.traced, self._options.ladder), self._options.seed)
        order = random.Random(ladder.seed)  # noqa: S311 - an order of experiments, not a secret
        rule, done = rule_for(self._options, deadline), self._runs
        while done.stopped is None:
            rungs = list(ladder.rungs)
            order.shuffle(rungs)
            this_round: list[Run] = []
            for position, spec in enumerate(rungs):
                run = yield from self._visit(known, spec, position)
                if run is None:
                    done.stopped = self._given_up()
                    return
                this_round.append(run)
            done.runs += this_round
            done.rounds += 1
            shown.step(1)
            known.watch.read(done.rounds - 1)
            done.stopped = checked(rule(done.runs), done.rounds)

    def _visit(
        self, known: Known, spec: RunSpec, position: int
    ) -> Generator[None, Step, Run | None]:
        """One timed step at a rung, after those that settle it; None where no step like the
        structure step came for a whole budget.
        """
        active = [known.tracers[level] for level in spec.levels if level in known.tracers]
        deadline = time.perf_counter() + self._options.budget_s
        while True:
            with tracing(active, f"in a step at rung {spec.name}"):
                for _ in range(SETTLING_RUNS):
                    yield
                step = yield from self._timed(known, active, deadline)
            if step is None:
                return None
            run = gathered(spec, self._runs.rounds, position, step.stamps, active)
            what = different_layers(run, known.structure)
            if not what:
                return run
            self._others[what] += 1
            if time.perf_counter() > deadline:
                return None

    def _timed(
        self, known: Known, active: Sequence[Tracer], deadline: float
    ) -> Generator[None, Step, Step | None]:
        """The next step like the structure step; None where the deadline passes first."""
        while True:
            for tracer in active:
                tracer.new_run()
            step = yield
            what = difference(known.step, step)
            if not what:
                return step
            self._others[what] += 1
            if time.perf_counter() > deadline:
                return None

    def _given_up(self) -> Stopped:
        said = (
            f"given up after {self._runs.rounds} rounds: for {self._options.budget_s:.0f} s no "
            "step was like the structure step"
        )
        return Stopped(StopReason.OWN_RULE, self._runs.rounds, said=said)

    def _too_short(self) -> str:
        traced = self._options.levels if self._known is None else self._known.traced
        rungs = len(rungs_for(traced, self._options.ladder))
        others = f"; {sum(self._others.values())} were of other work" if self._others else ""
        return (
            f"the loop's {self.made} steps were too few to measure one round of {rungs} rungs, "
            f"which takes two steps each after the first ones{others}: let it make more steps, "
            "trace fewer levels, or give warmup=0"
        )


def refuse_options(options: Options) -> None:
    """Raise TargetError for an option that takes runs of its own."""
    for name in _NEED_RUNS:
        if getattr(options, name):
            raise TargetError(
                f"{name}={getattr(options, name)!r} needs runs of its own, and along a loop "
                "(prof.step()) nothing is run again: leave it out, or measure a step with "
                "xsp.measure(step)"
            )
