"""What is called in every round: bricks, and models as their users call them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from xsp.brickwork.model import called_whole
from xsp.brickwork.occurrences import waiting
from xsp.brickwork.plan import Subject
from xsp.brickwork.rounds import Runnable
from xsp.brickwork.samples import CPU, Record
from xsp.levels.layer.tensors import tensors_in


@dataclass(eq=False)
class Item:
    """One thing to be called in every round."""

    record: Record
    runnable: Runnable


def clock_of(subject: Subject) -> Callable[[], int]:
    """The clock that its bricks and the model itself are timed by."""
    return time.thread_time_ns if subject.clock == CPU else time.perf_counter_ns


def called(subject: Subject) -> Runnable:
    """The model as its user calls it."""
    model = subject.model
    wait, clock = waiting(model.device), clock_of(subject)
    if not model.work.grad:
        return Runnable([lambda: called_whole(model)], [[]], None, wait, clock)
    weights = [each for each in model.traced.held.values() if each.requires_grad]
    return Runnable([lambda: tensors_in(called_whole(model))], [[]], [weights], wait, clock)


def said(error: Exception) -> str:
    """What was raised, and the first line of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
