"""The synthetic models of benchmarks/attribution.py, with a tracer that takes operations on the CPU for kernels.

What the models launch is counted by a dispatch mode, independently of layers, so this proves the expected numbers and
the way from launches to layers; that CUPTI's records take it too is for tests/gpu/test_attribution_gpu.py.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xsp import levels
from xsp.levels import cupti, kernel
from xsp.types import API_CALLS, DEVICE_ACTIVITY, SYNCHRONIZATIONS, Columns, Level, empty

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    from attribution import CASES, Case, attribution, judged, kernels_by_layer
finally:
    sys.path.remove(BENCHMARKS)

aten = torch.ops.aten
LAUNCHING = {
    aten.mul.Tensor, aten.mul_.Tensor, aten.add.Tensor, aten.relu.default, aten.sin.default, aten.cos.default,
    aten.sum.default, aten.randn.default, aten.fill_.Scalar, aten.ones_like.default,
}  # fmt: skip


class _Stamping(TorchDispatchMode):
    def __init__(self, log: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self._log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.perf_counter_ns()
        with torch._C.DisableTorchFunction():  # to the LAYER tracer this is no call of the program's
            result = func(*args, **(kwargs or {}))
        if func in LAUNCHING:
            self._log.append((threading.get_ident() & 0xFFFFFFFF, begin, time.perf_counter_ns()))
        return result


class OperationTracer:
    """Takes every operation that would launch one kernel on a GPU for its launch and its kernel at once."""

    level, name, names, clock = Level.KERNEL, "operations on the CPU", ("operation",), None

    def __init__(self) -> None:
        self._log: list[tuple[int, int, int]] = []
        self._mode: Any = None

    def start(self) -> None:
        self._mode, self._run = _Stamping(self._log), threading.Thread.run
        self._mode.__enter__()
        log, run = self._log, self._run

        def watched(thread: threading.Thread) -> None:
            with _Stamping(log):  # a dispatch mode belongs to a thread
                run(thread)

        threading.Thread.run = watched  # type: ignore[method-assign]

    def new_run(self) -> None:
        pass

    def stop(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            threading.Thread.run = self._run  # type: ignore[method-assign]
            self._mode = None

    def collect(self) -> dict[str, Columns]:
        rows = list(self._log)
        self._log.clear()
        api, device = empty(API_CALLS, len(rows)), empty(DEVICE_ACTIVITY, len(rows))
        for place, (thread, begin, end) in enumerate(rows):
            api["thread"][place] = thread
            for table in (api, device):
                table["start_ns"][place], table["end_ns"][place] = begin, end
                table["correlation_id"][place] = place + 1
        return {"api_calls": api, "device_activity": device, "synchronizations": empty(SYNCHRONIZATIONS)}

    def lost(self) -> int:
        return 0


@pytest.fixture
def operations_are_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """KERNEL can be traced here, by operations on the CPU."""
    monkeypatch.setattr(kernel, "KernelTracer", OperationTracer)
    monkeypatch.setattr(levels, "why_unavailable", lambda level: "no" if level is Level.LIBRARY else None)
    monkeypatch.setattr(cupti, "api_name", lambda domain, cbid: f"{domain}:{cbid}")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("operations_are_kernels")
def test_every_launch_is_found_under_its_true_layer(name: str) -> None:
    """Each synthetic model launches what it is said to launch, and every launch is found under the layer that did."""
    found = kernels_by_layer(CASES[name].make("cpu"))
    assert judged(CASES[name], found) == {
        "kernels": sum(CASES[name].kernels.values()),
        "right_percent": 100.0,
        "wrong": [],
    }


@pytest.mark.usefixtures("operations_are_kernels")
def test_the_report_has_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's part (d) has a row for each model."""
    only = "nested, shared, functional"
    monkeypatch.setitem(attribution.__globals__, "CASES", {only: CASES[only]})
    assert attribution("cpu") == {only: {"kernels": 17, "right_percent": 100.0, "wrong": []}}


def test_kernels_under_other_layers_are_counted() -> None:
    """A kernel under the wrong layer makes the score less than 100, and both layers are named."""
    case = Case(lambda _device: lambda: None, {("a", "forward"): 4, ("b", "forward"): 6}, whole=True)
    assert judged(case, {("a", "forward"): 4, ("b", "forward"): 5, ("c", "backward"): 1}) == {
        "kernels": 10,
        "right_percent": 80.0,
        "wrong": [
            {"layer": "b", "phase": "forward", "launched": 6, "found": 5},
            {"layer": "c", "phase": "backward", "launched": 0, "found": 1},
        ],
    }
