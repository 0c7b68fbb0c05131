"""Measuring with a separate ladder: a made-up library, whose calls a tracer sees, stands for those
that need a GPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import xsp
from xsp import levels
from xsp.capture.run import call_of
from xsp.levels.layer import hotpath
from xsp.types import LIBRARY_EVENTS, Columns, Level, Tracer, empty

FUNCTIONS = ("cublasSgemm_v2", "cublasSaxpy_v2")


class Library(Tracer):
    """Its own tracer: a program calls `gemm` and `axpy`, and they are recorded while it is on."""

    level, name = Level.LIBRARY, "made up"

    def __init__(self) -> None:
        self.is_on = False
        self._events: list[tuple[int, int, int]] = []

    def call(self, function: int) -> None:
        """One call of the library."""
        start = time.perf_counter_ns()
        if self.is_on:
            self._events.append((function, start, time.perf_counter_ns()))

    def start(self) -> None:
        self.is_on = True

    def new_run(self) -> None:
        self._events.clear()

    def stop(self) -> None:
        self.is_on = False

    def collect(self) -> dict[str, Columns]:
        table = empty(LIBRARY_EVENTS, len(self._events))
        columns = np.array(self._events, dtype=np.int64).reshape(-1, 3).T
        table["symbol"][:], table["start_ns"][:], table["end_ns"][:] = columns
        table["thread"][:] = threading.get_ident() & 0xFFFFFFFF
        self._events = []
        return {"library_events": table}

    def lost(self) -> int:
        return 0

    @property
    def names(self) -> Sequence[str]:
        return FUNCTIONS

    def recorded(self, model_calls: Columns) -> list[dict[str, Any]]:
        events = self.collect()["library_events"]
        inside = call_of(events["start_ns"], model_calls) >= 0
        return [{"name": FUNCTIONS[one], "arguments": {}} for one in events["symbol"][inside]]


class Calling(nn.Module):
    """A layer that calls the library."""

    def __init__(self, library: Library, functions: Sequence[int]) -> None:
        super().__init__()
        self._made_up, self._functions = (library,), functions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for function in self._functions:
            self._made_up[0].call(function)
        return x


def alone(library: Library) -> bool:
    """Whether the library is traced and layers are not."""
    extension = hotpath.extension()
    follows = extension is not None and extension.bindings_are_open()
    return library.is_on and not follows and torch._C._len_torch_function_stack() == 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library in place of those that are found on a machine with a GPU."""
    made_up = Library()
    entry = replace(
        levels.TRACED_LEVELS[Level.LIBRARY],
        tracer=lambda: "made up",
        availability=lambda: None,
        timed=lambda _structure: made_up,
        recorder=lambda: made_up,
    )
    monkeypatch.setattr(levels, "TRACED_LEVELS", {**levels.TRACED_LEVELS, Level.LIBRARY: entry})
    return made_up


OPTIONS: dict[str, Any] = {
    "levels": "M/L/Lib",
    "ladder": "separate",
    "iterations": 6,
    "warmup": 1,
    "progress": False,
}


def test_library_calls_are_timed_alone_and_belong_to_their_layers(library: Library) -> None:
    """Layers and calls have runs of their own; each call is found in the layer that made it."""
    model = nn.Sequential(Calling(library, (0, 0)), nn.ReLU(), Calling(library, (1, 0)))
    prof = xsp.measure(model, torch.ones(2), **OPTIONS)
    assert set(prof.runs["rung"]) == {"M", "M/L", "M/Lib", "M/L/Lib"}
    assert [said for said in prof.warnings if "not-joined" in said] == []
    calls = xsp.analysis.library_calls(prof)
    assert calls[["name", "layer"]].to_numpy().tolist() == [
        ["cublasSgemm_v2", "0"],
        ["cublasSgemm_v2", "0"],
        ["cublasSaxpy_v2", "2"],
        ["cublasSgemm_v2", "2"],
    ]
    alone = prof.table("repeats")
    rungs = prof.runs["rung"].to_numpy(object)[alone["run"]]
    assert set(rungs) == {"M/Lib"}
    assert len(alone) == 6 * 4
    first = alone.groupby("run").head(1)["duration_ns"]
    assert calls["host_ms"].iloc[0] == pytest.approx(first.sort_values().iloc[1:-1].mean() / 1e6)


def test_calls_of_a_block_are_joined_one_by_one(library: Library) -> None:
    """Two calls of a model make the same library calls, each of which belongs to its own call."""
    model = nn.Sequential(Calling(library, (0,)), nn.ReLU())
    with xsp.profile(model, **OPTIONS) as prof:
        model(torch.ones(2))
        model(torch.ones(2))
    spans, repeats = prof.table("raw_spans"), prof.table("repeats")
    layer = spans.loc[spans.loc[repeats["span"], "parent"]]
    model_call = spans.loc[layer["parent"], "detail"].to_numpy()
    assert model_call.reshape(-1, 2).tolist() == [[0, 1]] * 6
    reason = prof.levels.set_index("level")["reason"]
    assert reason["LIBRARY"].startswith("timed alone")
    assert reason["LAYER"] == ""


def test_calls_that_another_call_of_the_model_makes_are_not_the_same(library: Library) -> None:
    """Two calls of a model that together make the same library calls, but divide them otherwise
    where the library is traced alone, are not joined.
    """

    class Dividing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.made = nn.ReLU(), count()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            is_first = next(self.made) % 2 == 0
            for _ in range(2 * is_first if alone(library) else 1):
                library.call(0)
            y: torch.Tensor = self.inner(x)
            return y

    model = Dividing()
    with xsp.profile(model, accept_changed=True, **OPTIONS) as prof:
        model(torch.ones(2))
        model(torch.ones(2))
    assert [said for said in prof.warnings if "not-joined" in said]


def test_a_program_that_does_other_work_alone_is_measured_nested_and_said(
    library: Library,
) -> None:
    """The trial round finds it out, and the warning names the first call that differs."""
    model = nn.Sequential(Calling(library, (0, 0)), nn.ReLU())

    def program(x: torch.Tensor) -> None:
        model(x)
        library.call(1 if alone(library) else 0)

    prof = xsp.measure(program, torch.ones(2), **OPTIONS)
    assert set(prof.runs["rung"]) == {"M", "M/L", "M/L/Lib"}
    (said,) = [each for each in prof.warnings if "not-joined" in each]
    assert "1 of 1 runs that traced LIBRARY alone" in said
    assert "event 3 of a thread was cublasSaxpy_v2, where they have cublasSgemm_v2" in said


def test_a_run_that_differs_later_leaves_the_level_to_the_annotated_runs(
    library: Library,
) -> None:
    """Where only some run differs, its level is read from runs of all levels, and none is lost."""
    model, made = nn.Sequential(Calling(library, (0,))), count()

    def program(x: torch.Tensor) -> None:
        if alone(library) and next(made) > 8:
            library.call(1)
        model(x)

    prof = xsp.measure(program, torch.ones(2), **OPTIONS)
    assert set(prof.runs["rung"]) == {"M", "M/L", "M/Lib", "M/L/Lib"}
    (said,) = [each for each in prof.warnings if "not-joined" in each]
    assert "3 of 6 runs that traced LIBRARY alone" in said
    calls = xsp.analysis.library_calls(prof)
    assert calls["name"].tolist() == ["cublasSgemm_v2"]
    assert calls["host_ms"].iloc[0] > 0


def test_on_a_cpu_both_ladders_are_the_same() -> None:
    """With one level below MODEL nothing changes."""
    options = {**OPTIONS, "levels": "M/L"}
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(2), **options)
    assert set(prof.runs["rung"]) == {"M", "M/L"}
    with pytest.raises(xsp.TargetError, match="ladder must be 'nested' or 'separate', not 'both'"):
        xsp.measure(nn.Linear(2, 2), torch.ones(2), ladder="both")
