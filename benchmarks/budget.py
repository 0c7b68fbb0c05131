"""What a profile takes: its time against `budget_s`, and the time and memory of each phase.

Programs: `modules`, as many linear layers and activations one after the other; `functions`, as many
products and sums of 16 elements; `ranks`, a step of DistributedDataParallel on two gloo ranks. Each
profile is made in a process of its own; import, which the budget counts, is timed with it.
`seconds` and `processor_s` are of the wall and of the processor, `round_s` those of the runs of a
round alone; `phases` have the peak of memory at their end, too.

    python benchmarks/budget.py [--budgets 1 2 5] [--sizes 200 20000] [--large 200000] [--json F]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import xsp

Step = Callable[[], object]

ROUNDS_OF_LARGE = 5


def modules(number: int) -> Step:
    """So many layers, one after the other."""
    pairs = [(nn.Linear(16, 16), nn.ReLU()) for _ in range(number // 2)]
    model, x = nn.Sequential(*(each for pair in pairs for each in pair)), torch.randn(2, 16)

    def forward() -> object:
        with torch.no_grad():
            return model(x)

    return forward


def functions(number: int) -> Step:
    """So many functional calls."""
    x = torch.ones(16)

    def loop() -> object:
        y = x
        for _ in range(number // 2):
            y = y * 1.0001
            y = y + 0.1
        return y

    return loop


def ranks(number: int) -> Step:
    """A training step on two ranks, of which this process is one."""
    distributed.init_process_group("gloo")
    pairs = [(nn.Linear(32, 32), nn.ReLU()) for _ in range(number // 2)]
    model = DistributedDataParallel(nn.Sequential(*(each for pair in pairs for each in pair)))
    x = torch.randn(8, 32)

    def step() -> object:
        model.zero_grad()
        model(x).sum().backward()
        return None

    return step


PROGRAMS: dict[str, Callable[[int], Step]] = {
    "modules": modules,
    "functions": functions,
    "ranks": ranks,
}


class Phases(logging.Handler):
    """Notes when each phase of a profile begins, which xsp logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: list[tuple[str, float, float, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """A phase begins, or something else is said."""
        said = record.getMessage().rpartition(": ")[2]
        if not said.endswith("]"):
            self.note(said)

    def note(self, phase: str) -> None:
        """A phase begins, or the profile has ended."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.seen.append((phase, time.perf_counter(), time.process_time(), peak))

    def rows(self) -> list[dict[str, Any]]:
        """What each took."""
        return [
            {
                "phase": phase,
                "seconds": round(end - begin, 3),
                "processor_s": round(used - before, 3),
                "peak_bytes": peak,
            }
            for (phase, begin, before, _), (_, end, used, peak) in zip(
                self.seen, self.seen[1:], strict=False
            )
        ]


def measured(program: str, size: int, **options: Any) -> dict[str, Any]:
    """A profile in this process."""
    torch.set_num_threads(1)
    step, phases = PROGRAMS[program](size), Phases()
    logging.getLogger("xsp").addHandler(phases)
    logging.getLogger("xsp").setLevel(logging.INFO)
    phases.note("import")
    prof = xsp.measure(step, progress=False, **options)
    phases.note("")
    took, runs = phases.rows(), prof.runs
    rounds = int(runs["round"].nunique())
    found = {
        "program": program,
        "size": size,
        **options,
        "seconds": round(sum(row["seconds"] for row in took), 3),
        "processor_s": round(sum(row["processor_s"] for row in took), 3),
        "rounds": rounds,
        "round_s": round(float(runs["latency_ns"].sum()) / rounds / 1e9, 4),
        "spans": len(prof.table("raw_spans")),
        "load_average": os.getloadavg()[0],
        "phases": took,
    }
    if "iterations" in options:
        for name, read in (("tree", prof.tree), ("repr", prof.__repr__)):
            phases.seen.clear()
            phases.note(name)
            read()
            phases.note("")
            found["phases"] += phases.rows()
    return found


def apart(program: str, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own, or in two that are ranks."""
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--one", program, str(size), json.dumps(options)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment | {"RANK": str(rank)})
        for rank in range(2 if program == "ranks" else 1)
    ]
    said = [each.communicate(timeout=600)[0] for each in started]
    result: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    print(json.dumps({**result, "phases": len(result["phases"])}), file=sys.stderr, flush=True)
    return result


def main() -> None:
    """Measure all and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=float, nargs="*", default=[1, 2, 5])
    parser.add_argument("--sizes", type=int, nargs="*", default=[200, 20_000])
    parser.add_argument("--large", type=int, nargs="*", default=[200_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        program, size, options = given.one
        print(json.dumps(measured(program, int(size), **json.loads(options))))
        return
    wanted = [(name, size) for name in ("modules", "functions") for size in given.sizes]
    wanted += [("ranks", 100)]
    result = {
        "environment": {
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "xsp": xsp.__version__,
            "cores": os.cpu_count(),
        },
        "budgets": [
            apart(name, size, {"budget_s": budget})
            for name, size in wanted
            for budget in given.budgets
        ],
        "large": [
            apart("functions", size, {"iterations": ROUNDS_OF_LARGE}) for size in given.large
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
