"""Stamps of foreign traces: those that stand for "not known", those below zero, and when the trace
was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.capture.rules import MOST
from xsp.errors import CaptureError
from xsp.imports.foreign import ForeignTrace
from xsp.words.slugs import with_slug

Ints = npt.NDArray[np.int64]

_SHORTEST_GAP_NS = 10_000_000
_ROUNDING_NS = 1_000
_EARLIEST_NS, _LATEST_NS = 946_684_800_000_000_000, 4_102_444_800_000_000_000
"""The years 2000 and 2100 in Unix time."""


def unknown(start_ns: Ints, end_ns: Ints, base_ns: int = 0) -> npt.NDArray[np.bool_]:
    """Which events have a start that was not recorded: 0 where all others are far from it.

    CUPTI and tracers on top of it write 0 for a time that they do not know. A trace whose clock
    begins at 0 has a first event there too: what follows is then nearer than the trace is long.
    `base_ns` was subtracted from all stamps, so that 0 became its negative.
    """
    none = np.zeros(len(start_ns), dtype=bool)
    absolute: npt.NDArray[np.bool_] = start_ns <= _ROUNDING_NS - base_ns if base_ns else none
    at_zero = (start_ns == 0) | absolute
    others = ~at_zero
    if not others.any():
        return none
    first, last = int(start_ns[others].min()), int(end_ns[others].max())
    is_far = first > max(last - first, _SHORTEST_GAP_NS)
    return np.where(is_far, at_zero, absolute)


def unknown_sentence(count: int) -> list[str]:
    """The sentence on events without a known start, if there are any."""
    sentence = f"{count} events of the trace have no start (a stamp of 0) and are in no table"
    return [with_slug("unknown-stamps", sentence)] if count else []


def recording_time_unknown(trace: ForeignTrace) -> list[str]:
    """The sentence on a trace that does not tell when it was recorded."""
    sentence = (
        "the trace does not say when it was recorded: spans that are sent to OpenTelemetry end "
        "when they are sent"
    )
    return [with_slug("recording-time", sentence)] if trace.epoch_offset_ns is None else []


def from_zero(trace: ForeignTrace) -> ForeignTrace:
    """With all stamps >= 0, where some were below: trace formats have no others.

    Raises CaptureError for a stamp that is no time: a sum of two would be beyond 64 bits.
    """
    tables = (trace.windows, trace.ranges, trace.library, trace.api, trace.device)
    for stamps in (table[end] for table in tables for end in ("start_ns", "end_ns") if len(table)):
        if wrong := [each for each in (int(stamps.min()), int(stamps.max())) if abs(each) > MOST]:
            raise CaptureError(
                f"the trace has a stamp of {wrong[0]} ns, which is no time: it is damaged, record "
                "it again"
            )
    lowest = _lowest(tables)
    if lowest >= 0:
        return trace
    offset = trace.epoch_offset_ns
    windows, ranges, library, api, device = (_shifted(each, -lowest) for each in tables)
    return replace(
        trace,
        windows=windows,
        ranges=ranges,
        library=library,
        api=api,
        device=device,
        epoch_offset_ns=None if offset is None else offset + lowest,
    )


def _lowest(tables: Iterable[pd.DataFrame]) -> int:
    starts = [int(table["start_ns"].min()) for table in tables if len(table)]
    return min(starts, default=0)


def _shifted(table: pd.DataFrame, by: int) -> pd.DataFrame:
    return table.assign(start_ns=table["start_ns"] + by, end_ns=table["end_ns"] + by)


def epoch_offset(base_ns: int, first_ns: int) -> int | None:
    """Unix time minus the clock of the stamps: the base that the trace names, or 0 where the stamps
    are Unix time themselves, as in older traces; None where neither is so.
    """
    if base_ns:
        return base_ns
    return 0 if _EARLIEST_NS <= first_ns <= _LATEST_NS else None
