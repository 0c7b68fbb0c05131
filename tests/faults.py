"""Exceptions and signals at chosen places of xsp, and what they may leave behind: nothing.

A *place* is a file, a function and a line or an instruction in it, in the n-th execution of that
line.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import linecache
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo import eval_frame
from training_functions import training_functions

import xsp
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels._native.signals import forget
from xsp.machine import torch_internals
from xsp.measuring import turns

PACKAGE = Path(xsp.__file__).parent

SWITCHING = (
    "profiler.py",
    "measuring/call_recorder.py",
    "measuring/executor.py",
    "measuring/profiling.py",
    "measuring/preparation.py",
    "measuring/state.py",
    "measuring/switching.py",
    "measuring/turns.py",
    "measuring/ladder.py",
    "measuring/target.py",
    "measuring/along/following.py",
    "measuring/along/groups.py",
    "measuring/along/loop.py",
    "measuring/along/step_watch.py",
    "measuring/afterwards/extra_runs.py",
    "measuring/afterwards/memory.py",
    "measuring/afterwards/calibration.py",
    "machine/torch_internals.py",
    "levels/layer/autograd.py",
    "levels/layer/backward.py",
    "levels/layer/compiled.py",
    "levels/layer/entry_points.py",
    "levels/layer/function_mode.py",
    "levels/layer/ranges.py",
    "levels/layer/structure_run.py",
    "levels/layer/backward_rows.py",
    "levels/layer/call_rows.py",
    "levels/layer/places.py",
    "levels/layer/custom_functions.py",
    "levels/layer/distributed.py",
    "levels/layer/discovery.py",
    "levels/layer/undisturbed.py",
    "levels/layer/mode_switch.py",
    "levels/layer/parts.py",
    "levels/layer/training_parts.py",
    "levels/layer/every_optimizer.py",
    "levels/layer/optimizer_parts.py",
    "levels/layer/scheduler_parts.py",
    "levels/layer/hotpath.py",
    "levels/layer/tracer.py",
    "levels/library/tracer.py",
)
"""The files whose code changes something that belongs to the program, or decides when."""


class Fault(Exception):
    """What the injected faults raise; no code of xsp or torch handles it."""


@dataclass(frozen=True, order=True)
class Place:
    """A line, or an instruction of it (`offset` >= 0), the `visit`-th time it is reached."""

    file: str
    function: str
    line: int
    offset: int
    visit: int


@dataclass
class Watch:
    """A trace function that calls `reached` at every place of the files `only`."""

    reached: Callable[[Place, FrameType], None]
    only: frozenset[str] = frozenset(SWITCHING)
    opcodes: bool = False
    visits: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        path = frame.f_code.co_filename
        file = path[len(str(PACKAGE)) + 1 :] if path.startswith(str(PACKAGE)) else ""
        if file not in self.only:
            return None
        if event == "call":
            frame.f_trace_opcodes = self.opcodes
        elif event == ("opcode" if self.opcodes else "line"):
            offset = frame.f_lasti if self.opcodes else -1
            key = (file, frame.f_code.co_name, frame.f_lineno or 0, offset)
            self.visits[key] += 1
            self.reached(Place(*key, self.visits[key]), frame)
        return self


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Run a block under a trace function, on this thread."""
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def places(run: Callable[[], object], *, opcodes: bool = False, visits: int = 1) -> list[Place]:
    """The places that `run` reaches, each up to `visits` times."""
    found: list[Place] = []
    watch = Watch(
        lambda place, _frame: found.append(place) if place.visit <= visits else None,
        opcodes=opcodes,
    )
    with watched(watch):
        run()
    return sorted(found)


def leaves_with(place: Place) -> bool:
    """Whether the line is a `with` that is reached as its block ends. An exception raised by a
    tracer there comes before Python calls `__exit__`, so that no code could unwind it.
    """
    text = linecache.getline(str(PACKAGE / place.file), place.line)
    return text.lstrip().startswith("with ") and place.visit % 2 == 0


def struck(run: Callable[[], object], place: Place, strike: Callable[[], None]) -> BaseException:
    """What reaches the caller of `run` when `strike` is called at `place`; Missed if nothing came
    of it, Unreached if `run` never came there.
    """
    struck_there = False

    def reached(here: Place, _frame: FrameType) -> None:
        nonlocal struck_there
        if here == place:
            sys.settrace(None)
            struck_there = True
            strike()

    try:
        with watched(Watch(reached, opcodes=place.offset >= 0)):
            run()
        raise_pending()
    except BaseException as error:
        return error
    finally:
        # A trace function can raise where Python does not, and leave a block of signals entered.
        forget()
    return Missed() if struck_there else Unreached()


class Missed(Exception):
    """Nothing came of a strike: what it raised was handled where it was raised."""


class Unreached(Missed):
    """There was no strike: another run takes another way."""


def raise_fault() -> None:
    """An exception out of the blue."""
    raise Fault


def raise_asynchronously() -> None:
    """Have Python raise Fault in this thread as soon as it looks for such exceptions, as libraries
    for deadlines do from another thread.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Fault))


def raise_pending() -> None:
    """Python looks for exceptions of other threads and for interrupts when a function begins."""


class Leaving(SystemExit):
    """What the handlers of `handlers` raise."""


@contextlib.contextmanager
def handlers(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Handlers that raise, as programs have them for SIGTERM, and pytest-timeout for SIGALRM."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise Leaving(128 + number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def model_and_input() -> tuple[nn.Module, torch.Tensor]:
    """A model with everything that is put back: buffers, gradients, flags, random draws."""
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 2))
    )
    model.get_parameter("3.0.bias").requires_grad_(False)
    x = torch.randn(3, 4)
    model(x).sum().backward()
    return model, x


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything of a model and of the process that a profile changes for a while."""
    patched = interpose.functions().xsp_interpose_patched() if _native.why_missing() is None else 0
    return {
        "instance attributes": [sorted(vars(module)) for module in model.modules()],
        "entry points": [vars(module).get("_call_impl") for module in model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in model.modules()
        ],
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [id(parameter.grad) for parameter in model.parameters()],
        "gradient values": [
            None if parameter.grad is None else parameter.grad.tolist()
            for parameter in model.parameters()
        ],
        "buffers": [buffer.tolist() for buffer in model.buffers()],
        "buffer objects": [id(buffer) for buffer in model.buffers()],
        "module call": nn.Module.__call__,
        "autograd engine": torch_internals.BACKWARD_ENGINE.value,
        "nvtx": torch_internals.NVTX.value,
        "training functions": training_functions(),
        "function modes": torch._C._len_torch_function_stack(),
        "profiler": torch_internals.is_profiling(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dynamo": [
            getattr(eval_frame, name, None)
            for name in ("_callback_from_stance", "_maybe_set_eval_frame")
        ],
        "handlers": [
            signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)
        ],
        "slots": patched,
        "threads": threading.active_count(),
        "turn": turns._turn.lock._is_owned(),
        "garbage collection": gc.isenabled(),
        "random": hash(random.getstate()),
        "numpy random": np.random.get_state(legacy=False)["state"]["key"].tolist(),
        "torch random": torch.get_rng_state().tolist(),
    }


OF_TRAINING = frozenset({"gradients", "gradient values", "buffers", "torch random"})
"""Of `state_of`, what steps of a training loop change themselves."""


def residue(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not as it was."""
    return [name for name, value in before.items() if after[name] != value]
