"""Where FLOPs and bytes come from, said below every figure that draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.work.kernel_work import ANALYTIC, COUNTERS, kernel_work

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_COUNTED = "FLOPs and DRAM traffic were counted by the hardware."
_ANALYTIC = (
    "Analytic, not counted: FLOPs follow from the arguments of library calls, bytes from the "
    "shapes of what layers "
    "read and write."
)
_FROM_SHAPES = (
    "Analytic, not counted: FLOPs and bytes follow from the shapes of what layers read and write."
)
_QUANTITIES = {"FLOPs": "flops_source", "DRAM bytes": "bytes_source"}


def sources_note(profiles: ProfileData | Sequence[ProfileData]) -> str:
    """For FLOPs and bytes apart: counted by the hardware, analytic, or for which share of the
    kernels' time counted.
    """
    every = profiles if isinstance(profiles, Sequence) else [profiles]
    work = pd.concat([kernel_work(each) for each in every], ignore_index=True)
    return note_on(work) if len(work) else _FROM_SHAPES


def note_on(work: pd.DataFrame) -> str:
    """The same from rows of `kernel_work`."""
    shares = {
        what: share
        for what, column in _QUANTITIES.items()
        if (share := _counted(work, column)) is not None
    }
    if list(shares.values()) == [0.0, 0.0]:
        return _ANALYTIC
    if list(shares.values()) == [1.0, 1.0]:
        return _COUNTED
    return " ".join(_sentence(what, share) for what, share in shares.items())


def _counted(work: pd.DataFrame, column: str) -> float | None:
    """Share of the time of kernels of which a quantity is known in which it was counted; None where
    it never is.
    """
    spent = work["duration_ns"].groupby(work[column]).sum()
    counted, analytic = float(spent.get(COUNTERS, 0.0)), float(spent.get(ANALYTIC, 0.0))
    return counted / (counted + analytic) if counted + analytic > 0 else None


def _sentence(what: str, counted: float) -> str:
    if counted == 0:
        return f"{what} are analytic, from the arguments of library calls and the shapes of layers."
    if counted == 1:
        return f"{what} were counted by the hardware."
    return (
        f"{what} were counted by the hardware for {counted:.0%} of the kernels' time and are "
        "analytic for the rest."
    )
