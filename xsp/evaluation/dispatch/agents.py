"""Agents: what runs jobs, one at a time each, and what they tell the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Runs one job: its payload in, its result out, both JSON. Agents in other processes import it by
its name."""


@dataclass(frozen=True)
class Offer:
    """What an agent registers with: its resources, as amounts, and labels of what it is and can
    run, such as `host`, `python` or the versions of frameworks.
    """

    agent: str
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A call came back with a result, or with the `error` that the job raised."""

    agent: str
    result: Mapping[str, Any] | None
    error: str
    worker: Mapping[str, Any]


@dataclass(frozen=True)
class Lost:
    """An agent is gone, with what it was running."""

    agent: str
    reason: str


@dataclass(frozen=True)
class Joined:
    """An agent is there in place of a lost one."""

    offer: Offer


Event = Ended | Lost | Joined


class Agents(Protocol):
    """Where jobs run. The dispatcher calls it from one thread."""

    def register(self, run: Run) -> Sequence[Offer]:
        """Start the agents; each says what it can run. Raises DispatchError if there are none."""

    def submit(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Hand a job to an idle agent."""

    def wait(self) -> Sequence[Event]:
        """What has happened since; blocks until something has, or about a second. Empty as long as
        nothing has.
        """

    def replace(self, agent: str) -> None:
        """End the agent with the job that it runs, which nobody waits for any more; a new one joins
        in its place where that is possible. An agent in this process cannot be ended.
        """

    def waiting_for_agents(self) -> bool:
        """Whether an agent is still starting."""

    def close(self) -> None:
        """End the agents and what was started for them."""
