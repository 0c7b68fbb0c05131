"""How near the corrected numbers are to the truth, on the machine at hand.

    python benchmarks/fidelity.py [--rounds 120] [--only NAME] [--captures FOLDER] [--json out.json]

With `--captures` every capture is also kept; `benchmarks/closure.py FOLDER` gives (a) for kept
captures, on any machine.

(a) closure: for every program the deepest rung's latency as recorded, after plain subtraction of
the fitted costs, and
    replayed (cross-validated), against the unprofiled latency of the same rounds.
(b) layers: for GPU-bound programs every layer's share of the device's time against the same layer
timed alone, in
    place, by two CUDA events and nothing else. What the events cost themselves is taken off
    (`event_pair_ms`), and layers at whose end the GPU had not yet come to the first event are
    counted apart: there the pair surely times nothing but the GPU.
(c) known lengths: GPU sleeps and kernels against back-to-back launches timed by two events, host
stalls against their
    own length; kernels of many sizes queued behind each other, with tracing off and on.
(d) attribution: synthetic models whose layers launch known numbers of kernels (`attribution.py`):
how many are found
    under their true layer.

A GPU that has idled for 10 ms runs matrix products some 5 % slower for a while than one that has
not (measured here: `after_idling`), and a profile's runs have pauses between them. So the witnesses
pause as well.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from attribution import attribution
from closure import closure, percent
from overhead_programs import Inference, inference, resnet50, transformer
from torch import nn

import xsp
from xsp.analysis.spans.statistics import trimmed
from xsp.levels.kernel.tracer import KernelTracer
from xsp.machine.environment import environment

PAUSE_S = 0.05


class LaunchThenCompute(nn.Module):
    """First half launch-bound (120 tiny layers), second half GPU-bound (40 large ones)."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = nn.Sequential(*[nn.Linear(64, 64) for _ in range(120)])
        self.widen = nn.Linear(64, 8192)
        self.large = nn.Sequential(*[nn.Linear(8192, 8192) for _ in range(40)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.large(self.widen(self.tiny(x)))
        return output


def mixed() -> Inference:
    model = LaunchThenCompute().cuda().half()
    return Inference(model, torch.randn(2048, 64, device="cuda", dtype=torch.float16))


PROGRAMS: dict[str, tuple[str, float, Callable[[], Inference]]] = {
    "resnet50 batch 256": ("GPU-bound", 0.25, lambda: inference(resnet50, batch=256)),
    "gpt2 batch 32, 512 tokens": (
        "GPU-bound",
        0.25,
        lambda: inference(transformer, batch=32, tokens=512),
    ),
    "gpt2 batch 8, 512 tokens": (
        "near balance",
        1.0,
        lambda: inference(transformer, batch=8, tokens=512),
    ),
    "resnet50 batch 1": ("launch-bound", 1.0, lambda: inference(resnet50, batch=1)),
    "resnet50 batch 32": ("launch-bound", 1.0, lambda: inference(resnet50, batch=32)),
    "gpt2 batch 1, 64 tokens": ("launch-bound", 1.0, lambda: inference(transformer, batch=1)),
    "120 tiny, 40 large linears": ("mixed", 0.5, mixed),
}
"""Kind, share of the rounds asked for, and how to make the program."""


def layer_errors(call: Inference, prof: xsp.Profile, repeats: int = 5) -> dict[str, Any]:
    """Corrected device time of each module layer against two CUDA events around that
    layer alone.
    """
    timeline = prof.device_timeline()
    timeline["ms"] = timeline["busy_ms"] + timeline["idle_before_ms"]
    ours = timeline[timeline["phase"] == "forward"].groupby("name")["ms"].sum()
    modules = {name: module for name, module in call.model.named_modules() if name in ours.index}
    pair_ms = event_pair_ms(call)
    truth = pd.DataFrame.from_dict(
        {name: timed_alone(call, module, repeats, pair_ms) for name, module in modules.items()},
        orient="index",
        columns=["truth_ms", "queued"],
    )
    table = truth.assign(ours_ms=ours).dropna()
    large = table[table["truth_ms"] > 0.05]
    return {
        "above_50_us": errors(large),
        "of_these_queued": errors(large[large["queued"]]),
        "event_pair_us": round(1e3 * pair_ms, 3),
    }


def errors(table: pd.DataFrame) -> dict[str, Any]:
    """Absolute error in % of the corrected device time, over layers; of the worst: signed error,
    witness's and ours.
    """
    if table.empty:
        return {"layers": 0}
    signed = table["ours_ms"] / table["truth_ms"] - 1
    error = signed.abs()
    return {
        "layers": len(table),
        "signed_median_percent": percent(signed.median()),
        "total_percent": percent(table["ours_ms"].sum() / table["truth_ms"].sum() - 1),
        "median_percent": percent(error.median()),
        "p95_percent": percent(float(error.quantile(0.95))),
        "worst": {
            name: [percent(signed[name]), *table.loc[name, ["truth_ms", "ours_ms"]].round(5)]
            for name in error.nlargest(5).index
        },
    }


def timed_alone(
    call: Callable[[], Any], module: nn.Module, repeats: int, pair_ms: float
) -> tuple[float, bool]:
    """Median over runs of the summed event times around the calls of one module, less the events'
    own, in ms; and whether the GPU had never come to the first event when the layer's last kernel
    was launched.
    """
    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    reached: list[bool] = []

    def before(*_: Any) -> None:
        pairs.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        pairs[-1][0].record()

    def after(*_: Any) -> None:
        pairs[-1][1].record()
        reached.append(pairs[-1][0].query())

    handles = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    found, queued = [], True
    for _ in range(repeats):
        # As the ladder does: a pause, a run that is not counted, the timed run.
        time.sleep(PAUSE_S)
        call()
        torch.cuda.synchronize()
        pairs.clear()
        reached.clear()
        call()
        torch.cuda.synchronize()
        found.append(sum(begin.elapsed_time(end) - pair_ms for begin, end in pairs))
        queued &= not any(reached)
    for handle in handles:
        handle.remove()
    return float(np.median(found)), queued


def event_pair_ms(call: Callable[[], Any]) -> float:
    """What two events add to a kernel between them while the GPU is busy, beyond the gap before a
    kernel.

    A pair around one kernel shows o + k, around two o + 2 k + g, where g is the gap between
    kernels, which belongs to the later one. So 2 (o + k) - (o + 2 k + g) = o - g is what a layer's
    pair shows too much.
    """
    launch = partial(torch.cuda._sleep, 100_000)
    shown: list[list[float]] = []
    for _ in range(25):
        call()
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(2)]
        for kernels, (begin, end) in enumerate(pairs, 1):
            begin.record()
            for _ in range(kernels):
                launch()
            end.record()
        torch.cuda.synchronize()
        shown.append([begin.elapsed_time(end) for begin, end in pairs])
    one, two = np.median(shown, axis=0)
    return float(2 * one - two)


def back_to_back_ms(launch: Callable[[], Any], times: int, cycles: int = 20_000_000) -> float:
    """Device time of one launch out of many that queue up behind a sleep of so many cycles."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(cycles)
    begin.record()
    for _ in range(times):
        launch()
    end.record()
    torch.cuda.synchronize()
    result: float = begin.elapsed_time(end) / times
    return result


def after_idling(launch: Callable[[], Any], times: int, pause_s: float) -> float:
    """Median device time of one of `times` launches right after a pause, ms; a burst before it is
    not counted.
    """
    found = []
    for _ in range(9):
        time.sleep(pause_s)
        back_to_back_ms(launch, times, 0)
        found.append(back_to_back_ms(launch, times, 0))
    return float(np.median(found))


def short_kernels(launches: int = 300, batches: int = 7) -> list[dict[str, Any]]:
    """Kernels of growing size, queued: device time of one with tracing off and on, and what the
    records say.
    """
    tracer, rows = KernelTracer(), []
    for elements in (1 << power for power in range(10, 27, 2)):
        x = torch.zeros(elements, device="cuda", dtype=torch.uint8)
        launch = partial(x.fill_, 1)
        off, on, recorded = [], [], []
        for _ in range(batches):
            off.append(back_to_back_ms(launch, launches))
            tracer.start()
            try:
                on.append(back_to_back_ms(launch, launches))
            finally:
                tracer.stop()
            activity = tracer.collect()["device_activity"]
            lengths = (activity["end_ns"] - activity["start_ns"])[-launches:]
            recorded.append(float(np.median(lengths)) / 1e3)
            blocks = int(activity["grid"][-1].prod())
        rows.append(
            {
                "blocks": blocks,
                "queued_us": round(1e3 * float(np.median(off)), 4),
                "queued_traced_us": round(1e3 * float(np.median(on)), 4),
                "added_us": [
                    round(1e3 * float(value), 4) for value in trimmed(np.subtract(on, off))
                ],
                "recorded_us": round(float(np.median(recorded)), 4),
            }
        )
    return rows


def repeated(launch: Callable[[], Any], times: int) -> None:
    """Launches whose results are dropped at once: kept, their memory would not be in the cache for
    the next one.
    """
    for _ in range(times):
        launch()


def known_lengths() -> dict[str, Any]:
    """Error in % of device and host times whose length is known otherwise."""
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    large = torch.randn(1 << 26, device="cuda")
    kernels: dict[str, Callable[[], Any]] = {
        "GPU sleep, 2 ms": lambda: torch.cuda._sleep(4_000_000),
        "GEMM 4096, fp16": lambda: torch.mm(a, a),
        "64 M element add": lambda: large.add_(1.0),
    }
    result = {}
    for name, launch in kernels.items():
        launch()
        warm, paused = back_to_back_ms(launch, 100, 200_000_000), after_idling(launch, 20, PAUSE_S)
        prof = xsp.measure(repeated, launch, 20, iterations=8, progress=False)
        busy = prof.tree()["device_ms"].iloc[0] / 20
        result[name] = {
            "back_to_back_ms": round(warm, 5),
            "after_idling_ms": round(paused, 5),
            "busy_ms": round(float(busy), 5),
            "busy_error_percent": percent(busy / paused - 1),
            "busy_error_percent_of_back_to_back": percent(busy / warm - 1),
        }

    class Stall(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            until = time.perf_counter_ns() + 3_000_000
            while time.perf_counter_ns() < until:
                pass
            return x

    tree = xsp.measure(Stall(), large, iterations=8, progress=False).tree()
    layer = tree[tree["level"] == "LAYER"].iloc[0]
    result["host stall, 3 ms"] = {
        "host_error_percent": percent(layer["recorded_ms"] / 3 - 1),
        "corrected_error_percent": percent(layer["host_ms"] / 3 - 1),
    }
    return result


def written(report: dict[str, Any], path: Path | None, news: dict[str, Any]) -> None:
    """Print what is new and keep the whole report, so that a run that is cut off leaves what it
    found.
    """
    print(json.dumps(news), flush=True)
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument(
        "--only", help="programs whose name contains one of these, separated by |", default=""
    )
    parser.add_argument("--programs-only", action="store_true", help="only (a) and (b)")
    parser.add_argument("--captures", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"environment": environment(), "programs": {}}
    parts: dict[str, Callable[[], Any]] = {
        "attribution": attribution,
        "known_lengths": known_lengths,
        "short_kernels": short_kernels,
    }
    for part, measured in parts.items() if not arguments.programs_only else ():
        report[part] = measured()
        written(report, arguments.json, {part: report[part]})
    for name, (kind, share, make) in PROGRAMS.items():
        if not any(part in name for part in arguments.only.split("|")):
            continue
        call = make()
        prof = xsp.measure(call, iterations=max(int(share * arguments.rounds), 8), progress=False)
        if arguments.captures:
            arguments.captures.mkdir(parents=True, exist_ok=True)
            prof.save(arguments.captures / f"{re.sub('[^a-z0-9]+', '_', name)}.xsp")
        row: dict[str, Any] = {"kind": kind, **closure(prof)}
        if kind in ("GPU-bound", "near balance"):
            row["layers"] = layer_errors(call, prof)
        report["programs"][name] = row
        written(report, arguments.json, {name: row})
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
