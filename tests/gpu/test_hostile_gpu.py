"""On a real GPU: launches against an independent count, other profilers around a profile, and a
process that ends or forks during one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity

import xsp
from xsp.levels.kernel.tracer import KernelTracer
from xsp.levels.library.launches import is_checked, launch_domain
from xsp.levels.library.tracer import LibraryTracer
from xsp.measuring.switching import tracing
from xsp.types import Level

pytestmark = pytest.mark.gpu

OPTIONS = {"iterations": 3, "warmup": 2, "progress": False}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Convolutions (cuDNN), products (cuBLAS) and PyTorch's own kernels."""
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 900, 64),
    ]
    return nn.Sequential(*layers).cuda().eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """A batch for it."""
    return torch.randn(8, 3, 32, 32, device="cuda")


def traced_levels(prof: xsp.Profile) -> dict[str, str]:
    """By level, its status."""
    table = prof.levels
    return dict(zip(table["level"], table["status"], strict=True))


def test_cupti_recorded_every_launch_that_the_slots_saw(
    model: nn.Module, x: torch.Tensor, record_property: Callable[[str, object], None]
) -> None:
    """PyTorch's launches, counted at their import slots, all have their record; leaving one record
    out is noticed.
    """
    assert is_checked()
    with torch.no_grad():
        model(x)
    library, kernel = LibraryTracer(), KernelTracer()
    assert kernel.availability() is None
    with tracing([library, kernel], "in a test"), torch.no_grad():
        begin = time.monotonic_ns()
        for _ in range(50):
            model(x)
        torch.cuda.synchronize()
        calls = {"start_ns": np.array([begin]), "end_ns": np.array([time.monotonic_ns()])}
    tables = library.collect() | kernel.collect()
    launched = len(library.launches["symbol"])
    record_property("launches compared", launched)
    assert launched >= 50
    assert all(launch_domain(library.symbols[s]) is not None for s in library.launches["symbol"])
    assert library.missing_from(tables, calls) == 0
    # A witness that never complains would be none.
    records = tables["api_calls"]
    first = library.launches["start_ns"][0], library.launches["end_ns"][0]
    inside = (records["start_ns"] >= first[0] - 2000) & (records["end_ns"] <= first[1] + 2000)
    assert inside.any()
    rest = {name: column[~inside] for name, column in records.items()}
    assert library.missing_from({"api_calls": rest}, calls) >= 1


def test_a_whole_profile_loses_no_launch(model: nn.Module, x: torch.Tensor) -> None:
    """With the check on, every rung of a profile agrees with the slots: nothing counts as lost."""
    prof = xsp.measure(model, x, **OPTIONS)
    assert traced_levels(prof)["KERNEL"] == "traced"
    assert prof.lost == 0


def test_torch_profiler_before_during_and_after(model: nn.Module, x: torch.Tensor) -> None:
    """During a session of torch.profiler KERNEL says why it is missing, and the session records;
    after it KERNEL is traced.
    """
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as session:
        during = xsp.measure(model, x, **OPTIONS)
        model(x)
        torch.cuda.synchronize()
    reasons = dict(zip(during.levels["level"], during.levels["reason"], strict=True))
    assert traced_levels(during)["KERNEL"] == "unavailable"
    assert "torch.profiler" in reasons["KERNEL"]
    assert any(str(event.device_type).endswith("CUDA") for event in session.events() or [])
    after = xsp.measure(model, x, **OPTIONS)
    assert traced_levels(after)["KERNEL"] == "traced"
    assert after.kernel_count > 0


def run(program: str, *prefix: str, status: int = 0) -> str:
    """What a Python program prints, run under `prefix`; it must end with `status`."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == status, f"{done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


PROTON = """
import torch, xsp, triton.profiler as proton
from torch import nn

model, x = nn.Linear(64, 64).cuda(), torch.randn(8, 64, device="cuda")
proton.start("/tmp/xsp_proton_test")
for phase in ("during", "after"):
    prof = xsp.measure(model, x, iterations=2, warmup=1, progress=False)
    table = prof.levels.set_index("level")
    print(phase, table.loc["KERNEL", "status"], prof.kernel_count, table.loc["KERNEL", "reason"])
    if phase == "during":
        proton.finalize()
try:
    proton.start("/tmp/xsp_proton_test")
except RuntimeError as error:
    print("again refused", error)
else:
    print("again started")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
def test_proton_during_after_and_again() -> None:
    """Proton takes CUPTI for itself: while it runs KERNEL is traced or says why not, and nothing
    crashes. Once torch's profiler has run, as it does for a profile's memory, CUPTI is torch's for
    the rest of the process: Proton then refuses by its own error or starts.
    """
    said = run(PROTON)
    phases = {line.split()[0]: line.split()[1] for line in said.splitlines() if line}
    assert phases["during"] in {"traced", "unavailable"}
    assert phases["after"] in {"traced", "unavailable"}
    assert phases["again"] in {"refused", "started"}


NSIGHT = """
import torch, xsp
from torch import nn

x = torch.randn(8, 64, device="cuda")
prof = xsp.measure(nn.Linear(64, 64).cuda(), x, iterations=2, warmup=1, progress=False)
table = prof.levels.set_index("level")
print("xsp:", table.loc["KERNEL", "status"], table.loc["KERNEL", "reason"], len(prof.tree()))
"""


NSIGHT_TOOLS = {
    "nsys": ["profile", "--trace=cuda"],
    # One kernel is profiled, the rest of the program runs as it is.
    "ncu": ["--launch-count=1", "--metrics=sm__cycles_elapsed.max"],
}


@pytest.mark.parametrize("tool", NSIGHT_TOOLS)
def test_under_nsight(tool: str, tmp_path: Path) -> None:
    """A profiled program under Nsight Systems or Nsight Compute ends as without it, and KERNEL is
    traced or says why not.
    """
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    said = run(NSIGHT, tool, *NSIGHT_TOOLS[tool], "-o", str(tmp_path / "report"))
    assert "xsp: traced" in said or "xsp: unavailable" in said


FORKING = """
import os, torch, xsp
from torch import nn

class Forking(nn.Linear):
    forks = 0
    def forward(self, x):
        if Forking.forks < 3:
            Forking.forks += 1
            child = os.fork()
            if child == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        return super().forward(x)

x = torch.randn(8, 64, device="cuda")
prof = xsp.measure(Forking(64, 64).cuda(), x, iterations=2, warmup=1, progress=False)
assert prof.kernel_count > 0 and prof.lost == 0
"""


def test_a_model_that_forks_is_profiled() -> None:
    """A program that forks, as data loaders do, neither hangs nor crashes in parent or child."""
    run(FORKING)


ENDING = """
import sys, threading, torch, xsp
from torch import nn

entered = threading.Event()

class Slow(nn.Linear):
    def forward(self, x):
        entered.set()
        for _ in range(20):
            x = super().forward(x)
        return x

def profile():
    while True:
        xsp.measure(Slow(64, 64).cuda(), torch.randn(8, 64, device="cuda"), progress=False)

threading.Thread(target=profile, daemon=True).start()
entered.wait()
sys.exit(3)
"""


def test_an_interpreter_that_ends_while_a_profile_runs() -> None:
    """A process whose main thread ends while another one profiles ends with its own status."""
    run(ENDING, status=3)


def test_no_memory_on_the_device(model: nn.Module) -> None:
    """A target that runs out of device memory raises its own error, and the next profile works."""
    free, _ = torch.cuda.mem_get_info()

    def too_much() -> torch.Tensor:
        return torch.empty(free * 2, dtype=torch.uint8, device="cuda")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        xsp.measure(too_much, **OPTIONS)
    prof = xsp.measure(model, torch.randn(8, 3, 32, 32, device="cuda"), **OPTIONS)
    assert prof.lost == 0
    assert np.isfinite(prof.latency_ms)
    assert traced_levels(prof)[Level.KERNEL.name] == "traced"


def test_no_memory_on_the_device_at_any_place() -> None:
    """With any amount of device memory between what the model holds and what a profile takes: a
    profile, or torch's own error; model and process are as they were.
    """
    model = nn.Sequential(nn.Linear(1024, 1024), nn.BatchNorm1d(1024), nn.Linear(1024, 1024)).cuda()
    x = torch.randn(1024, 1024, device="cuda")
    model(x).sum().backward()
    short = {**OPTIONS, "iterations": 1, "warmup": 1}
    xsp.measure(model, x, **short)
    total = torch.cuda.get_device_properties(0).total_memory
    worked = refused = 0
    for extra_mib in range(0, 96, 6):
        torch.cuda.empty_cache()
        before = faults.state_of(model)
        limit = torch.cuda.memory_reserved() + (extra_mib << 20)
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            xsp.measure(model, x, **short)
            worked += 1
        except (torch.cuda.OutOfMemoryError, xsp.XspError):
            refused += 1
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert faults.residue(before, faults.state_of(model)) == [], extra_mib
    assert worked
    assert refused
    assert traced_levels(xsp.measure(model, x, **short))[Level.KERNEL.name] == "traced"


def test_dropout_whose_state_cudnn_keeps_is_told() -> None:
    """An LSTM with dropout between its layers draws numbers that torch cannot put back: the profile
    names it, and says nothing of one without dropout or in evaluation.
    """
    x = torch.randn(5, 2, 8, device="cuda")

    def told(model: nn.Module) -> list[str]:
        prof = xsp.measure(model, x, levels="M", iterations=2, warmup=1, progress=False)
        return [sentence for sentence in prof.warnings if "hidden-generator" in sentence]

    assert len(told(nn.LSTM(8, 16, 2, dropout=0.2).cuda())) == 1
    assert told(nn.LSTM(8, 16, 2).cuda()) == []
    assert told(nn.LSTM(8, 16, 2, dropout=0.2).cuda().eval()) == []
