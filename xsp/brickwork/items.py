"""What is called in every round: bricks, and models as their users call them."""

from __future__ import annotations

from dataclasses import dataclass

from xsp.brickwork.model import called_whole
from xsp.brickwork.occurrences import waiting
from xsp.brickwork.plan import Subject
from xsp.brickwork.rounds import Runnable
from xsp.brickwork.samples import Record
from xsp.levels.layer.tensors import tensors_in


@dataclass(eq=False)
class Item:
    """One thing to be called in every round."""

    record: Record
    runnable: Runnable


def called(subject: Subject) -> Runnable:
    """The model as its user calls it."""
    model = subject.model
    wait = waiting(model.device)
    if not model.work.grad:
        return Runnable([lambda: called_whole(model)], [[]], None, wait)
    weights = [each for each in model.traced.held.values() if each.requires_grad]
    return Runnable([lambda: tensors_in(called_whole(model))], [[]], [weights], wait)
