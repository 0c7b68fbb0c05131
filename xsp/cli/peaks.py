"""The peaks that `xsp doctor` shows: what the device could do in theory, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from xsp.analysis.peaks import DRAM, cpu_peaks, gpu_peaks
from xsp.machine import measured_peaks


def peak_lines(console: Console, facts: Mapping[str, Any], measure: bool) -> list[tuple[str, str]]:
    """Resources of the device that `facts` describe, each with its peaks in words; measured now if `measure`."""
    theoretical = gpu_peaks(facts) if "gpu" in facts else cpu_peaks(facts)
    known = {_key(resource): per_s for resource, (per_s, _) in theoretical.items()}
    measured: dict[str, float] = dict(facts.get("measured_peaks", {}))
    ways: dict[str, str] = {}
    where = []
    if measure:
        measured, ways = _measured(console, "cuda" if "gpu" in facts else "cpu", list(theoretical))
        where = [("kept", _kept(measured_peaks.device_key(facts), measured))]
    rows = [(_resource(key), _line(key, measured, known, ways)) for key in {**known, **measured}]
    return [*(rows or [("unknown", "for this device; `xsp doctor --measure` measures them")]), *where]


def _key(resource: str) -> str:
    return f"{resource.replace(' ', '_')}_{'bytes' if resource == DRAM else 'flops'}_per_s"


def _resource(key: str) -> str:
    return key.removesuffix("_flops_per_s").removesuffix("_bytes_per_s").replace("_", " ")


def _line(key: str, measured: Mapping[str, float], known: Mapping[str, float], ways: Mapping[str, str]) -> str:
    scale, unit = (1e9, "GB/s") if key.endswith("_bytes_per_s") else (1e12, "TFLOP/s")
    parts = [f"{known[key] / scale:.4g} {unit} in theory"] if key in known else []
    if key in measured:
        share = f", {measured[key] / known[key]:.0%} of it" if key in known else ""
        parts.append(f"{measured[key] / scale:.4g} {unit} measured{share}")
    return "; ".join(parts) + (f" ({ways[key]})" if key in ways else "")


def _measured(console: Console, device: str, known: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """What is measured now: FLOP/s or bytes/s, and with what, both by key."""
    from xsp.machine.ceilings import measured_ceilings, resources_of

    with console.status("measuring") as status:
        found = measured_ceilings(
            device, resources_of(known, device), announce=lambda what: status.update(f"measuring {what}")
        )
    return {each.key: each.per_s for each in found}, {each.key: each.how for each in found}


def _kept(device: str, peaks: Mapping[str, float]) -> str:
    try:
        return f"for {device} in {measured_peaks.store(device, peaks)}; new captures on this device have them"
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory is known
        return f"nowhere: {error}; set XDG_CACHE_HOME to a folder that can be written"
