"""Work that is done late is done inside the timed call; what steps change is put back or told."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from quick import LAYERS, forward_names
from torch import nn

import xsp

MODEL = nn.Linear(4, 4)
POOL = ThreadPoolExecutor(1)


async def answered(x: torch.Tensor) -> torch.Tensor:
    await asyncio.sleep(0)
    output: torch.Tensor = MODEL(x)
    return output


def streamed(x: torch.Tensor) -> Iterator[torch.Tensor]:
    for _ in range(3):
        x = MODEL(x)
        yield x


async def streamed_late(x: torch.Tensor) -> AsyncIterator[torch.Tensor]:
    for _ in range(3):
        await asyncio.sleep(0)
        x = MODEL(x)
        yield x


def mapped(x: torch.Tensor) -> Iterator[torch.Tensor]:
    return map(MODEL, [x, x, x])


class Answer:
    """Can be awaited, and is no coroutine."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def __await__(self) -> Generator[Any, None, torch.Tensor]:
        return answered(self._x).__await__()


def answered_late(x: torch.Tensor) -> Future[torch.Tensor]:
    def after_a_while() -> torch.Tensor:
        time.sleep(0.01)
        output: torch.Tensor = MODEL(x)
        return output

    return POOL.submit(after_a_while)


def answered_twice(x: torch.Tensor) -> list[Future[torch.Tensor]]:
    return [answered_late(x), answered_late(x)]


async def answered_by_a_stream(x: torch.Tensor) -> Iterator[torch.Tensor]:
    return streamed(x)


LATE = [
    (answered, 1),
    (Answer, 1),
    (answered_late, 1),
    (answered_twice, 2),
    (answered_by_a_stream, 3),
    (streamed, 3),
    (streamed_late, 3),
    (mapped, 3),
]


@pytest.mark.parametrize(("target", "calls"), LATE)
def test_work_that_is_done_late_is_measured(target: Any, calls: int) -> None:
    """Coroutines, what can be awaited, futures, generators of both kinds and maps are driven to
    their end.
    """
    prof = xsp.measure(target, torch.ones(2, 4), **LAYERS)
    assert forward_names(prof) == ["MODEL"] * calls


def test_a_coroutine_inside_a_running_loop_is_refused() -> None:
    """Where it cannot be driven, one sentence says so and names the way out."""

    async def cell() -> None:
        xsp.measure(answered, torch.ones(2, 4), **LAYERS)

    with pytest.raises(xsp.TargetError, match=r"asyncio\.to_thread"):
        asyncio.run(cell())


def test_a_module_that_generates_is_profiled_in_a_block() -> None:
    """The block goes through a generator itself, and each re-run does."""

    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
            for _ in range(2):
                x = self.layer(x)
                yield x

    model = Streaming()
    with xsp.profile(model, **LAYERS) as prof:
        outputs = list(model(torch.ones(2, 4)))
    assert len(outputs) == 2
    assert forward_names(prof) == ["layer", "layer"]


class Training:
    """A step of training with momentum, dropout and a falling learning rate."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)
        self.x = torch.randn(16, 4)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.model(self.x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        result: float = loss.item()
        return result

    def state(self) -> Any:
        rows = self.optimizer.state_dict()
        gradients = [each.grad for each in self.model.parameters()]
        return [
            copy.deepcopy(each)
            for each in (self.model.state_dict(), rows, self.scheduler.state_dict(), gradients)
        ]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_steps_are_put_back() -> None:
    """With `restore`, parameters, moments, step counts, the learning rate, gradients and the losses
    that follow are bit for bit those of a program that measured nothing.
    """
    plain, measured = Training(), Training()
    torch.manual_seed(1)
    losses = [plain.step() for _ in range(3)]
    torch.manual_seed(1)
    seen = [measured.step()]
    before = measured.state()
    restore = (measured.model, measured.optimizer, measured.scheduler)
    prof = xsp.measure(measured.step, restore=restore, **LAYERS)
    assert equal(before, measured.state())
    seen += [measured.step() for _ in range(2)]
    assert seen == losses
    assert equal(plain.state(), measured.state())
    assert not any("steps-made" in each for each in prof.warnings)


def test_steps_that_are_not_put_back_are_counted() -> None:
    """Without it the profile says how many steps were really taken."""
    training, steps = Training(), []

    def step() -> None:
        steps.append(training.step())

    prof = xsp.measure(step, **LAYERS)
    assert any(
        each.startswith(f"{len(steps)} steps were really taken") and each.endswith("[steps-made]")
        for each in prof.warnings
    )


def test_an_interrupted_measurement_puts_steps_back() -> None:
    """What the steps changed is put back also where one raises."""
    training = Training()
    before, calls = training.state(), []

    def step() -> None:
        training.step()
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        xsp.measure(step, restore=(training.model, training.optimizer), **LAYERS)
    model, optimizer, *_ = training.state()
    assert equal(before[:2], [model, {**optimizer}])


def test_what_keeps_no_state_cannot_be_restored() -> None:
    """A value without attributes is refused with what is needed."""
    with pytest.raises(xsp.TargetError, match=r"restore must be models, .*, not 3 of type int"):
        xsp.measure(lambda: None, restore=(3,), **LAYERS)


def test_a_backward_pass_in_the_block_is_told() -> None:
    """A training loop in the block is no profile of training: the warning names the way."""
    training = Training()
    with xsp.profile(training.model, **LAYERS) as prof:
        training.step()
    assert any("restore=(model, optimizer)" in each for each in prof.warnings)
    with xsp.profile(training.model, **LAYERS) as prof:
        training.model(training.x)
    assert not any("backward-in-block" in each for each in prof.warnings)
