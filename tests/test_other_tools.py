"""Other tools around a profile, and a process that ends during one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from quick import LAYERS, TESTED
from torch import nn
from torch.profiler import ProfilerActivity

import xsp
from xsp.levels.layer import hotpath


@pytest.fixture
def session() -> Iterator[torch.profiler.profile]:
    """A session of torch.profiler."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as running:
        yield running


def operators(running: torch.profiler.profile) -> set[str]:
    """Names of what a finished session has recorded."""
    return {event.name for event in running.events() or []}


def test_a_torch_profiler_session_before_and_after_a_profile() -> None:
    """A session before a profile and one after it record as if there had been no profile."""
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    seen = []
    for _ in range(2):
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as running:
            model(x)
        seen.append(operators(running))
        assert len(xsp.measure(model, x, **LAYERS).tree()) >= 2
    assert "aten::linear" in seen[0]
    assert seen[0] == seen[1]


def test_a_profile_inside_a_torch_profiler_session() -> None:
    """The session goes on and is not ended by the profile, which says what it could not record."""
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as running:
        prof = xsp.measure(model, x, **LAYERS)
        torch.ones(3).cumsum(0)
    assert "aten::cumsum" in operators(running)
    assert len(prof.tree()) >= 2
    assert any("[memory-unknown]" in warning for warning in prof.warnings)


def test_a_torch_profiler_session_inside_the_profiled_program() -> None:
    """A program that runs sessions of its own can be profiled, and its sessions record."""
    seen: list[set[str]] = []

    class Recording(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
                return super().forward(x)
            with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as running:
                output = super().forward(x)
            seen.append(operators(running))
            return output

    assert len(xsp.measure(Recording(4, 4), torch.randn(2, 4), **LAYERS).tree()) >= 2
    assert len(seen) > 3
    assert all("aten::linear" in each for each in seen)


ENDING = """
import os, signal, sys, threading
import torch, xsp
from torch import nn

torch.set_num_threads(1)
entered = threading.Event()

class Slow(nn.Linear):
    def forward(self, x):
        entered.set()
        for _ in range(50):
            x = super().forward(x)
        return x

def profile():
    while True:
        xsp.measure(Slow(4, 4), torch.randn(2, 4), levels="M/L", iterations=50, progress=False)

thread = threading.Thread(target=profile, daemon=True)
thread.start()
entered.wait()
how = sys.argv[1]
if how == "signal":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)
sys.exit(3)
"""


@pytest.mark.parametrize("how", ["returning", "signal"])
def test_an_interpreter_that_ends_while_a_profile_runs(how: str) -> None:
    """A process whose main thread ends while another one profiles ends with its own status: no
    crash, no hang.
    """
    done = subprocess.run(
        [sys.executable, "-c", ENDING, how],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=TESTED,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stderr[-2000:]


def test_a_free_threaded_python_keeps_its_threads_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python has no global lock the extension, which would switch it on, stays out: its twin
    in Python traces the layers, and `prof.levels` says so.
    """

    def config_var(name: str) -> object:
        return 1 if name == "Py_GIL_DISABLED" else sysconfig.get_config_vars().get(name)

    monkeypatch.setattr(hotpath, "sysconfig", SimpleNamespace(get_config_var=config_var))
    hotpath.extension.cache_clear()
    try:
        prof = xsp.measure(nn.Linear(4, 4), torch.randn(2, 4), **LAYERS)
    finally:
        hotpath.extension.cache_clear()
    by_level = dict(zip(prof.levels["level"], prof.levels["tracer"], strict=True))
    assert "Python" in by_level["LAYER"]
    assert len(prof.tree()) >= 2
