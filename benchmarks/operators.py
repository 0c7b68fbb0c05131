"""How much slower a program is while its operators are traced.

Every program runs in turn unprofiled, with the OP tracer alone, and under torch.profiler with
`activities=[CPU]`, in a random order within each round. A figure is the trimmed mean over rounds of
the time over the unprofiled time of the same round, with its 95 % interval. Both must count the
same operators.

    python benchmarks/operators.py [--device cuda] [--rounds 40] [--json out.json] [--only NAME]
"""

from __future__ import annotations

import gc
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from by_name import Measures, report
from torch import nn

from xsp.analysis.spans.statistics import trimmed
from xsp.levels.op.tracer import OperatorTracer

Step = Callable[[], object]

ENGINE = "autograd::engine::evaluate_function: "


def small_operators(device: str) -> Step:
    """Many operators on few elements, one after the other: the worst case."""
    x = torch.ones(16, device=device)

    def call() -> None:
        y = x
        for _ in range(300):
            y = y * 1.0001 + 0.1

    return call


def training(device: str) -> Step:
    """A network of convolutions, a step forward and backward."""
    blocks = [
        nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        for _ in range(6)
    ]
    model = nn.Sequential(nn.Conv2d(3, 32, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.to(device)
    x = torch.randn(4, 3, 32, 32, device=device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).square().sum().backward()

    return step


def encoder(device: str) -> Step:
    """A transformer's encoder without its fast path."""
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).to(device)
    x = torch.randn(2, 64, 128, device=device)

    def call() -> None:
        model(x)

    return call


PROGRAMS: dict[str, Callable[[str], Step]] = {
    "300 products and sums of 16 elements": small_operators,
    "training step of 6 convolutions": training,
    "encoder of 4 layers": encoder,
}


@contextmanager
def traced(tracer: OperatorTracer) -> Iterator[None]:
    """As the driver does it; what was recorded is dropped."""
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        tracer.collect()


def torch_profiler() -> AbstractContextManager[Any]:
    """The host alone."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def counted(step: Step, tracer: OperatorTracer) -> tuple[Counter[str], Counter[str]]:
    """Operators of one execution by name: those traced, and those in torch.profiler's trace."""
    tracer.start()
    step()
    tracer.stop()
    events = tracer.collect()["operator_events"]
    mine = Counter(tracer.names[name] for name in events["name"].tolist())
    with torch_profiler() as session:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        session.export_chrome_trace(str(path))
        rows = json.loads(path.read_text())["traceEvents"]
    names = [row["name"] for row in rows if row.get("cat") == "cpu_op"]
    return mine, Counter(name for name in names if not name.startswith(ENGINE))


def once(step: Step, condition: AbstractContextManager[Any], device: str) -> int:
    """Nanoseconds of an execution, after an untimed one under the same condition."""
    with condition:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter_ns()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter_ns() - start


def measured(step: Step, rounds: int, device: str) -> dict[str, Any]:
    """Ratios of the two to the unprofiled time, and what one operator adds."""
    tracer = OperatorTracer()
    for _ in range(3):
        step()
    mine, theirs = counted(step, tracer)
    conditions: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "unprofiled": nullcontext,
        "xsp": lambda: traced(tracer),
        "torch.profiler": torch_profiler,
    }
    order = random.Random(0)
    found: dict[str, list[int]] = {name: [] for name in conditions}
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(conditions), len(conditions)):
                found[name].append(once(step, conditions[name](), device))
            gc.collect()
    finally:
        gc.enable()
    base = np.array(found.pop("unprofiled"), dtype=np.float64)
    events = sum(mine.values())
    result: dict[str, Any] = {
        "operators": events,
        "counts_equal": mine == theirs,
        "unprofiled_ms": round(float(trimmed(base)[0]) / 1e6, 4),
        "lost": tracer.lost(),
    }
    for name, values in found.items():
        ratio, half = trimmed(np.array(values) / base)
        added = float(trimmed((np.array(values) - base) / events)[0])
        result[name] = {
            "ratio": round(float(ratio), 4),
            "half_width_95": round(float(half), 4),
            "added_ns_per_operator": round(added, 1),
        }
    return result


def measures(device: str, rounds: int) -> Measures:
    """What measures each program."""

    def measured_of(make: Callable[[str], Step]) -> Any:
        return measured(make(device), rounds, device)

    return {name: partial(measured_of, make) for name, make in PROGRAMS.items()}


if __name__ == "__main__":
    report(__doc__, "programs", measures)
