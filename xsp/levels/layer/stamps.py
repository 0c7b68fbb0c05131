"""From the stamps that timed runs write to intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.sums import distinct
from xsp.levels.layer.autograd import ENGINE_CODE
from xsp.types import BACKWARD_BASE, LAYER_EVENTS, Columns, empty

IntArray = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_THREAD_MASK = 0xFFFFFFFF


def pair_stamps(log: npt.ArrayLike) -> Columns:
    """LAYER_EVENTS from stamps `(2 * code + is_end, time_ns, thread)`, those of each thread in the
    order in which they were written.

    On one thread calls nest, so the end that follows a begin at the same depth is its own. A begin
    without an end (the model raised) is left out. A backward node has a begin only: it lasts until
    the next node of its thread, the last one until its run of the engine ends.
    """
    stamps = np.asarray(log, dtype=np.int64).reshape(-1, 3)
    if not len(stamps):
        return empty(LAYER_EVENTS)
    event, time_ns, thread = stamps.T
    is_node = event >= 2 * BACKWARD_BASE
    if is_node.any():
        return _ordered(_calls_and_nodes(event, time_ns, thread & _THREAD_MASK, is_node))
    calls = _calls(event, time_ns, thread & _THREAD_MASK)
    return _ordered(_without_engine(calls))


def _calls_and_nodes(
    event: IntArray, time_ns: IntArray, thread: IntArray, is_node: Bools
) -> Columns:
    calls = _calls(event[~is_node], time_ns[~is_node], thread[~is_node])
    engine = calls["code"] == ENGINE_CODE
    nodes = _nodes(event[is_node], time_ns[is_node], thread[is_node], calls["end_ns"][engine])
    calls = _without_engine(calls)
    return {name: np.concatenate([calls[name], nodes[name]]) for name in calls}


def _without_engine(calls: Columns) -> Columns:
    engine = calls["code"] == ENGINE_CODE
    return {name: column[~engine] for name, column in calls.items()} if engine.any() else calls


def _ordered(events: Columns) -> Columns:
    """By thread and start."""
    order = np.lexsort((events["start_ns"], events["thread"]))
    if (order[1:] > order[:-1]).all():
        return events
    return {name: column[order] for name, column in events.items()}


def _calls(event: IntArray, time_ns: IntArray, thread: IntArray) -> Columns:
    """Events with a begin and an end."""
    threads = distinct(thread).tolist()
    parts = []
    for one in threads or [0]:
        mine = slice(None) if len(threads) < 2 else thread == one
        parts.append(_calls_of_thread(event[mine], time_ns[mine], one))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _calls_of_thread(event: IntArray, time_ns: IntArray, thread: int) -> Columns:
    is_end = (event & 1).astype(np.int8)
    # An end leaves the depth its begin entered: both are given the depth outside the call.
    depth = np.cumsum(1 - 2 * is_end, dtype=np.int32) - (1 - is_end)
    # A begin and its end share a depth; sorted by it with time kept, they alternate.
    nest = np.argsort(depth, kind="stable").astype(np.int32)
    first, second = nest[:-1], nest[1:]
    match = (is_end[first] == 0) & (is_end[second] == 1) & (event[first] + 1 == event[second])
    begins, ends = first[match], second[match]
    return {
        "thread": np.full(len(begins), thread, dtype=np.uint32),
        "code": event[begins] >> 1,
        "start_ns": time_ns[begins],
        "end_ns": time_ns[ends],
    }


def _nodes(event: IntArray, time_ns: IntArray, thread: IntArray, engine_end: IntArray) -> Columns:
    """Backward nodes, which have a begin only."""
    order = np.lexsort((time_ns, thread))
    event, time_ns, thread = event[order], time_ns[order], thread[order]
    last = np.r_[thread[1:] != thread[:-1], True] if len(thread) else np.zeros(0, dtype=bool)
    following = np.where(last, np.iinfo(np.int64).max, np.roll(time_ns, -1))
    # Engine runs nest at most; the one that ends first after the node began is the one it belongs
    # to.
    by_end = np.sort(engine_end)
    run = np.searchsorted(by_end, time_ns, side="right")
    ended = np.append(by_end, time_ns.max(initial=0))[run]
    end = np.maximum(np.minimum(following, ended), time_ns)
    return {
        "thread": thread.astype(np.uint32),
        "code": event >> 1,
        "start_ns": time_ns,
        "end_ns": end,
    }
