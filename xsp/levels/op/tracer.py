"""OP level: the operators that run below layers, and the nodes of a backward pass.

Whatever goes through PyTorch's dispatcher announces its begin and end to callbacks
(`at::RecordFunction`); this is how torch.profiler learns of operators. xsp's native part registers
one such callback while it records. Nothing of Python runs at an event, what is dispatched to which
kernel stays as it is, and every thread is seen, those of autograd too.

Not seen: operators that PyTorch does not announce (`aten::size`, `aten::is_leaf` and others that
only look), and what runs without the dispatcher, such as the inside of compiled code. The engine's
own span around each backward node (`autograd::engine::evaluate_function`) is left out: it begins
before the node's layer does.
"""

from __future__ import annotations

import atexit
import errno
import os
import platform
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels.op import calls
from xsp.machine.torch_internals import record_function_symbols
from xsp.types import OPERATOR_EVENTS, Columns, Level, Tracer, empty

__all__ = ["OperatorTracer", "availability"]

RECORD_LIMIT = 1 << 22
"""Records kept between two collections, 32 bytes each; later operators are counted as lost."""

_ENGINE = "autograd::engine::evaluate_function: "

_names: list[str] = []


def availability() -> str | None:
    """None if operators can be traced here now, else one sentence that says why not and what would
    help.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return (
            "operators are traced on Linux on x86-64 only; this is "
            f"{sys.platform} on {platform.machine()}"
        )
    return _native.why_missing() or _why_not_announced()


@cache
def _why_not_announced() -> str | None:
    """None if an operator that runs now is recorded."""
    if record_function_symbols() is None:
        return (
            f"torch {torch.__version__} does not have the functions through which operators are "
            "announced (at::addGlobalCallback and two more): use a release that xsp is tested with"
        )
    tracer = OperatorTracer()
    tracer.start()
    try:
        torch.zeros(1, device="cpu").neg()
    finally:
        tracer.stop()
    seen = tracer.collect()["operator_events"]["name"].tolist()
    if "aten::neg" in [tracer.names[one] for one in seen]:
        return None
    return (
        f"torch {torch.__version__} announces no operators here: recording them was switched off "
        "(torch.autograd.profiler, or a build without it)"
    )


class OperatorTracer(Tracer):
    """Records operators and backward nodes; see the module's text for what is not seen.

    `record_limit` is how many are kept between two collections.
    """

    level = Level.OP
    name = "record function callback"

    def __init__(self, record_limit: int = RECORD_LIMIT) -> None:
        self._native = calls.functions()
        self._record_limit = record_limit
        self._recording = False

    def start(self) -> None:
        """Register the callback.

        Raises:
            TracingError: another tracer is recording, or this release of torch lacks what is
                needed.

        """
        symbols = record_function_symbols()
        if symbols is None:
            raise TracingError(f"torch {torch.__version__} cannot tell which operators run")
        # Before it is: whatever cuts this short, stop() then takes the callback away.
        self._recording = True
        result = self._native.xsp_operators_start(*symbols, self._record_limit)
        if result == -errno.EBUSY:
            self._recording = False
            msg = "operators are being recorded by another OperatorTracer: stop that one first"
            raise TracingError(msg)
        if result < 0:
            self._recording = False
            raise TracingError(f"operators cannot be recorded: {os.strerror(-result)}")

    def stop(self) -> None:
        """Take the callback away. Operators that are still running are not recorded."""
        if self._recording:
            self._native.xsp_operators_stop()
            self._recording = False

    def collect(self) -> dict[str, Columns]:
        """The operators since the last `collect`, ordered by their start."""
        records = calls.collect(self._native)
        known = self._native.xsp_operators_names()
        for number in range(len(_names), known):
            _names.append(self._native.xsp_operators_name(number).decode(errors="replace"))
        is_engine = np.array([name.startswith(_ENGINE) for name in _names] or [False], dtype=bool)
        records = records[~is_engine[records["name"]]]
        records = records[np.argsort(records["start_ns"], kind="stable")]
        events = empty(OPERATOR_EVENTS, len(records))
        for column in OPERATOR_EVENTS:
            events[column][:] = records[column]
        return {"operator_events": events}

    @property
    def names(self) -> Sequence[str]:
        """Names of operators and nodes, by `name` of the events."""
        return _names

    def lost(self) -> int:
        """Operators missing since the last `lost`: no room, or too many open at once."""
        return int(self._native.xsp_operators_take_lost())


def _at_exit() -> None:
    if _native.why_missing() is None:
        calls.functions().xsp_operators_stop()


atexit.register(_at_exit)
