"""How much tracing slows a program down: the deepest rung and torch.profiler against the unprofiled
program.

All conditions are run in turn, in a random order within each round. Each figure is 1 + the trimmed
mean of the differences to the unprofiled latency of the same round over the mean unprofiled
latency, with its 95 % interval. (The mean of ratios within rounds would be too large where the
unprofiled latency scatters.)

    python benchmarks/overhead.py [--rounds 30] [--json out.json] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import resnet50
import train_step
import transformer

from xsp.analysis.spans.statistics import trimmed
from xsp.capture.run import latency_ns
from xsp.machine.environment import environment
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import prepare
from xsp.measuring.switching import tracing
from xsp.measuring.target import target_of
from xsp.types import Tracer

Condition = Callable[[], AbstractContextManager[Any]]


def inference(module: Any, **options: Any) -> Callable[[], Any]:
    """A forward pass of an example without gradients."""
    model, inputs = module.target(**options)

    def call() -> Any:
        with torch.no_grad():
            return model(*inputs)

    call.model = model
    return call


PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {
    "resnet50 batch 1": lambda: inference(resnet50, batch=1),
    "resnet50 batch 32": lambda: inference(resnet50, batch=32),
    "resnet50 batch 256": lambda: inference(resnet50, batch=256),
    "gpt2 batch 1, 64 tokens": lambda: inference(transformer, batch=1),
    "resnet50 training step, batch 32": lambda: train_step.target(batch=32),
}
ON_A_CPU = ("resnet50 batch 1", "gpt2 batch 1, 64 tokens")


@contextmanager
def xsp_tracing(tracers: Sequence[Tracer], name: str) -> Iterator[None]:
    """One rung, its records collected afterwards as the driver does."""
    with tracing(tracers, name):
        for tracer in tracers:
            tracer.new_run()
        yield
    for tracer in tracers:
        tracer.collect()


def torch_profiler() -> AbstractContextManager[Any]:
    """torch.profiler as its documentation shows it, host and device."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


def latencies(
    executor: Executor, conditions: dict[str, Condition], rounds: int
) -> dict[str, list[int]]:
    """Latency in ns of every condition in every round."""
    order = random.Random(0)
    found: dict[str, list[int]] = {name: [] for name in conditions}
    for _ in range(rounds):
        for name in order.sample(list(conditions), len(conditions)):
            with conditions[name]():
                for _ in range(SETTLING_RUNS):
                    executor.run()
                calls = executor.run()
            found[name].append(latency_ns(calls))
    return found


def measured(program: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Ratios to the unprofiled latency for every rung and for torch.profiler."""
    executor = Executor(target_of(program, (), {}))
    prepared = prepare(executor, Options(progress=False))
    conditions: dict[str, Condition] = {"unprofiled": nullcontext, "torch.profiler": torch_profiler}
    for spec in rungs_for(prepared.traced)[1:]:
        active = [prepared.tracers[level] for level in spec.levels if level in prepared.tracers]
        conditions[f"xsp {spec.name}"] = lambda active=active, spec=spec: xsp_tracing(
            active, spec.name
        )
    found = latencies(executor, conditions, rounds)
    base = np.array(found["unprofiled"], dtype=np.float64)
    result: dict[str, Any] = {"unprofiled_ms": [round(float(v) / 1e6, 4) for v in trimmed(base)]}
    for name, values in found.items():
        if name != "unprofiled":
            added, half = (value / trimmed(base)[0] for value in trimmed(np.array(values) - base))
            result[name] = {
                "ratio": round(1 + float(added), 4),
                "half_width_95": round(float(half), 4),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", help="run the programs whose name contains this")
    arguments = parser.parse_args()
    names = PROGRAMS if torch.cuda.is_available() else ON_A_CPU
    chosen = [name for name in names if not arguments.only or arguments.only in name]
    report: dict[str, Any] = {
        "environment": environment(),
        "rounds": arguments.rounds,
        "programs": {},
    }
    for name in chosen:
        report["programs"][name] = measured(PROGRAMS[name](), arguments.rounds)
        print(json.dumps({name: report["programs"][name]}), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
