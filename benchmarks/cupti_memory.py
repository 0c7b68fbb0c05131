"""What single calls of CUPTI leave in memory: bytes for each time they are made.

Bare calls in a loop, without xsp's tracers, and xsp's own sessions and profiles beside them. Bytes
are what is allocated from the C library (`mallinfo2`) after the loop and was not before.

    python benchmarks/cupti_memory.py [--json out.json]
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path

import torch
from soak import allocated_mb
from torch import nn

import xsp
from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.kernel.cupti_clock import kept_clock
from xsp.levels.kernel.tracer import KernelTracer
from xsp.machine.environment import environment

WARMUP = 20
TIMES = 300
PROFILES = 10


class Bare:
    """CUPTI by its own calls, around a small model."""

    def __init__(self) -> None:
        self._library, self._buffers = CuptiLibrary.loaded(), ActivityBuffers()
        self._buffers.prepare()
        self._kinds = [cupti.kind(name) for name in cupti.LAYOUTS]
        self._layouts = {cupti.kind(name): cupti.layout(name) for name in cupti.LAYOUTS}
        self._model, self._x = nn.Linear(16, 16).cuda(), torch.randn(8, 16, device="cuda")

    def work(self) -> None:
        """The model alone."""
        with torch.no_grad():
            self._model(self._x)
        torch.cuda.synchronize()

    def clock(self) -> None:
        """`cuptiActivityRegisterTimestampCallback`."""
        self._library.register_clock(self._buffers.realtime_clock)

    def callbacks(self) -> None:
        """`cuptiActivityRegisterCallbacks`."""
        self._library.register_buffer_callbacks(self._buffers.requested, self._buffers.completed)

    def switched(self) -> None:
        """`cuptiActivityEnable` and `cuptiActivityDisable` of every kind that xsp uses."""
        for kind in self._kinds:
            self._library.enable(kind)
        for kind in self._kinds:
            self._library.disable(kind)

    def recorded(self) -> None:
        """The same around the model, and `cuptiActivityFlushAll`."""
        for kind in self._kinds:
            self._library.enable(kind)
        self.work()
        for kind in self._kinds:
            self._library.disable(kind)
        self._library.flush()
        self._buffers.decode(self._library.next_record, self._layouts)

    def session(self) -> None:
        """A session of xsp's KERNEL tracer."""
        tracer = KernelTracer()
        tracer.start()
        self.work()
        tracer.stop()
        tracer.collect()

    def series(self) -> None:
        """A hundred of its sessions behind each other, as in a profile."""
        with kept_clock():
            for _ in range(100):
                self.session()

    def profile(self) -> None:
        """A profile of the model."""
        xsp.measure(self._model, self._x, iterations=1, warmup=1, progress=False)


def left_by(call: Callable[[], None], times: int = TIMES, warmup: int = WARMUP) -> float:
    """Bytes that stay allocated for each call."""
    for _ in range(warmup):
        call()
    gc.collect()
    before = allocated_mb()
    for _ in range(times):
        call()
    gc.collect()
    return round((allocated_mb() - before) * (1 << 20) / times, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bare = Bare()
    bytes_each = {
        "model": left_by(bare.work),
        "cuptiActivityRegisterTimestampCallback": left_by(bare.clock),
        "cuptiActivityRegisterCallbacks": left_by(bare.callbacks),
        "cuptiActivityEnable and cuptiActivityDisable": left_by(bare.switched),
        "recorded model, with cuptiActivityFlushAll": left_by(bare.recorded),
        "session of xsp": left_by(bare.session),
        "session of xsp in a series": left_by(bare.series, 3, 1) / 100,
        "profile": left_by(bare.profile, PROFILES, PROFILES),
    }
    text = json.dumps({"bytes_each": bytes_each, "environment": environment()}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
