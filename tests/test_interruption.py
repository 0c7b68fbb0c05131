"""Signals and exceptions at any line of the switching code leave nothing behind, and reach the
caller as they are.

A seeded sample of places here; `benchmarks/interruption.py` strikes them all.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import (
    OF_TRAINING,
    Fault,
    Leaving,
    Missed,
    Place,
    Unreached,
    handlers,
    leaves_with,
    model_and_input,
    places,
    raise_asynchronously,
    raise_fault,
    residue,
    state_of,
    struck,
)
from torch import nn

import xsp
from xsp.levels import _native
from xsp.levels.layer.custom_functions import Containers
from xsp.levels.layer.function_mode import FunctionalMode
from xsp.levels.layer.ranges import RangeRecorder
from xsp.levels.layer.structure_run import StructureRecorder
from xsp.levels.layer.tracer import LayerTracer
from xsp.measuring.state import ModelState, RandomState

SHORT: dict[str, Any] = {"levels": "M/L", "iterations": 1, "warmup": 0, "progress": False}
SAMPLE = 12


def measure(model: nn.Module, x: torch.Tensor) -> None:
    """A profile by `xsp.measure`."""
    xsp.measure(model, x, **SHORT)


def block(model: nn.Module, x: torch.Tensor) -> None:
    """A profile by a block."""
    with xsp.profile(model, **SHORT):
        model(x)


def _is_before_any_hold(place: Place) -> bool:
    """Whether this is the line with which a block's `__exit__` begins: Python looks for signals
    there, and nothing in Python comes earlier (docs/reliability.md).
    """
    lines = sorted({line for *_, line in xsp.profile.__exit__.__code__.co_lines() if line})
    return (place.file, place.line) == ("profiler.py", lines[1])


def sampled(run: Callable[[], object], only: str = "") -> list[Place]:
    """Some of the places that `run` reaches, in files whose path has `only` in it; the same in each
    test run.
    """
    run()  # what is imported and made once is not to be struck
    found = [
        place
        for place in places(run, visits=2)
        if only in place.file and not _is_before_any_hold(place)
    ]
    return random.Random(0).sample(found, SAMPLE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM, signal.SIGINT])
def test_a_handler_that_raises_anywhere_in_a_measurement_leaves_nothing(
    number: signal.Signals,
) -> None:
    """Handlers of SIGTERM, SIGALRM and SIGINT that raise, wherever the signal arrives: their own
    exception reaches the caller, and model and process are what they were.
    """
    model, x = model_and_input()
    sample = sampled(lambda: measure(model, x))
    with handlers([number]):
        for place in sample:
            before = state_of(model)
            error = struck(lambda: measure(model, x), place, lambda: signal.raise_signal(number))
            assert isinstance(error, Leaving | Missed), (place, repr(error))
            del error
            assert residue(before, state_of(model)) == [], place


SEAMS: tuple[tuple[type, str], ...] = (
    (LayerTracer, "start"),
    (LayerTracer, "_step_in"),
    (LayerTracer, "stop"),
    (Containers, "watch"),
    (FunctionalMode, "__enter__"),
    (RangeRecorder, "watch"),
    (StructureRecorder, "__enter__"),
    (StructureRecorder, "__exit__"),
    (ModelState, "restore"),
    (ModelState, "restore_with_gradients"),
    (RandomState, "restore"),
)


@pytest.mark.skipif(_native.why_missing() is not None, reason="these are held off in C")
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 11) and sys.gettrace() is not None, reason="see `held`"
)
@pytest.mark.parametrize(("owner", "name"), SEAMS)
def test_an_exception_of_another_thread_where_something_is_switched_leaves_nothing(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that another thread has Python raise here, as a deadline, just before or after
    something is switched: it reaches the caller, and model and process are what they were.
    """
    model, x = model_and_input()
    original = getattr(owner, name)

    def struck_before(*args: Any, **kwargs: Any) -> Any:
        raise_asynchronously()
        return original(*args, **kwargs)

    def struck_after(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        raise_asynchronously()
        return result

    for replacement in (struck_before, struck_after):
        before = state_of(model)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, replacement)
            with pytest.raises(Fault):
                measure(model, x)
        assert residue(before, state_of(model)) == [], replacement.__name__


def test_a_handler_that_raises_anywhere_in_a_block_leaves_nothing() -> None:
    """The same for a block; what the block's own call of the model changes is the program's."""
    model, x = model_and_input()
    model.eval()
    sample = sampled(lambda: block(model, x))
    with handlers([signal.SIGTERM]):
        for place in sample:
            before = state_of(model)
            error = struck(
                lambda: block(model, x), place, lambda: signal.raise_signal(signal.SIGTERM)
            )
            assert isinstance(error, Leaving | Missed), (place, repr(error))
            del error
            assert residue(before, state_of(model)) == [], place


def steps(model: nn.Module, x: torch.Tensor) -> None:
    """A profile along a training loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with xsp.profile(model, optimizer=optimizer, **SHORT) as prof:
        for _ in range(10):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            prof.step()


def calls(model: nn.Module, x: torch.Tensor) -> None:
    """A profile along a loop whose model calls are the steps."""
    with xsp.profile(model, along=True, **SHORT):
        for _ in range(10):
            model(x).sum().backward()


@pytest.mark.parametrize("loop", [steps, calls])
def test_a_handler_that_raises_anywhere_along_a_loop_leaves_nothing(
    loop: Callable[[nn.Module, torch.Tensor], None],
) -> None:
    """The same along a loop, where handlers also run between xsp's own lines inside the program's
    calls; what the loop's steps change is the program's.
    """
    model, x = model_and_input()
    sample = sampled(lambda: loop(model, x))
    with handlers([signal.SIGTERM]):
        for place in sample:
            before = state_of(model)
            error = struck(
                lambda: loop(model, x), place, lambda: signal.raise_signal(signal.SIGTERM)
            )
            assert isinstance(error, Leaving | Missed | Unreached), (place, repr(error))
            del error
            assert set(residue(before, state_of(model))) <= OF_TRAINING, place


def test_a_call_that_an_exit_leaves_is_not_watched_any_more() -> None:
    """SystemExit out of a call in the block, for which torch runs no hook, leaves autograd and
    modules as they were.
    """
    model, x = model_and_input()

    class Leaves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise SystemExit(3)

    model = nn.Sequential(model, Leaves())
    before = state_of(model)
    with pytest.raises(SystemExit), xsp.profile(model, **SHORT):
        model(x)
    assert set(residue(before, state_of(model))) <= OF_TRAINING


def test_an_exception_anywhere_in_the_measuring_code_is_unwound() -> None:
    """An exception out of the blue, such as MemoryError, at any line of xsp/measuring but those
    where a `with` ends.
    """
    model, x = model_and_input()
    sample = sampled(lambda: measure(model, x), "measuring/")
    for place in (place for place in sample if not leaves_with(place)):
        before = state_of(model)
        error = struck(lambda: measure(model, x), place, raise_fault)
        assert isinstance(error, Fault | Missed), (place, repr(error))
        del error
        assert residue(before, state_of(model)) == [], place


def test_a_deadline_while_allocations_are_charged_reaches_the_caller() -> None:
    """A handler's own exception is not taken for a failure of the recording of memory."""
    model, x = model_and_input()
    measure(model, x)
    found = places(lambda: measure(model, x))
    charging = [place for place in found if place.function in {"_flattened", "_charged"}]
    sample = random.Random(0).sample(charging, 2)
    for place, strike in zip(sample, (raise_fault, raise_asynchronously), strict=True):
        error = struck(lambda: measure(model, x), place, strike)
        assert type(error) is Fault, (place, repr(error))
