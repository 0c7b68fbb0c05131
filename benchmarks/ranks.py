"""Merging the captures of many ranks: time and memory by their number.

    python benchmarks/ranks.py [--ranks 16 64 256] [--json benchmarks/results/ranks.json]

Ranks are simulated from a recorded training step: each is that capture with kernels of its backward
pass, in turn, called an all-reduce, and begun later by a random time of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import xsp
from xsp.capture.file import Capture, load
from xsp.machine.environment import environment
from xsp.types import Level

STEP = Path(__file__).parent.parent / "examples" / "captures" / "h100_train_step.xsp"
RING = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
EVERY = 20
"""One in so many kernels becomes a collective."""

LATEST_NS = 500_000


def simulated(step: Capture, rank: int, ranks: int) -> Capture:
    """The step as this rank's: later by a time of its own from collective to collective."""
    place = {"rank": rank, "size": ranks, "host": f"host{rank // 8}", "boot": "one"}
    spans, kernels = step.tables["spans"].copy(), step.tables["kernels"].copy()
    collective = np.arange(len(kernels)) % EVERY == 0
    kernels.loc[collective, "name"] = RING
    mine = (spans["level"] == Level.KERNEL).to_numpy() & collective[
        spans["detail"].to_numpy() % len(kernels)
    ]
    late_ns = np.random.default_rng(rank).integers(0, LATEST_NS, int(mine.sum()))
    spans.loc[mine, "start_ns"] += late_ns
    spans.loc[mine, "duration_ns"] += LATEST_NS - late_ns
    return Capture(
        {**step.meta, "rank": place}, {**step.tables, "spans": spans, "kernels": kernels}
    )


def merged(paths: list[str]) -> dict[str, Any]:
    """Time and memory of one merge with all of its tables, in this process."""
    begin, busy = time.perf_counter(), time.process_time()
    job = xsp.merge(paths)
    events, rows = (
        len(job.events),
        len(job.collectives()) + len(job.ranks()) + len(job.stragglers()),
    )
    return {
        "ranks": len(paths),
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - busy,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "events": events,
        "rows": rows,
    }


def main() -> None:
    """Each number of ranks in a process of its own: memory is the process's highest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--merge", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.merge:
        print(json.dumps(merged(given.merge)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        step = load(STEP)
        for ranks in given.ranks:
            paths = [Path(folder) / f"{ranks}-{rank}.xsp" for rank in range(ranks)]
            for rank, path in enumerate(paths):
                simulated(step, rank, ranks).save(path)
            command = [sys.executable, __file__, "--merge", *map(str, paths)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
            for path in paths:
                path.unlink()
    if given.json:
        given.json.write_text(
            json.dumps({"environment": environment(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
