"""Timing of networks as they run inside a model: one call at a time, others in between.

A warm loop over one network is wrong: weights, input and code lie in the caches as they never do
inside a model. Here every round calls every network once, each behind the one that it follows in
the model, with the weights of another of its occurrences, on a copy of real input that was made
just before: weights are cold, the input is warm and the code half warm, as in the model. This
module needs torch only, so that an exported package can carry it along.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

MODEL, WARM, COLD = "model", "warm", "cold"
"""How a call finds the caches: as inside a model, what its own last call left, nothing."""
_FLUSHED_BYTES = 64 << 20
"""More than the last cache of most CPUs holds."""
_TOGETHER = 32
"""Calls that follow each other without a wait: their operations find room in the GPU's queue, which
holds some 1,000, and their inputs in its memory.
"""
_MALLOC = ((-3, 1 << 30), (-1, 1 << 30), (-2, 64 << 20))
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of glibc's mallopt: memory that was freed stays
with the process. Else large tensors cost page faults in one process and none in another."""

Fresh = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Runnable:
    """Calls that do the same work on different weights, each with its inputs.

    With `trained`, the weights of each, a call is followed by its backward pass within the time; it
    then returns tensors. `wait` is called before each call, and again within its time: it waits for
    a GPU. `clock` gives ns. Those of one `segment` are called one after another, as given.
    """

    calls: Sequence[Callable[..., Any]]
    inputs: Sequence[Sequence[Tensor]]
    trained: Sequence[Sequence[Tensor]] | None = None
    wait: Callable[[], None] | None = None
    clock: Callable[[], int] = time.perf_counter_ns
    segment: int = 0


class Staged(ABC):
    """A call that is made ready before its time begins, and put away behind it."""

    @abstractmethod
    def ready(self, tensors: Sequence[Tensor]) -> Callable[[], Any]:
        """What is timed."""

    def put_away(self) -> None:  # noqa: B027  (most have nothing to put away)
        """Undo what `ready` did."""

    def __call__(self, *tensors: Tensor) -> Any:
        """All of it at once."""
        try:
            return self.ready(tensors)()
        finally:
            self.put_away()


@contextlib.contextmanager
def staged(call: Callable[..., Any], inputs: Sequence[Tensor]) -> Iterator[Callable[[], Any]]:
    """A block in which a call on these inputs needs nothing more, which is what is timed."""
    if not isinstance(call, Staged):
        yield partial(call, *inputs)
        return
    try:
        yield call.ready(inputs)
    finally:
        call.put_away()


@dataclass(frozen=True)
class Taken:
    """Time of a call with all of its work, and until it returned to the host, in ns: the same on a
    CPU. Behind a wait for the GPU, a call takes the host longer than inside a model: `launches_of`.

    `again_ns` is that of a call right behind it on the weights of the next occurrence, where a
    brick occurs more than once: a model that repeats a brick finds its code in the caches.
    """

    total_ns: int
    host_ns: int
    again_ns: int | None = None


@contextlib.contextmanager
def settled(threads: int | None = None) -> Iterator[int]:
    """A block in which timings repeat: denormal numbers are zeros, memory is not given back, no
    garbage is collected, and the process keeps to as many CPUs as it has threads. Yields how many
    that are.

    All but glibc's settings, which cannot be read, are put back afterwards.
    """
    before = torch.get_num_threads()
    flushed = _denormals_are_zero()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    collected = gc.isenabled()
    count = threads or before
    try:
        torch.set_num_threads(count)
        torch.set_flush_denormal(True)
        _keep_memory()
        if allowed is not None:
            os.sched_setaffinity(0, sorted(allowed)[:count])
        gc.disable()
        yield count
    finally:
        if collected:
            gc.enable()
        if allowed is not None:
            os.sched_setaffinity(0, allowed)
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


def _denormals_are_zero() -> bool:
    return not bool(torch.tensor(1e-40).mul(1.0))


def _keep_memory() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
            mallopt = ctypes.CDLL(None).mallopt
            for parameter, value in _MALLOC:
                mallopt(parameter, value)


def round_of(
    runnables: Sequence[Runnable], number: int, fresh: Fresh, order: random.Random
) -> list[Taken]:
    """One call of each, and on a CPU a second one of those that occur more than once; segments in
    random order. What each took, in the order given.
    """
    places = [place for segment in _shuffled(runnables, order) for place in segment]
    found = {place: _visited(runnables[place], number, fresh) for place in places}
    return [found[place] for place in range(len(runnables))]


def _visited(runnable: Runnable, number: int, fresh: Fresh) -> Taken:
    first = timed_call(runnable, number, fresh)
    if runnable.wait is not None or len(runnable.calls) < 2:
        return first
    return replace(first, again_ns=timed_call(runnable, number + 1, fresh).total_ns)


def launches_of(
    runnables: Sequence[Runnable], number: int, fresh: Fresh, order: random.Random
) -> dict[int, int]:
    """By place, how long a call of each keeps the host, in ns, as inside a model: the GPU is not
    waited for in between, inputs are there already, and the host has the code in its caches, for
    a model repeats what it does. So calls of a segment follow each other, a few at a time, and the
    second time they are timed.

    Calls with a backward pass are left out.
    """
    found: dict[int, int] = {}
    for segment in _shuffled(runnables, order):
        places = [place for place in segment if runnables[place].trained is None]
        for start in range(0, len(places), _TOGETHER):
            found |= _launched(runnables, places[start : start + _TOGETHER], number, fresh)
    return found


def _launched(
    runnables: Sequence[Runnable], places: Sequence[int], number: int, fresh: Fresh
) -> dict[int, int]:
    """Two calls of each; how long the second one keeps the host."""
    at = {place: number % len(runnables[place].calls) for place in places}
    given = [
        {place: [fresh(each) for each in runnables[place].inputs[at[place]]] for place in places}
        for _ in range(2)
    ]
    found: dict[int, int] = {}
    for inputs in given:
        (runnables[places[0]].wait or _nothing)()
        for place in places:
            runnable = runnables[place]
            taken = _inferred(runnable.calls[at[place]], inputs.pop(place), runnable.clock)
            found[place] = taken.host_ns
    return found


def _shuffled(runnables: Sequence[Runnable], order: random.Random) -> list[list[int]]:
    """The places of each segment, segments in random order."""
    segments: dict[int, list[int]] = {}
    for place, runnable in enumerate(runnables):
        segments.setdefault(runnable.segment, []).append(place)
    shuffled = list(segments.values())
    order.shuffle(shuffled)
    return shuffled


def timed_call(runnable: Runnable, number: int, fresh: Fresh) -> Taken:
    """The `number`th call, on the weights and a fresh copy of the input of that occurrence, with
    the release of its result.
    """
    at = number % len(runnable.calls)
    inputs = [fresh(each) for each in runnable.inputs[at]]
    return _timed(runnable, at, inputs)


def looped(runnable: Runnable, state: str, count: int, fresh: Fresh) -> list[int]:
    """`count` calls of the same occurrence, one after another, in ns: WARM, or COLD with the caches
    overwritten before each. Inside a model a call lies between the two.
    """
    flush = torch.zeros(_FLUSHED_BYTES // 4) if state == COLD else None
    found = []
    for _ in range(count + 2):
        inputs = [fresh(each) for each in runnable.inputs[0]]
        if flush is not None:
            flush.add_(1)
        found.append(_timed(runnable, 0, inputs).total_ns)
    return found[2:]


def _nothing() -> None:
    pass


def _timed(runnable: Runnable, at: int, inputs: Sequence[Tensor]) -> Taken:
    if runnable.trained is not None:
        return _trained(runnable, at, inputs)
    call, clock = runnable.calls[at], runnable.clock
    return (
        _inferred(call, inputs, clock) if runnable.wait is None else _awaited(runnable, at, inputs)
    )


def _inferred(
    call: Callable[..., Any], inputs: Sequence[Tensor], clock: Callable[[], int]
) -> Taken:
    with torch.no_grad(), staged(call, inputs) as made:
        begin = clock()
        result = made()
        del result
        spent = clock() - begin
    return Taken(spent, spent)


def _awaited(runnable: Runnable, at: int, inputs: Sequence[Tensor]) -> Taken:
    call, clock, wait = runnable.calls[at], runnable.clock, runnable.wait or _nothing
    with torch.no_grad(), staged(call, inputs) as made:
        wait()
        begin = clock()
        result = made()
        del result
        host = clock() - begin
        wait()
        return Taken(clock() - begin, host)


def _trained(runnable: Runnable, at: int, inputs: Sequence[Tensor]) -> Taken:
    """Forward and backward pass: gradients for weights and inputs, as inside a model. Those for the
    outputs come from behind it there, so they are made before the backward pass begins.
    """
    call, clock, wait = runnable.calls[at], runnable.clock, runnable.wait or _nothing
    passed, wanted = _differentiable(inputs, (runnable.trained or [[]])[at])
    with torch.enable_grad():
        wait()
        begin = clock()
        outputs = [each for each in call(*passed) if each.requires_grad]
        host = clock() - begin
        wait()
        total = clock() - begin
    if not outputs or not wanted:
        return Taken(total, host)
    gradients = [torch.ones_like(each) for each in outputs]
    wait()
    begin = clock()
    result = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True)
    del result, outputs
    host += clock() - begin
    wait()
    return Taken(total + clock() - begin, host)


def _differentiable(
    inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Any]]:
    """Inputs as activations that gradients are wanted for, and what they are wanted for."""
    for each in inputs:
        each.requires_grad_(each.is_floating_point())
    # A leaf could not be written to in place, and in a model no activation is one.
    passed = [each.clone() if each.requires_grad else each for each in inputs]
    edge = torch.autograd.graph.get_gradient_edge
    return passed, [edge(each) for each in (*passed, *weights) if each.requires_grad]
