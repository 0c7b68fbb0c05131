"""The outermost calls of modules in a program that knows nothing of xsp, on all of its threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import nn

from xsp.machine.torch_internals import CALL, MODULE_CALL

Before = Callable[[nn.Module], None]


class OutermostCalls:
    """Tells of the outermost calls of modules, before and after each, on the thread that makes it.

    `nn.Module.__call__` is replaced between such calls only: inside of one the program meets
    PyTorch as it is, and so do its compilers. So it is told of one call at a time; those that other
    threads make meanwhile pass unseen.
    """

    def __init__(self, before: Before, after: Before) -> None:
        self._before, self._after = before, after
        self._taking = threading.Lock()
        self._own = MODULE_CALL.value
        self._undo: Callable[[], None] | None = None
        self._wanted = False

    def start(self) -> None:
        """Tell from now on."""
        self._wanted = True
        self._replace()

    def stop(self) -> None:
        """Tell no more; PyTorch is as it was found."""
        self._wanted = False
        self._put_back()

    def _replace(self) -> None:
        own = self._own

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not self._takes():
                return own(module, *args, **kwargs)
            try:
                self._before(module)
                result = module(*args, **kwargs)
            except BaseException:
                self._again()
                raise
            self._after(module)
            self._again()
            return result

        called.__doc__ = own.__doc__
        self._undo = MODULE_CALL.replace(called)

    def _takes(self) -> bool:
        """Whether the call that begins here is told of; `__call__` is put back then."""
        if _in_a_module(sys._getframe(2)):
            # This call's own outer ones began while another thread's was told of.
            return False
        with self._taking:
            # A program that replaced the method itself may put this one back when it is over.
            if self._undo is None:
                return False
            self._put_back()
            return True

    def _put_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def _again(self) -> None:
        if self._wanted and self._undo is None:
            self._replace()


def _in_a_module(frame: FrameType | None) -> bool:
    """Whether a module's call is among these frames."""
    while frame is not None:
        if frame.f_code in _CALLS:
            return True
        frame = frame.f_back
    return False


_CALLS = (getattr(nn.Module, CALL).__code__, nn.Module.__call__.__code__)
