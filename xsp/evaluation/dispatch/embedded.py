"""The agent of one machine: this process. It needs no cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xsp.evaluation.dispatch import worker
from xsp.evaluation.dispatch.agents import Ended, Event, Offer, Run


class OneAgent:
    """The only agent of a dispatch, on this machine.

    Args:
        resources: what this machine has, beside or in place of `worker.resources`.
        labels: what it is and can run, beside `worker.labels`.

    """

    name: str

    def __init__(
        self,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.offer = worker.offer(self.name, resources, labels)
        self._run: Run | None = None


class Embedded(OneAgent):
    """Runs jobs in this process, one after another."""

    name = "here"
    _next: Mapping[str, Any] | None = None

    def register(self, run: Run) -> Sequence[Offer]:
        """The one agent."""
        self._run = run
        return (self.offer,)

    def submit(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Keep the job until `wait`."""
        del agent  # there is one
        self._next = payload

    def wait(self) -> Sequence[Event]:
        """Run the job that was submitted."""
        if self._run is None or self._next is None:
            return ()
        payload, self._next = self._next, None
        text, error, facts = worker.answered(self._run, payload)
        result = None if text is None else json.loads(text)
        return (Ended(self.name, result, error, facts),)

    def replace(self, agent: str) -> None:
        """Nothing: a job that runs here is over when `wait` returns."""

    def waiting_for_agents(self) -> bool:
        """Never: this process is there."""
        return False

    def close(self) -> None:
        """Nothing was started."""
