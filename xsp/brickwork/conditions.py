"""What the machine was like while bricks were measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from xsp.database.entry import Machine

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")
_LOAD = Path("/proc/loadavg")


def host_of(device: str) -> Machine:
    """The machine that bricks measured here belong to. On a GPU its CPU is a part of it: what the
    host takes to launch is in a latency, though not in a layer's time on the device.
    """
    from xsp.machine.environment import environment

    facts = environment()
    machine = Machine.of(facts, device)
    return Machine({**machine.facts, "cpu": facts.get("cpu")})


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
