"""One execution of a target: in which state it finds the program, how it is timed, and what it
leaves.
"""

from __future__ import annotations

import gc
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import xsp
from xsp.levels._native.signals import held, let_through
from xsp.machine.ambient import Ambient
from xsp.measuring.executor import Executor, executing, refuse_nested
from xsp.measuring.state import RandomState
from xsp.measuring.target import Call, Target, target_of


@contextmanager
def executed(target: Target, **options: Any) -> Iterator[Executor]:
    """An executor whose runs are put back after the block."""
    executor = Executor(target, **options)
    with held(), executor.restored_afterwards(), let_through():
        yield executor


def calling(function: Callable[..., Any], *args: Any) -> Target:
    """A target that makes one call."""
    return target_of(function, args, {})


class Adding(nn.Module):
    """Writes to what it is told to, and draws a number."""

    total: torch.Tensor
    watch: Callable[[Adding], object]

    def __init__(self, watch: Callable[[Adding], object] = lambda _model: None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("total", torch.zeros(1))
        object.__setattr__(self, "watch", watch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.watch(self)
        self.total.add_(1)
        output: torch.Tensor = self.layer(x)
        return output


# ---- how it is timed ----


def test_calls_are_timed_from_begin_to_return_and_to_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row of stamps for each call, on a clock that counts its readings."""
    call = calling(lambda: None).calls[0]
    executor = Executor(Target("two", (call, call)))
    readings = itertools.count(100)
    monkeypatch.setattr("time.perf_counter_ns", readings.__next__)
    stamps = executor.run()
    thread = threading.get_ident() & 0xFFFFFFFF
    assert {name: column.tolist() for name, column in stamps.items()} == {
        "thread": [thread, thread],
        "start_ns": [100, 103],
        "host_end_ns": [101, 104],
        "end_ns": [102, 105],
    }
    assert [stamps[name].dtype for name in ("thread", "start_ns")] == [np.uint32, np.int64]
    assert executor.executions == 1


def test_the_output_is_freed_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving it back takes time that is not the call's."""
    order: list[str] = []

    class Output:
        def __del__(self) -> None:
            order.append("freed")

    def clock() -> int:
        order.append("read")
        return len(order)

    monkeypatch.setattr("time.perf_counter_ns", clock)
    Executor(calling(Output)).run()
    assert order == ["read", "read", "read", "freed"]


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_in_a_run(enabled: bool) -> None:
    """And afterwards as before, also where the target raises."""
    found: list[bool] = []

    def target() -> None:
        found.append(gc.isenabled())
        if len(found) > 1:
            raise ValueError("the target's")

    executor = Executor(calling(target))
    before = gc.isenabled()
    if not enabled:
        gc.disable()
    try:
        executor.run()
        assert gc.isenabled() is enabled
        with pytest.raises(ValueError, match="the target's"):
            executor.run()
        assert gc.isenabled() is enabled
    finally:
        if before:
            gc.enable()
    assert found == [False, False]


def test_what_is_ready_is_told_just_before_the_first_call() -> None:
    """When everything is put back, once a run."""
    order: list[str] = []
    model = Adding(lambda self: order.append(f"call {float(self.total)}"))
    call = calling(model, torch.ones(1, 2)).calls[0]
    with executed(Target("two", (call, call), model)) as executor:
        for _ in range(2):
            executor.run(lambda: order.append(f"ready {float(model.total)}"))
    assert order == ["ready 0.0", "call 0.0", "call 1.0"] * 2
    assert executor.executions == 2


# ---- what runs find and leave ----


def test_inputs_and_parameters_that_are_written_to_are_named() -> None:
    """By the place of the input and the name of the parameter; those that are left alone are
    not.
    """

    def write(model: Adding) -> None:
        with torch.no_grad():
            model.layer.bias.add_(1)

    model = Adding(write)
    with executed(calling(model, torch.ones(1, 2))) as executor:
        assert executor.modified() == []
        executor.run()
        assert executor.modified() == ["layer.bias"]


def test_generators_that_the_target_draws_from_are_put_back() -> None:
    """Every run draws the same numbers, and after the block the program goes on with its own."""
    drawn: list[float] = []
    model = Adding(lambda _model: drawn.append(float(torch.rand(1)) + np.random.random()))
    start = RandomState.current()
    with executed(calling(model, torch.ones(1, 2))) as executor:
        assert executor.drawn is None
        for _ in range(3):
            executor.run()
        assert executor.drawn == {"torch's", "NumPy's"}
        assert executor.shared == frozenset()
    assert len(set(drawn)) == 1
    assert RandomState.current().changed(start) == frozenset()


def test_what_others_draw_meanwhile_is_told() -> None:
    """A generator that the target draws from was drawn from between two runs: it is put back, and
    the other would draw the same numbers again.
    """
    model = Adding(lambda _model: torch.rand(1))
    with executed(calling(model, torch.ones(1, 2))) as executor:
        executor.run()
        np.random.random()
        executor.run()
        assert executor.shared == frozenset()
        torch.rand(1)
        executor.run()
        assert executor.shared == {"torch's"}


def test_generators_that_the_target_leaves_alone_go_on() -> None:
    """Runs that start from an earlier state give no number a second time: not those that were drawn
    since then, and not those that are drawn between two runs.
    """
    model = Adding(lambda _model: torch.rand(1))
    earlier = RandomState.current()
    numbers = {np.random.random()}
    with executed(calling(model, torch.ones(1, 2)), random=earlier) as executor:
        for _ in range(3):
            executor.run()
            numbers.add(np.random.random())
        assert executor.drawn == frozenset({"torch's"})
    numbers.add(np.random.random())
    assert len(numbers) == 5


def test_pythons_generator_is_asked_for_in_the_first_run_only() -> None:
    """Other threads draw from it: a later run in which it changes does not make it the target's."""
    draws = [False, True]
    model = Adding(lambda _model: random.random() if draws.pop(0) else None)
    with executed(calling(model, torch.ones(1, 2))) as executor:
        executor.run()
        executor.run()
        assert executor.drawn == frozenset()


def test_steps_of_a_plain_callable_are_counted_where_they_change_parameters() -> None:
    """All of its executions then, and none where nothing changes."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def evaluate() -> None:
        model(torch.ones(1, 2))

    def train() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    for function, steps in ((evaluate, 0), (train, 3)):
        executor = Executor(calling(function))
        executor.run()
        executor.watch_steps([model])
        for _ in range(2):
            executor.run()
        assert executor.steps_made() == steps
        assert executor.modified() == []


def test_the_modes_of_the_call_are_those_of_each_run() -> None:
    """Gradients, inference and autocast are as they were where the call was made."""
    found: list[tuple[bool, bool, bool]] = []

    def look() -> None:
        found.append(
            (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu"),
            )
        )

    modes: list[Any] = [
        torch.enable_grad(),
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ]
    for mode in modes:
        with mode:
            call = Call(look, (), {}, Ambient.current())
        for around in (torch.no_grad(), torch.enable_grad(), torch.inference_mode()):
            with around:
                Executor(Target("look", (call,))).run()
    expected = [(True, False, False), (False, False, False), (False, True, False)]
    assert found == [each for each in [*expected, (True, False, True)] for _ in range(3)]


def test_a_program_that_is_profiled_cannot_profile() -> None:
    """On its thread; another thread can wait for its turn."""
    refuse_nested("inner")
    elsewhere: list[str] = []

    def another() -> None:
        refuse_nested("inner")
        elsewhere.append("allowed")

    with executing():
        with pytest.raises(xsp.TargetError, match="inner was to be profiled by a program that is"):
            refuse_nested("inner")
        with (
            pytest.raises(xsp.TargetError, match="<lambda> cannot be profiled by a program"),
            executed(calling(lambda: None)),
        ):
            pass
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    refuse_nested("inner")
    assert elsewhere == ["allowed"]
