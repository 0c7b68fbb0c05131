"""The runs of a trace as windows of time: what lies in which, and which are not whole runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.intervals import covered_ns
from xsp.imports.foreign import ForeignTrace
from xsp.words.slugs import with_slug

Ints = npt.NDArray[np.int64]


def window_of(events: pd.DataFrame, windows: pd.DataFrame) -> Ints:
    """Index of the window that each event (thread, start_ns) begins in, -1 for none.

    Of windows that overlap, that of the event's own thread has it, or else the one that began last.
    `windows` are in order of their start.
    """
    thread, start = events["thread"].to_numpy(), events["start_ns"].to_numpy()
    of_time = at_time(start, windows)
    own = np.full(len(events), -1, dtype=np.int64)
    for one in windows["thread"].unique():
        mine = np.flatnonzero(thread == one)
        there = np.flatnonzero(windows["thread"].to_numpy() == one)
        found = at_time(start[mine], windows.iloc[there])
        own[mine] = np.where(found >= 0, there[found], -1)
    return np.where(own >= 0, own, of_time)


def at_time(start_ns: Ints, windows: pd.DataFrame) -> Ints:
    """Index of the window that each stamp lies in, -1 for none; of several the one that began
    last.
    """
    order = np.argsort(start_ns, kind="stable")
    stamps = start_ns[order]
    first = np.searchsorted(stamps, windows["start_ns"].to_numpy(), side="left")
    last = np.searchsorted(stamps, windows["end_ns"].to_numpy(), side="right")
    found = np.full(len(start_ns), -1, dtype=np.int64)
    for window, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        found[order[begin:end]] = window
    return found


# ---- windows that are not whole runs ----


def whole_runs(trace: ForeignTrace) -> tuple[pd.DataFrame, list[str]]:
    """The windows of a trace in order of their start, without empty ones and a last one that was
    cut short, and sentences on what was left out and on windows that overlap.
    """
    windows = trace.windows.sort_values("start_ns", kind="stable").reset_index(drop=True)
    counts = _events_by_name(trace, windows)
    is_empty = ~counts.any(axis=1)
    is_cut = np.zeros(len(windows), dtype=bool)
    if trace.last_may_be_cut and not is_empty.all():
        last = int(np.flatnonzero(~is_empty)[-1])
        others = np.delete(counts, np.union1d(np.flatnonzero(is_empty), [last]), axis=0)
        is_cut[last] = _is_part(counts[last], others)
    kept = windows[~is_empty & ~is_cut] if not is_empty.all() else windows
    warnings = [*_empty(int(is_empty.sum()), len(kept)), *_cut(int(is_cut.sum()), len(kept))]
    kept = kept.reset_index(drop=True)
    return kept, warnings + _overlapping(kept)


def _events_by_name(trace: ForeignTrace, windows: pd.DataFrame) -> npt.NDArray[np.int64]:
    """How often each name of a range, library or API call begins in each window, as a matrix."""
    columns = ["thread", "start_ns", "name"]
    events = pd.concat([part[columns] for part in (trace.ranges, trace.library, trace.api)])
    window = window_of(events, windows)
    name, names = pd.factorize(events["name"])
    inside = window >= 0
    flat = window[inside] * len(names) + name[inside]
    return np.bincount(flat, minlength=len(windows) * len(names)).reshape(len(windows), -1)


def _is_part(counts: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> bool:
    """Whether a window has no name more often than every other window has it, and fewer in all."""
    if not len(others):
        return False
    is_within = bool((counts <= others.min(axis=0)).all())
    return is_within and bool(counts.sum() < others.sum(axis=1).min())


def _empty(count: int, kept: int) -> list[str]:
    sentence = (
        f"{count} runs of the trace hold nothing that was recorded and are left out; {kept} are "
        "kept"
    )
    return [with_slug("empty-runs", sentence)] if count and kept else []


def _cut(count: int, kept: int) -> list[str]:
    sentence = (
        "the trace ends in the middle of its last run, which has only a part of what every other "
        f"run has; it is left out; {kept} are kept"
    )
    return [with_slug("partial-run", sentence)] if count else []


def _overlapping(windows: pd.DataFrame) -> list[str]:
    start, end = windows["start_ns"].to_numpy(), windows["end_ns"].to_numpy()
    count = int((start[1:] < np.maximum.accumulate(end)[:-1]).sum())
    sentence = (
        f"{count} runs of the trace begin before an earlier one has ended; what happens on a "
        "thread without a run of its own is given to the run that began last"
    )
    return [with_slug("overlapping-runs", sentence)] if count else []


# ---- runs that overlap on the device ----


def overlap_on_device(windows: pd.DataFrame, device: pd.DataFrame, of_device: Ints) -> list[str]:
    """The sentence on runs that begin while the device still works for the run before, if there
    are any: how long a run takes from one end to the next, and how busy the device is then.

    `of_device` is the window of each row of `device`.
    """
    inside = of_device >= 0
    busy_until = np.full(len(windows), np.iinfo(np.int64).min)
    np.maximum.at(busy_until, of_device[inside], device["end_ns"].to_numpy()[inside])
    count = int((busy_until[:-1] > windows["start_ns"].to_numpy()[1:]).sum())
    if not count:
        return []
    finished = np.maximum(windows["end_ns"].to_numpy(), busy_until)
    begin, end = int(finished.min()), int(finished.max())
    if end <= begin:
        return []
    period_ms = (end - begin) / (len(windows) - 1) / 1e6
    start = device["start_ns"].to_numpy().clip(begin, end)
    stop = device["end_ns"].to_numpy().clip(begin, end)
    group = np.zeros(len(start), dtype=np.int64)
    share = covered_ns(group, start, stop, 1)[0] / (end - begin)
    sentence = (
        f"the GPU still works for the run before when {count} of the {len(windows)} runs begin: "
        "their latencies hold that time too, and shares of them are too low; from the end of one "
        f"run to the end of the next it takes {period_ms:.2f} ms, for {share:.0%} of which the "
        "GPU is busy"
    )
    return [with_slug("overlapping-on-device", sentence)]
