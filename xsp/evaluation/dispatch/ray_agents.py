"""Agents on a Ray cluster: an actor for each GPU, and one for each node that has none.

An actor holds its share of the node's CPUs, so that nothing else that Ray runs shares them, and Ray
sets OMP_NUM_THREADS to that share. An actor that dies is not restarted by Ray, which would run its
job again unseen: the dispatcher does that, and counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xsp.errors import DispatchError
from xsp.evaluation.dispatch import worker
from xsp.evaluation.dispatch.agents import Ended, Event, Joined, Lost, Offer, Run
from xsp.evaluation.dispatch.ray_session import Session
from xsp.evaluation.orphans import end_with_parent

PATIENCE_S = 120.0
"""How long agents may take to start."""
_PAUSE_S = 1.0
"""How long `wait` blocks: so often the dispatcher can be stopped."""
_REPLACEMENTS = 10
"""How often one agent is replaced; a job that kills its agent is given up long before."""


class Agent:
    """What runs on a node, as a Ray actor."""

    def __init__(self, run: Run, describe: Callable[[], Mapping[str, str]]) -> None:
        end_with_parent()
        self._run, self._describe = run, describe

    def labels(self) -> dict[str, str]:
        """What this process can run."""
        return dict(self._describe())

    def answer(self, payload: Mapping[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
        """One job; see `worker.answered`."""
        return worker.answered(self._run, payload)


@dataclass(frozen=True)
class _Place:
    """Where an agent runs, and what it holds there."""

    name: str
    node: str
    cpus: float
    gpus: float
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    generation: int = 0


class Ray:
    """Agents on a Ray cluster.

    Args:
        address: of a cluster; by default that of RAY_ADDRESS, else a Ray that is started here.
        describe: an importable function that says, on each node, what can be run there, as labels.
        patience_s: how long agents may take to start.

    The agents are those of the nodes that are there when the dispatch begins.

    """

    def __init__(
        self,
        address: str | None = None,
        *,
        describe: Callable[[], Mapping[str, str]] = worker.labels,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._address, self._describe, self._patience_s = address, describe, patience_s
        self._session: Session | None = None
        self._run: Run | None = None
        self._actors: dict[str, Any] = {}
        self._places: dict[str, _Place] = {}
        self._calls: dict[Any, str] = {}
        """Jobs in flight: Ray's reference of the result, and the agent."""
        self._starting: dict[Any, _Place] = {}
        """Agents that have not said yet what they can run."""

    def register(self, run: Run) -> Sequence[Offer]:
        """Start an actor in every place and ask each what it can run.

        Raises DispatchError where the cluster cannot be reached or no agent starts in time.
        """
        self._run = run
        self._session = Session(self._address)
        for place in _places(self._joined.nodes()):
            self._start(place)
        self._ray.wait(
            list(self._starting), num_returns=len(self._starting), timeout=self._patience_s
        )
        joined = [event.offer for event in self._started(0.0) if isinstance(event, Joined)]
        if not joined:
            raise DispatchError(
                f"no agent started on the Ray cluster within {self._patience_s:g} s; see `ray "
                "status` for what its nodes are busy with"
            )
        return joined

    def submit(self, agent: str, payload: Mapping[str, Any]) -> None:
        """Call the actor; the result is waited for in `wait`."""
        reference = self._actors[agent].answer.remote(dict(payload))
        self._calls[reference] = agent

    def wait(self) -> Sequence[Event]:
        """Calls that came back, agents that went away, agents that have started."""
        everything = [*self._calls, *self._starting]
        if not everything:
            return ()
        self._ray.wait(everything, num_returns=1, timeout=_PAUSE_S)
        return [*self._ended(), *self._started(0.0)]

    def replace(self, agent: str) -> None:
        """Kill the actor, and start another in its place."""
        self._calls = {call: name for call, name in self._calls.items() if name != agent}
        self._ray.kill(self._actors[agent], no_restart=True)
        self._replace(self._places[agent])

    def waiting_for_agents(self) -> bool:
        """Whether a replacement is still starting."""
        return bool(self._starting)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        if self._session is None:
            return
        for actor in self._actors.values():
            self._session.ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()
        self._starting.clear()
        self._session.close()
        self._session = None

    @property
    def _joined(self) -> Session:
        if self._session is None:
            raise DispatchError("the agents were closed, or never registered: call register first")
        return self._session

    @property
    def _ray(self) -> Any:
        return self._joined.ray

    def _start(self, place: _Place) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = (
            self._ray.remote(Agent)
            .options(
                num_cpus=place.cpus,
                num_gpus=place.gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            )
            .remote(self._run, self._describe)
        )
        self._actors[place.name] = actor
        self._places[place.name] = place
        self._starting[actor.labels.remote()] = place

    def _ready(self, references: Mapping[Any, Any], timeout_s: float) -> list[Any]:
        if not references:
            return []
        ready, _ = self._ray.wait(list(references), num_returns=len(references), timeout=timeout_s)
        return list(ready)

    def _ended(self) -> list[Event]:
        return [event for each in self._ready(self._calls, 0.0) for event in self._end(each)]

    def _end(self, reference: Any) -> list[Event]:
        """What a call that is over came to."""
        agent = self._calls.pop(reference)
        try:
            text, error, facts = self._ray.get(reference)
        except self._ray.exceptions.RayError as lost:
            self._replace(self._places[agent])
            return [Lost(agent, _reason(lost))]
        result = None if text is None else json.loads(text)
        node = {"node": self._places[agent].node}
        return [Ended(agent, result, error, {**facts, **node})]

    def _started(self, timeout_s: float) -> list[Event]:
        return [
            event
            for each in self._ready(self._starting, timeout_s)
            for event in self._start_over(each)
        ]

    def _start_over(self, reference: Any) -> list[Event]:
        """The offer of an agent that has started; one that could not is tried again while its node
        is alive.
        """
        place = self._starting.pop(reference)
        try:
            labels = self._ray.get(reference)
        except self._ray.exceptions.RayError:
            self._replace(place)
            return []
        offer = Offer(place.name, place.resources, {**labels, **place.labels})
        return [Joined(offer)]

    def _replace(self, place: _Place) -> None:
        del self._actors[place.name]
        there = {node["NodeID"] for node in self._joined.nodes()}
        if place.node in there and place.generation < _REPLACEMENTS:
            self._start(replace(place, generation=place.generation + 1))


def _places(nodes: Sequence[Mapping[str, Any]]) -> list[_Place]:
    """An agent for each GPU, or for each node that has none; a node's CPUs are divided."""
    return [place for number, node in enumerate(nodes) for place in _of_node(number, node)]


def _of_node(number: int, node: Mapping[str, Any]) -> list[_Place]:
    resources = {name: float(amount) for name, amount in node["Resources"].items()}
    gpus = int(resources.get("GPU", 0))
    share = resources.get("CPU", 0.0) / max(gpus, 1)
    cpus = float(int(share)) if share >= 1 else share
    own = {
        **{name: amount for name, amount in resources.items() if not name.startswith("node:")},
        "CPU": cpus,
        "GPU": float(min(gpus, 1)),
    }
    host = node["NodeManagerHostname"]
    return [
        _Place(
            name=f"{host}-{number}-{index}",
            node=node["NodeID"],
            cpus=cpus,
            gpus=own["GPU"],
            resources=own,
            labels=dict(node.get("Labels") or {}),
        )
        for index in range(max(gpus, 1))
    ]


def _reason(error: Exception) -> str:
    """The first line of Ray's message, which may have twenty."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
