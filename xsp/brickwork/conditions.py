"""What the machine was like while bricks were measured."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from xsp.database.entry import Machine

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")
_LOAD = Path("/proc/loadavg")
_UNDISTURBED = 0.95
"""Share of the CPU from which on a machine counts as quiet."""


def host_of(device: str) -> Machine:
    """The machine that bricks measured here belong to. On a GPU its CPU is a part of it: what the
    host takes to launch is in a latency, though not in a layer's time on the device.
    """
    from xsp.machine.environment import environment

    facts = environment()
    machine = Machine.of(facts, device)
    return Machine({**machine.facts, "cpu": facts.get("cpu")})


class CpuShare:
    """For which share of the time since it was made the calling thread had a CPU."""

    def __init__(self) -> None:
        self._wall, self._own = time.perf_counter(), time.thread_time()

    @property
    def value(self) -> float:
        """1 on a machine that does nothing else, for work that never waits."""
        wall = time.perf_counter() - self._wall
        return min((time.thread_time() - self._own) / wall, 1.0) if wall > 0 else 1.0

    def doubt(self) -> str:
        """What it means for latencies, empty where nothing."""
        share = self.value
        if share >= _UNDISTURBED:
            return ""
        return (
            f"other programs had the CPU for {1 - share:.0%} of the time: they interrupt a whole "
            "model more often than a brick, so constructed latencies look too low; use a machine "
            "that does nothing else, or clock='cpu' with threads=1"
        )


def conditions() -> dict[str, Any]:
    """cpu_mhz (now, of the first CPU), governor, load (jobs that ran in the last minute), page
    faults of this process so far; what the system does not tell is left out.
    """
    found: dict[str, Any] = {"minor_faults": _minor_faults()}
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(_CPUINFO), flags=re.MULTILINE)
    if clocks:
        found["cpu_mhz"] = float(clocks[0])
    if governor := _text(_GOVERNOR).strip():
        found["governor"] = governor
    if load := _text(_LOAD).split():
        found["load"] = float(load[0])
    return {key: value for key, value in found.items() if value is not None}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _minor_faults() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
