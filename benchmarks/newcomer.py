"""The way of somebody new, timed in an environment of its own: install, first table, report.

    python benchmarks/newcomer.py --python PATH --torch torch==2.13.0 --json FILE

Three commands: `pip install '.[torch,html]'`, `xsp run` on examples/plain_training.py, and
`xsp report -o report.html`. Wall time is that of this machine and of what else it does; the CPU
seconds are the commands' own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "plain_training.py"


def main() -> None:
    """Take the way, write what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="an interpreter's path")
    parser.add_argument("--torch", default="torch", help="the build of torch to install")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([given.python, "-m", "venv", str(place / "venv")], check=True)
        commands = {
            "install": ["pip", "install", "--quiet", f"{ROOT}[torch,html]", given.torch],
            "first table": ["xsp", "run", "-o", "first.xsp", str(SCRIPT)],
            "report": ["xsp", "report", "first.xsp", "-o", "report.html"],
        }
        rows = {name: timed(place, command) for name, command in commands.items()}
        table = str(rows["first table"]["stderr"])
        assert "latency" in table, table
        size = (place / "report.html").stat().st_size
        bytes_installed = sum(
            each.stat().st_size for each in (place / "venv").rglob("*") if each.is_file()
        )
    found = {
        "torch": given.torch,
        "load_average": os.getloadavg()[0],
        "environment_bytes": bytes_installed,
        "report_bytes": size,
        "commands": [
            {"name": name, **{key: row[key] for key in ("wall_s", "cpu_s")}}
            for name, row in rows.items()
        ],
    }
    print(json.dumps(found, indent=1))
    given.json.write_text(json.dumps(found, indent=1) + "\n")


def timed(place: Path, command: list[str]) -> dict[str, object]:
    """Run a command of the environment in the folder, with what it took."""
    environment = {**os.environ, "PYTHONPATH": ""}
    program = str(place / "venv" / "bin" / command[0])
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(
        [program, *command[1:]],
        cwd=place,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - begin, os.times()
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return {"wall_s": round(wall, 1), "cpu_s": round(user + system, 1), "stderr": done.stderr}


if __name__ == "__main__":
    main()
