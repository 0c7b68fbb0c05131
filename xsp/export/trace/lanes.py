"""Slices on tracks: what a track can show nests, and begins and ends in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Lane of every slice, and all begins and ends in the order in which a viewer must read them.

    `event` holds `2 * slice` for its begin and `2 * slice + 1` for its end, ordered by time. On one
    lane of one group slices that end together end innermost first, and a slice that begins where
    another ends begins after that end.
    """

    lane: Ints
    event: Ints


def laid_out(
    group: Ints,
    start_ns: Ints,
    end_ns: Ints,
    rank: Ints,
    recorded_ns: Ints,
    nests: npt.NDArray[np.bool_],
) -> Layout:
    """Put slices of each group on as few lanes as their order allows, so that none overlaps another
    on its lane.

    Slices that `nests` may lie inside each other; others need a lane of their own wherever they
    overlap at all. Of equal intervals, and of intervals without length, the one of lower `rank` is
    the outer one.

    Slices that start together are taken as they were recorded: the correction leaves many without
    length, and one that came before its neighbour must not end up inside it.
    """
    lane = np.zeros(len(group), dtype=np.int64)
    order = np.lexsort((rank, -end_ns, recorded_ns, start_ns, group))
    events: list[int] = []
    bounds = (
        np.flatnonzero(np.r_[True, np.diff(group[order]) != 0, True])
        if len(order)
        else np.zeros(1, np.int64)
    )
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        mine = order[first:last]
        columns = (mine, start_ns[mine], end_ns[mine], rank[mine])
        found, lane[mine] = _one_group(
            [column.tolist() for column in columns], bool(nests[mine[0]])
        )
        events += found
    event = np.array(events, dtype=np.int64)
    time = np.where(event & 1, end_ns[event >> 1], start_ns[event >> 1])
    return Layout(lane, event[np.argsort(time, kind="stable")])


def _one_group(columns: list[list[int]], nests: bool) -> tuple[list[int], list[int]]:
    """Events and lanes of slices in order; each lane is a stack of the slices that are
    open on it.
    """
    stacks: list[list[tuple[int, int, int]]] = []
    events, lanes = [], []
    for one, start, end, rank in zip(*columns, strict=True):
        lane = 0
        while lane < len(stacks):
            stack = stacks[lane]
            while stack and _is_over(stack[-1], start, end, rank):
                events.append(2 * stack.pop()[2] + 1)
            if not stack or (nests and stack[-1][0] >= end):
                break
            lane += 1
        else:
            stacks.append([])
        stacks[lane].append((end, rank, one))
        lanes.append(lane)
        events.append(2 * one)
    for stack in stacks:
        events += [2 * one + 1 for _, _, one in reversed(stack)]
    return events, lanes


def _is_over(open_: tuple[int, int, int], start: int, end: int, rank: int) -> bool:
    """Whether a slice has ended when the next one starts; one without length can still be inside it
    at its very end.
    """
    return open_[0] < start or (open_[0] == start and (start < end or rank <= open_[1]))
