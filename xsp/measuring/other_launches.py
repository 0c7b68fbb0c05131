"""Work on the device that the profiled call may not have launched: what was launched before it, and
what other threads launched meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.outside import stands_for_outside
from xsp.capture.run import Run, call_of, sorted_by_start
from xsp.doubts import Doubt, Slug
from xsp.types import API_CALLS, DEVICE_ACTIVITY, Level


def about_other_launches(runs: Sequence[Run], tables: dict[str, pd.DataFrame]) -> list[Doubt]:
    """If the device was not the call's alone in some runs that traced kernels."""
    before = np.array([_launched_before(run) for run in runs if Level.KERNEL in run.spec.levels])
    beside = _launched_beside(tables)
    if not before.any() and not beside:
        return []
    facts = {"before": int(before.sum()), "beside": beside, "runs": len(before)}
    return [Doubt.of(Slug.OTHER_LAUNCHES, **facts)]


def _launched_before(run: Run) -> int:
    """Activities that ran inside a model call and were launched outside every one. They have no
    span, but the call's own may have waited for them.
    """
    calls, device = run.model_calls, run.table("device_activity", DEVICE_ACTIVITY)
    api = sorted_by_start(run.table("api_calls", API_CALLS))
    launch = launch_of(device["correlation_id"], api["correlation_id"])
    launched = call_of(api["start_ns"], calls)
    is_foreign = (launch >= 0) & (launched[launch] < 0 if len(launched) else False)
    return int((is_foreign & _runs_inside(device["start_ns"], device["end_ns"], calls)).sum())


def _runs_inside(
    start_ns: npt.NDArray[np.int64],
    end_ns: npt.NDArray[np.int64],
    calls: dict[str, npt.NDArray[np.int64]],
) -> npt.NDArray[np.bool_]:
    """Whether each interval shares time with a model call: more calls have begun by its end than
    have ended by its start.
    """
    begun = np.searchsorted(calls["start_ns"], end_ns, side="left")
    ended = np.searchsorted(calls["end_ns"], start_ns, side="right")
    return np.asarray(begun > ended)


def _launched_beside(tables: dict[str, pd.DataFrame]) -> int:
    """Activities that another thread than the call's launched, outside every layer."""
    spans = tables["spans"]
    kernels = spans[spans["level"] == Level.KERNEL]
    is_operator = (spans["level"] == Level.OP).to_numpy()
    parent = nearest(spans["parent"].to_numpy(), ~is_operator, kernels["parent"].to_numpy())
    outside = np.flatnonzero(stands_for_outside(tables["layers"]))
    in_layer = np.isin(spans["detail"].to_numpy()[parent], outside, invert=True)
    above = spans["parent"].to_numpy()[parent]
    own = spans["thread"].to_numpy()[above] == kernels["thread"].to_numpy()
    is_layer = spans["level"].to_numpy()[parent] == Level.LAYER
    return int((is_layer & ~in_layer & ~own & (above >= 0)).sum())
