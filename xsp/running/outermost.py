"""The outermost calls of modules in a program that knows nothing of xsp."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from xsp.machine.torch_internals import Place

Before = Callable[[nn.Module], None]


class OutermostCalls:
    """Tells of the outermost calls of modules on this thread, before and after each.

    `nn.Module.__call__` is replaced between such calls only: inside of one the program meets
    PyTorch as it is, and so do its compilers.
    """

    def __init__(self, before: Before, after: Before) -> None:
        self._before, self._after = before, after
        self._thread = threading.get_ident()
        self._place = Place(nn.Module, "__call__")
        self._own = self._place.value
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
            # A program that replaced the method itself may put this one back when it is over.
            if self._undo is None or threading.get_ident() != self._thread:
                return own(module, *args, **kwargs)
            self._put_back()
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
        self._undo = self._place.replace(called)

    def _put_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def _again(self) -> None:
        if self._wanted and self._undo is None:
            self._replace()
