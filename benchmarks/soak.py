"""A thousand profiles in one process: what they leave in memory, and of handles.

Profiles of changing models, by `xsp.measure`, one after the other and let go. Resident memory is
read from /proc/self/status after each; the growth counts from the 50th on, when everything that is
made once has been made.

    python benchmarks/soak.py [--device cuda] [--profiles 1000] [--json out.json]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import xsp
from xsp.machine.environment import environment

SETTLED = 50
LIMIT_MB = 5.0


def resident_mb() -> float:
    """Resident memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def open_files() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def target(number: int, device: str) -> tuple[nn.Module, torch.Tensor]:
    """A model that differs from profile to profile: its depth, its kind of layers, dropout."""
    width = 16
    layers: list[nn.Module] = []
    for place in range(2 + number % 3):
        layers += [nn.Linear(width, width), nn.ReLU() if (number + place) % 2 else nn.GELU()]
    layers.append(nn.Dropout(0.1) if number % 5 == 0 else nn.BatchNorm1d(width))
    return nn.Sequential(*layers).to(device), torch.randn(8, width, device=device)


def soaked(profiles: int, device: str) -> dict[str, Any]:
    """The figures of so many profiles."""
    memory: list[float] = []
    files: list[int] = []
    lost = 0
    begin = time.perf_counter()
    for number in range(profiles):
        model, x = target(number, device)
        prof = xsp.measure(model, x, iterations=1, warmup=1, progress=False)
        lost += prof.lost
        del prof, model, x
        gc.collect()
        memory.append(resident_mb())
        files.append(open_files())
    settled = min(SETTLED, profiles - 1)
    return {
        "profiles": profiles,
        "device": device,
        "seconds": round(time.perf_counter() - begin, 1),
        "rss_mb_first": round(memory[0], 2),
        "rss_mb_settled": round(memory[settled], 2),
        "rss_mb_last": round(memory[-1], 2),
        "growth_mb": round(memory[-1] - memory[settled], 2),
        "growth_allowed_mb": LIMIT_MB,
        "open_files_settled": files[settled],
        "open_files_last": files[-1],
        "threads_last": threading.active_count(),
        "lost": lost,
        "rss_mb_each_50": [round(value, 2) for value in memory[::50]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profiles", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = soaked(options.profiles, options.device) | {"environment": environment()}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    if (
        figures["growth_mb"] >= LIMIT_MB
        or figures["open_files_last"] > figures["open_files_settled"]
    ):
        raise SystemExit("memory or open files have grown")


if __name__ == "__main__":
    main()
