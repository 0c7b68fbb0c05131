"""Steps of all optimizers as parts of a step, through torch's hooks around them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.profiler import record_function

from xsp.levels.layer.optimizer_parts import (
    FOLLOWED,
    HookResult,
    Numbers,
    OptimizerWatch,
    StepHook,
    is_followed,
    part_name,
)
from xsp.levels.layer.parts import Announcer, Part
from xsp.machine.torch_internals import Place, range_of_step


class _Here(threading.local):
    def __init__(self) -> None:
        self.stepping: list[OptimizerWatch] = []


class EveryOptimizer:
    """Announces the steps of all optimizers but those that a loop tells of itself."""

    def __init__(self) -> None:
        self._watches: dict[int, OptimizerWatch] = {}
        self._numbers = Numbers()
        self._here = _Here()
        self._hooks: list[StepHook] = []

    def new_run(self) -> None:
        """Forget all optimizers; each has its own groups again."""
        for watch in self._watches.values():
            watch.put_back()
        self._watches.clear()
        self._numbers = Numbers()
        for each in FOLLOWED:
            self._numbers.of(each)

    def watch(self) -> Callable[[], None]:
        """Watch until what is returned is called."""
        before = StepHook(register_optimizer_step_pre_hook(self._begins), self._begins)
        after = StepHook(register_optimizer_step_post_hook(self._ends), self._ends)
        self._hooks = [before, after]
        undo = ExitStack()
        undo.callback(before.remove)
        undo.callback(after.remove)
        undo.callback(self._hooks.clear)
        undo.callback(self._end_steps_that_raise())
        return undo.close

    def take_out(self) -> None:
        """Have optimizers as they are without this: compiled code must not see any of it."""
        for hook in self._hooks:
            hook.take_out()
        for watch in self._watches.values():
            watch.take_out()

    def put_in(self) -> None:
        """Undo a `take_out`."""
        for hook in self._hooks:
            hook.put_in()
        for watch in self._watches.values():
            watch.put_in()

    def _end_steps_that_raise(self) -> Callable[[], None]:
        """No hook is told of them; the range that torch opens around a step is left all the
        same.
        """
        place = Place(record_function, "__exit__")
        leave = place.value

        def left(ranges: Any, kind: Any = None, *exception: Any) -> Any:
            if kind is not None:
                self._raised(ranges.name)
            return leave(ranges, kind, *exception)

        return place.replace(left)

    def zero_grad(self, optimizer: Optimizer) -> Part:
        """What the optimizer's `zero_grad` is called."""
        name = part_name(optimizer, "zero_grad", self._numbers.of(optimizer))
        return Part(name, "zero_grad", is_call=True)

    def _begins(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HookResult:
        if is_followed(optimizer):
            return None
        watch = self._watch_of(optimizer)
        self._here.stepping.append(watch)
        return watch.begins(optimizer, args, kwargs)

    def _ends(self, optimizer: Optimizer, *_: Any) -> None:
        stepping = self._here.stepping
        if stepping and stepping[-1].optimizer is optimizer:
            stepping.pop().ends()

    def _raised(self, name: str) -> None:
        stepping = self._here.stepping
        if stepping and name == range_of_step(stepping[-1].optimizer):
            stepping.pop().ends()

    def _watch_of(self, optimizer: Optimizer) -> OptimizerWatch:
        watch = self._watches.get(id(optimizer))
        if watch is None:
            number = self._numbers.of(optimizer)
            watch = OptimizerWatch(optimizer, number, Announcer())
            self._watches[id(optimizer)] = watch
        return watch
