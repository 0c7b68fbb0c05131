"""What of a program is profiled: the loop that trains its largest model, the calls of that model
where nothing is trained, or, where there were too few of either, its first calls made again.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from xsp.errors import NothingRecordedError, XspError
from xsp.levels._native.signals import held
from xsp.measuring.along.loop import Loop
from xsp.measuring.call_recorder import CallRecorder
from xsp.measuring.options import Options
from xsp.measuring.profiling import measure_target
from xsp.running.outermost import OutermostCalls
from xsp.running.program import flush_output
from xsp.running.steps import OptimizerTurns, after_each_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsp.capture.file import Capture

CALLS_KEPT = 4
"""Calls whose arguments are kept, to make them again should there be too few to profile along."""

CALLS_BEFORE = 2
"""Calls of a model that runs for its results before the next ones are profiled along."""

CALLS_IN_TRAINING = 16
"""The same of a model in training mode with gradients: so many may come before the first step of an
optimizer.
"""

_OWN_PROFILER = "xsp.profiler"


@dataclass
class Found:
    """What came of it: captures by what their steps did otherwise than the first's, what they are
    of, and why there are none.
    """

    captures: dict[str, Capture] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class Watcher:
    """Watches the program, until `finish`: what trains on this thread, and models that are called
    for their results on any.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._calls = OutermostCalls(self._before, self._after)
        self._turns = OptimizerTurns(self._train)
        self._model: nn.Module | None = None
        self._size = 0
        self._count = 0
        self._recorder: CallRecorder | None = None
        self._loop: Loop | None = None
        self._is_training = False
        self._undo = ExitStack()
        self._said: list[str] = []
        self._process = os.getpid()
        self._thread = threading.get_ident()
        os.register_at_fork(after_in_child=self._stand_back)

    def start(self) -> None:
        """From now on."""
        self._calls.start()
        self._turns.start()

    def finish(self, *, whole: bool, interrupted: bool) -> Found:
        """End it, and say what was found; `whole` where the program came to its end, so that its
        calls may be made again.
        """
        self._stop_looking()
        found = self._along(interrupted=interrupted)
        if not found and whole:
            found = self._again()
        return Found(found, self._said)

    def _stand_back(self) -> None:
        """A forked process is another program: it ends as it would have without xsp."""
        self._stop_looking()
        self._undo.close()
        self._loop = self._recorder = None

    def _stop_looking(self) -> None:
        self._record_no_more()
        self._turns.stop()

    def _before(self, module: nn.Module) -> None:
        size = _size(module)
        if size > self._size:
            self._model, self._size, self._count = module, size, 0
            self._record(module)

    def _record(self, module: nn.Module) -> None:
        if self._recorder is not None:
            self._recorder.stop()
        self._recorder = CallRecorder(module, accept_changed=self._options.accept_changed)
        with held():
            self._recorder.start()

    def _after(self, module: nn.Module) -> None:
        if module is not self._model:
            return
        self._count += 1
        if self._count >= CALLS_KEPT and self._recorder is not None:
            self._recorder.stop()
        if self._turns.any_seen or self._loop is not None:
            return
        trains = module.training and torch.is_grad_enabled()
        if self._count >= (CALLS_IN_TRAINING if trains else CALLS_BEFORE):
            self._follow(module)

    def _follow(self, module: nn.Module) -> None:
        """Make each further call of the model a step, until an optimizer steps."""
        if self._own_profile():
            return
        self._record_no_more()
        loop = Loop(module, (), self._options)
        with self._told():
            with held():
                loop.follow_calls()
            self._loop = loop

    def _record_no_more(self) -> None:
        """What replaces a part of torch is put back before a loop replaces it in turn."""
        self._calls.stop()
        if self._recorder is not None:
            self._recorder.stop()

    def _train(self, optimizers: list[Optimizer]) -> None:
        """Make each turn of these optimizers a step; called in a step of the first of them."""
        if threading.get_ident() != self._thread or self._model is None or self._own_profile():
            return
        self._close_loop()
        self._record_no_more()
        self._is_training = True
        self._loop = Loop(self._model, optimizers, self._options)
        # The first of them is in its step: its end is that of a turn already begun.
        self._undo.callback(after_each_step(optimizers[-1], self._step))

    def _step(self) -> None:
        if self._loop is None or threading.get_ident() != self._thread:
            return
        with self._told():
            self._loop.step()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What cannot be profiled is no error of the program's: it is said at the end."""
        try:
            yield
        except XspError as error:
            self._said.append(str(error))
            ended = self._loop
            self._close_loop()
            # Its complete rounds are shown.
            if ended is not None and ended.has_rounds:
                self._loop = ended

    def _close_loop(self) -> None:
        self._undo.close()
        if self._loop is not None:
            with held():
                self._loop.close()
        self._loop = None

    def _own_profile(self) -> bool:
        if _OWN_PROFILER not in sys.modules:
            return False
        self._stop_looking()
        self._said.append("the program profiles itself with xsp: run it with python")
        self._recorder = None
        return True

    def _along(self, *, interrupted: bool) -> dict[str, Capture]:
        loop = self._loop
        self._close_loop()
        if loop is None:
            return {}
        what = "steps" if self._is_training else "calls"
        try:
            found = loop.captures(interrupted=interrupted)
        except NothingRecordedError as error:
            self._said.append(str(error))
            return {}
        self._said.append(f"profiled along {loop.made} {what}: {loop.name}")
        return found

    def _again(self) -> dict[str, Capture]:
        """Profile the calls that were kept, made again after the program's end."""
        recorder = self._recorder
        if recorder is None:
            if not self._said:
                self._said.append(_NO_MODEL)
            return {}
        try:
            target = recorder.target()
            with _muted():
                found = measure_target(target, self._options, recorder.random)
        except Exception as error:  # the program has ended: this is told, not raised
            self._said.append(f"its calls could not be made again: {type(error).__name__}: {error}")
            return {}
        kept = len(target.calls)
        first = "its call was" if kept == 1 else f"its first {kept} calls were"
        trained = self._is_training or self._turns.any_seen
        self._said.append(
            f"too few calls of {type(self._model).__name__} to profile along: {first} made again "
            "after the program's end" + (", without a backward pass" if trained else "")
        )
        return {"": found}


_NO_MODEL = (
    "no module with parameters was called, so nothing was profiled; profile "
    "other code with xsp.measure(function)"
)


def _size(module: nn.Module) -> int:
    """Numbers in its parameters; those of a lazy module count once they are known."""
    sizes = (
        each.numel()
        for each in module.parameters()
        if not isinstance(each, nn.parameter.UninitializedParameter)
    )
    return sum(sizes)


@contextmanager
def _muted() -> Iterator[None]:
    """What runs again inside the block prints nothing to standard output."""
    flush_output()
    try:
        kept = os.dup(1)
    except OSError:  # The program has closed it.
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
            flush_output()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
