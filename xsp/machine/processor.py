"""The CPU as Linux describes it: what its peak performance follows from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_SIMD = (
    "sse2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
)


def processor(
    cpuinfo: Path = Path("/proc/cpuinfo"), system: Path = Path("/sys/devices/system/cpu")
) -> dict[str, Any]:
    """cpu_cores (that this process may use, hyper-threads of one core counted once), cpu_max_mhz,
    cpu_flags (SIMD).

    Facts that the system does not tell are left out; a virtual machine often shows its present
    clock only, which is then taken for the highest.
    """
    try:
        entries = [
            dict(_lines(entry))
            for entry in cpuinfo.read_text(encoding="utf-8").split("\n\n")
            if entry.strip()
        ]
    except OSError:
        return {}
    allowed = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(len(entries)))
    )
    mine = [entry for entry in entries if int(entry.get("processor", -1)) in allowed] or entries
    cores = {
        (entry.get("physical id"), entry.get("core id", entry.get("processor"))) for entry in mine
    }
    flags = set(" ".join(entry.get("flags", entry.get("Features", "")) for entry in mine).split())
    clock = _highest_mhz(mine, system)
    facts = {
        "cpu_cores": len(cores),
        "cpu_max_mhz": clock,
        "cpu_flags": [flag for flag in _SIMD if flag in flags],
    }
    return {key: value for key, value in facts.items() if value}


def _lines(entry: str) -> list[tuple[str, str]]:
    return [
        (match[1], match[2])
        for match in re.finditer(r"^([^\t:]+?)\s*:[ \t]*(.*)$", entry, flags=re.MULTILINE)
    ]


def _highest_mhz(entries: list[dict[str, str]], system: Path) -> float | None:
    try:
        return int((system / "cpu0/cpufreq/cpuinfo_max_freq").read_text(encoding="utf-8")) / 1e3
    except (OSError, ValueError):
        clocks = [float(entry["cpu MHz"]) for entry in entries if "cpu MHz" in entry]
        return max(clocks, default=None)
