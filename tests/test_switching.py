"""Tracers are on for a block and off after it, whatever happens in it, and in no forked process."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from xsp.measuring.switching import add_note, complete, switched, tracing
from xsp.types import Columns, Level, Tracer


class Noting(Tracer):
    """A tracer that notes when it starts and stops, and fails where it is told to."""

    def __init__(self, level: Level, told: list[str], fails: str = "", last: str = "") -> None:
        self.level, self.name, self._told = level, level.name, told
        self._fails, self._last = fails, last

    def start(self) -> None:
        self._note("start")

    def stop(self) -> None:
        self._note("stop")

    def collect(self) -> dict[str, Columns]:
        return {}

    def lost(self) -> int:
        return 0

    def last_layer(self) -> str | None:
        return self._last or None

    def _note(self, what: str) -> None:
        self._told.append(f"{what} {self.name}")
        if what == self._fails:
            self._fails = ""
            raise MemoryError(what)


def test_tracers_are_switched_off_in_the_opposite_order() -> None:
    """The innermost level's is on last and off first, each once."""
    told: list[str] = []
    with tracing([Noting(Level.LAYER, told), Noting(Level.LIBRARY, told)], "in a run"):
        told.append("run")
    assert told == ["start LAYER", "start LIBRARY", "run", "stop LIBRARY", "stop LAYER"]


class Collecting(Noting):
    """A tracer that notes whether garbage is collected while it starts."""

    def start(self) -> None:
        self._note(f"collecting: {gc.isenabled()}, start")


def test_no_garbage_is_collected_while_a_tracer_starts() -> None:
    """What it makes would have all of the program's objects looked through, many times."""
    told: list[str] = []
    with tracing([Collecting(Level.LAYER, told)], "in a run"):
        assert gc.isenabled()
    assert told[0] == "collecting: False, start LAYER"


def test_a_tracer_that_fails_to_start_is_stopped_too() -> None:
    """What it had changed is taken back, and those that were on are off; the others never were."""
    told: list[str] = []
    tracers = [
        Noting(Level.LAYER, told),
        Noting(Level.LIBRARY, told, fails="start"),
        Noting(Level.KERNEL, told),
    ]
    with pytest.raises(MemoryError, match="start"), tracing(tracers, "in a run"):
        told.append("run")
    assert told == ["start LAYER", "start LIBRARY", "stop LIBRARY", "stop LAYER"]


def test_a_stop_that_is_cut_short_is_made_again() -> None:
    """The exception is told, and everything is off all the same."""
    told: list[str] = []
    tracers = [Noting(Level.LAYER, told), Noting(Level.LIBRARY, told, fails="stop")]
    with pytest.raises(MemoryError, match="stop"), tracing(tracers, "in a run"):
        told.clear()
    assert told == ["stop LIBRARY", "stop LIBRARY", "stop LAYER"]


@pytest.mark.parametrize(
    ("lasts", "said"),
    [
        (["", ""], "xsp: raised in a run"),
        (["fc", ""], "xsp: raised in or after layer 'fc', in a run"),
        (["", "fc"], "xsp: raised in or after layer 'fc', in a run"),
    ],
)
def test_an_error_of_the_target_says_where_it_was_raised(lasts: list[str], said: str) -> None:
    """As a note beside its own message, which stays as it is; by the first tracer that knows."""
    told: list[str] = []
    levels = (Level.LAYER, Level.LIBRARY)
    tracers = [Noting(level, told, last=last) for level, last in zip(levels, lasts, strict=True)]
    with pytest.raises(ValueError, match="mine") as found, tracing(tracers, "in a run"):
        raise ValueError("mine")
    assert found.value.args == ("mine",)
    assert found.value.__notes__ == [said]


class Early(Exception):
    """As exceptions are in Python 3.10, which have no notes."""

    @property
    def add_note(self) -> Any:
        raise AttributeError("add_note")


class Closed(Early):
    """Takes no attributes either."""

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(name)


def test_exceptions_of_python_3_10_get_their_notes() -> None:
    """In order; one that takes none stays as it is."""
    early, closed = Early(), Closed()
    for note in ("one", "two"):
        add_note(early, note)
        add_note(closed, note)
    assert early.__notes__ == ["one", "two"]
    assert not hasattr(closed, "__notes__")


def test_what_is_undone_is_undone_to_its_end() -> None:
    """Once where nothing cuts it short; once more where something does, which is told."""
    calls: list[int] = []

    def failing() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise MemoryError

    complete(failing)
    assert calls == [0]
    with pytest.raises(MemoryError):
        complete(failing)
    assert calls == [0, 1, 2]


@contextmanager
def entered(told: list[str]) -> Iterator[str]:
    told.append("enter")
    try:
        yield "value"
    finally:
        told.append("exit")


def in_child(told: list[str]) -> list[str]:
    """What a forked process has noted more, once it runs."""
    source, sink = os.pipe()
    before = len(told)
    child = os.fork()
    if child == 0:
        os.write(sink, json.dumps(told[before:]).encode())
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(text)
    return found


def test_a_forked_process_is_not_the_profiled_one() -> None:
    """In the child everything is switched off at once, the innermost first, also where one fails;
    but CUPTI, which must not be called there. The parent goes on as it was.
    """
    told: list[str] = []
    tracers = [
        Noting(Level.LAYER, told),
        Noting(Level.LIBRARY, told, fails="stop"),
        Noting(Level.KERNEL, told),
    ]
    with switched(entered(told)) as value, tracing(tracers, "in a run"):
        assert value == "value"
        assert in_child(told) == ["stop LIBRARY", "stop LAYER", "exit"]
        tracers[1]._fails = ""
        told.clear()
    assert told == ["stop KERNEL", "stop LIBRARY", "stop LAYER", "exit"]
    assert in_child(told) == []
