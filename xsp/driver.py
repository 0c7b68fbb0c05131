"""The ladder: re-run the target at increasing depth, all rungs in turn, so that each level's latency is known free
of the cost of tracing the levels below (XSP, section III-C, leveled experimentation).

Runs are interleaved, in a random order within each round, because hosts and GPU clocks drift: differences
between rungs are only meaningful within a round.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from xsp.run import MODEL_CALLS, Run
from xsp.state import ModelState, RandomState
from xsp.target import Call, Target
from xsp.types import Columns, Level, RunSpec, Tracer

# The first execution after switching tracers pays for cold code and first-use set-up; it is not counted.
SETTLING_RUNS = 1

Stop = Callable[[Sequence[Run]], "str | None"]
"""Given all runs so far, after a whole round: None to go on, or a sentence that says why enough is known."""


@dataclass(frozen=True)
class Ladder:
    """What to run: the rungs, outermost first, and the seed of their order within rounds."""

    rungs: tuple[RunSpec, ...]
    seed: int = 0


def rungs_for(levels: Sequence[Level]) -> tuple[RunSpec, ...]:
    """The ladder over the traced levels: M, M/L, M/L/Lib, M/L/Lib/K where all four are traced."""
    ordered = tuple(sorted({Level.MODEL, *levels}))
    return tuple(RunSpec(ordered[: depth + 1]) for depth in range(len(ordered)))


class Executor:
    """Executes a target again and again without leaving a trace of it."""

    def __init__(self, target: Target, random: RandomState | None = None) -> None:
        self.target = target
        self._state = ModelState(target.model) if target.model is not None else None
        self._random = (random or RandomState.current()) if target.model is not None else None

    def run(self, ready: Callable[[], None] = lambda: None) -> Columns:
        """Execute once, from the saved state; returns the stamps of the model calls (MODEL_CALLS).

        `ready` is called when the state is restored, just before the first call.
        """
        self._restore()
        with _no_garbage_collection():
            ready()
            stamps = [self._stamped(call) for call in self.target.calls]
        columns = np.array(stamps, dtype=np.int64).reshape(-1, len(MODEL_CALLS)).T
        return {name: column.astype(dtype) for (name, dtype), column in zip(MODEL_CALLS.items(), columns, strict=True)}

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Put random state, buffers, gradients and flags back to what they were when this block began."""
        final = RandomState.current()
        try:
            yield
        finally:
            if self._state is not None:
                self._state.restore_with_gradients()
                final.restore()

    def _restore(self) -> None:
        if self._state is not None and self._random is not None:
            self._state.restore()
            self._random.restore()
        synchronize()

    @staticmethod
    def _stamped(call: Call) -> tuple[int, int, int, int]:
        clock = time.perf_counter_ns
        with call.ambient.restored():
            start = clock()
            output = call()
            returned = clock()
            synchronize()
            finished = clock()
        # Freed only now: giving the output back is not part of the call.
        del output
        return threading.get_ident() & 0xFFFFFFFF, start, returned, finished


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As timeit does: the tracers' objects would make Python collect garbage more often than the unprofiled program, at
    a cost of milliseconds that belongs to no layer.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def synchronize() -> None:
    """Wait for the device, if there is one in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch leaves it unannotated
        torch.cuda.synchronize()


def climb(
    executor: Executor,
    ladder: Ladder,
    tracers: Mapping[Level, Tracer],
    stop: Stop,
    on_round: Callable[[int], None] = lambda _round: None,
) -> tuple[list[Run], str]:
    """Run rounds of all rungs until `stop` gives a reason. Returns the runs, in the order they were made, and it.

    An exception of the target passes through with a note that names the rung; tracers are stopped first.
    KeyboardInterrupt between or within rounds ends the climb and keeps the finished rounds, if there is one.
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
            reason = stop(runs)
        except KeyboardInterrupt:
            if not runs:
                raise
            return runs, f"interrupted after round {number}; the {number} finished rounds are kept"
        if reason is not None:
            return runs, reason


def _visit(executor: Executor, spec: RunSpec, tracers: Mapping[Level, Tracer], number: int, position: int) -> Run:
    active = [tracers[level] for level in spec.levels if level in tracers]
    with tracing(active, f"while the target was re-run at rung {spec.name}"):
        for _ in range(SETTLING_RUNS):
            executor.run()
        calls = executor.run(lambda: _new_run(active))
    tables: dict[str, Columns] = {}
    lost = 0
    for tracer in active:
        tables.update(tracer.collect())
        lost += tracer.lost()
    return Run(spec, number, position, calls, tables, lost)


def _new_run(active: Sequence[Tracer]) -> None:
    for tracer in active:
        tracer.new_run()


@contextmanager
def tracing(active: Sequence[Tracer], when: str) -> Iterator[None]:
    """Tracers on, the innermost level's last, and off again in the opposite order whatever happens."""
    with ExitStack() as stack:
        for tracer in active:
            stack.callback(tracer.stop)
            tracer.start()
        try:
            yield
        except Exception as error:
            add_note(error, f"xsp: raised {_last_layer(active)}{when}")
            raise


def _last_layer(active: Sequence[Tracer]) -> str:
    named = (getattr(tracer, "last_layer", None) for tracer in active)
    last = next((tracer() for tracer in named if tracer is not None), None)
    return f"in or after layer {last!r}, " if last else ""


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note`, which Python 3.10 lacks."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), note]
