"""What a step of a loop is taken to have done: calls of the model, backward passes, steps of
optimizers and schedulers, and when they were.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from xsp.levels.layer import parts
from xsp.measuring.along.step_watch import Kind, ModelCall, Step, StepWatch


class Model(nn.Module):
    """Two layers; calls itself as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, deeper: int = 0) -> torch.Tensor:
        if x.shape[-1] != 4:
            raise ValueError("not four")
        if deeper:
            x = self(x, deeper - 1)
        output: torch.Tensor = self.head(self.body(x))
        return output


TRAINING = ModelCall(((2, 4),), ("float32",), True, True)
EVALUATION = ModelCall(((3, 4),), ("float32",), False, False)


def batch(rows: int = 2) -> torch.Tensor:
    """An input."""
    return torch.ones(rows, 4)


def done(work: Callable[[], object], model: nn.Module, *optimizers: torch.optim.Optimizer) -> Step:
    """One step that does this work."""
    watch = StepWatch(model, optimizers)
    with watch.on():
        watch.begin()
        work()
        return watch.end()


def test_a_training_step_has_its_parts_in_order() -> None:
    """Shapes, types and modes of each call, and the names of what else there was."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def work() -> None:
        model(batch()).sum().backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.eval()
            model(x=batch(3))
        model.train()

    kind = done(work, model, optimizer).kind
    assert kind == (TRAINING, "backward", "SGD.step", "StepLR.step", EVALUATION)


def test_a_second_optimizer_of_a_kind_has_a_number() -> None:
    """The first has none, and one that was not given is not seen."""
    model = Model()
    first = torch.optim.SGD(model.body.parameters(), lr=0.1)
    second = torch.optim.SGD(model.head.parameters(), lr=0.1)
    foreign = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)

    def work() -> None:
        for each in (second, first, foreign):
            each.step()
            torch.optim.lr_scheduler.ConstantLR(each).step()

    kind = done(work, model, first, second).kind
    schedule = "ConstantLR.step"
    assert kind == ("SGD.step_1", schedule, schedule, "SGD.step", schedule, schedule)


def test_schedulers_are_seen_where_no_optimizer_is_given() -> None:
    """Of any optimizer then."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def work() -> None:
        optimizer.step()
        scheduler.step()

    assert done(work, Model()).kind == ("StepLR.step",)


def test_a_model_that_calls_itself_is_called_once() -> None:
    """Only the outermost call counts, also after it."""
    model = Model()

    def work() -> None:
        model(batch(), 2)
        model(batch())

    assert done(work, model).kind == (ModelCall(((2, 4),), ("float32",), True, True), TRAINING)


def test_what_is_called_on_another_thread_is_no_part_of_the_step() -> None:
    """A validation thread's calls, backward passes and optimizer steps leave the step as it is."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def aside() -> None:
        model(batch(3)).sum().backward()
        optimizer.step()
        scheduler.step()
        with pytest.raises(ValueError, match="not four"):
            model(torch.ones(2, 3))

    def work() -> None:
        model(batch())
        thread = threading.Thread(target=aside)
        thread.start()
        thread.join()
        model(batch())

    assert done(work, model, optimizer).kind == (TRAINING, TRAINING)


def test_a_call_that_raises_is_told() -> None:
    """The loop can handle it; the call was made and raised."""
    model = Model()

    def work() -> None:
        with pytest.raises(ValueError, match="not four"):
            model(torch.ones(2, 3))
        model(batch())

    failing = ModelCall(((2, 3),), ("float32",), True, True)
    assert done(work, model).kind == (failing, "raised", TRAINING)


def test_steps_do_not_hold_what_steps_before_did() -> None:
    """Each begins anew."""
    model = Model()
    watch = StepWatch(model, ())
    kinds: list[Kind] = []
    with watch.on():
        for calls in (2, 0, 1):
            watch.begin()
            for _ in range(calls):
                model(batch())
            kinds.append(watch.end().kind)
    assert kinds == [(TRAINING,) * 2, (), (TRAINING,)]


def test_nothing_is_seen_outside_the_block() -> None:
    """Before it and after it the model and the optimizer are the program's own."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = StepWatch(model, (optimizer,))
    watch.begin()
    with watch.on():
        model(batch())
    model(batch())
    optimizer.step()
    assert watch.end().kind == (TRAINING,)


# ---- parts and times ----


class Heard(list[str]):
    """What is told of parts, as `+name` and `-name`."""

    def part_begins(self, part: parts.Part) -> None:
        """See `parts.Told`."""
        self.append(f"+{part.name}")

    def part_ends(self, part: parts.Part) -> None:
        """See `parts.Told`."""
        self.append(f"-{part.name}")


@contextmanager
def heard() -> Iterator[Heard]:
    """All that is told inside the block."""
    told = Heard()
    undo = parts.listen(told)
    try:
        yield told
    finally:
        undo()


def test_the_wait_for_data_ends_where_work_begins() -> None:
    """With the first call of the model, or of an optimizer."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def work() -> None:
        model(batch()).sum().backward()
        optimizer.step()

    for each, first in ((work, "-(loader)"), (optimizer.step, "-(loader)"), (list, "-(loader)")):
        with heard() as told:
            done(each, model, optimizer)
        assert told[:2] == ["+(loader)", first]
        assert told[2:] == (["+SGD.step", "-SGD.step"] if each is not list else [])


def test_parameter_groups_are_parts_of_the_optimizers_step() -> None:
    """Each by its name or number, within the step, and none where there is one group."""
    model = Model()
    groups: list[dict[str, Any]] = [
        {"params": model.body.parameters(), "name": "body"},
        {"params": model.head.parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with heard() as told:
        step = done(optimizer.step, model, optimizer)
    inside = ["+SGD.step.body", "-SGD.step.body", "+SGD.step.group_1", "-SGD.step.group_1"]
    assert told == ["+(loader)", "-(loader)", "+SGD.step", *inside, "-SGD.step"]
    assert step.kind == ("SGD.step",)


class Growing(torch.optim.Optimizer):
    """Adds a group of parameters while it goes through its groups."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # no closure is called
        for number, group in enumerate(self.param_groups):
            if number == 0:
                self.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
            for parameter in group["params"]:
                parameter.grad = None


def test_groups_that_are_added_meanwhile_are_the_optimizers() -> None:
    """The step goes through them too, as it would without xsp; they are no parts, and afterwards
    they are in the optimizer's own list.
    """
    model = Model()
    optimizer = Growing(
        [{"params": model.body.parameters()}, {"params": model.head.parameters()}], {}
    )
    own = optimizer.param_groups
    with heard() as told:
        done(optimizer.step, model, optimizer)
    named = {each for each in told if each.startswith("+Growing.step.")}
    assert named == {"+Growing.step.group_0", "+Growing.step.group_1"}
    assert optimizer.param_groups is own
    assert len(own) == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_steps_of_a_scripted_model_are_seen() -> None:
    """Its calls go through hooks alone: they are told with inputs and mode as any other's."""
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 4)))
    assert done(lambda: model(batch()), model).kind == (TRAINING,)


def test_a_step_is_timed_from_its_begin_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of stamps, on a clock that counts its readings: begin, end, and after the device."""
    readings = itertools.count(100)
    monkeypatch.setattr("time.perf_counter_ns", readings.__next__)
    stamps = done(list, Model()).stamps
    assert {name: column.tolist() for name, column in stamps.items()} == {
        "thread": [threading.get_ident() & 0xFFFFFFFF],
        "start_ns": [100],
        "host_end_ns": [101],
        "end_ns": [102],
    }


def test_calls_can_be_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each outermost call is a step of its own, timed from its begin."""
    model = Model()
    watch = StepWatch(model, ())
    steps: list[Step] = []
    watch.on_call_end = steps.append
    readings = itertools.count(100)
    with watch.on():
        monkeypatch.setattr("time.perf_counter_ns", readings.__next__)
        model(batch(), 2)
        model(batch())
    assert [step.kind for step in steps] == [(TRAINING,), (TRAINING,)]
    assert [step.stamps["start_ns"].tolist() for step in steps] == [[100], [103]]
    assert [step.stamps["end_ns"].tolist() for step in steps] == [[102], [105]]
