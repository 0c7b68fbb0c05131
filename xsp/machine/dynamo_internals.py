"""The one door to Dynamo's private names that need no compiler: who is compiled, what looks on, and
what it must not see. `compiler_internals` has what was generated.

Each name says what it is needed for, and why no public name does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from xsp.machine.torch_internals import Place


def is_compiled(module: nn.Module) -> bool:
    """Whether this is what `torch.compile(module)` returns. Its class is private."""
    # Asking a module for what it does not have is slow; its own dictionary has the second.
    return "dynamo_ctx" in vars(module) and hasattr(module, "_orig_mod")


def compiled_from(module: nn.Module) -> nn.Module | None:
    """What `torch.compile(module)` has returned and somebody still has, None where that is not one
    object.
    """
    kind = getattr(sys.modules.get(DYNAMO_ENTRIES), "OptimizedModule", None)
    every = (each for each in gc.get_objects() if kind is not None and type(each) is kind)
    found = [each for each in every if vars(each)["_modules"].get("_orig_mod") is module]
    return found[0] if len(found) == 1 else None


DYNAMO_ENTRIES = "torch._dynamo.eval_frame"
"""Module of the functions that enter compiled code. A program need not import it."""


def dynamo_entries() -> tuple[Place, Place] | None:
    """The functions that choose and install Dynamo's callback, None where Dynamo was never loaded
    or has not got them.

    The function that `torch.compile` returns asks the first which callback to set, sets it with the
    second, runs, and sets back what was there before, all from one frame. Both are looked up in
    their module at each call, and both run while Dynamo is off.
    """
    module = sys.modules.get(DYNAMO_ENTRIES)
    entry, leave = Place(module, "_callback_from_stance"), Place(module, "_maybe_set_eval_frame")
    return (entry, leave) if entry.exists and leave.exists else None


_DYNAMO: Any = torch._C._dynamo.eval_frame

_dynamo_callback: Callable[[], Any] = getattr(_DYNAMO, "get_eval_frame_callback", type(None))
"""None where Dynamo does not look on, and in releases that do not tell (before 2.6)."""


def passed_over_by_dynamo(function: Callable[..., Any]) -> None:
    """Dynamo does not compile frames of this function from now on; what it calls is compiled, or
    found compiled, as before. Unlike `torch.compiler.disable` this adds no frame, and does not
    import Dynamo.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return
    if hasattr(_DYNAMO, "set_code_exec_strategy"):
        action, strategy = _DYNAMO._FrameAction, _DYNAMO._FrameExecStrategy
        _DYNAMO.set_code_exec_strategy(code, strategy(action.SKIP, action.DEFAULT))
    elif hasattr(_DYNAMO, "skip_code"):
        _DYNAMO.skip_code(code)


def is_within_compiled_code() -> bool:
    """Whether this is called by what `torch.compile` gave, or while Dynamo looks into it."""
    return torch.compiler.is_dynamo_compiling() or _dynamo_callback() is not None


passed_over_by_dynamo(is_within_compiled_code)


def compiled_frames() -> int:
    """How many frames Dynamo has compiled in this process so far."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["frames"]["total"]) if dynamo is not None else 0


DYNAMO_FOLDER = "_dynamo"
"""Folder of Dynamo's source files, below torch's: whose frames stand in a traceback."""
