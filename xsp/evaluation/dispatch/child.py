"""One agent in a process of its own on this machine: a crash there leaves this program alone, and
this program's threads do not disturb what is measured there.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from xsp.errors import DispatchError
from xsp.evaluation.dispatch import worker
from xsp.evaluation.dispatch.agents import Ended, Event, Joined, Lost, Offer, Run
from xsp.evaluation.dispatch.embedded import OneAgent
from xsp.evaluation.orphans import die_with_parent, end_with_parent

_PAUSE_S = 0.5


class Child(OneAgent):
    """The agent is started when jobs are, and ends with the dispatch. Arguments as for OneAgent."""

    name = "this machine"
    _process: Any = None
    _pipe: Connection | None = None
    _joining = False
    _busy = False

    def register(self, run: Run) -> Sequence[Offer]:
        """Start the process. `run` must be importable there."""
        self._run = run
        self._start()
        return (self.offer,)

    def submit(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Send the job. That the process is gone is seen in `wait`."""
        del agent  # there is one
        self._busy = True
        try:
            self._open.send(dict(payload))
        except OSError:
            return

    def wait(self) -> Sequence[Event]:
        """The answer, or that the process has ended: then another is started."""
        if self._joining:
            self._joining = False
            return (Joined(self.offer),)
        pipe = self._open
        try:
            if not pipe.poll(_PAUSE_S):
                return ()
            text, error, facts = pipe.recv()
        except (EOFError, OSError):
            return (self._replaced(),)
        self._busy = False
        return (Ended(self.name, None if text is None else json.loads(text), error, facts),)

    def replace(self, agent: str) -> None:
        """Kill the process, and start another."""
        del agent  # there is one
        self._process.kill()
        self._replaced()

    def waiting_for_agents(self) -> bool:
        """Whether a process was just started in place of another."""
        return self._joining

    def close(self) -> None:
        """End the process; a job in flight is lost."""
        if self._process is None:
            return
        self._open.close()
        if self._busy:
            self._process.kill()
        # One that is idle sees that the pipe was closed, and cleans up.
        self._process.join()
        self._process = None

    @property
    def _open(self) -> Connection:
        if self._pipe is None:
            raise DispatchError("the agent was not registered: call register first")
        return self._pipe

    def _start(self) -> None:
        # A forked process would have this one's locks, held by threads that are not there.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer_all, args=(theirs, self._run))
        self._process.start()
        theirs.close()

    def _replaced(self) -> Lost:
        self._process.join()
        self._busy = False
        reason = f"its process ended with exit code {self._process.exitcode}"
        self._open.close()
        self._start()
        self._joining = True
        return Lost(self.name, reason)


def _answer_all(pipe: Connection, run: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Answer jobs until the other end is closed."""
    die_with_parent()
    end_with_parent()
    while True:
        try:
            payload = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.answered(run, payload))
