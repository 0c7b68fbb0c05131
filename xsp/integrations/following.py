"""A training loop that a library runs, profiled along: what its callbacks share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from xsp.errors import NothingRecordedError, XspError
from xsp.profiler import BlockProfile, profile

_log = logging.getLogger("xsp")


class Following:
    """From `begin` to `end`, with `step` at the end of each step of the loop. What cannot be
    profiled is kept in `why` and logged: it never ends the training.

    Args:
        path: where the capture is written at the end; None writes none.
        **options: those of `xsp.profile`.

    """

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        self._path = path
        self._options = options
        self._block: profile | None = None
        self.profile: BlockProfile | None = None
        """What was measured, once `end` was called; None where nothing was."""
        self.why = ""
        """Why nothing was measured, or what was not; empty where all was."""
        self._filling: BlockProfile | None = None

    def begin(self, model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
        """The loop begins; optimizers that a library has wrapped are taken out."""
        self.profile, self.why = None, ""
        try:
            optimizer = [unwrapped(each) for each in optimizers]
            self._block = profile(model, optimizer=optimizer, **self._options)
            self._filling = self._block.__enter__()
        except XspError as error:
            self._give_up(error)

    def step(self) -> None:
        """A step has ended."""
        if self._filling is None:
            return
        try:
            self._filling.step()
        except XspError as error:
            self._give_up(error)

    def end(self, error: BaseException | None = None) -> None:
        """The loop has ended, or raised `error`."""
        block, filling = self._block, self._filling
        self._block = self._filling = None
        if block is None or filling is None:
            return
        kind = None if error is None else type(error)
        try:
            block.__exit__(kind, error, None if error is None else error.__traceback__)
            if error is None or isinstance(error, KeyboardInterrupt):
                filling.latency_ms  # noqa: B018 # raises where nothing was filled in
                self.profile = filling
        except NothingRecordedError as nothing:
            self._give_up(nothing)
        if self.profile is not None and self._path is not None:
            self.profile.save(self._path)

    def _give_up(self, error: XspError) -> None:
        self.why = str(error)
        _log.warning("not profiled: %s", error)
        block, self._block, self._filling = self._block, None, None
        if block is not None and not isinstance(error, NothingRecordedError):
            trace: TracebackType | None = error.__traceback__
            block.__exit__(type(error), error, trace)


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer of torch inside those of libraries, which hold it as `optimizer`."""
    inner = optimizer
    while not _is_plain(inner) and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    found: Optimizer = inner
    return found


def _is_plain(optimizer: Any) -> bool:
    """Whether torch's own constructor has made it: wrappers are subclasses that have not."""
    return "_optimizer_step_pre_hooks" in vars(optimizer)


class Followed:
    """What a callback knows of the loop that it follows."""

    _following: Following

    @property
    def profile(self) -> BlockProfile | None:
        """What was measured, once the training is over; None where nothing was."""
        return self._following.profile

    @property
    def why(self) -> str:
        """Why nothing was measured; empty where it was."""
        return self._following.why
