"""Watching how a model is called inside a `with` block, so that the calls can be made again
afterwards.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from xsp.doubts import Doubt, Slug
from xsp.errors import NothingRecordedError, TargetError
from xsp.levels._native.signals import held
from xsp.levels.layer.autograd import run_inside
from xsp.levels.layer.discovery import Discovered, discovered, shapes_of
from xsp.levels.layer.entry_points import entry_point, step_in
from xsp.machine.ambient import Ambient
from xsp.machine.dynamo_internals import is_within_compiled_code, passed_over_by_dynamo
from xsp.machine.torch_internals import COMPILED_CALL
from xsp.measuring.arguments import copy_arguments, list_arguments
from xsp.measuring.collected import Collected
from xsp.measuring.driving import is_lazy
from xsp.measuring.python_state import Attributes, attributes, copier_for
from xsp.measuring.state import RandomState
from xsp.measuring.target import Call, Target

MAX_CALLS = 256
"""Calls kept of one block: prefill and decode steps of a generation, each with copies of its
inputs and of the cache that it was given."""

SURE_CALLS = 16
"""So many are kept whatever their copies take."""

MAX_BYTES = 512 << 20
"""Memory that the copies may take beyond SURE_CALLS. They are kept until the block's profile is
made."""


@dataclass
class _Open:
    """A call that has begun and not ended."""

    call: Call
    watch: ExitStack
    returned: bool = False


class CallRecorder:
    """Records the outermost calls of one model: the modes they were made under, arguments and what
    the modules keep in Python from before the call, and the module calls that they made.
    """

    def __init__(self, model: nn.Module, *, accept_changed: bool = False) -> None:
        self._model, self._accept = model, accept_changed
        self._calls: list[Call] = []
        self._left_out = 0
        self._bytes = 0
        self._captured = 0
        self._failed = 0
        self._refused: TargetError | None = None
        self._is_lazy = self._went_backward = False
        self._undo_engine: Callable[[], None] = lambda: None
        self._depth: Counter[int] = Counter()
        self._threads: set[threading.Thread] = set()
        """Held, since the identifier of a thread that has ended is given to the next.
        """
        self._open: dict[int, _Open] = {}
        self._found = Discovered()
        self._start: Attributes | None = None
        self._collected: Collected | None = None
        self._undo: list[Callable[[], None]] = []
        self.random: RandomState | None = None
        """State of the random generators at the first recorded call."""

    def start(self) -> None:
        """Hook the model, and look out for a backward pass."""
        self._undo_engine = run_inside(self._engine)
        for each in (self._before, self._on_return, self._after):
            passed_over_by_dynamo(each)
        if entry_point(self._model) == COMPILED_CALL:
            # Dynamo traces the hooks of a module that was compiled in place.
            self._undo = [step_in(self._model, COMPILED_CALL, self._around)]
            return
        handles = [
            # Called on the class: TorchScript modules have hooks, but refuse to be asked for them.
            nn.Module.register_forward_pre_hook(
                self._model, self._before, with_kwargs=True, prepend=True
            ),
            nn.Module.register_forward_hook(self._model, self._on_return),
            nn.Module.register_forward_hook(self._model, self._after, always_call=True),
        ]
        self._undo = [handle.remove for handle in handles]

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self._before(self._model, args, kwargs)
            try:
                output = call(*args, **kwargs)
                self._on_return(self._model, args, output)
                return output
            finally:
                self._after()

        return recorded

    def stop(self) -> None:
        """Remove the hooks, in the opposite order to that in which they came."""
        # A call that SystemExit or KeyboardInterrupt left: torch calls no hook for these.
        for call in self._open.values():
            call.watch.close()
        self._open.clear()
        for undo in self._undo:
            undo()
        self._undo = []
        self._undo_engine()
        self._undo_engine = lambda: None

    def _engine(self, _tensors: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        self._went_backward = True
        return nullcontext()

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if is_within_compiled_code():
            # The program calls the module through `torch.compile(module)`.
            return
        thread = threading.get_ident()
        self._depth[thread] += 1
        if self._depth[thread] > 1:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            self._captured += 1
        elif self._is_full():
            self._left_out += 1
        else:
            self._begin(thread, Call(self._model, args, dict(kwargs), Ambient.current()))

    def _is_full(self) -> bool:
        # Calls are kept from the first on: later ones are given what earlier ones left.
        kept = len(self._calls) + len(self._open)
        is_large = kept >= SURE_CALLS and self._bytes > MAX_BYTES
        return self._left_out > 0 or kept >= MAX_CALLS or is_large

    def _begin(self, thread: int, call: Call) -> None:
        if self.random is None:
            self.random = RandomState.current()
            self._start = attributes(self._model, copier_for(self._model))
            self._collected = Collected(self._model)
        copier = copier_for(self._model)
        try:
            start = copy_arguments(call, copier, accept=self._accept)
        except TargetError as error:
            # The block goes on: what cannot be made again is refused when it has ended.
            self._refused = self._refused or error
            start = list_arguments(call)
        self._bytes += copier.bytes
        is_first = not self._open
        begun = _Open(replace(call, start=start), ExitStack())
        # A handler that raises in between would leave modules watched that nobody knows of.
        with held():
            self._open[thread] = begun
            if is_first:
                # The model's own call has begun already.
                self._found.sequence.append((self._model, shapes_of(call.args)))
                begun.watch.enter_context(discovered(self._found, blame=False))

    def _on_return(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if is_within_compiled_code():
            return
        self._is_lazy = self._is_lazy or is_lazy(output)
        thread = threading.get_ident()
        if self._depth[thread] == 1 and thread in self._open:
            self._open[thread].returned = True

    def _after(self, *_: Any) -> None:
        if is_within_compiled_code():
            return
        thread = threading.get_ident()
        self._depth[thread] -= 1
        if self._depth[thread] or thread not in self._open:
            return
        with held():
            made = self._open[thread]
            made.watch.close()
            del self._open[thread]
        if made.returned:
            self._calls.append(made.call)
            self._threads.add(threading.current_thread())
        else:
            # The block handled the exception; every re-run would end the profile with it.
            self._failed += 1

    def target(self) -> Target:
        """The recorded calls. Raises NothingRecordedError if there are none to run again."""
        name = type(self._model).__name__
        if not self._calls and self._captured:
            raise NothingRecordedError(
                f"{name} was called {self._captured} times inside the profiled block, each time "
                "under CUDA graph "
                "capture, which cannot be run again; call the model outside the capture, or "
                "profile the replay with "
                "xsp.measure(graph.replay)"
            )
        if not self._calls and self._failed:
            raise NothingRecordedError(
                f"{name} was called {self._failed} times inside the profiled block and raised each "
                "time; "
                "profile a call that returns"
            )
        if not self._calls:
            raise NothingRecordedError(
                f"{name} was never called inside the profiled block; call that very object (not a "
                "copy, not only its submodules, and not what torch.compile made of it: profile "
                "that), or use xsp.measure(callable) for other code"
            )
        if self._refused is not None:
            raise self._refused
        # Calls side by side are made again one after the other: their layers come in another order.
        # What a generator calls, it calls when the block goes through it.
        is_whole = len(self._threads) == 1 and not self._failed and not self._is_lazy
        made = self._found.sequence if is_whole else ()
        return Target(
            name,
            tuple(self._calls),
            self._model,
            tuple(self._doubts()),
            self._start,
            tuple(made),
            self._collected,
        )

    def _doubts(self) -> list[Doubt]:
        doubts = []
        kept = len(self._calls)
        if self._left_out:
            made = kept + self._left_out
            doubts.append(Doubt.of(Slug.LEFT_OUT_CALLS, profiled=kept, made=made))
        if self._failed:
            doubts.append(Doubt.of(Slug.LEFT_OUT_CALLS, failed=self._failed))
        if self._captured:
            doubts.append(Doubt.of(Slug.LEFT_OUT_CALLS, captured=self._captured))
        if self._went_backward:
            doubts.append(Doubt.of(Slug.BACKWARD_IN_BLOCK))
        if len(self._threads) > 1:
            doubts.append(Doubt.of(Slug.SEVERAL_THREADS, threads=len(self._threads)))
        return doubts
