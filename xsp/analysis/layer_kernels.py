"""Analyses across layers and kernels, A11 to A14 of XSP, section III-D: what no profiler of one
level can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.kernels import placed_work
from xsp.analysis.layers import layer_information, rows_of_layers
from xsp.analysis.peaks import ideal_intensities, on_cpu
from xsp.analysis.spans.layer_time import layer_times
from xsp.analysis.work.kernel_work import resolve_precision
from xsp.analysis.work.layer_work import layer_work
from xsp.analysis.work.roofline import SUMMED, WORK, add_rates, sum_work

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_LAYER = ["layer_index", "layer", "type"]
_BY_LAYER = [
    "layer_index",
    "layer",
    "type",
    "phase",
    "layer_latency_ms",
    "kernel_latency_ms",
    "kernels",
    *SUMMED,
]
_ROOFLINE = ["latency_ms", "arithmetic_intensity", "flops_per_s", "precision", "memory_bound"]


def kernels_by_layer(profile: ProfileData) -> pd.DataFrame:
    """A11: the kernels of each layer summed, in the order of the layers; layers without kernels are
    left out.

    Columns: layer_index, layer, type, phase, layer_latency_ms (as in `layer_information`),
    kernel_latency_ms (sum, no copies or sets), kernels (number), flops, dram_read_bytes,
    dram_write_bytes, flops_coverage (share of the latency that kernels of known FLOPs take),
    occupancy (latency-weighted mean), arithmetic_intensity, flops_per_s (over the kernels'
    latency), precision (of most operations), memory_bound, source.
    """
    sums = sum_work(placed_work(profile), ["layer_index"])
    table = (
        _layers(profile)
        .rename(columns={"latency_ms": "layer_latency_ms"})
        .merge(sums, on="layer_index")
    )
    rows = add_rates(table, ideal_intensities(profile)).rename(
        columns={"latency_ms": "kernel_latency_ms"}
    )
    return rows[_BY_LAYER]


def layer_metrics(profile: ProfileData) -> pd.DataFrame:
    """A12: layer_index, layer, type, flops, dram_read_bytes, dram_write_bytes of every layer.

    Sums over its kernels, 0 for a layer that has none. Where no kernels were traced (a model on the
    CPU) they are worked out from the shapes of the layer's tensors.
    """
    return _with_work(profile)[[*_LAYER, *WORK]]


def gpu_vs_nongpu(profile: ProfileData) -> pd.DataFrame:
    """A13: what of each layer's latency the GPU is busy for it, and what it waits.

    Columns: layer_index, layer, type, layer_latency_ms, gpu_ms (copies and sets included; what
    kernels of several streams do at once counts once), nongpu_ms (the rest: the device idle before
    the layer's kernels), gpu_share and nongpu_share (of the layer's latency; NaN for a layer that
    takes none). NaN where no kernels were traced.
    """
    tables = profile.raw_tables("runs", "spans", "layers")
    times = layer_times(tables, profile._latency_parts, rows_of_layers(profile))
    table = _layers(profile).rename(columns={"latency_ms": "layer_latency_ms"})
    table = table.join(
        times[["busy_ms", "idle_ms"]].set_axis(["gpu_ms", "nongpu_ms"], axis=1), on="layer_index"
    )
    whole = table["layer_latency_ms"].where(table["layer_latency_ms"] > 0)
    table = table.assign(gpu_share=table["gpu_ms"] / whole, nongpu_share=table["nongpu_ms"] / whole)
    return table[[*_LAYER, "layer_latency_ms", "gpu_ms", "nongpu_ms", "gpu_share", "nongpu_share"]]


def layer_roofline(profile: ProfileData) -> pd.DataFrame:
    """A14: layer_index, layer, type, latency_ms, arithmetic_intensity, flops_per_s, precision,
    memory_bound.

    latency_ms, over which flops_per_s is taken, is that of the layer's kernels; on the CPU that of
    the layer.
    """
    return _with_work(profile)[[*_LAYER, *_ROOFLINE]]


def _layers(profile: ProfileData) -> pd.DataFrame:
    """layer_index, layer, type, phase, latency_ms of every layer."""
    information = layer_information(profile)[["index", "name", "type", "phase", "latency_ms"]]
    return information.rename(columns={"index": "layer_index", "name": "layer"})


def _with_work(profile: ProfileData) -> pd.DataFrame:
    """Every layer with its work and how that relates to the peaks; `latency_ms` is the time of
    this work.
    """
    work = placed_work(profile)
    layers = _layers(profile)
    if not len(work):
        return add_rates(
            layers.merge(_worked_out(profile), how="left", on="layer_index"),
            ideal_intensities(profile),
        )
    sums = sum_work(work, ["layer_index"])
    table = layers.drop(columns="latency_ms").merge(sums, how="left", on="layer_index")
    nothing = table["kernels"].isna()
    table.loc[nothing, [*WORK, "latency_ms"]] = 0.0
    return add_rates(table.fillna({"precision": ""}), ideal_intensities(profile))


def _worked_out(profile: ProfileData) -> pd.DataFrame:
    """Work of each layer from its calls' shapes: layer_index, flops, dram_read_bytes,
    dram_write_bytes, precision.

    A sum of which a call is not known is not known either: without kernels there is nothing else to
    show for it.
    """
    tables = profile.raw_tables("runs", "spans", "layers")
    rows = rows_of_layers(profile)
    work = layer_work(tables["layers"])
    work["precision"] = work["precision"].where(work["flops"] > 0, "").to_numpy(object)
    if not on_cpu(profile):  # which has no TF32
        names = np.full(len(work), "", dtype=object)
        product = work["is_product"].to_numpy(bool)
        work["precision"] = resolve_precision(
            work["precision"].to_numpy(object), product, names, profile.environment
        )
    work = work.assign(layer_index=rows["index"])[(rows["index"] >= 0).to_numpy()]
    work = work.rename(columns={"read_bytes": "dram_read_bytes", "write_bytes": "dram_write_bytes"})
    groups = work.groupby("layer_index")
    sums = groups[WORK].sum().where(groups[WORK].count().eq(groups.size(), axis=0))
    most = work.sort_values(
        "flops", ascending=False, na_position="last", kind="stable"
    ).drop_duplicates("layer_index")
    result: pd.DataFrame = sums.join(most.set_index("layer_index")["precision"]).reset_index()
    return result
