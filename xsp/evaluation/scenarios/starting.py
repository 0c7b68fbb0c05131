"""How a measured process begins: anew, or as a fork of one that has imported what it needs."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Protocol

MODULES = (
    "numpy",
    "mlperf_loadgen",
    "torch",
    "xsp.evaluation.pipeline.system",
    "xsp.evaluation.scenarios.child",
    "xsp.evaluation.scenarios.batches",
    "xsp.evaluation.predictors.eager",
)
"""None of them touches a GPU when imported: a forked process could not use it."""

MESSAGE = struct.Struct("<qq")
"""From the forking process: a process's id, and `BEGUN` or the exit code it ended with."""
BEGUN = 1 << 32
_WAIT_S = 30.0


class Begun(Protocol):
    """A process that was begun, in a session of its own."""

    pid: int

    def ended(self, timeout_s: float) -> int | None:
        """Its exit code, negative for a signal; None where it is still there after the time."""


Start = Callable[[int, int, int], Begun]
"""Begins `xsp.evaluation.scenarios.child` with three file descriptors: tasks to read, a byte to
write when a test is over, and what is printed."""


class _Fresh:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def ended(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


def fresh(tasks: int, over: int, output: int) -> Begun:
    """A new Python."""
    command = [sys.executable, "-m", "xsp.evaluation.scenarios.child", str(over)]
    process = subprocess.Popen(  # noqa: S603  (Python, and this package)
        command,
        stdin=tasks,
        stdout=output,
        stderr=output,
        # Ctrl-C reaches only this process, and all of the other can be killed.
        start_new_session=True,
        env=_environment(),
        pass_fds=(over,),
    )
    return _Fresh(process)


class Forking:
    """Begins processes as forks of one that has imported modules, torch among them, and has done
    nothing else. It is started when first needed, and anew where the environment has changed.

    Args:
        modules: what it imports, where it is there.

    A fork has what importing left (memory, hash seed, addresses of libraries); numpy's old global
    generator is seeded anew. CUDA, threads and models are its own.

    """

    def __init__(self, modules: Sequence[str] = MODULES) -> None:
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: socket.socket | None = None
        self._environment: dict[str, str] = {}
        self._forks: set[int] = set()
        """Of the process that forks now: those of one before it died with it."""
        self._ended: dict[int, int] = {}

    def __call__(self, tasks: int, over: int, output: int) -> Begun:
        """Begin a process; a new Python where the forking one cannot be had."""
        try:
            asked = self._ready()
            socket.send_fds(asked, [b"begin"], [tasks, over, output])
            return _Fork(self, self._begun())
        except OSError:
            self.close()
            return fresh(tasks, over, output)

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        """How a fork ended, None where it did not in this time."""
        while pid not in self._ended:
            if self._asked is None or pid not in self._forks:
                return -signal.SIGKILL  # forks die with the process that began them
            if not wait([self._asked], timeout_s):
                return None
            with suppress(OSError):
                self._take()
                continue
            self.close()
        return self._ended.pop(pid)

    def close(self) -> None:
        """End the forking process, and with it all forks."""
        asked, self._asked = self._asked, None
        process, self._process = self._process, None
        self._forks.clear()
        if asked is not None:
            asked.close()
        if process is not None:
            process.kill()
            process.wait(_WAIT_S)

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> socket.socket:
        environment = _environment()
        if self._asked is None or environment != self._environment:
            self.close()
            self._environment = environment
            self._asked = self._started()
        return self._asked

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "xsp.evaluation.scenarios.forking"]
            self._process = subprocess.Popen(  # noqa: S603  (Python, and this package)
                [*command, str(theirs.fileno()), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment,
                pass_fds=(theirs.fileno(),),
            )
        return ours

    def _begun(self) -> int:
        while (told := self._take())[1] != BEGUN:
            pass
        self._forks.add(told[0])
        return told[0]

    def _take(self) -> tuple[int, int]:
        """One message; exit codes are kept. Raises OSError where the forking process is gone."""
        content = b"" if self._asked is None else self._asked.recv(MESSAGE.size)
        if len(content) != MESSAGE.size:
            raise ConnectionError("the forking process is gone")
        pid, code = MESSAGE.unpack(content)
        if code != BEGUN:
            self._ended[pid] = code
        return pid, code


class _Fork:
    def __init__(self, forking: Forking, pid: int) -> None:
        self._forking, self.pid = forking, pid
        self._code: int | None = None

    def ended(self, timeout_s: float) -> int | None:
        if self._code is None:
            self._code = self._forking.exit_code(self.pid, timeout_s)
        return self._code


def _environment() -> dict[str, str]:
    """The one of this process; the other one imports from the same places, and from no others."""
    places = [place or os.getcwd() for place in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}
