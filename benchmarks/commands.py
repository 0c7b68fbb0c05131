"""What commands take that people wait for: CPU seconds (user and system) of whole processes.

    python benchmarks/commands.py --before TREE --json FILE [--runs 7]

Each command is run by this source tree and by another one (`git worktree add TREE COMMIT`), in
turn, with compiled bytecode; the medians are written. `import pandas` is run beside them: its time
says how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAPTURES = "examples/captures"
COMMANDS = {
    "import pandas": ["-c", "import pandas"],
    "xsp --version": ["-m", "xsp", "--version"],
    "xsp report (h100_resnet50)": ["-m", "xsp", "report", f"{CAPTURES}/h100_resnet50.xsp"],
    "xsp report (h100_train_step)": ["-m", "xsp", "report", f"{CAPTURES}/h100_train_step.xsp"],
    "xsp doctor": ["-m", "xsp", "doctor"],
}


def main() -> None:
    """Run them in turn, write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="another source tree")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    trees = {"before": given.before.resolve(), "now": ROOT}
    found: dict[str, dict[str, list[float]]] = {
        name: {side: [] for side in trees} for name in COMMANDS
    }
    for _ in range(given.runs + 1):
        for name, command in COMMANDS.items():
            for side, tree in trees.items():
                found[name][side].append(cpu_seconds(command, tree))
    # The first run compiled the bytecode.
    medians = {
        name: {side: round(statistics.median(each[1:]), 2) for side, each in sides.items()}
        for name, sides in found.items()
    }
    result = {"runs": given.runs, "load_average": os.getloadavg()[0], "cpu_s": medians}
    given.json.write_text(json.dumps(result, indent=1) + "\n")


def cpu_seconds(command: list[str], tree: Path) -> float:
    """User and system time of `python ...` in this tree."""
    settings = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    before = os.times()
    subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = os.times()
    used = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    return float(used)


if __name__ == "__main__":
    main()
