"""What commands take that people wait for: CPU seconds (user and system) of whole processes.

    python benchmarks/commands.py --before TREE --json FILE [--runs 7]
    python benchmarks/commands.py --reports --json FILE [--runs 3]

Each command is run by this source tree and by another one (`git worktree add TREE COMMIT`), in
turn, with compiled bytecode; the medians are written. `import pandas` is run beside them: its time
says how busy the machine was.

With `--reports` every capture of the repository is reported by this tree alone, and the least of
the runs is written: other programs make CPU time longer, and nothing makes it shorter.
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
EXAMPLE = ROOT / "xsp" / "examples" / "resnet50.xsp"
COMMANDS = {
    "import pandas": ["-c", "import pandas"],
    "xsp --version": ["-m", "xsp", "--version"],
    "xsp report (h100_resnet50)": ["-m", "xsp", "report", f"{CAPTURES}/h100_resnet50.xsp"],
    "xsp report (h100_train_step)": ["-m", "xsp", "report", f"{CAPTURES}/h100_train_step.xsp"],
    "xsp doctor": ["-m", "xsp", "doctor"],
}


def main() -> None:
    """Run them in turn, write the medians; or the least of each report."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--before", type=Path, help="another source tree")
    what.add_argument("--reports", action="store_true", help="every capture, by this tree")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    result = reports(given.runs) if given.reports else both(given.before.resolve(), given.runs)
    given.json.write_text(json.dumps(result, indent=1) + "\n")


def reports(runs: int) -> dict[str, object]:
    """The least CPU seconds of each capture's report, the longest first."""
    found = {"import pandas": least(COMMANDS["import pandas"], runs)}
    for path in [EXAMPLE, *sorted((ROOT / CAPTURES).rglob("*.xsp"))]:
        name = str(path.relative_to(ROOT))
        found[name] = least(["-m", "xsp", "report", name], runs)
        print(found[name], name, flush=True)
    ordered = dict(sorted(found.items(), key=lambda each: -each[1]))
    return {"runs": runs, "load_average": os.getloadavg()[0], "least_cpu_s": ordered}


def least(command: list[str], runs: int) -> float:
    """Of some runs, in s."""
    return round(min(cpu_seconds(command, ROOT) for _ in range(runs)), 2)


def both(before: Path, runs: int) -> dict[str, object]:
    """Medians of each command in two source trees."""
    trees = {"before": before, "now": ROOT}
    found: dict[str, dict[str, list[float]]] = {
        name: {side: [] for side in trees} for name in COMMANDS
    }
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            for side, tree in trees.items():
                found[name][side].append(cpu_seconds(command, tree))
    # The first run compiled the bytecode.
    medians = {
        name: {side: round(statistics.median(each[1:]), 2) for side, each in sides.items()}
        for name, sides in found.items()
    }
    return {"runs": runs, "load_average": os.getloadavg()[0], "cpu_s": medians}


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
