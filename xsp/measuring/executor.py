"""Executes a target again and again without leaving a trace of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from xsp.capture.run import MODEL_CALLS
from xsp.errors import TargetError
from xsp.levels._native.signals import held, let_through
from xsp.levels.kernel.cupti_clock import kept_clock
from xsp.levels.layer.tensors import tensors_in, versions
from xsp.machine import devices
from xsp.machine.torch_internals import without_torch_functions
from xsp.measuring.arguments import Arguments
from xsp.measuring.collected import Globals, HookState
from xsp.measuring.collecting import no_garbage_collection
from xsp.measuring.python_state import PythonState, copier_for
from xsp.measuring.ranks import Ranks
from xsp.measuring.registered import Registered
from xsp.measuring.restoring import Restored
from xsp.measuring.state import GENERATORS, PYTHON, ModelState, RandomState
from xsp.measuring.switching import complete
from xsp.measuring.target import Call, Target
from xsp.measuring.turns import in_call, turn
from xsp.types import Columns

_EXECUTING = threading.local()

# A forked process is not the profiled program.
os.register_at_fork(after_in_child=lambda: setattr(_EXECUTING, "now", False))


class Executor:
    """Executes a target again and again without leaving a trace of it."""

    def __init__(
        self,
        target: Target,
        random: RandomState | None = None,
        *,
        accept_changed: bool = False,
        restore: Sequence[Any] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.target = target
        self.ranks = ranks or Ranks()
        """Who makes the same runs at the same time."""
        self._restore_too = restore
        self._restored: Restored | None = None
        self.executions = 0
        self._stepped: list[torch.Tensor] = []
        self._stepped_versions: list[int] = []
        self.accept_changed = accept_changed
        self._random = random
        self.drawn: frozenset[str] | None = None
        """The random generators that the target draws from, None before its first run. Only these
        are put back: other threads draw from generators too, ids of OpenTelemetry's spans for
        example, and would draw the same numbers again.
        """
        self.shared: frozenset[str] = frozenset()
        """Of the generators that are put back, those that something else drew from meanwhile."""
        self._left: RandomState | None = None
        self._before_first: RandomState | None = None
        self._state: ModelState | None = None
        self._python: PythonState | None = None
        self._hooks: HookState | None = None
        self._globals: Globals | None = None
        self._arguments: Arguments | None = None
        self._is_first = True
        self._given: dict[str, torch.Tensor] = {}
        self._versions: list[int] = []
        self._devices: tuple[int, ...] = ()

    def run(self, ready: Callable[[], None] = lambda: None) -> Columns:
        """Execute once, from the saved state; returns the stamps of the model calls (MODEL_CALLS).

        `ready` is called when the state is restored, just before the first call.
        """
        with held(), no_garbage_collection(), executing():
            calls = self._restore()
            before = RandomState.current()
            ready()
            self.executions += 1
            with self.ranks.told_of_loss():
                stamps = [self._stamped(call) for call in calls]
            # Reading the generators calls torch functions, which are none of the program's.
            with without_torch_functions():
                self._left = RandomState.current()
                self._note_drawn(self._left.changed(before))
            if self._is_first:
                self._note_changes()
        columns = np.array(stamps, dtype=np.int64).reshape(-1, len(MODEL_CALLS)).T
        return {
            name: column.astype(dtype)
            for (name, dtype), column in zip(MODEL_CALLS.items(), columns, strict=True)
        }

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Runs in this block start from the state that a model has when it begins: random state
        (unless one was given), buffers, gradients and flags. They are put back to that when it
        ends. Another thread's block is waited for.

        Enter it in `held()`, and in it `let_through()`, all in one `with` statement.

        Raises TargetError inside a run, that is, where a profiled program profiles something
        itself, or where the other profile cannot end while this one waits.
        """
        if getattr(_EXECUTING, "now", False):
            raise TargetError(
                f"{self.target.name} cannot be profiled by a program that is itself being "
                "profiled: the two would trace and stop each other; profile only one of them"
            )
        with turn(self.target.name), kept_clock(), self._restoring():
            yield

    def modified(self) -> list[str]:
        """The model's inputs and parameters that runs wrote to, and variables of its modules that
        runs after the first did; nothing puts them back.
        """
        now = versions(list(self._given.values()))
        variables = [] if self._globals is None else self._globals.changed()
        return [
            name
            for name, old, new in zip(self._given, self._versions, now, strict=True)
            if old != new
        ] + [f"global {name}" for name in variables]

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        self._is_first = True
        self._arguments = Arguments(self.target.calls, accept=self.accept_changed)
        if self.target.model is None:
            with self._restoring_too():
                yield
            return
        final = RandomState.current()
        self._random = self._random or final
        self._state = ModelState(self.target.model)
        self._python = PythonState(self.target.model, self.target.start)
        self._hooks = HookState(self.target.model, self.target.collected)
        inputs = tensors_in([(call.args, dict(call.kwargs)) for call in self.target.calls])
        self._given = {f"input {place}": tensor for place, tensor in enumerate(inputs)}
        self._given |= self.target.model.named_parameters()
        self._versions = versions(list(self._given.values()))
        with ExitStack() as undo:
            undo.callback(complete, lambda: final.restore(self._restorable()))
            undo.callback(complete, self._state.restore_with_gradients)
            undo.callback(complete, self._python.restore)
            undo.callback(complete, Registered(self.target.model).restore)
            undo.callback(complete, self._hooks.restore)
            yield

    @contextmanager
    def _restoring_too(self) -> Iterator[None]:
        """For a plain callable: what was named to be put back, with the random state."""
        if not self._restore_too:
            yield
            return
        final = RandomState.current()
        self._random = self._random or final
        self._restored = Restored(self._restore_too)
        with ExitStack() as undo:
            undo.callback(complete, lambda: final.restore(self._restorable()))
            undo.callback(complete, self._restored.restore)
            yield

    def watch_steps(self, models: Iterable[nn.Module]) -> None:
        """From now on note whether a plain callable changes the parameters of these models."""
        if self.target.model is None and self._restored is None:
            self._stepped = [each for model in models for each in model.parameters()]
            self._stepped_versions = versions(self._stepped)

    def steps_made(self) -> int:
        """How often a plain callable was called that changes parameters, which stay changed."""
        return self.executions if versions(self._stepped) != self._stepped_versions else 0

    def _restore(self) -> list[Call]:
        """Put back what runs change; returns the calls with fresh arguments."""
        copier = copier_for(self.target.model)
        if self._state is not None and self._random is not None:
            self._state.restore()
            self._restore_random(self._random)
        if self._restored is not None and self._random is not None:
            self._restored.prepare()
            self._restore_random(self._random)
        if self._python is not None:
            self._python.prepare(copier)
        if self._hooks is not None:
            self._hooks.prepare()
        calls = list(self.target.calls)
        if self._arguments is not None:
            calls = self._arguments.fresh(calls, copier)
        # Asked for here, so that the timed part only waits. A program's first run can be the one
        # that brings a GPU in.
        self._devices = devices.in_use()
        devices.wait_for(self._devices)
        return calls

    def _note_changes(self) -> None:
        self._is_first = False
        if self._python is not None:
            self._python.note_changes()
        if self._hooks is not None:
            self._hooks.note_changes()
        if self.target.model is not None:
            # Only now: what the first run makes once, as tables of constants, harms no other.
            self._globals = Globals(self.target.model)
        if self._arguments is not None:
            self._arguments.note_changes(self.target.calls)

    def _note_drawn(self, now: frozenset[str]) -> None:
        # Python's is the one that other threads use most: only the first run, in which few of them
        # will, tells whether the target does.
        if self.drawn is None and self._before_first is not None:
            # Put back for the first run, though the target does not draw from them: the block has
            # drawn from them since its first call.
            self._before_first.restore(set(GENERATORS) - {PYTHON} - now)
        self.drawn = now if self.drawn is None else self.drawn | (now - {PYTHON})

    def _restore_random(self, start: RandomState) -> None:
        if self.drawn is None:
            # Whether the target draws from Python's is not known yet, and who else does neither.
            self._before_first = RandomState.current()
            start.restore(set(GENERATORS) - {PYTHON})
            return
        if self._left is not None:
            self.shared |= RandomState.current().changed(self._left) & self.drawn
        start.restore(self.drawn)

    def _restorable(self) -> Collection[str]:
        return GENERATORS if self.drawn is None else self.drawn

    def _stamped(self, call: Call) -> tuple[int, int, int, int]:
        clock = time.perf_counter_ns
        with in_call(), call.ambient.restored(), let_through():
            start = clock()
            output = call()
            returned = clock()
            devices.wait_for(self._devices or devices.in_use())
            finished = clock()
        # Freed only now: giving the output back is not part of the call.
        del output
        return threading.get_ident() & 0xFFFFFFFF, start, returned, finished


def refuse_nested(name: str) -> None:
    """Raise TargetError where this thread runs a program that is being profiled."""
    if getattr(_EXECUTING, "now", False):
        raise TargetError(
            f"{name} was to be profiled by a program that is itself being profiled: the two would "
            "trace and stop each other; profile one of them only"
        )


@contextmanager
def executing() -> Iterator[None]:
    """A block in which this thread runs a program that is being profiled."""
    with ExitStack() as undo:
        undo.callback(setattr, _EXECUTING, "now", False)
        _EXECUTING.now = True
        yield


def no_longer_executing() -> None:
    """What `executing` does at its end, where that came on another thread."""
    _EXECUTING.now = False
