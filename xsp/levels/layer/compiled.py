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
from xsp.words.slugs import with_slug

Leave = Callable[[Any], None]
"""Called with the result of compiled code when it is left, with None where it raised or is not
known.
"""

Enter = Callable[[str, tuple[Any, ...]], "Leave | None"]
"""Called with the name and the inputs of compiled code when it is entered; None where the end is of
no interest.
"""


@dataclass
class _Entered:
    frame: FrameType
    leave: Leave
    begun: bool = False


class _Stack(threading.local):
    def __init__(self) -> None:
        self.entered: list[_Entered] = []


def around_compiled_code(enter: Enter) -> Callable[[], None]:
    """Call `enter` whenever compiled code is entered on any thread, until what is returned is
    called.

    Where there is nothing to replace (`dynamo_internals.dynamo_entries`), nothing is done:
    `compiled_again` then tells.
    """
    entries = dynamo_entries()
    if entries is None:
        return lambda: None
    choose, install = entries[0].value, entries[1].value
    stack = _Stack()

    def choosing(callback: Any) -> Any:
        frame = dynamos(sys._getframe(1))
        # None is `torch.compiler.disable`; as a context manager, Dynamo enters and leaves in two
        # frames.
        if callback is not None and frame.f_code.co_name not in {"__enter__", "__exit__"}:
            leave = enter(_name(frame), _inputs(frame))
            if leave is not None:
                stack.entered.append(_Entered(frame, leave))
        return choose(callback)

    def installing(callback: Any) -> Any:
        if stack.entered and stack.entered[-1].frame is dynamos(sys._getframe(1)):
            if stack.entered[-1].begun:
                ended = stack.entered.pop()
                ended.leave(_result(ended.frame))
            else:
                stack.entered[-1].begun = True
        # Last: from here on Dynamo looks at every new frame.
        return install(callback)

    own = (choosing.__code__, installing.__code__)

    def dynamos(frame: FrameType) -> FrameType:
        # Another block around compiled code, that began later, stands between.
        while frame.f_code in own and frame.f_back is not None:
            frame = frame.f_back
        return frame

    with ExitStack() as undo:
        undo.callback(entries[0].replace(choosing))
        undo.callback(entries[1].replace(installing))
        return undo.pop_all().close


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
