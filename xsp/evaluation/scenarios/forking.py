"""`python -m xsp.evaluation.scenarios.forking FD MODULE…`: imports what measured processes need,
once, and forks one for each message on the socket FD. It has one thread and touches no GPU.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import wait

from xsp.evaluation.orphans import die_with_parent
from xsp.evaluation.scenarios import child
from xsp.evaluation.scenarios.starting import BEGUN, MESSAGE

_LONGEST = 64
_FDS = 3


def main() -> None:
    """Fork until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    for name in sys.argv[2:]:
        with suppress(Exception):  # the fork that needs it says why it cannot be imported
            importlib.import_module(name)
    # Else every collection of a fork walks all that was imported.
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        for each in wait([asked, ended]):
            if each is not asked:
                os.read(ended, _LONGEST)
                _tell_ended(asked)
            elif not _forked(asked):
                return


def _forked(asked: socket.socket) -> bool:
    """Take one message and fork; False where the other end is closed."""
    content, fds, _, _ = socket.recv_fds(asked, _LONGEST, _FDS)
    if not content:
        return False
    pid = os.fork()
    if pid == 0:
        _become(asked, *fds)
    for each in fds:
        os.close(each)
    asked.send(MESSAGE.pack(pid, BEGUN))
    return True


def _become(asked: socket.socket, tasks: int, over: int, output: int) -> None:
    """Be the measured process; never returns."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asked.close()
        for source, target in ((tasks, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.close(tasks)
        os.close(output)
        _seed_anew()
        child.serve(os.fdopen(0, "rb"), over, forked=True)
    finally:
        os._exit(1)


def _seed_anew() -> None:
    """Of what Python itself does not seed anew after a fork."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _tell_ended(asked: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        asked.send(MESSAGE.pack(pid, os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
