"""Ending a process whose parent has died: it would measure, or hold a GPU, beside what follows."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PAUSE_S = 0.5
_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def die_with_parent() -> None:
    """From now on the kernel kills this process when its parent dies, even where it hangs in code
    that holds Python's lock.

    The kernel takes the thread that began this process for its parent (prctl(2)): call it only
    where that thread waits for the process. Where there is no prctl, nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent() -> None:
    """From now on this process ends, without clean-up, soon after its parent has died; whichever
    thread of the parent began it. A worker of Ray whose node was killed goes on otherwise.
    """
    parent = os.getppid()
    watch = threading.Thread(target=_watch, args=(parent,), name="xsp-parent", daemon=True)
    watch.start()


def _watch(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_PAUSE_S)
    os._exit(1)
