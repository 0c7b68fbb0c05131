"""Which calls of a block are kept to be made again, and what is told of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from quick import LAYERS
from torch import nn

import xsp
from xsp.doubts import Slug
from xsp.measuring import call_recorder
from xsp.measuring.call_recorder import MAX_CALLS, SURE_CALLS, CallRecorder
from xsp.measuring.target import Target


class Model(nn.Module):
    """Two layers; raises for a negative input, and is lazy where it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.made = 0

    def forward(self, x: torch.Tensor, lazy: bool = False) -> Any:
        self.made += 1
        if (x < 0).any():
            raise ValueError("negative")
        output = self.second(self.first(x))
        return (each for each in output) if lazy else output


@contextmanager
def recording(model: nn.Module, **options: Any) -> Iterator[CallRecorder]:
    """A block in which calls are recorded."""
    recorder = CallRecorder(model, **options)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def recorded(work: Callable[[Model], object]) -> Target:
    """What is kept of the calls that this work makes."""
    model = Model()
    with recording(model) as recorder:
        work(model)
    return recorder.target()


def facts(target: Target) -> dict[Slug, list[Mapping[str, Any]]]:
    """What is told of a target's calls."""
    found: dict[Slug, list[Mapping[str, Any]]] = {}
    for doubt in target.doubts:
        found.setdefault(doubt.slug, []).append(doubt.facts)
    return found


def one(value: float = 1.0) -> torch.Tensor:
    """An input."""
    return torch.full((1, 2), value)


def call(model: Model, times: int, value: float = 1.0) -> None:
    """Call a model so often, and handle what it raises."""
    for _ in range(times):
        with suppress(ValueError):
            model(one(value))


def test_calls_are_kept_with_what_they_were_given() -> None:
    """In order, with arguments from before the call, modes, and the modules that they called."""
    model = Model()
    x = one(3.0)
    with recording(model) as recorder:
        model(x, lazy=False)
        with torch.no_grad():
            model(x=one(5.0))
        x.fill_(7)
    target = recorder.target()
    first, second = target.calls
    assert target.name == "Model"
    assert target.model is model
    assert (first.function, second.function) == (model, model)
    assert first.args[0] is x
    assert first.kwargs == {"lazy": False}
    assert first.start is not None
    assert first.start[0].tolist() == [[3, 3]]
    assert list(second.kwargs) == ["x"]
    assert (first.ambient.grad, second.ambient.grad) == (True, False)
    assert target.start is not None
    assert target.start[model] == {"made": 0}
    every = [(model, ((1, 2),)), (model.first, ((1, 2),)), (model.second, ((1, 2),))]
    assert list(target.made) == [*every, (model, ()), *every[1:]]
    assert facts(target) == {}


def test_what_a_hook_makes_of_an_input_is_not_kept() -> None:
    """A call is made again with what it was given: the program's own hooks change it once."""
    model = Model()
    model.register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]))
    seen: list[float] = []

    class Seeing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(x.max()))
            return super().forward(x)

    model.first = Seeing(2, 2)
    with xsp.profile(model, **LAYERS):
        model(torch.ones(2))
    assert len(seen) > 2
    assert set(seen) == {2.0}


def test_the_random_state_is_that_of_the_first_call() -> None:
    """What the block draws before it does not count, nor what it draws later."""
    model = Model()
    with recording(model) as recorder:
        torch.rand(3)
        expected = torch.get_rng_state()
        model(one())
        torch.rand(3)
        model(one())
    assert recorder.random is not None
    assert torch.equal(recorder.random.cpu, expected)


@pytest.mark.parametrize("calls", [MAX_CALLS, MAX_CALLS + 2])
def test_two_hundred_and_fifty_six_calls_are_kept(calls: int) -> None:
    """The first ones; how many there were is told."""
    target = recorded(lambda model: call(model, calls))
    assert MAX_CALLS == 256
    assert len(target.calls) == MAX_CALLS
    told = [{"profiled": MAX_CALLS, "made": calls}] if calls > MAX_CALLS else []
    assert facts(target).get(Slug.LEFT_OUT_CALLS, []) == told


@pytest.mark.parametrize(("most", "kept"), [(0, 16), (17 * 8, 18), (17 * 8 - 1, 17)])
def test_calls_are_kept_while_their_copies_fit(
    most: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen whatever they take, then until the copies made so far are beyond the limit."""
    assert SURE_CALLS == 16
    monkeypatch.setattr(call_recorder, "MAX_BYTES", most)
    target = recorded(lambda model: call(model, 25))
    assert len(target.calls) == kept
    assert facts(target) == {Slug.LEFT_OUT_CALLS: [{"profiled": kept, "made": 25}]}


def test_calls_behind_one_that_was_left_out_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later calls are given what earlier ones left, so there is no gap."""
    monkeypatch.setattr(call_recorder, "MAX_CALLS", 3)

    def work(model: Model) -> None:
        call(model, 4)
        call(model, 2, -1.0)
        monkeypatch.setattr(call_recorder, "MAX_CALLS", 10)
        call(model, 1)

    target = recorded(work)
    assert len(target.calls) == 3
    assert facts(target) == {Slug.LEFT_OUT_CALLS: [{"profiled": 3, "made": 7}]}


def test_calls_that_raise_are_counted_and_not_kept() -> None:
    """The block handled them; a re-run would end with them. Where no call returned there is
    nothing to run again.
    """

    def work(model: Model) -> None:
        call(model, 2, -1.0)
        call(model, 3)

    target = recorded(work)
    assert len(target.calls) == 3
    assert facts(target) == {Slug.LEFT_OUT_CALLS: [{"failed": 2}]}
    assert list(target.made) == []
    with pytest.raises(xsp.NothingRecordedError, match=r"called 2 times .* raised each time"):
        recorded(lambda model: call(model, 2, -1.0))
    with pytest.raises(xsp.NothingRecordedError, match="never called"):
        recorded(lambda model: model.first(one()))


def test_backward_passes_of_the_block_are_told() -> None:
    """Re-runs make none; a pass after the block is none of it."""
    model = Model()
    with recording(model) as recorder:
        loss = model(one()).sum()
    loss.backward()
    assert facts(recorder.target()) == {}
    target = recorded(lambda each: each(one()).sum().backward())
    assert facts(target) == {Slug.BACKWARD_IN_BLOCK: [{}]}


def test_calls_of_several_threads_are_told() -> None:
    """Re-runs make them one after the other, in which their layers come in another order."""

    def work(model: Model) -> None:
        for _ in range(2):
            thread = threading.Thread(target=model, args=(one(),))
            thread.start()
            thread.join()
        model(one())

    target = recorded(work)
    assert len(target.calls) == 3
    assert facts(target) == {Slug.SEVERAL_THREADS: [{"threads": 3}]}
    assert list(target.made) == []


def test_what_a_generator_calls_is_not_the_models_call() -> None:
    """The block calls it when it goes through it."""
    assert list(recorded(lambda model: list(model(one(), lazy=True))).made) == []
    assert list(recorded(lambda model: model(one())).made) != []


def test_arguments_that_cannot_be_given_again_are_refused_after_the_block() -> None:
    """The block goes on; with `accept` the call is kept with the program's own."""

    class Summing(nn.Module):
        def forward(self, values: Iterator[int]) -> int:
            return sum(values)

    model = Summing()
    with recording(model) as recorder:
        assert model(each for each in (1, 2)) == 3
    with pytest.raises(xsp.TargetError, match="argument 0 has a generator"):
        recorder.target()
    with recording(model, accept_changed=True) as recorder:
        assert model(each for each in (1, 2)) == 3
    assert len(recorder.target().calls) == 1


def test_nothing_is_recorded_after_the_block() -> None:
    """The model has no hook then, also where a call is still under way."""
    model = Model()
    with recording(model) as recorder:
        model(one())
    model(one())
    assert len(recorder.target().calls) == 1
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


class Waiting(nn.Module):
    """Stays in its call until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inside.set()
        assert self.go_on.wait(60)
        return x + 1


def test_a_call_that_outlasts_the_block_is_not_kept() -> None:
    """Nothing stays switched on for it, and it ends as it would have, on its own thread."""
    model, results = Waiting(), []
    before = nn.Module.__call__
    with recording(model) as recorder:
        thread = threading.Thread(target=lambda: results.append(model(one())))
        thread.start()
        assert model.inside.wait(60)
        assert nn.Module.__call__ is not before
    assert nn.Module.__call__ is before
    model.go_on.set()
    thread.join(60)
    assert torch.equal(results[0], one(2.0))
    with pytest.raises(xsp.NothingRecordedError, match="never called inside"):
        recorder.target()
