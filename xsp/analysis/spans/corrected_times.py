"""Spans with the times of the corrected timeline, the replay without the tracers' cost."""

from __future__ import annotations

import pandas as pd

from xsp.types import Level


def with_corrected_times(spans: pd.DataFrame, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """All spans, with corrected `start_ns` and `duration_ns` where `corrected` has them.

    `corrected` has row (of the spans table), start_ns, duration_ns, as `Profile.corrected`; where
    it is None the recorded times stay.
    """
    if corrected is None:
        return spans
    row = corrected["row"].to_numpy()
    start, duration = spans["start_ns"].to_numpy().copy(), spans["duration_ns"].to_numpy().copy()
    start[row], duration[row] = corrected["start_ns"], corrected["duration_ns"]
    return spans.assign(start_ns=start, duration_ns=duration)


def timeline_spans(spans: pd.DataFrame, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """Spans of the runs with kernels, with the times to use; row numbers are kept."""
    if corrected is not None:
        return with_corrected_times(spans, corrected).loc[corrected["row"]]
    deepest = spans.loc[spans["level"] == Level.KERNEL, "run"].unique()
    return spans[spans["run"].isin(deepest)]
