"""Keeping the tracers out of what torch.compile sees.

Dynamo traces whatever stands between the compiled code's Python and the operators, and guards on
it: a torch function mode, a changed `Module.__call__`. A program that is compiled again because it
is watched is another program. So everything of that kind is taken away while compiled code is
entered, and a compiled function is one layer, as a compiled module is.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Any

from xsp.machine.dynamo_internals import compiled_frames, dynamo_entries
from xsp.machine.torch_internals import Place
from xsp.words.slugs import with_slug

Leave = Callable[[Any], None]
"""Called with the result of compiled code when it is left, with None where it raised or is not
known.
"""

Enter = Callable[[str, tuple[Any, ...]], "Leave | None"]
"""Called with the name and the inputs of compiled code when it is entered; None where the end is of
no interest.
"""


@dataclass(frozen=True, eq=False)
class _Block:
    enter: Enter


@dataclass
class _Entered:
    frame: FrameType
    leaves: list[tuple[_Block, Leave]]
    begun: bool = False


class _Stack(threading.local):
    def __init__(self) -> None:
        self.entered: list[_Entered] = []


class _Entries:
    """Stands in for the two functions of Dynamo while there are blocks, which may be closed in
    another order than that in which they were opened.
    """

    def __init__(self) -> None:
        self._blocks: tuple[_Block, ...] = ()
        self._lock = threading.Lock()
        self._undo = ExitStack()

    def open(self, block: _Block, places: tuple[Place, Place]) -> None:
        """Tell this block too."""
        with self._lock:
            if not self._blocks:
                self._stand_in(*places)
            # The last one is told first.
            self._blocks = (block, *self._blocks)

    def close(self, block: _Block) -> None:
        """Tell it no longer."""
        with self._lock:
            before = self._blocks
            self._blocks = tuple(each for each in before if each is not block)
            if before and not self._blocks:
                self._undo.close()

    def _stand_in(self, entry: Place, leave: Place) -> None:
        choose, install, stack = entry.value, leave.value, _Stack()

        def choosing(callback: Any) -> Any:
            frame = sys._getframe(1)
            # None is `torch.compiler.disable`; as a context manager, Dynamo enters and leaves in
            # two frames.
            if callback is not None and frame.f_code.co_name not in {"__enter__", "__exit__"}:
                leaves = self._enter(_name(frame), _inputs(frame))
                if leaves:
                    stack.entered.append(_Entered(frame, leaves))
            return choose(callback)

        def installing(callback: Any) -> Any:
            if stack.entered and stack.entered[-1].frame is sys._getframe(1):
                if stack.entered[-1].begun:
                    self._leave(stack.entered.pop())
                else:
                    stack.entered[-1].begun = True
            # Last: from here on Dynamo looks at every new frame.
            return install(callback)

        self._undo.callback(entry.replace(choosing))
        self._undo.callback(leave.replace(installing))

    def _enter(self, name: str, inputs: tuple[Any, ...]) -> list[tuple[_Block, Leave]]:
        told = [(block, block.enter(name, inputs)) for block in self._blocks]
        return [(block, leave) for block, leave in told if leave is not None]

    def _leave(self, ended: _Entered) -> None:
        result = _result(ended.frame)
        for block, leave in ended.leaves:
            if block in self._blocks:
                leave(result)


_entries = _Entries()


def around_compiled_code(enter: Enter) -> Callable[[], None]:
    """Call `enter` whenever compiled code is entered on any thread, until what is returned is
    called.

    Where there is nothing to replace (`dynamo_internals.dynamo_entries`), nothing is done:
    `compiled_again` then tells.
    """
    places = dynamo_entries()
    if places is None:
        return lambda: None
    block = _Block(enter)
    _entries.open(block, places)
    return lambda: _entries.close(block)


def aside_in_compiled_code(
    take_out: Callable[[], None], put_in: Callable[[], None]
) -> Callable[[], None]:
    """Take out, while compiled code runs on any thread, what Dynamo would find otherwise and guard
    on, until what is returned is called; what was put in then is in.
    """
    lock, within = threading.Lock(), 0

    def enter(_name: str, _inputs: tuple[Any, ...]) -> Leave:
        nonlocal within
        with lock:
            within += 1
            if within == 1:
                take_out()
        return leave

    def leave(_result: Any) -> None:
        nonlocal within
        with lock:
            within -= 1
            if not within:
                put_in()

    return around_compiled_code(enter)


def _name(frame: FrameType) -> str:
    """The compiled function's own, where Dynamo's frame still calls it `fn`."""
    return getattr(frame.f_locals.get("fn"), "__name__", "compiled")


def _inputs(frame: FrameType) -> tuple[Any, ...]:
    given = inspect.getargvalues(frame)
    named = [given.locals[name] for name in given.args]
    several = given.locals[given.varargs] if given.varargs else ()
    keywords = given.locals[given.keywords] if given.keywords else {}
    return (*named, *several, *keywords.values())


def _result(frame: FrameType) -> Any:
    """None in releases of torch that keep it in no variable (2.11): then the layer's row has no
    shapes of outputs.
    """
    return frame.f_locals.get("result")


def compiled_again(since: int) -> list[str]:
    """A sentence on compilations after `since`, a former value of `compiled_frames`, if there were
    any.
    """
    more = compiled_frames() - since
    if more <= 0:
        return []
    sentence = (
        f"torch.compile compiled {more} more times after the warm-up: inputs or modules changed, "
        "or were traced; rungs "
        "may have run different graphs, and differ by more than their tracers"
    )
    return [with_slug("recompiled", sentence)]
