"""What each step of a loop is for, as a generator: each `yield` is one step, and what is switched
on around the `yield` is switched on during the step.

Where ranks run the loop together, they decide together after each step.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from torch import nn

from xsp import levels as level_table
from xsp.capture.run import Run, latency_ns
from xsp.doubts import Doubt, Slug
from xsp.levels.layer.discovery import Discovered, discovered
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.machine import devices
from xsp.machine.dynamo_internals import compiled_frames
from xsp.machine.gpu_state import GpuWatch
from xsp.measuring.along.compiled_steps import CompiledSteps
from xsp.measuring.along.groups import GiveUp, Group, Seen
from xsp.measuring.along.others import different_layers
from xsp.measuring.along.result import Known
from xsp.measuring.along.step_watch import Kind, Step
from xsp.measuring.deadline import WARM_UP_SHARE, Deadline
from xsp.measuring.ladder import SETTLING_RUNS, Ladder, checked, gathered, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.progress import Phases
from xsp.measuring.ranks import Ranks
from xsp.measuring.stopping import rule_for
from xsp.measuring.switching import switched, tracing
from xsp.measuring.warmup import MAXIMUM_RUNS, is_settled
from xsp.provenance.calls import CompiledCode
from xsp.provenance.recording import Recorder
from xsp.tracing import context
from xsp.types import Level, RunSpec, Status, Tracer

Steps = Generator[None, Step, Any]
"""Each `yield` is a step of the loop, and gives it when it has ended."""

TRIES = 8
"""Steps that may become the structure step of a kind before another kind is tried."""


class Following:
    """Follows one loop; `groups` fills as it goes. `recorder` is for what the loop compiles."""

    def __init__(
        self, name: str, model: nn.Module, options: Options, seen: Seen, ranks: Ranks
    ) -> None:
        self._name, self._options, self._ranks = name, options, ranks
        self._model, self._seen = model, seen
        self.recorder, self._begun_ns = Recorder(), time.time_ns()
        self.groups: list[Group] = []
        self._refused: set[Kind] = set()
        self._device = devices.most_used((*model.parameters(), *model.buffers()))

    def steps(self, deadline: Deadline, shown: Phases) -> Steps:
        """Everything, until every group's figures are precise or time is over."""
        shown.begin("structure step")
        with devices.on(self._device):
            statuses = tuple(level_table.statuses(self._options.levels, self._options.refused))
        traced = [status.level for status in statuses if status.status is Status.TRACED]
        self._ranks.same("the traced levels", [level.name for level in traced])
        give_up = self._seen.after_seconds(self._options.budget_s)
        known = yield from self._become_known(None, statuses, give_up)
        if known is None:
            return
        self.groups.append(self._group(known, deadline))
        shown.begin("warm-up")
        yield from self._warm_up(known, deadline)
        shown.begin("rounds")
        waited_enough = self._seen.after_seconds(self._options.budget_s)
        while still := [group for group in self.groups if group.done.stopped is None]:
            for group in still:
                if (yield from self._round(group)):
                    shown.step(1)
                    yield from self._look_into(group)
                    waited_enough = self._seen.after_seconds(self._options.budget_s)
            self._end_those_without_steps(still, all_of_them=self._ranks.any(waited_enough()))
            yield from self._next_group(statuses, deadline)

    def _end_those_without_steps(self, still: Sequence[Group], *, all_of_them: bool) -> None:
        done = len(still) < len(self.groups)
        for group in still:
            overdue = done and self._seen.has_stopped(group.kind)
            if group.done.stopped is None and (all_of_them or overdue):
                group.give_up()

    def _next_group(self, statuses: Sequence[Any], deadline: Deadline) -> Steps:
        """Make the most frequent of the other kinds a group, where there is time for it."""
        kind = self._seen.next_kind(self.groups, self._refused)
        # Ranks see kinds of their own, and must make the same rounds.
        if kind is None or self._ranks.are_several or deadline.left_s <= 0:
            return
        give_up = self._seen.after_steps_for(kind)
        known = yield from self._become_known(kind, statuses, give_up)
        if known is None:
            self._refused.add(kind)
        else:
            self.groups.append(self._group(known, deadline))

    def _look_into(self, group: Group) -> Steps:
        """Steps under watch for compiled code, once a group that runs some has its first round."""
        compiled = group.known.compiled
        if compiled is not None and group.done.rounds == 1:
            yield from compiled.watch(lambda spec: self._visit(group, spec, 0))

    def _group(self, known: Known, deadline: Deadline) -> Group:
        ladder = Ladder(rungs_for(known.traced, self._options.ladder), self._options.seed)
        rule = self._ranks.stop_together(rule_for(self._options, deadline))
        return Group(known, ladder, rule)

    def _become_known(
        self, wanted: Kind | None, statuses: Sequence[Any], give_up: GiveUp
    ) -> Generator[None, Step, Known | None]:
        """Two steps of a kind (of any without `wanted`): one under watch for the modules it calls,
        then the structure step. None where they do not come in time.
        """
        while True:
            found = Discovered()
            with switched(discovered(found, blame=False)):
                first = yield
            if not self._ranks.any(wanted is not None and first.kind != wanted):
                for _ in range(TRIES):
                    known = yield from self._structure_step(first.kind, found, statuses)
                    if known is not None:
                        return known
                    if self._ranks.any(give_up()):
                        return None
            if self._ranks.any(give_up()):
                return None

    def _structure_step(
        self, kind: Kind, found: Discovered, statuses: Sequence[Any]
    ) -> Generator[None, Step, Known | None]:
        """A step that is recorded; None where it was of another kind."""
        traced = tuple(each.level for each in statuses if each.status is Status.TRACED)
        recorder = StructureRecorder(
            found, "step", ranges_are_layers=self._options.ranges_as_layers
        )
        others = level_table.recorders(traced)
        code = CompiledCode()
        with (
            switched(code.watched()),
            tracing(list(others.values()), "in the structure step"),
            switched(recorder),
        ):
            recorder.new_run()
            step = yield
        if self._ranks.any(step.kind != kind):
            return None
        structure = recorder.within(step.stamps)
        is_looked_into = self._ranks.any(code.ran) and Level.LAYER in traced
        with devices.on(self._device):
            watch = GpuWatch()
        return Known(
            self._name,
            tuple(statuses),
            structure,
            {level: tracer.recorded(step.stamps) for level, tracer in others.items()},
            level_table.timed_tracers(traced, structure),
            step,
            self._device,
            watch,
            compiled_frames(),
            self._begun_ns,
            self._ranks.in_one_trace(context.current()),
            self._ranks.place,
            CompiledSteps(self._model, self.recorder, traced) if is_looked_into else None,
        )

    def _warm_up(self, known: Known, deadline: Deadline) -> Steps:
        latencies: list[int] = []
        least_left_s = deadline.left_s - WARM_UP_SHARE * self._options.budget_s
        asked = self._options.warmup
        while len(latencies) < (MAXIMUM_RUNS if asked is None else asked):
            step = yield
            latencies.append(latency_ns(step.stamps))
            if asked is not None:
                continue
            if not self._ranks.any(not is_settled(latencies)):
                return
            if self._ranks.any(deadline.left_s < least_left_s):
                break
        if asked is None:
            known.doubts.append(Doubt.of(Slug.UNSETTLED, runs=len(latencies)))

    def _round(self, group: Group) -> Generator[None, Step, bool]:
        """A step of the group at every rung, in random order; whether they came: other groups have
        their turn while they do not.
        """
        rungs = list(group.ladder.rungs)
        group.order.shuffle(rungs)
        this_round: list[Run] = []
        for position, spec in enumerate(rungs):
            run = yield from self._visit(group, spec, position)
            if run is None:
                return False
            this_round.append(run)
        done = group.done
        done.runs += this_round
        done.rounds += 1
        group.known.watch.read(done.rounds - 1)
        done.stopped = checked(group.rule(done.runs), done.rounds)
        return True

    def _visit(
        self, group: Group, spec: RunSpec, position: int
    ) -> Generator[None, Step, Run | None]:
        """One timed step at a rung, after those that settle it; None where no step like the
        structure step came in time.
        """
        known = group.known
        active = [known.tracers[level] for level in spec.levels if level in known.tracers]
        give_up = self._patience(group)
        while True:
            with tracing(active, f"in a step at rung {spec.name}"):
                for _ in range(SETTLING_RUNS):
                    yield
                step = yield from self._timed(group.kind, active, give_up)
            if step is None:
                return None
            run = gathered(spec, group.done.rounds, position, step.stamps, active)
            what = different_layers(run, known.structure)
            if not self._ranks.any(bool(what)):
                return run
            if what:
                group.other_layers[what] += 1
            if self._ranks.any(give_up()):
                return None

    def _patience(self, group: Group) -> GiveUp:
        """Every step is slower meanwhile, so a step of the group is waited for as many steps as it
        should take. A loop of one kind on several ranks has nothing else to do.
        """
        if self._ranks.are_several:
            return self._seen.after_seconds(self._options.budget_s)
        return self._seen.after_steps_for(group.kind)

    def _timed(
        self, kind: Kind, active: Sequence[Tracer], give_up: GiveUp
    ) -> Generator[None, Step, Step | None]:
        """The next step of this kind; None where it does not come in time."""
        while True:
            for tracer in active:
                tracer.new_run()
            step = yield
            if not self._ranks.any(step.kind != kind):
                return step
            if self._ranks.any(give_up()):
                return None
