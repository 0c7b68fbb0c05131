"""Nsight Compute as a witness: running it on a command, reading what it wrote, and comparing it
with xsp's counters.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xsp.levels.counters.metrics import FLUSHED, IN_PLACE

NAME, DURATION = "Kernel Name", "duration_ns"
LONG_NS = 10_000
LIMITS = (0.01, 0.03, 0.1)
TIMEOUT_S = 200
"""For one run of ncu; what it needs for some 350 kernels and a few passes each is a
fraction of it.
"""


class WitnessError(Exception):
    """Nsight Compute gave nothing to compare with; the message says why."""


@dataclass(frozen=True)
class Testimony:
    """What ncu counted: a row per kernel in order of launch, with the columns `NAME` and the
    metrics.

    `passes` is the most that any kernel needed, 0 where ncu does not tell; `seconds` is of the
    whole process.
    """

    table: pd.DataFrame
    passes: int
    seconds: float


def path() -> str:
    """Where ncu is. Raises WitnessError where it is not."""
    places = [*glob("/usr/local/cuda*/bin/ncu"), *glob("/opt/nvidia/nsight-compute/*/ncu")]
    found = shutil.which("ncu") or next(iter(sorted(places, reverse=True)), None)
    if found is None:
        raise WitnessError(
            "ncu is neither in PATH nor in /usr/local/cuda*/bin nor in /opt/nvidia/nsight-compute"
        )
    return found


def asked(
    ncu: str,
    metrics: Sequence[str],
    command: Sequence[str],
    replay: str = "kernel",
    caches: str = IN_PLACE,
    timeout_s: float = TIMEOUT_S,
) -> Testimony:
    """Have Nsight Compute count `metrics` of the kernels that `command` runs between
    `cudaProfilerStart` and `Stop`.

    Caches are left alone, or flushed before every kernel if `caches` is FLUSHED, and clocks are not
    locked. In `kernel` replay memory is saved and restored between the passes of a kernel, which
    disturbs the caches, unless one pass suffices; in `application` replay the program runs once for
    each pass, and nothing is restored. Raises WitnessError where ncu fails, hangs or counts
    nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        control = "all" if caches == FLUSHED else "none"
        options = ["--cache-control", control, "--clock-control", "none", "--replay-mode", replay]
        options += [
            "--profile-from-start",
            "off",
            "--csv",
            "--page",
            "raw",
            "--print-units",
            "base",
        ]
        options += ["--metrics", ",".join(metrics), "--log-file", str(log)]
        begin = time.perf_counter()
        code, output = _run([ncu, *options, *command], timeout_s)
        seconds = time.perf_counter() - begin
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if code:
        raise WitnessError(f"ncu failed ({code}): {_reason(text + output)}")
    return Testimony(parsed(text, metrics), passes(text + output), seconds)


def _run(command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Exit status and output; the command and what it started are ended after `timeout_s`."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise WitnessError(f"ncu did not end within {timeout_s:.0f} s and was stopped") from None
    return process.returncode, output


def _reason(text: str) -> str:
    """What ncu calls an error, else the end of what it wrote."""
    errors = [line for line in text.splitlines() if line.startswith("==ERROR==")]
    return " ".join(errors) or text[-500:].strip() or "it wrote nothing"


def passes(text: str) -> int:
    """Most passes of any kernel by ncu's lines `... 100% - 4 passes` or
    `Application replay pass 4`; 0 without them.
    """
    found = re.findall(r"- (\d+) pass(?:es)?\b|[Rr]eplay pass (\d+)", text)
    return max((int(one or other) for one, other in found), default=0)


def parsed(text: str, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of `--csv --page raw` among the other lines of ncu's log; what is no number is NaN.

    Raises WitnessError where there are no rows or a metric is missing.
    """
    start = text.find('"ID"')
    head, *rows = csv.reader(io.StringIO(text[max(start, 0) :])) if start >= 0 else [[]]
    missing = [name for name in (NAME, *metrics) if name not in head]
    # The second row has the units, and lines of ncu's own can stand between.
    kernels = [row for row in rows if len(row) == len(head) and row[0].isdigit()]
    if missing or not kernels:
        what = f"no column {', '.join(missing)}" if start >= 0 and missing else "no kernel"
        raise WitnessError(f"ncu's output has {what}: {_reason(text)}")
    table = pd.DataFrame(kernels, columns=head)
    numbers = {
        name: pd.to_numeric(table[name].str.replace(",", ""), errors="coerce") for name in metrics
    }
    return pd.DataFrame({NAME: table[NAME], **numbers})


def base_name(kernel: str) -> str:
    """A kernel's name without namespaces, template arguments and parameters, which demanglers write
    differently.
    """
    plain = re.sub(r"\(anonymous namespace\)::|<unnamed>::", "", kernel.removeprefix("void "))
    return re.split(r"[<(]", plain)[0].rpartition("::")[2]


def paired(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Positions of the kernels two runs have in the same order, by base name: all of them if the
    runs are alike.
    """
    mine, other = ([base_name(name) for name in side] for side in (ours, theirs))
    blocks = SequenceMatcher(None, mine, other, autojunk=False).get_matching_blocks()
    return [(block.a + step, block.b + step) for block in blocks for step in range(block.size)]


def agreement(ours: pd.Series[float], theirs: pd.Series[float]) -> dict[str, Any]:
    """How many kernels agree to within the limits, of those where either counts any; a missing
    count is far off.
    """
    mean = (ours + theirs) / 2
    counting = ~(mean == 0)
    apart = ((ours - theirs).abs()[counting] / mean[counting]).fillna(np.inf)
    shares = {f"within {limit:.0%}": round(float((apart <= limit).mean()), 4) for limit in LIMITS}
    known = apart[np.isfinite(apart)]
    return {
        "kernels": len(apart),
        **shares,
        "median": round(float(known.median()), 5),
        "95th percentile": round(float(known.quantile(0.95)), 5),
        "ratio of sums": round(float(ours.sum() / theirs.sum()), 5) if theirs.sum() else None,
        "95 % within 3 %": bool((apart <= 0.03).mean() >= 0.95),
    }


def compared(
    ours: pd.DataFrame, theirs: pd.DataFrame, metrics: Sequence[str], durations: pd.Series[float]
) -> dict[str, Any]:
    """Agreement on the sum of `metrics`, over the kernels above 10 us that both have in the same
    order.
    """
    pairs = paired(ours[NAME].tolist(), theirs[NAME].tolist())
    mine, other = (np.array([pair[side] for pair in pairs], dtype=int) for side in (0, 1))
    long = durations.to_numpy()[mine] > LONG_NS
    own, his = (
        table[list(metrics)].sum(axis=1, skipna=False).iloc[rows[long]].reset_index(drop=True)
        for table, rows in ((ours, mine), (theirs, other))
    )
    return {
        "launched": [len(ours), len(theirs)],
        "in the same order": len(pairs),
        **agreement(own, his),
    }
