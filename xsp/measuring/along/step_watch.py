"""What a step of the user's loop did, seen cheaply and in every rung alike: its calls of the model,
backward passes, optimizer and scheduler steps, and when it began and ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from xsp.capture.run import MODEL_CALLS
from xsp.levels._native.signals import held
from xsp.levels.layer import parts
from xsp.levels.layer.autograd import run_inside
from xsp.levels.layer.compiled import aside_in_compiled_code
from xsp.levels.layer.entry_points import entry_point, step_in, step_in_by_hooks
from xsp.levels.layer.naming import is_leaf
from xsp.levels.layer.optimizer_parts import Numbers, OptimizerWatch
from xsp.levels.layer.parts import Part
from xsp.levels.layer.scheduler_parts import scheduler_steps
from xsp.levels.layer.tensors import describe_tensors
from xsp.machine import devices
from xsp.machine.dynamo_internals import is_within_compiled_code, passed_over_by_dynamo
from xsp.machine.torch_internals import without_torch_functions
from xsp.types import Columns

LOADER = Part("(loader)", "loader", gives_way=True)
"""From a step's begin to its first call of the model, or to its first other part."""


@dataclass(frozen=True)
class ModelCall:
    """A call of the model: what decides which work it is, apart from values."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    training: bool
    grad: bool


@dataclass(frozen=True)
class Label:
    """What the user calls the kind of a step, in place of the calls of the model that it made."""

    text: str


Event = ModelCall | Label | str
"""A call of the model, what the user calls the step, "backward", "raised", or the name of an
optimizer's or scheduler's step.
"""

Kind = tuple[Event, ...]
"""What a step did, in order: steps of one kind can be compared."""


@dataclass(frozen=True)
class Step:
    """A step that has ended: its stamps (MODEL_CALLS, one row), what it did, and its first call of
    the model; None where it made none.
    """

    stamps: Columns
    kind: Kind
    first_call: ModelCall | None = None


class StepWatch:
    """Watches one model and its optimizers, from `begin` to `end`; or, with `on_call_end`, from the
    begin to the end of each outermost call of the model, and tells it of the step that this was.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model = model
        numbers = Numbers()
        self._optimizers = [OptimizerWatch(each, numbers.of(each), self) for each in optimizers]
        self._given = optimizers
        self.on_call_begin: Callable[[], None] = lambda: None
        self.on_call_end: Callable[[Step], None] | None = None
        self._events: list[Event] = []
        self._label: Label | None = None
        self._parts_before = 0
        self._thread = threading.get_ident()
        self.called_elsewhere = False
        """Of the model, on other threads than the loop's."""
        self.called = False
        """Whether the model was, and not only by what `torch.compile` made of it."""
        self._depth = 0
        self._start_ns = 0
        # Of one layer the tracers time the call, which the wait for data must not reach into.
        self._is_around_tracers = is_leaf(model) and entry_point(model) is not None
        self._step_out: Callable[[], None] = lambda: None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch inside the block."""
        with ExitStack() as undo:
            if not self._is_around_tracers:
                undo.callback(self._step_in())
            undo.callback(run_inside(self._engine))
            undo.callback(scheduler_steps(self._given, self))
            for each in self._optimizers:
                undo.callback(each.watch())
            if self._optimizers:
                undo.callback(aside_in_compiled_code(self._take_out, self._put_in))
            yield

    def _take_out(self) -> None:
        for each in self._optimizers:
            each.take_out()

    def _put_in(self) -> None:
        for each in self._optimizers:
            each.put_in()

    def move_here(self) -> None:
        """The loop runs on this thread."""
        self._thread = threading.get_ident()

    def begin(self) -> None:
        """A step begins now, with a wait for data."""
        self.begin_call(None)
        parts.begin(LOADER)

    def begin_call(self, label: Label | None) -> None:
        """A step begins now: a call of what the user named, which may have called it something."""
        self._events, self._depth = [], 0
        self._parts_before = parts.depth()
        self._label = label
        if self._is_around_tracers:
            self._step_out = self._step_in()
        self._start_ns = time.perf_counter_ns()

    def leave(self) -> None:
        """Before tracers are switched: put back what was stepped in around them."""
        with held():
            self._step_out()
            self._step_out = lambda: None

    def end(self) -> Step:
        """The step ends now; waits for the device."""
        self._end_all()
        returned = time.perf_counter_ns()
        devices.wait_for(devices.in_use())
        finished = time.perf_counter_ns()
        self.leave()
        stamps = self._start_ns, returned, finished
        calls = [event for event in self._events if isinstance(event, ModelCall)]
        return Step(_row(self._thread, *stamps), self._kind(), calls[0] if calls else None)

    def raised(self) -> None:
        """What the step called has raised."""
        if threading.get_ident() == self._thread:
            self._events.append("raised")

    def _kind(self) -> Kind:
        if self._label is None:
            return tuple(self._events)
        rest = (event for event in self._events if not isinstance(event, ModelCall))
        return (self._label, *rest)

    def part_begins(self, part: Part) -> None:
        """See `Told`."""
        if threading.get_ident() != self._thread:
            return
        if part.type not in ("parameters", parts.CLOSURE):
            self._events.append(part.name)
        parts.begin(part)

    def part_ends(self, part: Part) -> None:
        """See `Told`."""
        if threading.get_ident() == self._thread:
            parts.end(part)

    def _step_in(self) -> Callable[[], None]:
        for each in (self._before, self._after):
            passed_over_by_dynamo(each)
        attribute = entry_point(self._model)
        if attribute is None:
            return step_in_by_hooks(self._model, self._before, self._after)

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*args: Any, **kwargs: Any) -> Any:
                if is_within_compiled_code():
                    return call(*args, **kwargs)
                self._before(self._model, args, kwargs)
                try:
                    return call(*args, **kwargs)
                except BaseException:
                    self.raised()
                    raise
                finally:
                    self._after()

            return watched

        return step_in(self._model, attribute, wrap)

    def _before(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if is_within_compiled_code():
            return
        if threading.get_ident() != self._thread:
            self.called_elsewhere = True
            return
        self._depth += 1
        if self._depth > 1:
            return
        self.called = True
        if self.on_call_end is not None:
            self.on_call_begin()
            self._events, self._parts_before = [], parts.depth()
        self._end_loader()
        shapes, dtypes = describe_tensors((args, dict(kwargs)))
        with without_torch_functions():
            grad = torch.is_grad_enabled()
        known = tuple(tuple(shape) for shape in shapes)
        self._events.append(ModelCall(known, tuple(dtypes), model.training, grad))
        if self.on_call_end is not None:
            self._start_ns = time.perf_counter_ns()

    def _after(self, *_: Any) -> None:
        if is_within_compiled_code():
            return
        if threading.get_ident() != self._thread or self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0 and self.on_call_end is not None:
            self.on_call_end(self.end())

    def _engine(self, _roots: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        if threading.get_ident() == self._thread:
            self._events.append("backward")
        return nullcontext()

    def _end_loader(self) -> None:
        if parts.innermost() is LOADER:
            parts.end(LOADER)

    def _end_all(self) -> None:
        """Also a part that an exception cut short, which the loop handled."""
        parts.end_above(self._parts_before)
        for each in self._optimizers:
            each.put_back()


def _row(thread: int, *stamps: int) -> Columns:
    row = (thread & 0xFFFFFFFF, *stamps)
    columns = zip(MODEL_CALLS.items(), row, strict=True)
    return {name: np.array([value], dtype=dtype) for (name, dtype), value in columns}
