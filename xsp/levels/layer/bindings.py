"""Functional calls told by the calls of torch's bindings (`_hotpath_c/bindings.c`).

A torch function mode doubles the work of a call: torch packs the arguments, calls the handler in
Python's manner, and parses the arguments again. That takes 0.7 us and more, and a program can ask
whether a mode is on. What a mode would see can be had for less. A functional call calls bindings,
always the same in the same order. The structure run, in which a mode is on, records which these
are. In timed runs no mode is on: each call of a binding is compared with the one that was recorded,
which says whether a layer begins or ends there.

The first that differs ends this: what calls of bindings mean is known only while all are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.levels.layer import hotpath
from xsp.levels.layer.functional import is_layer
from xsp.levels.layer.tensors import StepKind
from xsp.levels.layer.ways import Plan
from xsp.machine.binding_internals import (
    ITEM_ACCESS,
    OVERRIDE_QUESTIONS,
    bindings,
    operator_binding,
    tensor_types,
)

ENGINE = 1 << 16
"""Stands for the end of a run of autograd's engine among the numbers of bindings."""

NO_ROW = -1

ITSELF, NO_ITEM = -1, -2
"""Instead of an item: the output as a whole, or no part of it that is known."""

_CALL_BEGINS, _CALL_ENDS, _ROW_BEGINS, _ROW_ENDS = range(4)

Step = tuple[int, Any, Any, int]
"""A binding, the sites that begin before a call of it and end after it, or None, and an item."""

IntArray = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ThreadCalls:
    """The calls of bindings that every run makes on one thread: the number of each, and the codes
    of the layers that begin with it and end with it, -1 for none. What ends gives what the call
    does, or a tuple in which that is the `item`, -1 for the former.
    """

    binding: Numbers
    begins: IntArray
    ends: IntArray
    item: IntArray

    def steps(self, site: Callable[[int], Any]) -> list[Step]:
        """For the recorder in C; `site` gives the site of a code."""
        sites = {code: site(code) for code in np.unique(self.begins).tolist() if code >= 0}
        columns = self.binding.tolist(), self.begins.tolist(), self.ends.tolist()
        return [
            (number, sites.get(begins), sites.get(ends), item)
            for number, begins, ends, item in zip(*columns, self.item.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class ExpectedCalls:
    """Those of the thread that begins a run, and of another one, where there are any."""

    starting: ThreadCalls
    other: ThreadCalls | None = None


@dataclass
class RecordedCalls:
    """What the structure run tells: `stamps` as a recorder has them, the thread that began it, and
    of the rows of functional calls that gave something else than their last binding did, in which
    item of it that was, `NO_ITEM` for none.
    """

    stamps: IntArray
    thread: int
    items: Mapping[int, int]


def can_be_followed() -> bool:
    """Whether bindings can be watched here: they can by the extension in C."""
    return hotpath.extension() is not None


@cache
def names() -> dict[int, str]:
    """What the bindings are called that can begin or be a layer, by number. They are registered
    once in a process.
    """
    extension = hotpath.extension()
    every = [each for each in bindings() if is_layer(each)]
    numbered = [(extension.binding(each), each.__name__) for each in (*every, *OVERRIDE_QUESTIONS)]
    items = zip(extension.item_access(*ITEM_ACCESS), ITEM_ACCESS, strict=True)
    found = {number: name for number, name in numbered if number is not None}
    return found | {number: each.__name__ for number, each in items} | {ENGINE: "the engine"}


def name_of(binding: int) -> str:
    """What a binding is called, for people; operators of `torch.ops` are not in `names`."""
    return names().get(binding, "an operator of `torch.ops`")


def open_bindings() -> Callable[[], None]:
    """Let calls of bindings go through entries of xsp until what is returned is called."""
    names()
    extension = hotpath.extension()
    extension.open_bindings(tensor_types())
    return extension.close_bindings  # type: ignore[no-any-return] # in C


def register(function: Callable[..., Any]) -> None:
    """Have the calls of an operator in `torch.ops` seen too; nothing for any other function."""
    inner = operator_binding(function)
    if inner is not None:
        hotpath.extension().binding(inner)


def expected_calls(
    recorded: RecordedCalls, codes: IntArray, plans: Mapping[int, Sequence[Plan | None]]
) -> ExpectedCalls | str:
    """What timed runs have to call, or why their functional calls cannot be told by bindings.

    `codes` are those of the structure run's rows, `plans` those of their calls by code.
    """
    item = np.full(len(codes), ITSELF)
    for row, place in recorded.items.items():
        if not all(_starts_there(plan, place) for plan in plans.get(int(codes[row]), ()) if plan):
            return _ELSEWHERE
        item[row] = max(place, ITSELF)
    events, thread = recorded.stamps[:, 0], recorded.stamps[:, 2]
    others = np.setdiff1d(thread[(events & 3) == _ROW_BEGINS], [recorded.thread])
    if len(others) > 1:
        return "functional calls were made on several threads"
    starting = _calls_of(events[thread == recorded.thread], codes, item)
    other = _calls_of(events[thread == others[0]], codes, item) if len(others) else None
    if starting is None or (len(others) and other is None):
        return _WITHOUT
    return ExpectedCalls(starting, other)


_ELSEWHERE = "a function in Python gave something else than what it called in C, with a gradient"
_WITHOUT = "a functional call called nothing of torch's in C"


def _starts_there(plan: Plan, place: int) -> bool:
    """Whether all ways start from this item of the output."""
    starts = (way.steps[:1] for way in plan if way.base < 0)
    return all(start == ((StepKind.ITEM, place),) for start in starts)


def _calls_of(events: IntArray, codes: IntArray, item: IntArray) -> ThreadCalls | None:
    """None where a row has no calls: nothing says when it begins."""
    # There can be millions of them.
    kind, number = (events & 3).astype(np.int8), (events >> 2).astype(np.int32)
    begun = number[kind == _ROW_BEGINS]
    calls, row = _calls_and_rows(kind, number)
    if np.setdiff1d(begun[begun >= 0], row).size:
        return None
    rows, first = np.unique(row, return_index=True)
    _, from_end = np.unique(row[::-1], return_index=True)
    last, is_row = len(row) - 1 - from_end, rows >= 0
    begins, ends, items = (np.full(len(calls), -1, dtype=np.int64) for _ in range(3))
    begins[first[is_row]] = ends[last[is_row]] = codes[rows[is_row]]
    items[last[is_row]] = item[rows[is_row]]
    return ThreadCalls(number[calls], begins, ends, items)


def _calls_and_rows(kind: Kinds, number: Numbers) -> tuple[IntArray, Numbers]:
    """Places of the calls that a run without a mode makes, and the row of each, `NO_ROW` outside
    all.

    A binding that finds a mode on calls it: the row that then begins inside the call is the call,
    and what is called in the row a timed run calls inside the binding. A function in Python asks
    first, and is called by the mode once more: that question is not asked in a timed run.
    """
    none = np.full(2, -1, dtype=np.int8)
    after, after_that = np.append(kind[1:], none[:1]), np.append(kind[2:], none)[: len(kind)]
    led = (kind == _CALL_BEGINS) & (after == _ROW_BEGINS)
    asked = np.isin(number, _questions()) & (after == _CALL_ENDS) & (after_that == _ROW_BEGINS)
    row_begins = _innermost(kind)
    is_in_led = (row_begins >= 1) & led[np.maximum(row_begins - 1, 0)]
    calls = np.flatnonzero((kind == _CALL_BEGINS) & ~asked & ~is_in_led)
    row = np.where(row_begins >= 0, number[row_begins], np.int32(NO_ROW))
    row[led] = number[np.flatnonzero(led) + 1]
    return calls, row[calls]


@cache
def _questions() -> tuple[int, ...]:
    return tuple(hotpath.extension().binding(each) for each in OVERRIDE_QUESTIONS)


def _innermost(kind: Kinds) -> Numbers:
    """Where the innermost open row at each event began, -1 outside all. Rows nest where one runs
    autograd's engine, so a few deep at most.
    """
    step = (kind == _ROW_BEGINS).astype(np.int8) - (kind == _ROW_ENDS)
    depth = np.cumsum(step, dtype=np.int32)
    found = np.full(len(kind), -1, dtype=np.int32)
    for level in range(1, int(depth.max(initial=0)) + 1):
        begins = np.flatnonzero((kind == _ROW_BEGINS) & (depth == level))
        here = np.flatnonzero(depth == level)
        found[here] = begins[np.searchsorted(begins, here, side="right") - 1]
    return found
