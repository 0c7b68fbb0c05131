"""Where the time goes: the costs of layers, types of layers, library functions and kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.kernels import kernel_information, kernels_by_name
from xsp.analysis.layers import layer_information, layer_latency_by_type
from xsp.analysis.library import kernels_by_library_call, library_by_api
from xsp.summary.ranking import ranked
from xsp.summary.values import Places

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData


def places(prof: ProfileData, top: int) -> Places:
    """The `top` costs of each kind."""
    layers, kernels = layer_information(prof), kernels_by_name(prof)
    inside = float(layers["share"].sum()) if len(layers) else float("nan")
    return Places(
        ranked(_layers(layers), top),
        ranked(_types(prof, layers), top),
        ranked(_library(prof), top),
        ranked(_kernels(prof, kernels), top),
        max(1 - inside, 0.0),
        bool(kernels["share"].sum() > 1),
    )


def _layers(layers: pd.DataFrame) -> pd.DataFrame:
    """Busy is the GPU's time for the layer's kernels, waiting the rest of what the layer costs;
    without a GPU neither is known.
    """
    cost, device = layers["latency_ms"].astype(float), layers["device_ms"].astype(float)
    busy = np.minimum(device, cost)
    return pd.DataFrame(
        {
            "name": layers["name"],
            "kind": layers["type"],
            "backward": layers["phase"] == "backward",
            "calls": 1,
            "ms": cost,
            "half_width_ms": layers["latency_ci_ms"].astype(float),
            "busy_ms": busy,
            "waiting_ms": cost - busy,
            "share": layers["share"].astype(float),
        }
    )


def _types(prof: ProfileData, layers: pd.DataFrame) -> pd.DataFrame:
    """Sums over the layers of a type. Layers of one run vary together, so that half widths add up
    as they do.
    """
    each = _layers(layers)
    sums = each.groupby("kind", sort=False)[_SUMMED].sum(min_count=1)
    table = layer_latency_by_type(prof).set_index("type")[["count"]].join(sums)
    return table.assign(
        name=table.index, kind="", backward=False, calls=table["count"]
    ).reset_index(drop=True)


_SUMMED = ["ms", "half_width_ms", "busy_ms", "waiting_ms", "share"]


def _library(prof: ProfileData) -> pd.DataFrame:
    """GPU-busy time of the kernels that calls of a function launch, or the calls' time on the host
    where none was traced. Functions that launch nothing take no part.
    """
    table = library_by_api(prof)
    used = table[table["share"] > 0]
    table = used if len(used) else table
    on_gpu = table["gpu_ms"].notna()
    launched = kernels_by_library_call(prof).rename(columns={"library_call": "name"})
    half = _half_widths(prof, launched)
    return pd.DataFrame(
        {
            "name": table["name"],
            "kind": table["library"],
            "backward": False,
            "calls": table["count"],
            "ms": table["gpu_ms"].where(on_gpu, table["host_ms"]).astype(float),
            "half_width_ms": table["name"].map(half).where(on_gpu).astype(float),
            "busy_ms": table["gpu_ms"].astype(float),
            "waiting_ms": np.nan,
            "share": table["share"].astype(float),
        }
    )


def _kernels(prof: ProfileData, kernels: pd.DataFrame) -> pd.DataFrame:
    half = _half_widths(prof, kernel_information(prof)[["index", "name"]])
    return pd.DataFrame(
        {
            "name": kernels["name"],
            "kind": "",
            "backward": False,
            "calls": kernels["count"],
            "ms": kernels["latency_ms"].astype(float),
            "half_width_ms": kernels["name"].map(half).astype(float),
            "busy_ms": kernels["latency_ms"].astype(float),
            "waiting_ms": np.nan,
            "share": kernels["share"].astype(float),
        }
    )


def _half_widths(prof: ProfileData, kernels: pd.DataFrame) -> pd.Series[float]:
    """Sums, by `name`, of the half widths of the kernels with these indices: kernels of one run
    vary together.
    """
    half = kernel_information(prof).set_index("index")["latency_ci_ms"].astype(float)
    return kernels["index"].map(half).groupby(kernels["name"]).sum(min_count=1)
