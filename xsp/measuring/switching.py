"""Tracers on for a block and off again, whatever happens in it; an error of the target is told
where it was raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from xsp.levels import TRACED_LEVELS
from xsp.measuring.collecting import no_garbage_collection
from xsp.types import Tracer

_on: list[Tracer] = []
"""The tracers that are on in this process."""

_Value = TypeVar("_Value")

_entered: list[AbstractContextManager[Any]] = []
"""What else is switched on in this process."""


@contextmanager
def tracing(active: Sequence[Tracer], when: str) -> Iterator[None]:
    """Tracers on, the innermost level's last, and off again in the opposite order whatever
    happens; entered in `held()`.
    """
    with ExitStack() as undo:
        for tracer in active:
            # Before it starts: what it has changed when it fails half way is taken back too. Twice:
            # where an exception cuts the first short, the second stops it again.
            undo.callback(_stop, tracer)
            undo.callback(_stop, tracer)
            _on.append(tracer)
            with no_garbage_collection():
                tracer.start()
        try:
            yield
        except Exception as error:
            add_note(error, f"xsp: raised {_last_layer(active)}{when}")
            raise


@contextmanager
def switched(manager: AbstractContextManager[_Value]) -> Iterator[_Value]:
    """`manager`, which is left at once in a process that is forked inside the block."""
    with ExitStack() as undo:
        with no_garbage_collection():
            value = undo.enter_context(manager)
        undo.callback(_forget, manager)
        _entered.append(manager)
        yield value


def _forget(manager: AbstractContextManager[Any]) -> None:
    if manager in _entered:
        _entered.remove(manager)


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note`, which Python 3.10 lacks. An exception that takes no attributes stays
    without.
    """
    with suppress(Exception):
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:
            error.__notes__ = [*getattr(error, "__notes__", []), note]


def complete(undo: Callable[[], None]) -> None:
    """Call `undo`, which can be called twice, once more if an exception cut it short."""
    try:
        undo()
    except BaseException:
        # What cut it short, a lack of memory for example, may be over.
        undo()
        raise


def _stop(tracer: Tracer) -> None:
    if tracer in _on:
        tracer.stop()
        _on.remove(tracer)


def _last_layer(active: Sequence[Tracer]) -> str:
    last = next(filter(None, (tracer.last_layer() for tracer in active)), None)
    return f"in or after layer {last!r}, " if last else ""


def _switch_off_in_child() -> None:
    """A forked process is not the profiled one: what was switched in its parent's memory is
    switched back in its own, as far as it may be touched there.
    """
    for tracer in reversed(_on):
        if TRACED_LEVELS[tracer.level].survives_fork:
            with suppress(Exception):
                tracer.stop()
    for manager in reversed(_entered):
        with suppress(Exception):
            manager.__exit__(None, None, None)
    _on.clear()
    _entered.clear()


os.register_at_fork(after_in_child=_switch_off_in_child)
