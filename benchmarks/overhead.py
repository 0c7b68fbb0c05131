"""How much tracing slows a program down: each rung, layers by the tracer's twin in Python, kernels
alone and a peer (torch.profiler, or Proton of Triton for kernels only) against the unprofiled
program. Proton takes CUPTI's one subscription for itself and is measured without xsp.

All conditions are run in turn, in a random order within each round. Each figure is 1 + the trimmed
mean of the differences to the unprofiled latency of the same round over the mean unprofiled
latency, with its 95 % interval. (The mean of ratios within rounds would be too large where the
unprofiled latency scatters.)

"separate ladder" is the most that a rung of one level adds: what the timed runs of
`ladder="separate"` pay at worst. The full ladder's deepest rung is M/L/Lib/K.

Added time over the peer's is also given as a geometric mean over the programs, without those in
which the peer adds less than 2 %.

    python benchmarks/overhead.py [--rounds 30] [--json out.json] [--only NAME ...]
    python benchmarks/overhead.py --peer proton [...]    # Proton alone, without xsp
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overhead_programs import ON_A_CPU, PROGRAMS

from xsp.analysis.spans.statistics import trimmed
from xsp.capture.run import latency_ns
from xsp.levels.layer import hotpath
from xsp.levels.layer.recorder import PythonRecorder
from xsp.levels.layer.tracer import LayerTracer
from xsp.machine.environment import environment
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import SETTLING_RUNS, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import prepare
from xsp.measuring.progress import phases
from xsp.measuring.switching import tracing
from xsp.measuring.target import target_of
from xsp.types import Level, RunSpec, Tracer

LEAST_ADDED = 0.02
"""Where the peer adds less than this share, a ratio of added times says nothing."""
LEAST_SHARE = 0.01
"""Noise can make an added time negative; it then counts as this share of the peer's."""

Condition = Callable[[], AbstractContextManager[Any]]


@contextmanager
def xsp_tracing(tracers: Sequence[Tracer], name: str) -> Iterator[Callable[[], None]]:
    """One rung, its records collected afterwards as the driver does. Gives what the driver says
    just before the timed run.
    """

    def new_run() -> None:
        for tracer in tracers:
            tracer.new_run()

    with tracing(tracers, name):
        yield new_run
    for tracer in tracers:
        tracer.collect()
        if tracer.starts_over():
            raise SystemExit("a run did not call what the structure run did: nothing was measured")


def torch_profiler() -> AbstractContextManager[Any]:
    """torch.profiler as its documentation shows it, host and device."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


@contextmanager
def proton() -> Iterator[None]:
    """Proton by CUPTI's activity records, as its documentation starts a session."""
    import triton.profiler

    with tempfile.TemporaryDirectory() as folder:
        session = triton.profiler.start(f"{folder}/proton", backend="cupti")
        try:
            yield
        finally:
            triton.profiler.finalize(session)


PEERS: dict[str, Condition] = {"torch.profiler": torch_profiler, "proton": proton}


def latencies(
    executor: Executor, conditions: dict[str, Condition], rounds: int
) -> dict[str, list[int]]:
    """Latency in ns of every condition in every round."""
    order = random.Random(0)
    found: dict[str, list[int]] = {name: [] for name in conditions}
    for _ in range(rounds):
        for name in order.sample(list(conditions), len(conditions)):
            with conditions[name]() as ready:
                for _ in range(SETTLING_RUNS):
                    executor.run()
                calls = executor.run(ready if callable(ready) else lambda: None)
            found[name].append(latency_ns(calls))
    return found


def measured(program: Callable[[], Any], rounds: int, peer: str) -> dict[str, Any]:
    """Ratios to the unprofiled latency for every rung and for the peer."""
    executor = Executor(target_of(program, (), {}))
    if peer == "proton":
        with executor.restored_afterwards():
            return ratios(latencies(executor, {"unprofiled": nullcontext, peer: proton}, rounds))
    options = Options(progress=False)
    deadline = Deadline.of(options)
    with phases("overhead", options, deadline) as shown:
        prepared = prepare(executor, options, deadline, shown)
    conditions: dict[str, Condition] = {"unprofiled": nullcontext, peer: PEERS[peer]}
    alone = [RunSpec((Level.MODEL, level)) for level in prepared.tracers]
    for spec in dict.fromkeys([*rungs_for(prepared.traced)[1:], *alone]):
        active = [prepared.tracers[level] for level in spec.levels if level in prepared.tracers]
        conditions[f"xsp {spec.name}"] = partial(xsp_tracing, active, spec.name)
    if hotpath.extension() is not None:
        in_python = [LayerTracer(prepared.structure.codes, PythonRecorder)]
        conditions["xsp M/L in Python"] = lambda: xsp_tracing(in_python, "M/L")
    result = ratios(latencies(executor, conditions, rounds))
    worst = max((result[f"xsp {spec.name}"] for spec in alone), key=lambda one: one["ratio"])
    result["xsp separate ladder"] = worst
    return result


def ratios(found: dict[str, list[int]]) -> dict[str, Any]:
    """Of every condition to the unprofiled latency."""
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


def added_over(peer: str, programs: dict[str, Any]) -> dict[str, float]:
    """Geometric mean over programs of a condition's added time over the peer's."""
    logs: dict[str, list[float]] = {}
    for figures in programs.values():
        reference = figures[peer]["ratio"] - 1
        if reference < LEAST_ADDED:
            continue
        for name, one in figures.items():
            if name not in ("unprofiled_ms", peer):
                added = max(one["ratio"] - 1, LEAST_SHARE * reference)
                logs.setdefault(name, []).append(float(np.log(added / reference)))
    return {name: round(float(np.exp(np.mean(values))), 3) for name, values in logs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--only", nargs="+", help="run the programs whose name contains one of these"
    )
    parser.add_argument("--peer", choices=sorted(PEERS), default="torch.profiler")
    arguments = parser.parse_args()
    names = PROGRAMS if torch.cuda.is_available() else ON_A_CPU
    wanted = arguments.only or [""]
    chosen = [name for name in names if any(each in name for each in wanted)]
    report: dict[str, Any] = {
        "environment": environment(),
        "rounds": arguments.rounds,
        "programs": {},
    }
    for name in chosen:
        report["programs"][name] = measured(PROGRAMS[name](), arguments.rounds, arguments.peer)
        print(json.dumps({name: report["programs"][name]}), flush=True)
    told = f"added over {arguments.peer}, geometric mean"
    report[told] = added_over(arguments.peer, report["programs"])
    print(json.dumps(report[told]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
