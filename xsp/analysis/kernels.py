"""Analyses of kernels: A8 to A10 of XSP, section III-D. Copies and sets are none; without kernels,
tables are empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.layers import rows_of_layers
from xsp.analysis.memo import once_per_profile
from xsp.analysis.peaks import ideal_intensities
from xsp.analysis.work.kernel_work import kernel_work
from xsp.analysis.work.roofline import RATES, WORK, add_rates, sources, sum_work

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_INFORMATION = [
    "index",
    "name",
    "layer_index",
    "layer",
    "latency_ms",
    "latency_ci_ms",
    *WORK,
    *RATES,
]
_ROOFLINE = [
    "index",
    "name",
    "layer",
    "latency_ms",
    "arithmetic_intensity",
    "flops_per_s",
    "precision",
    "memory_bound",
]
_BY_NAME = [
    "name",
    "count",
    "latency_ms",
    "share",
    "flops",
    "dram_read_bytes",
    "dram_write_bytes",
    "flops_coverage",
    "occupancy",
    "arithmetic_intensity",
    "flops_per_s",
    "memory_bound",
    "source",
]


@once_per_profile
def kernel_information(profile: ProfileData) -> pd.DataFrame:
    """A8: one row per kernel of a run, in the order of their launches; equal kernels are not
    pooled.

    Columns: index (position, from 0), name, layer_index and layer (as in `layer_information`),
    latency_ms and latency_ci_ms (trimmed mean, half its 95 % interval), flops, dram_read_bytes,
    dram_write_bytes, occupancy (0 to 1), arithmetic_intensity (FLOP/byte), flops_per_s, precision,
    memory_bound (NA if not known), source ("counters", "analytic", "mixed", "").
    """
    work = placed_work(profile)
    table = work.assign(
        index=work["position"],
        latency_ms=work["duration_ns"] / 1e6,
        latency_ci_ms=work["duration_ci_ns"] / 1e6,
        source=sources(work),
        layer=work["layer_name"],
    )
    return add_rates(table, ideal_intensities(profile))[_INFORMATION]


def kernel_roofline(profile: ProfileData) -> pd.DataFrame:
    """A9: index, name, layer, latency_ms, arithmetic_intensity, flops_per_s, precision,
    memory_bound of each kernel.
    """
    return kernel_information(profile)[_ROOFLINE]


def kernels_by_name(profile: ProfileData) -> pd.DataFrame:
    """A10: kernels of one name summed, those with most time first.

    Columns: name, count (in a run), latency_ms, share (of the unprofiled model latency), flops,
    dram_read_bytes, dram_write_bytes, flops_coverage (share of the latency that kernels of known
    FLOPs take), occupancy (latency-weighted mean), arithmetic_intensity, flops_per_s, memory_bound,
    source.
    """
    table = sum_work(kernel_work(profile), ["name"]).rename(columns={"kernels": "count"})
    table["share"] = table["latency_ms"] / profile.latency_ms
    table = table.sort_values("latency_ms", ascending=False, kind="stable", ignore_index=True)
    return add_rates(table, ideal_intensities(profile))[_BY_NAME]


@once_per_profile
def placed_work(profile: ProfileData) -> pd.DataFrame:
    """`kernel_work` with layer_index, layer_name and phase of the layer that each kernel belongs
    to.
    """
    rows = rows_of_layers(profile)
    work = kernel_work(profile)
    mine = rows.loc[work["layer"]]
    return work.assign(
        layer_index=mine["index"].to_numpy(np.int64),
        layer_name=mine["name"].to_numpy(object),
        phase=mine["phase"].to_numpy(object),
    )
