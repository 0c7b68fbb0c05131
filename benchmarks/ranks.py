"""Merging the captures of many ranks: time and memory by their number.

    python benchmarks/ranks.py [--ranks 16 64 256] [--ray] [--json benchmarks/results/ranks.json]

Ranks are simulated from a recorded training step: each is that capture with kernels of its backward
pass, in turn, called an all-reduce, and begun later by a random time of its own.

With --ray captures are read by tasks on a Ray cluster of two nodes of one CPU each on this machine,
and the tables are compared with those of a merge without it. The memory of all processes together,
Ray's own and its object stores included, is the sum of their proportional set sizes
(`memory_of_many.py`): what several share counts once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from memory_of_many import MARK, MemoryOfMany

import xsp
from xsp.capture.file import Capture, load
from xsp.evaluation.dispatch.ray_session import settings
from xsp.machine.environment import environment
from xsp.types import Level

STEP = Path(__file__).parent.parent / "examples" / "captures" / "h100_train_step.xsp"
RING = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
EVERY = 20
"""One in so many kernels becomes a collective."""

LATEST_NS = 500_000

STORE_BYTES = 400_000_000
"""Of each node's object store: parts lie there until the last one has been read."""


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


def merged(paths: list[str], way: Any = map) -> dict[str, Any]:
    """Time and memory of one merge with all of its tables, in this process."""
    begin, busy = time.perf_counter(), time.process_time()
    job = xsp.merge(paths, map=way)
    tables = [job.collectives(), job.ranks(), job.stragglers()]
    text = "".join(table.to_json() for table in tables)
    return {
        "ranks": len(paths),
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - busy,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "events": len(job.events),
        "rows": sum(map(len, tables)),
        "tables_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def merged_on_ray(paths: list[str]) -> dict[str, Any]:
    """The same by tasks on two nodes. Memory is this process's, and the most of any worker's."""
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": STORE_BYTES,
        "include_log_monitor": False,
    }
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False}
    )
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes: Counter[str] = Counter()
    peaks = [0]

    def spread(function: Any, values: list[str]) -> Iterator[Any]:
        task = ray.remote(measured_task).options(scheduling_strategy="SPREAD")
        for result in [task.remote(function, value) for value in values]:
            part, place, peak = ray.get(result)
            nodes[place] += 1
            peaks.append(peak)
            yield part

    try:
        found = merged(paths, spread)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {
        **found,
        "worker_peak_bytes": max(peaks),
        "read_by_node": sorted(nodes.values()),
    }


def measured_task(function: Any, value: str) -> tuple[Any, str, int]:
    """What a task gives, the node it ran on, and its process's memory at most."""
    import ray

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return function(value), ray.get_runtime_context().get_node_id(), peak


def merged_apart(paths: list[Path], *more: str) -> dict[str, Any]:
    """A merge in a process of its own."""
    command = [sys.executable, __file__, *more, "--merge", *map(str, paths)]
    watch = MemoryOfMany()
    environment = {**os.environ, **settings(), MARK: watch.mark}
    with watch.watched():
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "all_processes": watch.found()}


def main() -> None:
    """Each number of ranks in a process of its own: memory is the process's highest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--merge", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.merge:
        print(json.dumps((merged_on_ray if given.ray else merged)(given.merge)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        step = load(STEP)
        for ranks in given.ranks:
            paths = [Path(folder) / f"{ranks}-{rank}.xsp" for rank in range(ranks)]
            for rank, path in enumerate(paths):
                simulated(step, rank, ranks).save(path)
            rows.append(merged_apart(paths))
            if given.ray:
                plain, spread = rows[-1], merged_apart(paths, "--ray")
                same = plain["tables_sha256"] == spread["tables_sha256"]
                rows[-1] = {**spread, "same_tables": same, "one_process": plain}
            print(rows[-1], flush=True)
            for path in paths:
                path.unlink()
    if given.json:
        given.json.write_text(
            json.dumps({"environment": environment(), "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
