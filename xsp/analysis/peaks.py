"""What the hardware could do at most: FLOP/s by precision, memory bandwidth, and the intensity at
which they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import pandas as pd

from xsp.analysis.work.gpu_rates import published_peaks, rates_of

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

DRAM = "dram"
DEVICE, TABLE, MEASURED = "device properties", "table", "measured"


def peaks(profile: ProfileData) -> pd.DataFrame:
    """The peaks of the device on which the model ran, one row per resource and source.

    Columns: resource ("fp32" for the cores, "fp16 tensor" for tensor cores, ..., "dram"), precision
    ("" for dram), per_s (FLOP/s; bytes/s for dram), source. "device properties" are multiprocessors
    times their operations per cycle times the highest clock, and for a CPU cores times SIMD
    operations per cycle times the highest clock; "table" is the GPU's data sheet, where a capture
    lacks the clocks; "measured" what a benchmark reached. Theoretical peaks come first. Empty
    for an unknown device.
    """
    environment = profile.environment
    theoretical = cpu_peaks(environment) if on_cpu(profile) else gpu_peaks(environment)
    kept = environment.get("measured_peaks") or {}
    if on_cpu(profile) and "gpu" in environment:
        kept = {}  # on a machine with a GPU they are the GPU's
    measured = {_resource(key): float(value) for key, value in kept.items()}
    rows = [
        (resource, _precision(resource), per_s, source)
        for resource, (per_s, source) in theoretical.items()
    ]
    rows += [
        (resource, _precision(resource), per_s, MEASURED) for resource, per_s in measured.items()
    ]
    return pd.DataFrame(rows, columns=["resource", "precision", "per_s", "source"]).astype(
        {"per_s": float}
    )


def ideal_arithmetic_intensity(profile: ProfileData, precision: str) -> float:
    """Peak FLOP/s of a precision over peak DRAM bytes/s (XSP, section III-D); NaN where either is
    not known.

    The fastest unit that computes in this precision counts ("fp16" is the tensor cores' where there
    are any), and the theoretical peak unless only a measured one is known.
    """
    return ideal_intensities(profile).get(precision, nan)


def ideal_intensities(profile: ProfileData) -> dict[str, float]:
    """`ideal_arithmetic_intensity` of every precision for which it is known."""
    table = peaks(profile)
    best = table.assign(measured=table["source"] == MEASURED).sort_values(
        ["measured", "per_s"], ascending=[True, False], kind="stable"
    )
    per_s = best.drop_duplicates("precision").set_index("precision")["per_s"].to_dict()
    bandwidth = per_s.pop("", nan)
    return (
        {}
        if isnan(bandwidth)
        else {str(precision): each / bandwidth for precision, each in per_s.items()}
    )


def on_cpu(profile: ProfileData) -> bool:
    """Whether the model ran on the CPU, as told by the allocator that served it, or by there being
    no GPU.
    """
    if len(profile.table("kernels")):
        return False
    return "gpu" not in profile.environment or profile.memory_device == "cpu"


def _resource(key: str) -> str:
    """`fp16_tensor_flops_per_s` to `fp16 tensor`, `dram_bytes_per_s` to `dram`."""
    return key.removesuffix("_flops_per_s").removesuffix("_bytes_per_s").replace("_", " ")


def _precision(resource: str) -> str:
    return "" if resource == DRAM else resource.partition(" ")[0]


def gpu_peaks(environment: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """FLOP/s and bytes/s by resource, each with its source."""
    name = str(environment.get("gpu", ""))
    found = {resource: (per_s, TABLE) for resource, per_s in published_peaks(name).items()}
    clock, multiprocessors = environment.get("max_sm_clock_mhz"), environment.get("multiprocessors")
    if clock and multiprocessors:
        rates = rates_of(name, environment.get("compute_capability"))
        found |= {
            key: (each * multiprocessors * clock * 1e6, DEVICE) for key, each in rates.items()
        }
    clock, bits = environment.get("max_memory_clock_mhz"), environment.get("memory_bus_bits")
    if clock and bits:
        # Two transfers per cycle of the clock that NVML gives, for HBM and for all kinds of GDDR.
        found[DRAM] = (2 * clock * 1e6 * bits / 8, DEVICE)
    return {
        **{key: found[key] for key in found if key != DRAM},
        **({DRAM: found[DRAM]} if DRAM in found else {}),
    }


_CPU_FP32 = (("avx512f", 64), ("fma", 32), ("avx", 16), ("asimd", 16), ("sse2", 8))
"""FLOPs per cycle and core in fp32: two units that multiply and add one vector per cycle each,
which is what server cores with AVX-512 and cores with FMA have; without FMA one adds and one
multiplies. fp64 has half.
"""
_CPU_BF16 = (("amx_bf16", 1024), ("avx512_bf16", 128))
"""In bf16 (Intel 64 and IA-32 Architectures Optimization Reference Manual)."""


def cpu_peaks(environment: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """FLOP/s by precision of the CPU cores that PyTorch's threads can occupy; the memory's
    bandwidth is not known.
    """
    flags, cores, clock = (
        environment.get(key) for key in ("cpu_flags", "cpu_cores", "cpu_max_mhz")
    )
    if not flags or not cores or not clock:
        return {}
    used = min(cores, environment.get("torch_threads") or cores)
    fp32 = next((each for flag, each in _CPU_FP32 if flag in flags), 0)
    bf16 = next((each for flag, each in _CPU_BF16 if flag in flags), 0)
    rates = {"fp64": fp32 // 2, "fp32": fp32, "bf16": bf16}
    return {key: (each * used * clock * 1e6, DEVICE) for key, each in rates.items() if each}
