"""Keeping the tracers out of what torch.compile sees.

Dynamo traces whatever stands between the compiled code's Python and the operators, and guards on
it: a torch function mode, a changed `Module.__call__`. A program that is compiled again because it
is watched is another program. So everything of that kind is taken away while compiled code is
entered, and a compiled function is one layer, as a compiled module is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from xsp.words.warning import tagged

Leave = Callable[[Any], None]
"""Called with the result of compiled code when it is left, with None where it raised."""

Enter = Callable[[str, tuple[Any, ...]], "Leave | None"]
"""Called with the name and the inputs of compiled code when it is entered; None where the end is of
no interest.
"""

_ENTRY, _EXIT = "_callback_from_stance", "_maybe_set_eval_frame"


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

    The function that `torch.compile` returns asks `_callback_from_stance` which callback to set,
    sets it with `_maybe_set_eval_frame`, runs, and sets back what was there before, all from one
    frame. Both are looked up in their module at each call, and both run while Dynamo is off. Where
    torch has not got them, or Dynamo was never loaded, nothing is done: `compilations` then tells.
    """
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if not (hasattr(dynamo, _ENTRY) and hasattr(dynamo, _EXIT)):
        return lambda: None
    choose, install = getattr(dynamo, _ENTRY), getattr(dynamo, _EXIT)
    stack = _Stack()

    def choosing(callback: Any) -> Any:
        frame = sys._getframe(1)
        # None is `torch.compiler.disable`; as a context manager, Dynamo enters and leaves in two
        # frames.
        if callback is not None and frame.f_code.co_name not in {"__enter__", "__exit__"}:
            own = frame.f_locals
            name = getattr(own.get("fn"), "__name__", "compiled")
            leave = enter(name, (*own.get("args", ()), *own.get("kwargs", {}).values()))
            if leave is not None:
                stack.entered.append(_Entered(frame, leave))
        return choose(callback)

    def installing(callback: Any) -> Any:
        if stack.entered and stack.entered[-1].frame is sys._getframe(1):
            if stack.entered[-1].begun:
                ended = stack.entered.pop()
                ended.leave(ended.frame.f_locals.get("result"))
            else:
                stack.entered[-1].begun = True
        # Last: from here on Dynamo looks at every new frame.
        return install(callback)

    setattr(dynamo, _ENTRY, choosing)
    setattr(dynamo, _EXIT, installing)

    def undo() -> None:
        setattr(dynamo, _ENTRY, choose)
        setattr(dynamo, _EXIT, install)

    return undo


def compilations() -> int:
    """How many frames Dynamo has compiled in this process so far."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["frames"]["total"]) if dynamo is not None else 0


def compiled_again(since: int) -> list[str]:
    """A sentence on compilations after `since`, a former value of `compilations`, if there were
    any.
    """
    more = compilations() - since
    if more <= 0:
        return []
    sentence = (
        f"torch.compile compiled {more} more times after the warm-up: inputs or modules changed, "
        "or were traced; rungs "
        "may have run different graphs, and differ by more than their tracers"
    )
    return [tagged("recompiled", sentence)]
