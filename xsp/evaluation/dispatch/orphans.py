"""Ending a process whose parent has died.

A worker of Ray whose node was killed goes on: it would measure beside the agent that takes over.
"""

from __future__ import annotations

import os
import threading

_PAUSE_S = 0.5


def end_with_parent() -> None:
    """From now on this process ends, without clean-up, soon after its parent has died."""
    parent = os.getppid()
    watch = threading.Thread(target=_watch, args=(parent,), name="xsp-parent", daemon=True)
    watch.start()


def _watch(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_PAUSE_S)
    os._exit(1)
