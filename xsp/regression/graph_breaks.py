"""Counting the graph breaks of one execution of compiled code.

Where Dynamo breaks a graph, the rest of the function becomes a new one, whose name says where it
goes on: `torch_dynamo_resume_in_forward_at_42`. Each call of such a function in an execution is one
graph break. Dynamo's own counters tell what was compiled, which depends on what else was compiled
before; this does not.
"""

from __future__ import annotations

import cProfile
import re
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

from xsp.machine.dynamo_internals import compiled_frames

_RESUMED = re.compile(r"torch_dynamo_resume_in_(.+)_at_(\d+)")


def graph_breaks(run: Callable[[], Any]) -> dict[str, int] | None:
    """How often one execution broke a graph, by place: `forward, line 42`.

    Empty where nothing has been compiled; None, not known, where another profiler of Python calls
    is active. `run` is executed once, under cProfile: being C, it adds no Python frames, which
    Dynamo would compile too.
    """
    if not compiled_frames():
        return {}
    if sys.getprofile() is not None:
        return None
    profiler = cProfile.Profile(subcalls=False, builtins=False)
    try:
        profiler.enable()
    except ValueError:
        return None
    try:
        run()
    finally:
        profiler.disable()
    seen: Counter[str] = Counter()
    for entry in profiler.getstats():
        if isinstance(entry.code, CodeType) and (found := _RESUMED.fullmatch(entry.code.co_name)):
            seen[f"{found[1].lstrip('_')}, line {found[2]}"] += entry.callcount
    return dict(seen)
