"""Pools of runs with a delay of known length in one layer; regression_power.py starts this in fresh
processes.

A round runs every variant once, in random order: twice without a delay, and with delays of 1, 2, 5
and 10 % of the model's latency. The delay is a sleep on the GPU where the GPU bounds the model,
else a loop on the host that ends at a given time; it follows the layer's own work.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overhead_programs import inference, resnet50, transformer
from torch import nn

from xsp.capture.run import latency_ns
from xsp.measuring.executor import Executor
from xsp.measuring.target import target_of
from xsp.measuring.warmup import warm_up

BASE, SAME = "base", "same"
SLOWDOWNS = (0.01, 0.02, 0.05, 0.1)
VARIANTS: dict[str, float] = {
    BASE: 0.0,
    SAME: 0.0,
    **{f"{share:.0%}": share for share in SLOWDOWNS},
}

PROGRAMS: dict[str, tuple[str, Callable[[], Callable[[], Any]]]] = {
    "resnet50 batch 256": ("device", lambda: inference(resnet50, batch=256)),
    "gpt2 batch 32, 512 tokens": ("device", lambda: inference(transformer, batch=32, tokens=512)),
    "resnet50 batch 1": ("host", lambda: inference(resnet50, batch=1)),
    "gpt2 batch 1, 64 tokens": ("host", lambda: inference(transformer, batch=1)),
}
"""Where the delay is, and how to make the program."""

CALIBRATION_CYCLES = 20_000_000
USUAL = 10
"""Runs without a delay whose median the delay is a share of."""


class Delay:
    """Follows one layer of a model and takes `ns` on the device or the host."""

    def __init__(self, model: nn.Module, where: str) -> None:
        leaves = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        self.layer, module = leaves[len(leaves) // 2]
        self.ns = 0.0
        self._cycles_per_ns = cycles_per_ns() if where == "device" else 0.0
        module.register_forward_hook(self._after)

    def _after(self, *_: object) -> None:
        if not self.ns:
            return
        if self._cycles_per_ns:
            torch.cuda._sleep(int(self.ns * self._cycles_per_ns))
            return
        end = time.perf_counter_ns() + self.ns
        while time.perf_counter_ns() < end:
            pass


def cycles_per_ns() -> float:
    """How many of `torch.cuda._sleep`'s cycles take a nanosecond."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    rates = []
    for _ in range(5):
        begin.record()
        torch.cuda._sleep(CALIBRATION_CYCLES)
        end.record()
        torch.cuda.synchronize()
        rates.append(CALIBRATION_CYCLES / (begin.elapsed_time(end) * 1e6))
    return float(np.median(rates))


def pool(name: str, budget_s: float, seed: int) -> dict[str, Any]:
    """Latencies in ns by variant, as many rounds as the budget allows after warm-up."""
    where, make = PROGRAMS[name]
    program: Any = make()
    delay = Delay(program.model, where)
    executor = Executor(target_of(program, (), {}))
    warm_up(lambda: latency_ns(executor.run()), None, budget_s / 4)
    usual = [latency_ns(executor.run()) for _ in range(USUAL)]
    order = random.Random(seed)
    found: dict[str, list[int]] = {variant: [] for variant in VARIANTS}
    begin = time.perf_counter()
    while time.perf_counter() - begin < budget_s or len(found[BASE]) < 2:
        # A share of what the model takes now: on a machine that drifts, a delay of minutes ago is
        # another share.
        now = float(np.median([*usual, *found[BASE]][-USUAL:]))
        for variant in order.sample(list(VARIANTS), len(VARIANTS)):
            delay.ns = VARIANTS[variant] * now
            found[variant].append(latency_ns(executor.run()))
    usual_ms = float(np.median(found[BASE])) / 1e6
    return {"layer": delay.layer, "delay": where, "usual_ms": usual_ms, "latencies_ns": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", choices=list(PROGRAMS), required=True)
    parser.add_argument("--budget-s", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.device == "cpu" and torch.cuda.is_available():
        sys.exit(
            "a GPU is visible and the programs would use it: set CUDA_VISIBLE_DEVICES= for "
            "--device cpu"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU is visible: --device cpu measures without one")
    options.output.write_text(json.dumps(pool(options.program, options.budget_s, options.seed)))


if __name__ == "__main__":
    main()
