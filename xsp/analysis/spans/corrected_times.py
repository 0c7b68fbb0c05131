"""Spans with the times of the corrected timeline, the replay without the tracers' cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray, Level


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


def corrected_starts(spans: pd.DataFrame, corrected: pd.DataFrame | None) -> npt.NDArray[np.int64]:
    """When each span started, as `with_corrected_times` has it."""
    start = spans["start_ns"].to_numpy()
    if corrected is not None:
        start = start.copy()
        start[corrected["row"].to_numpy()] = corrected["start_ns"].to_numpy()
    return start


def timeline_spans(spans: pd.DataFrame, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """Spans of the runs with kernels, with the times to use; row numbers are kept."""
    if corrected is not None:
        times = {name: corrected[name].to_numpy() for name in ("start_ns", "duration_ns")}
        corrected_spans: pd.DataFrame = spans.take(corrected["row"].to_numpy()).assign(**times)
        return corrected_spans
    deepest = spans.loc[spans["level"] == Level.KERNEL, "run"].unique()
    return spans[spans["run"].isin(deepest)]


def at_rows(spans: pd.DataFrame, column: str, rows: IntArray) -> npt.NDArray[Any]:
    """A column at rows of the whole table, each of which is in `spans`, a selection in order."""
    place = np.searchsorted(spans.index.to_numpy(), rows)
    found: npt.NDArray[Any] = spans[column].to_numpy()[place]
    return found
