"""The ladder: re-run the target at increasing depth, all rungs in turn, so that each level's
latency is known free of the cost of tracing the levels below (XSP, section III-C, leveled
experimentation).

Runs are interleaved, in a random order within each round, because hosts and GPU clocks drift:
differences between rungs are only meaningful within a round.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xsp.capture.run import Run
from xsp.doubts import Stopped, StopReason
from xsp.errors import TargetError
from xsp.levels._native.signals import held
from xsp.measuring.executor import Executor
from xsp.measuring.options import NESTED, SEPARATE, Stop
from xsp.measuring.switching import tracing
from xsp.types import Columns, Level, RunSpec, Tracer, by_depth

# The first execution after switching tracers pays for cold code and first-use set-up; it is not
# counted.
SETTLING_RUNS = 1


@dataclass(frozen=True)
class Ladder:
    """What to run: the rungs, outermost first, and the seed of their order within rounds."""

    rungs: tuple[RunSpec, ...]
    seed: int = 0


def rungs_for(levels: Sequence[Level], ladder: str = NESTED) -> tuple[RunSpec, ...]:
    """The ladder over the traced levels: M, M/L, M/L/Lib, M/L/Lib/K where these four are traced,
    with operators M, M/L, M/L/O, M/L/O/Lib, M/L/O/Lib/K.

    A separate one is M, M/L, M/Lib, M/K and, to say what belongs to what, M/L/Lib/K. With fewer
    than two levels below MODEL both are the same.
    """
    ordered = by_depth({Level.MODEL, *levels})
    if ladder == SEPARATE and len(ordered) > 2:
        alone = [(Level.MODEL, level) for level in ordered[1:]]
        rungs = [(Level.MODEL,), *alone, ordered]
    else:
        rungs = [ordered[:depth] for depth in range(1, len(ordered) + 1)]
    return tuple(RunSpec(traced) for traced in rungs)


def climb(
    executor: Executor,
    ladder: Ladder,
    tracers: Mapping[Level, Tracer],
    stop: Stop,
    on_round: Callable[[int], None] = lambda _round: None,
) -> tuple[list[Run], Stopped]:
    """Run rounds of all rungs until `stop` gives a reason. Returns the runs, in the order they were
    made, and it.

    An exception of the target passes through with a note that names the rung; tracers are stopped
    first. KeyboardInterrupt between or within rounds ends the climb and keeps the finished rounds,
    if there is one.
    """
    order = random.Random(ladder.seed)  # noqa: S311 - an order of experiments, not a secret
    runs: list[Run] = []
    number = 0
    while True:
        this_round: list[Run] = []
        rungs = list(ladder.rungs)
        order.shuffle(rungs)
        try:
            for position, spec in enumerate(rungs):
                this_round.append(_visit(executor, spec, tracers, number, position))
            runs, number = [*runs, *this_round], number + 1
            on_round(number)
            stopped = checked(stop(runs), number)
        except KeyboardInterrupt:
            if not runs:
                raise
            return runs, Stopped(StopReason.INTERRUPTED, number)
        if stopped is not None:
            return runs, stopped


def checked(given: Any, rounds: int) -> Stopped | None:
    """What a stopping rule, which can be a caller's own, has given. Raises TargetError for anything
    else than it may give.
    """
    if given is None or isinstance(given, Stopped):
        return given
    if isinstance(given, str):
        return Stopped(StopReason.OWN_RULE, rounds, said=given)
    raise TargetError(
        f"the stopping rule returned {given!r}: it must return None to go on, or a sentence that "
        "says why to stop"
    )


def _visit(
    executor: Executor, spec: RunSpec, tracers: Mapping[Level, Tracer], number: int, position: int
) -> Run:
    active = [tracers[level] for level in spec.levels if level in tracers]
    while True:
        with held(), tracing(active, f"while the target was re-run at rung {spec.name}"):
            for _ in range(SETTLING_RUNS):
                executor.run()
            calls = executor.run(lambda: _new_run(active))
        run = gathered(spec, number, position, calls, active)
        # A tracer starts over once at most.
        if not executor.ranks.any(any(tracer.starts_over() for tracer in active)):
            return run


def gathered(
    spec: RunSpec, number: int, position: int, calls: Columns, active: Sequence[Tracer]
) -> Run:
    """What an execution left with the tracers that were on; they are off again."""
    tables: dict[str, Columns] = {}
    lost = 0
    for tracer in active:
        tables.update(tracer.collect())
        lost += tracer.lost()
    lost += sum(tracer.missing_from(tables, calls) for tracer in active)
    return Run(spec, number, position, calls, tables, lost)


def _new_run(active: Sequence[Tracer]) -> None:
    for tracer in active:
        tracer.new_run()
