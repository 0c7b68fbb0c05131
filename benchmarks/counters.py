"""Hardware counters against independent witnesses, on a GPU.

1. Nsight Compute on the same program (ResNet-50, batch 32, half precision), caches left alone and clocks not locked in
   both: DRAM bytes and executed instructions of every kernel above 10 us, and how long the collection takes.
2. FLOPs of ResNet-50 and GPT-2 by counters, by the arguments of library calls, and by torch's FlopCounterMode.

    python benchmarks/counters.py [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import resnet50
import transformer

import xsp
from xsp.analysis.counters import counted_work
from xsp.analysis.sequence import kernel_sequence
from xsp.machine.environment import environment

READ, WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
INSTRUCTIONS = "smsp__inst_executed.sum"
FUSED = "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum"
COMPARED = (READ, WRITE, INSTRUCTIONS, FUSED)
TIMED = (READ, WRITE, OCCUPANCY)
LONG_NS = 10_000
LIMITS = (0.01, 0.03, 0.1)
WARM_UP = 4


def inference(module: Any, **options: Any) -> Callable[[], Any]:
    """A forward pass of an example without gradients."""
    model, inputs = module.target(**options)

    def call() -> Any:
        with torch.no_grad():
            return model(*inputs)

    return call


PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {
    "resnet50 batch 32": lambda: inference(resnet50, batch=32),
    "gpt2 batch 8, 512 tokens": lambda: inference(transformer, batch=8, tokens=512),
}


def profiled_by_other() -> None:
    """What Nsight Compute runs: the first program, warm, then one call between start and stop."""
    call = PROGRAMS["resnet50 batch 32"]()
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def nsight_compute() -> str | None:
    """Path of ncu, or None."""
    places = [*glob("/usr/local/cuda*/bin/ncu"), *glob("/opt/nvidia/nsight-compute/*/ncu")]
    return shutil.which("ncu") or next(iter(sorted(places, reverse=True)), None)


def by_nsight_compute(ncu: str, metrics: tuple[str, ...]) -> tuple[pd.DataFrame, float]:
    """Metrics of every kernel in order of launch, and the seconds that the whole process took."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        command = [ncu, "--cache-control", "none", "--clock-control", "none", "--profile-from-start", "off"]
        command += ["--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(metrics)]
        begin = time.perf_counter()
        child = [sys.executable, __file__, "--child"]
        done = subprocess.run([*command, "--log-file", str(log), *child], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        text = log.read_text() if log.exists() else ""
        if done.returncode or '"ID"' not in text:
            raise SystemExit(f"ncu failed ({done.returncode}): {(text + done.stderr)[-1500:]}")
        lines = text[text.index('"ID"') :].splitlines()
        table = Path(folder) / "table.csv"
        table.write_text("\n".join([lines[0], *lines[2:]]))  # the second line has units
        return pd.read_csv(table, thousands=","), seconds


def seconds_alone() -> float:
    """The same process without Nsight Compute: what its seconds hold beside the collection."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--child"], check=True)
    return time.perf_counter() - begin


def counted(name: str, metrics: tuple[str, ...]) -> xsp.Profile:
    """A profile of a program with counters."""
    prof = xsp.measure(PROGRAMS[name](), iterations=5, metrics=metrics, progress=False)
    facts = prof._capture.meta["counters"]
    if facts["why"]:
        raise SystemExit(facts["why"])
    return prof


def agreement(ours: pd.Series[float], theirs: pd.Series[float]) -> dict[str, Any]:
    """How many kernels agree to within the limits; of kernels where either counts anything."""
    mean = (ours + theirs) / 2
    apart = (ours - theirs).abs()[mean > 0] / mean[mean > 0]
    shares = {f"within {limit:.0%}": round(float((apart <= limit).mean()), 4) for limit in LIMITS}
    return {
        "kernels": len(apart),
        **shares,
        "median": round(float(apart.median()), 5),
        "95th percentile": round(float(apart.quantile(0.95)), 5),
        "ratio of sums": round(float(ours.sum() / theirs.sum()), 5) if theirs.sum() else None,
    }


def base_name(kernel: str) -> str:
    """A kernel's name without parameters and template arguments."""
    return re.split(r"[<(]", kernel.removeprefix("void "))[0].rpartition("::")[2]


def against_nsight_compute(ncu: str) -> dict[str, Any]:
    """Values and collection time, ours and Nsight Compute's."""
    prof = counted("resnet50 batch 32", COMPARED)
    sequence, ours = kernel_sequence(prof._capture.tables), prof.table("counters")
    theirs, _ = by_nsight_compute(ncu, COMPARED)
    again, _ = by_nsight_compute(ncu, COMPARED)
    same = len(theirs) == len(ours) and [base_name(x) for x in theirs["Kernel Name"]] == [
        base_name(x) for x in sequence["name"]
    ]
    result: dict[str, Any] = {"kernels": [len(ours), len(theirs)], "same kernels in the same order": same}
    if same:
        long = (sequence["duration_ns"] > LONG_NS).to_numpy()
        for label, metrics in {"dram bytes": [READ, WRITE], "instructions": [INSTRUCTIONS], "ffma": [FUSED]}.items():
            own, other, repeated = (table.loc[long, metrics].sum(axis=1) for table in (ours, theirs, again))
            result[label] = {"xsp and ncu": agreement(own, other), "ncu and ncu": agreement(other, repeated)}
    result["spread"] = prof._capture.meta["counters"]["spread"]
    return result | {"time": collection_time(ncu)}


def collection_time(ncu: str) -> dict[str, Any]:
    """Seconds to collect DRAM bytes and occupancy."""
    facts = counted("resnet50 batch 32", TIMED)._capture.meta["counters"]
    _, whole = by_nsight_compute(ncu, TIMED)
    alone = seconds_alone()
    return {
        "xsp_s": round(facts["seconds"], 2),
        "kernels": facts["measured"],
        "runs": facts["runs"],
        "ncu_process_s": round(whole, 2),
        "process_alone_s": round(alone, 2),
        "ncu collection / xsp": round((whole - alone) / facts["seconds"], 2),
        "ncu process / xsp": round(whole / facts["seconds"], 2),
    }


def operations(name: str) -> dict[str, Any]:
    """FLOPs of one call, three ways."""
    prof = counted(name, ("flops",))
    work = counted_work(prof.table("counters"))
    with FlopCounterMode(display=False) as mode:
        PROGRAMS[name]()()
    columns = ("flops", "flops_tensor", "flops_fp16", "flops_fp32", "flops_fp64")
    facts = prof._capture.meta["counters"]
    return {
        "counters": {column: float(np.nansum(work[column])) for column in columns},
        "library calls": float(prof.table("library_calls")["flops"].fillna(0).sum()),
        "FlopCounterMode": float(mode.get_total_flops()),
        "seconds": round(facts["seconds"], 2),
        "passes": facts["passes"],
        "spread": facts["spread"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs an NVIDIA GPU: torch sees none")
    if arguments.child:
        profiled_by_other()
        return
    report: dict[str, Any] = {"environment": environment(), "flops": {name: operations(name) for name in PROGRAMS}}
    print(json.dumps(report["flops"], indent=1), flush=True)
    ncu = nsight_compute()
    report["nsight compute"] = (
        against_nsight_compute(ncu) if ncu else "ncu is neither in PATH nor in /usr/local/cuda*/bin"
    )
    print(json.dumps(report["nsight compute"], indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
