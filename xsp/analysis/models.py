"""Several models side by side: the paper's summary of each (XSP, section IV and its tables of
models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.layers import layer_information
from xsp.analysis.model import kernels_by_model, model_information
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.analysis.spans.rungs import deepest_rung
from xsp.analysis.spans.sequence import SEQUENCE_TABLES, kernel_sequence
from xsp.analysis.work.operations import CONVOLUTION, GEMM, kernel_operations, layer_operation

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

THIRDS = ("beginning_share", "middle_share", "end_share")
_SHARES = ("gpu_share", "convolution_share", "gemm_share")
_KERNEL_SHARES = ("convolution_kernel_share", "gemm_kernel_share")
_COUNTS = ("layers", "kernels")
_TOP = ("top_layer_type", "top_kernel")
_CORRECTION = ("closure_error", "closure_low", "closure_high", "lost")
_FACTS = (*_COUNTS, *_SHARES, *_KERNEL_SHARES, *THIRDS, *_TOP, *_CORRECTION)
"""Columns that only this table has; the others are those of A1 and A15."""

COLUMNS = [
    "name",
    "batch_size",
    "latency_ms",
    "latency_ci_ms",
    "throughput_per_s",
    *_COUNTS,
    *_SHARES,
    *_KERNEL_SHARES,
    "memory_bound",
    "arithmetic_intensity",
    "flops_per_s",
    "occupancy",
    "precision",
    "source",
    *THIRDS,
    *_TOP,
    *_CORRECTION,
]


def compare_models(
    profiles: ProfileData | Sequence[ProfileData] | Mapping[str, ProfileData],
) -> pd.DataFrame:
    """One row per profile; a mapping gives the names, else they are the profiles' own.

    - name, batch_size, latency_ms, latency_ci_ms, throughput_per_s: as in `model_information` (A1)
    - layers (distinct layers and phases), kernels (kernels, copies and sets that a run executes)
    - gpu_share: GPU-busy time over the unprofiled model latency; NaN without kernels
    - convolution_share, gemm_share: share of the kernels' time in layers of these types (`Conv2d`;
      `Linear`, `matmul`); without kernels, of the layers' latency
    - convolution_kernel_share, gemm_kernel_share: share of the kernels' time by the library call
      that launched them (cuDNN convolution; cuBLAS product), or by the kernel's name where there
      was none. Where these two differ from the two before, other layers compute products (an LSTM),
      or a layer does more than its product.
    - memory_bound, arithmetic_intensity, flops_per_s, occupancy, precision, source: as in
      `kernels_by_model` (A15)
    - beginning_share, middle_share, end_share: share of the layers' latency in each third of the
      layers, by index
    - top_layer_type (of most latency), top_kernel (name of most time, "" without kernels)
    - closure_error, closure_low, closure_high (95 %): of the deepest rung; NaN where nothing was
      fitted
    - lost: events known to be missing
    """
    from xsp.analysis.profile_data import ProfileData

    if isinstance(profiles, ProfileData):
        profiles = [profiles]
    names = list(profiles) if isinstance(profiles, Mapping) else [each.name for each in profiles]
    every = list(profiles.values()) if isinstance(profiles, Mapping) else list(profiles)
    models = model_information(every).drop(columns="name")
    kernels = kernels_by_model(every).drop(columns=["name", "batch_size"])
    facts = pd.DataFrame([_facts(each) for each in every], columns=list(_FACTS))
    return pd.concat([pd.Series(names, name="name", dtype=object), models, kernels, facts], axis=1)[
        COLUMNS
    ]


def _facts(profile: ProfileData) -> dict[str, Any]:
    layers = layer_information(profile)
    return {
        "kernels": profile.kernel_count,
        "gpu_share": float(profile.tree()["device_ms"].iloc[0]) / profile.latency_ms,
        "lost": profile.lost,
        **_of_layers(profile, layers),
        **_of_kernels(profile),
        **_closure(profile),
    }


def _of_layers(profile: ProfileData, layers: pd.DataFrame) -> dict[str, Any]:
    """Facts from the layers' latencies. What lies outside all layers counts for the type, not for
    the thirds.
    """
    table = profile.table("layers")
    outside = set(table.loc[table["kind"] == NO_LAYER_KIND, "name"])
    by_type = layers.groupby("type")["latency_ms"].sum()
    inside = layers[~layers["name"].isin(outside)]
    third = np.arange(len(inside)) * len(THIRDS) // max(len(inside), 1)
    parts = np.bincount(third, weights=inside["latency_ms"].fillna(0), minlength=len(THIRDS))
    operation = by_type.index.map(layer_operation)
    return {
        "layers": len(inside),
        "top_layer_type": str(by_type.idxmax()) if len(by_type) else "",
        "convolution_share": _share(by_type[operation == CONVOLUTION].sum(), by_type.sum()),
        "gemm_share": _share(by_type[operation == GEMM].sum(), by_type.sum()),
        **{name: _share(part, parts.sum()) for name, part in zip(THIRDS, parts, strict=True)},
    }


def _of_kernels(profile: ProfileData) -> dict[str, Any]:
    """Facts from the kernels' durations; those by layer type replace the ones from the layers'
    latencies.
    """
    tables = profile.raw_tables(*SEQUENCE_TABLES)
    sequence = kernel_sequence(tables)
    if not len(sequence):
        return {"convolution_kernel_share": nan, "gemm_kernel_share": nan, "top_kernel": ""}
    duration = sequence["duration_ns"].fillna(0)
    kernel = kernel_operations(
        sequence["name"], sequence["library_call"].to_numpy(), tables["library_calls"]
    )
    layer = _types(tables["layers"]).map(layer_operation).to_numpy(dtype=object)[sequence["layer"]]
    return {
        "convolution_share": _share(duration[layer == CONVOLUTION].sum(), duration.sum()),
        "gemm_share": _share(duration[layer == GEMM].sum(), duration.sum()),
        "convolution_kernel_share": _share(duration[kernel == CONVOLUTION].sum(), duration.sum()),
        "gemm_kernel_share": _share(duration[kernel == GEMM].sum(), duration.sum()),
        "top_kernel": str(duration.groupby(sequence["name"]).sum().idxmax()),
    }


def _types(layers: pd.DataFrame) -> pd.Series:
    """Type of each row's layer; a backward node has its forward layer's."""
    forward = layers["forward"].to_numpy()
    return layers["type"].iloc[np.where(forward >= 0, forward, np.arange(len(layers)))]


def _closure(profile: ProfileData) -> dict[str, float]:
    rung = deepest_rung({"runs": profile.table("runs")})
    found = profile.closure_error.reindex([rung])
    return {f"closure_{name}": float(found[name].iloc[0]) for name in ("error", "low", "high")}


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole > 0 else nan
