"""A KERNEL tracer for machines without a GPU: operations on the CPU stand for kernels and for their
launches.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xsp import levels
from xsp.levels.kernel import cupti
from xsp.levels.kernel import tracer as kernel
from xsp.types import API_CALLS, DEVICE_ACTIVITY, SYNCHRONIZATIONS, Columns, Level, Tracer, empty

aten = torch.ops.aten
LAUNCHING = {
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.add.Tensor,
    aten.relu.default,
    aten.sin.default,
    aten.cos.default,
    aten.sum.default,
    aten.randn.default,
    aten.fill_.Scalar,
    aten.ones_like.default,
}


class _Stamping(TorchDispatchMode):
    def __init__(self, log: list[tuple[int, int, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        self._log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.perf_counter_ns()
        with (
            torch._C.DisableTorchFunction()
        ):  # to the LAYER tracer this is no call of the program's
            result = func(*args, **(kwargs or {}))
        if func in LAUNCHING:
            self._log.append((threading.get_ident() & 0xFFFFFFFF, begin, time.perf_counter_ns()))
        return result


class OperationTracer(Tracer):
    """Takes every operation that would launch one kernel on a GPU for its launch and its kernel at
    once.
    """

    level, name, names = Level.KERNEL, "operations on the CPU", ("operation",)

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

        setattr(threading.Thread, "run", watched)  # noqa: B010 - mypy takes no method

    def new_run(self) -> None:
        pass

    def stop(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            setattr(threading.Thread, "run", self._run)  # noqa: B010 - mypy takes no method
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
        return {
            "api_calls": api,
            "device_activity": device,
            "synchronizations": empty(SYNCHRONIZATIONS),
        }

    def lost(self) -> int:
        return 0


def operations_are_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on KERNEL can be traced, by operations on the CPU."""
    monkeypatch.setattr(kernel, "KernelTracer", OperationTracer)
    monkeypatch.setattr(
        levels, "why_unavailable", lambda level: "no" if level is Level.LIBRARY else None
    )
    monkeypatch.setattr(cupti, "api_name", lambda domain, cbid: f"{domain}:{cbid}")
