"""Where FLOPs and bytes come from, said below every figure that draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.kernels import kernel_information

if TYPE_CHECKING:
    from xsp.profiles import Profile

_COUNTED = "FLOPs and DRAM traffic were counted by the hardware."
_ANALYTIC = (
    "Analytic, not counted: FLOPs follow from the arguments of library calls, bytes from the shapes of what layers "
    "read and write."
)


def sources_note(profile: Profile) -> str:
    """One sentence: counted by the hardware, analytic, or the share of kernel time that is either."""
    return note_on(kernel_information(profile))


def note_on(kernels: pd.DataFrame) -> str:
    """The same from a table with columns source and latency_ms."""
    spent = kernels.groupby(kernels["source"].astype(str))["latency_ms"].sum()
    known = {name: float(spent.get(name, 0.0)) for name in ("counters", "mixed", "analytic")}
    total = sum(known.values())
    if not total:
        return ""
    if known["analytic"] == total:
        return _ANALYTIC
    if known["counters"] == total:
        return _COUNTED
    shares = f"{known['counters'] / total:.0%} of the kernels' time, in part for {known['mixed'] / total:.0%}"
    return f"FLOPs and DRAM traffic were counted by the hardware for {shares}; the rest is from arguments and shapes."
