"""Hardware counters against independent witnesses, on a GPU: a few minutes, each figure written as
it comes.

1. How long it takes to collect DRAM bytes and occupancy of every kernel of ResNet-50 (batch 32,
   half precision), here and in Nsight Compute, in turn on the same machine. Of Nsight Compute the
   time between the program's `cudaProfilerStart` and `Stop` is taken, which leaves out how it
   starts and writes its report.
2. DRAM bytes and executed instructions of every kernel above 10 us against Nsight Compute, clocks
   not locked in both: with caches flushed before every kernel, and with caches left alone. Metrics
   that need one pass are asked for by
   themselves: between several passes Nsight Compute restores memory through the caches. What still
   needs several is counted again in its application replay. Beside it, how far two processes of one
   tool are apart, which no agreement between tools can beat.
3. FLOPs of ResNet-50 and GPT-2 by counters, by the arguments of library calls, and by torch's
FlopCounterMode.

    python benchmarks/counters.py [--json out.json] [--only time flushed values flops]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import nsight_compute
import numpy as np
import pandas as pd
import torch
from nsight_compute import DURATION, NAME, Testimony, WitnessError, asked, compared, paired
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import resnet50
import transformer

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.work.counters import counted_work
from xsp.levels.counters.metrics import FLUSHED, IN_PLACE
from xsp.machine.environment import environment

READ, WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
INSTRUCTIONS = "smsp__inst_executed.sum"
FUSED = "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum"
COMPARED: Mapping[str, tuple[str, ...]] = {
    "dram bytes": (READ, WRITE),
    "instructions": (INSTRUCTIONS,),
    "ffma": (FUSED,),
}
TIMED = (READ, WRITE, OCCUPANCY)
WARM_UP = 4
TURNS = 3
RATIOS = ("ncu collection / xsp", "ncu process / xsp process")
PROGRAM = "resnet50 batch 32"


def inference(module: Any, **options: Any) -> Callable[[], Any]:
    """A forward pass of an example without gradients."""
    model, inputs = module.target(**options)

    def call() -> Any:
        with torch.no_grad():
            return model(*inputs)

    return call


PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {
    PROGRAM: lambda: inference(resnet50, batch=32),
    "gpt2 batch 8, 512 tokens": lambda: inference(transformer, batch=8, tokens=512),
}


# ---- what runs in processes of its own, so that each finds the same memory ----


def profiled_by_other(target: Path | None) -> None:
    """What Nsight Compute runs: the first program, warm, then one call between start and stop, and
    its seconds.
    """
    call = PROGRAMS[PROGRAM]()
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    torch.cuda.profiler.start()
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    if target is not None:
        target.write_text(str(time.perf_counter() - begin), encoding="utf-8")


def counted(name: str, metrics: Sequence[str], caches: str = IN_PLACE) -> xsp.Profile:
    """A profile of a program with counters."""
    prof = xsp.measure(
        PROGRAMS[name](), iterations=5, metrics=metrics, caches=caches, progress=False
    )
    if why := prof._capture.meta["counters"]["why"]:
        raise WitnessError(why)
    return prof


def counted_here(target: Path, caches: str, metrics: Sequence[str]) -> None:
    """Write the first program's counters, with names and durations, and the facts about the
    collection.
    """
    prof = counted(PROGRAM, metrics, caches)
    sequence = kernel_sequence(prof._capture.tables)
    table = prof.table("counters")[list(metrics)].assign(
        **{NAME: sequence["name"].to_numpy(), DURATION: sequence["duration_ns"].to_numpy()}
    )
    facts = prof._capture.meta["counters"]
    target.write_text(
        json.dumps({"facts": facts, "kernels": table.to_dict("list")}), encoding="utf-8"
    )


CHILD = [sys.executable, __file__, "--child"]


def by_xsp(metrics: Sequence[str], caches: str = IN_PLACE) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Counters of the first program by xsp in a fresh process, and the facts, with the seconds of
    that process.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "counters.json"
        begin = time.perf_counter()
        done = subprocess.run(
            [*CHILD, str(target), caches, *metrics], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise WitnessError(f"xsp failed ({done.returncode}): {done.stderr[-500:].strip()}")
        saved = json.loads(target.read_text(encoding="utf-8"))
    return pd.DataFrame(saved["kernels"]), saved["facts"] | {"process_s": seconds}


@cache
def ours(caches: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All compared metrics by xsp, once for all comparisons."""
    return by_xsp([metric for metrics in COMPARED.values() for metric in metrics], caches)


def values(label: str, caches: str) -> dict[str, Any]:
    """Agreement with Nsight Compute on one kind of metric, and for DRAM bytes of Nsight Compute
    with itself.
    """
    metrics, ncu, (own, _) = COMPARED[label], nsight_compute.path(), ours(caches)
    found, replay = asked(ncu, metrics, CHILD, "kernel", caches), "kernel"
    if found.passes > 1:
        found, replay = asked(ncu, metrics, CHILD, "application", caches), "application"
    told: dict[str, Any] = {
        "replay": replay,
        "passes": found.passes,
        "ncu_process_s": round(found.seconds, 2),
    }
    told["xsp and ncu"] = compared(own, found.table, metrics, own[DURATION])
    if label == "dram bytes":
        told["ncu in another process"] = _repeated(
            found, asked(ncu, metrics, CHILD, replay, caches), metrics, own
        )
    return told


def _repeated(
    first: Testimony, second: Testimony, metrics: Sequence[str], own: pd.DataFrame
) -> dict[str, Any]:
    """Two runs of Nsight Compute; a kernel's duration is xsp's."""
    durations = np.full(len(first.table), np.nan)
    for mine, other in paired(own[NAME].tolist(), first.table[NAME].tolist()):
        durations[other] = own[DURATION].iloc[mine]
    return compared(first.table, second.table, metrics, pd.Series(durations))


def values_again(caches: str) -> dict[str, Any]:
    """Agreement of two processes that count with xsp."""
    own, facts = ours(caches)
    again, _ = by_xsp([metric for metrics in COMPARED.values() for metric in metrics], caches)
    found = {
        label: compared(own, again, metrics, own[DURATION]) for label, metrics in COMPARED.items()
    }
    return {"spread in one process": facts["spread"], **found}


def timed() -> dict[str, Any]:
    """Seconds in which xsp collects DRAM bytes and occupancy, and those of its whole process."""
    _, facts = by_xsp(TIMED)
    times = {"xsp_s": round(facts["seconds"], 2), "xsp_process_s": round(facts["process_s"], 2)}
    return {"kernels": facts["measured"], "runs": facts["runs"], **times}


def against_its_time() -> dict[str, Any]:
    """The same by Nsight Compute, in turn."""
    turns = [_turn(timed()) for _ in range(TURNS)]
    ratios = np.array([[turn[name] for name in RATIOS] for turn in turns])
    return {
        **{
            name: [round(float(value), 2) for value in trimmed(ratios[:, at])]
            for at, name in enumerate(RATIOS)
        },
        "turns": turns,
    }


def _turn(own: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "seconds"
        whole = asked(nsight_compute.path(), TIMED, [*CHILD, str(target)])
        seconds = float(target.read_text(encoding="utf-8"))
    ratios = seconds / own["xsp_s"], whole.seconds / own["xsp_process_s"]
    return {
        **own,
        "ncu kernels": len(whole.table),
        "ncu_s": round(seconds, 2),
        "ncu_process_s": round(whole.seconds, 2),
        **{name: round(ratio, 2) for name, ratio in zip(RATIOS, ratios, strict=True)},
    }


def operations(name: str) -> dict[str, Any]:
    """FLOPs of one call, three ways."""
    prof = counted(name, ("flops",))
    work = counted_work(prof.table("counters"))
    with FlopCounterMode(display=False) as mode:
        PROGRAMS[name]()()
    columns = ("flops", "flops_tensor", "flops_fp16", "flops_fp32", "flops_fp64")
    facts = prof._capture.meta["counters"]
    told = {
        "seconds": round(facts["seconds"], 2),
        "passes": facts["passes"],
        "spread": facts["spread"],
    }
    return {
        "counters": {column: float(np.nansum(work[column])) for column in columns},
        "library calls": float(prof.table("library_calls")["flops"].fillna(0).sum()),
        "FlopCounterMode": float(mode.get_total_flops()),
        **told,
    }


STEPS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "time": {"time of xsp": timed, "time": against_its_time},
    "flushed": {
        **{
            f"{label}, {FLUSHED}": partial(values, label, FLUSHED)
            for label in ("dram bytes", "instructions")
        },
        f"xsp in another process, {FLUSHED}": partial(values_again, FLUSHED),
    },
    "values": {
        **{label: partial(values, label, IN_PLACE) for label in COMPARED},
        "xsp in another process": partial(values_again, IN_PLACE),
    },
    "flops": {name: partial(operations, name) for name in PROGRAMS},
}


class Report:
    """Figures as they come: printed, and written to the file each time, so that a cut-off run keeps
    what it had.
    """

    def __init__(self, target: Path | None) -> None:
        self.figures: dict[str, Any] = {"environment": environment()}
        self._target = target

    def add(self, section: str, name: str, figure: Any) -> None:
        """Put a figure into a section."""
        self.figures.setdefault(section, {})[name] = figure
        print(json.dumps({section: {name: figure}}, indent=1), flush=True)
        if self._target is not None:
            self._target.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")


def run(names: Sequence[str], report: Report) -> None:
    """Steps in their order. Why a figure could not be had is put in its place, and the next is
    tried.
    """
    for name, figures in ((name, STEPS[name]) for name in STEPS if name in names):
        for label, figure in figures.items():
            try:
                found = figure()
            except (WitnessError, subprocess.SubprocessError, RuntimeError, OSError) as error:
                found = f"failed: {error}"
            report.add("flops" if name == "flops" else "nsight compute", label, found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--only", nargs="+", choices=STEPS, default=list(STEPS), help="steps; all by default"
    )
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs an NVIDIA GPU: torch sees none")
    if arguments.child is not None:
        target = Path(arguments.child[0]) if arguments.child else None
        if target is not None and arguments.child[1:]:
            counted_here(target, arguments.child[1], arguments.child[2:])
        else:
            profiled_by_other(target)
        return
    run(arguments.only, Report(arguments.json))


if __name__ == "__main__":
    main()
