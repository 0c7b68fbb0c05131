"""How often a slow-down is found, how often one is found that is not there, and whether the right
layer is named.

    python benchmarks/regression_power.py --device cuda --json
    benchmarks/results/regression_power_h100.json python benchmarks/regression_power.py --device cpu
    --limit-s 900 --budget-s 300 --json power.json

Power: pools of runs with delays of 1, 2, 5 and 10 % of the model's latency in one layer, and with
none, are measured in fresh processes (regression_pools.py), one after the other, the programs in
turn. Trials are drawn from the pools:

- stored baseline: consecutive runs without a delay from one process against consecutive runs of a
  variant from another, so that what differs between processes and minutes is in it;
- sessions: the same against the baseline of several processes, as `pytest --xsp-add` makes it, five
  or as many as there are;
- in turn: rounds drawn without replacement, the run without a delay and the variant's of each; as
  many as `xsp.compare_targets` would take to know the ratio to a quarter of the threshold, at most
  half of all rounds.

Trials of one pool share runs, so the rates are known less well than independent trials would give:
`windows` says how many windows of each process do not overlap, and `spread` what the processes
differ by. To find a slow-down of s the threshold is s / 2. Beside each stands the plain rule, the
same runs' ratio of means over the same threshold.

Localisation: twenty mutations of a small model (regression_localisation.py).

It ends within `--limit-s` (7.5 minutes): no process is started that would end later. The file of
`--json` is written after every step and holds the runs, from which `--again FILE` works the rates
out anew, anywhere. The last lines say of each bound whether it is met; the exit status is 1 if one
is not, or is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from regression_pools import PROGRAMS
from regression_rates import bounds, power, sentence

from xsp.machine.environment import environment

HERE = Path(__file__).resolve().parent
AFTERWARDS_S = 60.0
"""What working the rates out takes, kept free at the end."""
LOCALISATION_SHARE = 0.35
"""Of the limit: what naming the mutated layers may take at the most."""


def main() -> None:
    options = _options()
    if options.again is None:
        report: dict[str, Any] = {
            "environment": environment(),
            "options": _plain(options),
            "pools": {},
        }
        report |= {"localisation": {}, "failed": []}
        _measure(report, options)
    else:
        report = json.loads(options.again.read_text())
    report["power"] = {}
    for name, pools in report["pools"].items():
        if len(pools) > 1:
            report["power"][name] = power(pools, options.trials)
            print(json.dumps({name: report["power"][name]}), flush=True)
            _write(report, options)
    report["bounds"] = list(bounds(report))
    _write(report, options)
    for line in [*report["failed"], *map(sentence, report["bounds"])]:
        print(line)
    sys.exit(bool(report["failed"]) or not all(row["met"] for row in report["bounds"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--device", choices=["cuda", "cpu"])
    source.add_argument(
        "--again", type=Path, help="work out the rates of this file's runs, measure nothing"
    )
    parser.add_argument("--trials", type=int, default=500, help="comparisons of each kind")
    parser.add_argument(
        "--budget-s", type=float, default=100.0, help="seconds of measured rounds, all together"
    )
    parser.add_argument(
        "--limit-s", type=float, default=450.0, help="seconds that all of it may take"
    )
    parser.add_argument(
        "--processes", type=int, default=6, help="fresh processes for each program, at least 2"
    )
    parser.add_argument(
        "--host",
        action="store_true",
        help="on a GPU also launch-bound programs, delayed on the host",
    )
    parser.add_argument("--only", default="", help="programs whose name contains this")
    parser.add_argument("--no-localisation", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.processes < 2:
        parser.error("--processes must be at least 2: a stored baseline comes from another process")
    return options


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("json", "again")}


def _write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """The report, lists of numbers on one line."""
    text = json.dumps(report, indent=1)
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda numbers: re.sub(r"\s+", "", numbers[0]), text)
    if options.json:
        options.json.write_text(text + "\n")


def _measure(report: dict[str, Any], options: argparse.Namespace) -> None:
    end = time.monotonic() + options.limit_s - AFTERWARDS_S
    if not options.no_localisation:
        _localise(report, options)
    kinds = ["host"] if options.device == "cpu" else ["device", *(["host"] if options.host else [])]
    names = [
        name for name, (where, _) in PROGRAMS.items() if where in kinds and options.only in name
    ]
    each_s = options.budget_s / len(names) / options.processes
    longest: dict[str, float] = {}
    for seed in range(options.processes):
        for name in names:
            begin = time.monotonic()
            if begin + longest.get(name, 0.0) > end:
                print(f"no time for process {seed + 1} of {name}", flush=True)
                continue
            found = _started(
                report,
                "regression_pools.py",
                ["--program", name, "--budget-s", str(each_s), "--seed", str(seed)],
                options.device,
                end - begin,
            )
            report["pools"].setdefault(name, []).extend([found] if found else [])
            longest[name] = max(longest.get(name, 0.0), time.monotonic() - begin)
            print(f"{name}: process {seed + 1} took {time.monotonic() - begin:.0f} s", flush=True)
            _write(report, options)


def _localise(report: dict[str, Any], options: argparse.Namespace) -> None:
    rows = _started(
        report,
        "regression_localisation.py",
        [],
        options.device,
        options.limit_s * LOCALISATION_SHARE,
    )
    if rows:
        real = [row for row in rows if row["changed"]]
        said = (
            f"{sum(row['named'] for row in real)} of {len(real)} named first, "
            f"{len(rows) - len(real)} without effect"
        )
        report["localisation"] = {"summary": said, "mutations": rows}
        print(
            json.dumps({"localisation": said, "missed": [row for row in real if not row["named"]]}),
            flush=True,
        )
    _write(report, options)


def _started(
    report: dict[str, Any], script: str, arguments: list[str], device: str, limit_s: float
) -> Any:
    """What a script of this folder writes to its output, as far as it came; what went wrong is in
    the report.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.json"
        command = [
            sys.executable,
            str(HERE / script),
            *arguments,
            "--device",
            device,
            "--output",
            str(output),
        ]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        try:
            subprocess.run(
                command, check=True, env={**os.environ, **hidden}, timeout=max(limit_s, 1.0)
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            report["failed"].append(f"{script} {' '.join(arguments)}: {type(error).__name__}")
            print(report["failed"][-1], flush=True)
        return json.loads(output.read_text()) if output.exists() else None


if __name__ == "__main__":
    main()
