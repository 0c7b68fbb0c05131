"""Many profiles in one process: what they leave in memory, and of handles.

Profiles of changing models, by `xsp.measure`, one after the other and let go. After each, resident
memory is read from /proc/self/status and what is allocated from the C library (`mallinfo2`). Growth
counts from the 50th on, when everything that is made once has been made, and its slope is that of a
straight line through all that follow.

    python benchmarks/soak.py [--device cuda] [--profiles 1000] [--seconds 100] [--json out.json]
    python benchmarks/soak.py --join one.json two.json ... --json out.json

With `--json` a run is added as one more part to those that the file has: several short ones, each a
process of its own with 50 profiles that do not count, make up for a long one, and give the slope
its interval (95 %, by Student over the processes). Parts that were measured side by side, each into
a file of its own, are joined with `--join`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import xsp
from xsp.analysis.spans.statistics import student_quantile
from xsp.machine.environment import environment

SETTLED = 50
LIMIT_MB = 5.0


def resident_mb() -> float:
    """Resident memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_mb() -> float:
    """What is allocated from the C library, in MiB."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap
    heap = mallinfo2()
    return float(heap.uordblks + heap.hblkhd) / (1 << 20)


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


def soaked(profiles: int, seconds: float, device: str) -> dict[str, Any]:
    """The figures of so many profiles, or of those that are begun within `seconds`."""
    memory: list[float] = []
    allocated: list[float] = []
    files: list[int] = []
    lost = 0
    begin = time.perf_counter()
    while len(memory) < profiles and time.perf_counter() - begin < seconds:
        model, x = target(len(memory), device)
        prof = xsp.measure(model, x, iterations=1, warmup=1, progress=False)
        lost += prof.lost
        del prof, model, x
        gc.collect()
        memory.append(resident_mb())
        allocated.append(allocated_mb())
        files.append(open_files())
    settled = min(SETTLED, len(memory) - 1)
    return {
        "profiles": len(memory),
        "device": device,
        "seconds": round(time.perf_counter() - begin, 1),
        "rss_mb_first": round(memory[0], 2),
        "rss_mb_settled": round(memory[settled], 2),
        "rss_mb_last": round(memory[-1], 2),
        "growth_mb": round(memory[-1] - memory[settled], 2),
        "slope_kb_per_profile": _slope_kb(memory[settled:]),
        "allocated_kb_per_profile": _slope_kb(allocated[settled:]),
        "open_files_settled": files[settled],
        "open_files_last": files[-1],
        "threads_last": threading.active_count(),
        "lost": lost,
        "rss_mb_each_50": [round(value, 2) for value in memory[::SETTLED]],
        "environment": environment(),
    }


def _slope_kb(memory_mb: list[float]) -> float | None:
    """KiB a profile, by least squares; None where too few profiles tell."""
    if len(memory_mb) < SETTLED:
        return None
    slope = np.polynomial.Polynomial.fit(range(len(memory_mb)), memory_mb, 1).convert().coef[1]
    return round(1024 * float(slope), 3)


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What all parts have shown, and the parts."""
    return {
        "profiles": sum(part["profiles"] for part in parts),
        "profiles_that_count": sum(max(part["profiles"] - SETTLED, 0) for part in parts),
        "growth_mb_largest": max(part["growth_mb"] for part in parts),
        "growth_mb_allowed": LIMIT_MB,
        "lost": sum(part["lost"] for part in parts),
        "resident_kb_per_profile": _over_processes(parts, "slope_kb_per_profile"),
        "allocated_kb_per_profile": _over_processes(parts, "allocated_kb_per_profile"),
        "parts": parts,
    }


def _over_processes(parts: list[dict[str, Any]], name: str) -> dict[str, float | int | None]:
    """The mean of a slope over the processes that have it, and half the width of its interval."""
    slopes = np.array([part[name] for part in parts if part.get(name) is not None])
    half_width = None
    if len(slopes) > 1:
        error = float(slopes.std(ddof=1)) / len(slopes) ** 0.5
        half_width = round(float(student_quantile(len(slopes) - 1)) * error, 3)
    return {
        "processes": len(slopes),
        "mean": round(float(slopes.mean()), 3) if len(slopes) else None,
        "half_width": half_width,
    }


def failures(part: dict[str, Any]) -> list[str]:
    """What a run shows that it should not."""
    wrong = {
        "memory has grown": part["growth_mb"] >= LIMIT_MB,
        "open files have grown": part["open_files_last"] > part["open_files_settled"],
        f"no profile counts: fewer than {SETTLED + 1}": part["profiles"] <= SETTLED,
    }
    return [what for what, is_so in wrong.items() if is_so]


def _tell(parts: list[dict[str, Any]], target: Path | None) -> None:
    text = json.dumps(summary(parts), indent=1)
    print(text)
    if target:
        target.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profiles", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--join", nargs="+", type=Path, default=[])
    options = parser.parse_args()
    if options.join:
        parts = [part for each in options.join for part in json.loads(each.read_text())["parts"]]
        _tell(parts, options.json)
        return
    part = soaked(options.profiles, options.seconds, options.device)
    earlier = options.json and options.json.exists()
    parts = json.loads(options.json.read_text())["parts"] if earlier else []
    _tell([*parts, part], options.json)
    wrong = failures(part)
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
