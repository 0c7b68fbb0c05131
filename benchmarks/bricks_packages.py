"""Whether exported packages give the latencies that xsp gave: each model's bricks are measured,
exported, and timed again by the package's own program, in a process that cannot import xsp.

    python benchmarks/bricks_packages.py --models own/residual_4,own/lstm,own/encoder \
        --processes 7 --output bricks_packages_cpu.json

What is timed in one process differs from what is timed in the next one (where memory lies, what
the allocator keeps), by more than the rounds within a process show. So xsp and the package are
started in turn, each `--processes` times, and the interval (95 %, by Student) is that over
processes, of the ratio that of the turns.

The JSON is written after each model, and a run that is started again goes on behind the last. A
model that fails is a row with what it raised.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bricks_pools import SMALL, built

GRANULARITIES = (1, 3)
OURS = "ours.json"

_WITHOUT_XSP = (
    "import runpy, sys; sys.modules['xsp'] = None; sys.path.insert(0, ''); "
    "runpy.run_path('run_bricks.py', run_name='__main__')"
)


def main() -> None:
    from xsp.machine.environment import environment

    options = _options()
    if options.measure:
        measured_here(options.measure, options.threads, options.folder)
        return
    place: Path = options.output
    kept: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {"models": {}}
    kept["environment"] = environment()
    for name in options.models.split(","):
        if name in kept["models"]:
            continue
        begin = time.monotonic()
        found = _compared(name, options)
        kept["models"][name] = {"seconds": round(time.monotonic() - begin, 1), **found}
        place.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps({name: kept["models"][name]}), flush=True)


def _compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    try:
        return {"rows": compared(name, options), "failure": ""}
    except Exception as error:  # whatever a model, or the package's program, raises
        return {"rows": [], "failure": f"{type(error).__name__}: {error}"[:300]}


def compared(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each granularity: both latencies and their ratio with half of their 95 %
    intervals, and whether the ratio's holds 1.
    """
    turns: list[tuple[dict[int, float], dict[int, float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.processes):
            ours = _started_here(name, options.threads, Path(scratch))
            theirs = _run(Path(scratch) / "package", options.threads)
            turns.append((ours, theirs))
    return [_row(granularity, turns) for granularity in GRANULARITIES]


def _row(
    granularity: int, turns: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]
) -> dict[str, Any]:
    here, package = (np.array([turn[side][granularity] for turn in turns]) for side in (0, 1))
    ratio, half = _mean(package / here)
    row: dict[str, Any] = {"granularity": granularity, "processes": len(turns)}
    for side, values in (("xsp", here), ("package", package)):
        row[f"{side}_ms"], row[f"{side}_ci_ms"] = _mean(values)
    return {**row, "ratio": ratio, "ratio_ci": half, "within": abs(ratio - 1) <= half}


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean and half the width of its interval."""
    from xsp.analysis.spans.statistics import student_quantile

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(student_quantile(len(values) - 1)) * error


def _started_here(name: str, threads: int, folder: Path) -> dict[int, float]:
    """What xsp says in a process of its own, by granularity, in ms; its package is in the folder
    afterwards.
    """
    own = ["--measure", name, "--folder", str(folder), "--threads", str(threads)]
    subprocess.run([sys.executable, __file__, *own], check=True, timeout=600)
    return {int(key): each for key, each in json.loads((folder / OURS).read_text()).items()}


def measured_here(name: str, threads: int, folder: Path) -> None:
    """In this process: measure the bricks, write what they add up to, and the package if there is
    none.
    """
    import xsp

    with tempfile.TemporaryDirectory() as scratch:
        found = xsp.bricks(
            built(name, "cpu", 1),
            names=[name],
            database=Path(scratch) / "bricks.sqlite",
            granularity=GRANULARITIES,
            statistics="paper",
            whole=False,
            threads=threads,
        )
        if not (folder / "package").exists():
            found.export(folder / "package")
    sums = found.models[found.models["rule"] == "sum"].set_index("granularity")
    (folder / OURS).write_text(json.dumps(sums["constructed_ms"].to_dict()))


def _run(folder: Path, threads: int) -> dict[int, float]:
    """What the package's own program says, by granularity, in ms."""
    command = [sys.executable, "-c", _WITHOUT_XSP, "--threads", str(threads)]
    environment = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [*command, "--output", "times.json"], cwd=folder, env=environment, check=True, timeout=600
    )
    models: list[dict[str, Any]] = json.loads((folder / "times.json").read_text())["models"]
    return {int(each["granularity"]): float(each["latency_ms"]) for each in models}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SMALL[-3:]))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=7, help="of each side, 2 or more")
    parser.add_argument("--output", type=Path, default=Path("bricks_packages.json"))
    parser.add_argument("--measure", default="", help="only this model, in this process")
    parser.add_argument("--folder", type=Path, help="for what --measure writes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
