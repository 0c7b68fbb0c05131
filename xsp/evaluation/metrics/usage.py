"""Memory and energy, as they were read."""

from __future__ import annotations

from xsp.evaluation.metrics.estimate import Estimate, unknown
from xsp.evaluation.scenarios.scenario import Outcome, Usage

_MEMORY = ("peak_host_bytes", "peak_device_bytes", "device_process_bytes")


def memory(usage: Usage) -> dict[str, Estimate]:
    """Bytes, by name: `model_host_bytes` is the peak of the process less what it had before the
    system was made; the others are the fields of `Usage`.
    """
    found = {name: _read(usage, name, "bytes") for name in _MEMORY}
    peak, before = usage.peak_host_bytes, usage.host_bytes_before
    if peak is None or before is None:
        reason = usage.reasons.get("peak_host_bytes") or usage.reasons.get("host_bytes_before", "")
        found["model_host_bytes"] = unknown("bytes", reason or "it was not read")
    else:
        found["model_host_bytes"] = Estimate(float(peak - before), "bytes")
    return found


def energy(outcome: Outcome) -> dict[str, Estimate]:
    """`energy_joules` of the whole GPU over the test, and `energy_per_input_joules`."""
    whole = _read(outcome.usage, "energy_joules", "joules")
    inputs = int(outcome.samples[outcome.answered].sum())
    if not whole.known or not inputs:
        each = unknown("joules", whole.reason or "no query was answered")
    else:
        each = Estimate(whole.value / inputs, "joules")
    return {"energy_joules": whole, "energy_per_input_joules": each}


def _read(usage: Usage, name: str, unit: str) -> Estimate:
    value = getattr(usage, name)
    if value is None:
        return unknown(unit, usage.reasons.get(name, "it was not read"))
    return Estimate(float(value), unit)
