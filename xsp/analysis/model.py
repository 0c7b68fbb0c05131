"""Analyses of whole models: model information (A1) and kernels by model (A15) of XSP, section
III-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.peaks import ideal_intensities
from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.work.kernel_work import kernel_work
from xsp.analysis.work.roofline import SUMMED, add_rates, sum_work
from xsp.types import Level

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


def model_information(profiles: ProfileData | Sequence[ProfileData]) -> pd.DataFrame:
    """A1: one row per profile: name, batch_size (inputs of one run, over all its model calls; NA if
    not known), latency_ms and latency_ci_ms (unprofiled, call to device finished: trimmed mean,
    half its 95 % interval), latency_per_input_ms, throughput_per_s (inputs per second), rounds
    (unprofiled runs that were averaged).
    """
    every = _sequence(profiles)
    table = pd.DataFrame(
        {
            "name": [profile.name for profile in every],
            "batch_size": pd.array([_batch_size(profile) for profile in every], dtype="Int64"),
            "latency_ms": np.array([profile.latency_ms for profile in every], dtype=np.float64),
            "latency_ci_ms": np.array(
                [profile.latency_ci_ms for profile in every], dtype=np.float64
            ),
        }
    )
    inputs = table["batch_size"].to_numpy(np.float64, na_value=np.nan)
    table["latency_per_input_ms"] = table["latency_ms"] / inputs
    table["throughput_per_s"] = inputs / table["latency_ms"] * 1e3
    table["rounds"] = [len(runs_of(profile.runs, Level.MODEL)) for profile in every]
    return table


def kernels_by_model(profiles: ProfileData | Sequence[ProfileData]) -> pd.DataFrame:
    """A15: one row per profile with all kernels of a run summed; a profile without kernels has 0 ms
    and NaN.

    Columns: name, batch_size, model_latency_ms, kernel_latency_ms, flops, dram_read_bytes,
    dram_write_bytes, flops_coverage (share of the latency that kernels of known FLOPs take, NaN
    without kernels), occupancy (latency-weighted mean), arithmetic_intensity, flops_per_s (over the
    kernels' latency), precision (of most operations), memory_bound, source.
    """
    every = _sequence(profiles)
    table = model_information(every)[["name", "batch_size", "latency_ms"]]
    sums = [
        _summed(profile).rename(columns={"latency_ms": "kernel_latency_ms"}) for profile in every
    ]
    rows = pd.concat(sums, ignore_index=True) if sums else pd.DataFrame(columns=_SUMS)
    return table.rename(columns={"latency_ms": "model_latency_ms"}).join(rows[_SUMS])


_SUMS = [
    "kernel_latency_ms",
    *SUMMED,
]


def _sequence(profiles: ProfileData | Sequence[ProfileData]) -> list[ProfileData]:
    from xsp.analysis.profile_data import ProfileData

    return [profiles] if isinstance(profiles, ProfileData) else list(profiles)


def _batch_size(profile: ProfileData) -> int | None:
    sizes = profile.table("calls")["batch_size"]
    return int(sizes.sum()) if len(sizes) and (sizes > 0).all() else None


def _summed(profile: ProfileData) -> pd.DataFrame:
    """All kernels of a profile as one row."""
    work = kernel_work(profile).assign(all=0)
    row = sum_work(work, ["all"])
    if not len(row):
        row = pd.DataFrame({name: [value] for name, value in _NOTHING.items()})
    return add_rates(row, ideal_intensities(profile))


_NOTHING = {
    "latency_ms": 0.0,
    "flops": np.nan,
    "dram_read_bytes": np.nan,
    "dram_write_bytes": np.nan,
    "flops_coverage": np.nan,
    "occupancy": np.nan,
    "precision": "",
    "source": "",
}
