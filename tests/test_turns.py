"""One profile at a time: other threads wait, forked processes do not, and nobody waits in vain."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quick import LAYERS, TESTED
from torch import nn

import xsp
from xsp.measuring import turns


class Waiting(nn.Linear):
    """A layer that runs something in its second call, and waits for it in its own way."""

    def __init__(self, during: Any) -> None:
        super().__init__(4, 4)
        # Not an attribute of its own: that is put back before each run.
        calls = itertools.count(1)
        self.during: Callable[[], Any] = lambda: during() if next(calls) == 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.during()
        return super().forward(x)


def test_a_model_that_waits_for_a_thread_which_profiles_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread gets an XspError within the stated time, and the model's own profile goes on."""
    monkeypatch.setattr(turns, "WAITING_S", 0.5)
    errors: list[BaseException] = []

    def inner() -> None:
        try:
            xsp.measure(nn.Linear(4, 4), torch.randn(2, 4), **LAYERS)
        except xsp.XspError as error:
            errors.append(error)

    def join_another_profile() -> None:
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()

    prof = xsp.measure(Waiting(join_another_profile), torch.randn(2, 4), **LAYERS)
    assert len(prof.tree()) >= 2
    assert len(errors) == 1
    assert "Linear cannot be profiled on this thread: another thread is profiling Waiting" in str(
        errors[0]
    )
    assert "test_turns.py" in str(errors[0])


def test_a_call_without_end_does_not_hold_others_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing tells what a call waits for, its duration alone ends the waiting."""
    monkeypatch.setattr(turns, "CALL_S", 0.3)
    release, entered = threading.Event(), threading.Event()

    def spin() -> None:
        entered.set()
        while not release.is_set():
            time.sleep(0.01)

    model = Waiting(spin)
    thread = threading.Thread(target=xsp.measure, args=(model, torch.randn(2, 4)), kwargs=LAYERS)
    thread.start()
    assert entered.wait(60)
    try:
        with pytest.raises(xsp.XspError, match="one call of which has taken"):
            xsp.measure(nn.Linear(4, 4), torch.randn(2, 4), **LAYERS)
    finally:
        release.set()
        thread.join()


CHILD_MEASURES = """
import os, sys, threading
import torch, xsp
from torch import nn

torch.set_num_threads(1)
OPTIONS = dict(levels="M/L", iterations=1, warmup=1, progress=False)
entered, release = threading.Event(), threading.Event()

class Slow(nn.Linear):
    def forward(self, x):
        entered.set()
        release.wait()
        return super().forward(x)

class Forking(nn.Linear):
    pids = []
    def forward(self, x):
        if len(self.pids) < 3:
            child = os.fork()
            if child == 0:
                measure_in_child(self)
            self.pids.append(child)
        return super().forward(x)

def measure_in_child(profiled):
    try:
        here = [
            "_call_impl" in vars(profiled),
            torch.autograd._engine_run_backward is not engine,
            torch._C._len_torch_function_stack() > 0,
        ]
        prof = xsp.measure(nn.Linear(4, 4), torch.randn(2, 4), **OPTIONS)
        os._exit(0 if len(prof.tree()) >= 2 and not any(here) else 1)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(2)

engine = torch.autograd._engine_run_backward
"""

OTHER_THREAD = """
model = Slow(4, 4)
thread = threading.Thread(target=xsp.measure, args=(model, torch.randn(2, 4)), kwargs=OPTIONS)
thread.start()
entered.wait()
child = os.fork()
if child == 0:
    measure_in_child(model)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
release.set()
thread.join()
"""

SAME_THREAD = """
model = Forking(4, 4)
prof = xsp.measure(model, torch.randn(2, 4), **OPTIONS)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in model.pids))
assert len(prof.tree()) >= 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_forked_during_a_profile_can_profile() -> None:
    """Whether another thread is profiling or the profiled model itself forks: in the child nothing
    is traced, and a measurement works and does not wait for a thread that is not there.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD_MEASURES + OTHER_THREAD + SAME_THREAD],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=TESTED,
    )
    assert done.stdout.split() == ["0"] * 4, done.stderr
