"""Kernel totals of torch.profiler's trace, imported, against xsp's own profile of the same model,
on a GPU.

Both are recorded in turn (A B A B ...) in one process, because the clock of a GPU drifts: in every
turn torch.profiler records some steps, whose trace is written, read back with `xsp.from_kineto` and
summed, then `xsp.measure` makes as many rounds. A figure is the ratio of the two totals of a turn,
as a trimmed mean with its 95 % interval.

    python benchmarks/kineto.py [--turns 12] [--steps 10] [--only NAME] [--json out.json] [--trace
    out.json.gz]

`--trace` saves one step of the first program's first trace, with what `xsp.from_kineto` reads:
small enough for a test.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overhead_programs import PROGRAMS
from torch.profiler import ProfilerActivity, profile, schedule

import xsp
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.statistics import trimmed
from xsp.machine.environment import environment

Event = dict[str, Any]

LIMIT = 0.02
"""By how much the two may differ (1 is equal)."""

STEP = "ProfilerStep#"
KEPT = (
    "cpu_op",
    "cuda_runtime",
    "cuda_driver",
    "kernel",
    "gpu_memcpy",
    "gpu_memset",
    "fwdbwd",
    "ac2g",
)
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def record(program: Callable[[], Any], steps: int, path: Path) -> None:
    """Let torch.profiler record `steps` calls, each a step, after one that it does not keep."""
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(
        activities=activities, schedule=schedule(wait=0, warmup=1, active=steps, repeat=1)
    ) as prof:
        for _ in range(steps + 1):
            program()
            torch.cuda.synchronize()
            prof.step()
    prof.export_chrome_trace(str(path))


def kernel_totals(prof: xsp.Profile) -> np.ndarray:
    """Device time of the kernels of each run of the deepest rung in ms; copies and sets are left
    out.
    """
    runs = prof.runs
    deepest = runs.loc[runs["rung"] == deepest_rung({"runs": runs}), "run"]
    spans = prof.spans[prof.spans["level"] == "KERNEL"]
    is_kernel = (prof.table("kernels")["kind"] == "kernel").to_numpy()[spans["detail"].to_numpy()]
    totals = spans[is_kernel].groupby("run")["duration_ns"].sum()
    result: np.ndarray = totals.reindex(deepest, fill_value=0).to_numpy(dtype=np.float64) / 1e6
    return result


def compared(theirs: xsp.Profile, ours: xsp.Profile) -> dict[str, float]:
    """One turn: mean kernel total of a call by either, and their ratio (torch.profiler's to
    xsp's).
    """
    here, there = kernel_totals(ours), kernel_totals(theirs)
    if not here.any() or not there.any():
        raise SystemExit("one of the two profiles has no kernels to compare; record both on a GPU")
    return {
        "torch_profiler_ms": float(there.mean()),
        "xsp_ms": float(here.mean()),
        "ratio": float(there.mean() / here.mean()),
        "torch_profiler_kernels": theirs.kernel_count,
        "xsp_kernels": ours.kernel_count,
        "lost": theirs.lost + ours.lost,
    }


def summary(turns: list[dict[str, float]]) -> dict[str, Any]:
    """The ratio of all turns with its 95 % interval, and whether the whole interval is within LIMIT
    of 1.
    """
    ratio, half = (float(value) for value in trimmed([turn["ratio"] for turn in turns]))
    return {
        "ratio": round(ratio, 5),
        "half_width_95": round(half, 5),
        "within_limit": bool(abs(ratio - 1) + half <= LIMIT),
        "same_kernels": all(
            turn["torch_profiler_kernels"] == turn["xsp_kernels"] for turn in turns
        ),
        "turns": [{name: round(value, 5) for name, value in turn.items()} for turn in turns],
    }


def thinned(document: dict[str, Any]) -> dict[str, Any]:
    """The trace's first step: its operators and API calls, what these launched, and the arrows
    between them.
    """
    events: list[Event] = [event for event in document["traceEvents"] if isinstance(event, dict)]
    step = next(
        e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith(STEP)
    )
    first, last = step["ts"], step["ts"] + step["dur"]
    host = [
        e
        for e in events
        if e.get("cat") in KEPT and e["cat"] not in DEVICE and first <= e["ts"] <= last
    ]
    launches = {e["args"]["correlation"] for e in host if "correlation" in e.get("args", {})}
    device = [
        e for e in events if e.get("cat") in DEVICE and e["args"].get("correlation") in launches
    ]
    arrows = {e["id"] for e in host if e["cat"] == "ac2g"}
    ends = [e for e in events if e.get("cat") == "ac2g" and e["id"] in arrows and e not in host]
    return {**document, "traceEvents": [step, *host, *device, *ends]}


def measured(
    program: Callable[[], Any], turns: int, steps: int, trace: Path | None
) -> dict[str, Any]:
    """All turns of one program; the first trace is saved, thinned, to `trace`."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            path = Path(folder) / f"{turn}.json"
            record(program, steps, path)
            theirs = xsp.from_kineto(path)
            if trace is not None and not turn:
                content = json.dumps(
                    thinned(json.loads(path.read_text(errors="replace"))), separators=(",", ":")
                )
                trace.write_bytes(gzip.compress(content.encode(), 9, mtime=0))
            found.append(compared(theirs, xsp.measure(program, iterations=steps, progress=False)))
    return summary(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument(
        "--steps",
        type=int,
        default=10,
        help="calls of torch.profiler, and rounds of xsp, in a turn",
    )
    parser.add_argument("--only", help="run the programs whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--trace", type=Path, help="save the first program's trace here, one step of it (.json.gz)"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there are no kernels to compare without a GPU; run this on one")
    chosen = [name for name in PROGRAMS if not options.only or options.only in name]
    report: dict[str, Any] = {"environment": environment(), "limit": LIMIT, "programs": {}}
    for place, name in enumerate(chosen):
        trace = options.trace if place == 0 else None
        report["programs"][name] = measured(PROGRAMS[name](), options.turns, options.steps, trace)
        print(json.dumps({name: report["programs"][name]}), flush=True)
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
