"""Whether exported packages give the latencies that xsp gave: each model's bricks are measured,
exported, and timed again by the package's own program, in a process that cannot import xsp.

    python benchmarks/bricks_packages.py --models own/residual_4,own/lstm,own/encoder \
        --output bricks_packages_cpu.json

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
from pathlib import Path
from typing import Any

from bricks_pools import SMALL, built

_WITHOUT_XSP = (
    "import runpy, sys; sys.modules['xsp'] = None; sys.path.insert(0, ''); "
    "runpy.run_path('run_bricks.py', run_name='__main__')"
)


def main() -> None:
    from xsp.machine.environment import environment

    options = _options()
    place: Path = options.output
    kept: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {"models": {}}
    kept["environment"] = environment()
    for name in options.models.split(","):
        if name in kept["models"]:
            continue
        begin = time.monotonic()
        found = _compared(name, options.threads)
        kept["models"][name] = {"seconds": round(time.monotonic() - begin, 1), **found}
        place.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps({name: kept["models"][name]}), flush=True)


def _compared(name: str, threads: int) -> dict[str, Any]:
    try:
        return {"rows": compared(name, threads), "failure": ""}
    except Exception as error:  # whatever a model, or the package's program, raises
        return {"rows": [], "failure": f"{type(error).__name__}: {error}"[:300]}


def compared(name: str, threads: int) -> list[dict[str, Any]]:
    """One row for each granularity: both latencies with half of their 95 % intervals, in ms, and
    whether their difference lies within the interval of a difference.
    """
    import xsp

    with tempfile.TemporaryDirectory() as scratch:
        found = xsp.bricks(
            built(name, "cpu", 1),
            names=[name],
            database=Path(scratch) / "bricks.sqlite",
            granularity=(1, 3),
            statistics="paper",
            whole=False,
            threads=threads,
        )
        folder = found.export(Path(scratch) / "package")
        theirs = _run(folder, threads)
    ours = found.models[found.models["rule"] == "sum"].set_index("granularity")
    rows = []
    for each in theirs:
        granularity = int(each["granularity"])
        here = float(str(ours.loc[granularity, "constructed_ms"]))
        width = float(str(ours.loc[granularity, "constructed_ci_ms"]))
        difference = each["latency_ms"] - here
        rows.append(
            {
                "granularity": granularity,
                "xsp_ms": here,
                "xsp_ci_ms": width,
                "package_ms": each["latency_ms"],
                "package_ci_ms": each["half_width_ms"],
                "ratio": each["latency_ms"] / here,
                "within": abs(difference) <= math.hypot(width, each["half_width_ms"]),
            }
        )
    return rows


def _run(folder: Path, threads: int) -> list[dict[str, Any]]:
    """What the package's own program says of its models."""
    command = [sys.executable, "-c", _WITHOUT_XSP, "--threads", str(threads)]
    environment = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [*command, "--output", "times.json"], cwd=folder, env=environment, check=True, timeout=600
    )
    models: list[dict[str, Any]] = json.loads((folder / "times.json").read_text())["models"]
    return models


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SMALL[-3:]))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("bricks_packages.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
