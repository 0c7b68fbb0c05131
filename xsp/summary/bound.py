"""What the latency is bound by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.kernels import kernel_information
from xsp.analysis.spans.device_timeline import AFTER, BEFORE
from xsp.analysis.work.kernel_work import kernel_work
from xsp.analysis.work.roofline import analytic_quantities
from xsp.summary.values import Bound

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

HOST, BOTH, GPU = "host", "both", "gpu"
_HOST_BOUND = 0.4
"""GPU-idle share of the latency from which on the host is named first; below, the GPU does most of
the waiting for.
"""
_GPU_BOUND = 0.1
_UNKNOWN = float("nan")
_PLACES = {"": "between", BEFORE: "before", AFTER: "after"}


def bound_of(prof: ProfileData) -> Bound:
    """Host or GPU, by the share of the latency in which the GPU is idle; of the GPU's time, memory
    or compute.
    """
    busy = float(prof.tree()["device_ms"].iloc[0])
    if pd.isna(busy):
        return Bound(HOST, _UNKNOWN, _UNKNOWN, "", _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, ())
    idle = max(1 - busy / prof.latency_ms, 0.0)
    who = HOST if idle >= _HOST_BOUND else BOTH if idle >= _GPU_BOUND else GPU
    place, share = _idle_place(prof)
    memory, compute, unknown = _memory_or_compute(kernel_information(prof))
    analytic = tuple(analytic_quantities(kernel_work(prof)))
    return Bound(who, busy, idle, place, share, memory, compute, unknown, analytic)


def _idle_place(prof: ProfileData) -> tuple[str, float]:
    """Where most of the idle time is, as a share of it: the corrected timeline's total differs from
    the latency.
    """
    timeline = prof.device_timeline()
    where = timeline["name"].where(timeline["name"].isin([BEFORE, AFTER]), "")
    idle = timeline["idle_before_ms"].groupby(where).sum()
    if not idle.sum():
        return "", _UNKNOWN
    return _PLACES[str(idle.idxmax())], float(idle.max() / idle.sum())


def _memory_or_compute(table: pd.DataFrame) -> tuple[float, float, float]:
    """Shares of the kernels' time that are memory-bound, compute-bound and not known; NaN where
    nothing is known.
    """
    spent = table["latency_ms"].astype(float)
    known = table["memory_bound"].notna()
    total = float(spent.sum())
    if not total or not known.any():
        return _UNKNOWN, _UNKNOWN, _UNKNOWN
    memory = table["memory_bound"].fillna(value=False).astype(bool)
    parts = (spent[memory].sum(), spent[known & ~memory].sum(), spent[~known].sum())
    return float(parts[0] / total), float(parts[1] / total), float(parts[2] / total)
