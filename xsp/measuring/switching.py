"""Tracers on for a block and off again, whatever happens in it; an error of the target is told
where it was raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from xsp.measuring.interrupts import whole
from xsp.types import Tracer


@contextmanager
def tracing(active: Sequence[Tracer], when: str) -> Iterator[None]:
    """Tracers on, the innermost level's last, and off again in the opposite order whatever
    happens.
    """
    with whole(_started(active)):
        try:
            yield
        except Exception as error:
            add_note(error, f"xsp: raised {_last_layer(active)}{when}")
            raise


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note`, which Python 3.10 lacks. An exception that takes no attributes stays
    without.
    """
    with suppress(Exception):
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:
            error.__notes__ = [*getattr(error, "__notes__", []), note]


@contextmanager
def _started(active: Sequence[Tracer]) -> Iterator[None]:
    with ExitStack() as stack:
        for tracer in active:
            stack.callback(tracer.stop)
            tracer.start()
        yield


def _last_layer(active: Sequence[Tracer]) -> str:
    named = (getattr(tracer, "last_layer", None) for tracer in active)
    last = next((tracer() for tracer in named if tracer is not None), None)
    return f"in or after layer {last!r}, " if last else ""
