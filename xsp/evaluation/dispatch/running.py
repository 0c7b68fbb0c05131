"""Running jobs on agents: one call in flight per agent, failures kept to their job, results written
once, by this process alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any

from xsp.evaluation.dispatch.agents import Agents, Ended, Event, Joined, Lost, Offer, Run
from xsp.evaluation.dispatch.embedded import Embedded
from xsp.evaluation.dispatch.job import Answer, Job
from xsp.evaluation.dispatch.requirements import able, refuse_impossible
from xsp.evaluation.dispatch.summary import Summary

ATTEMPTS = 3
"""How often a job is handed out before it fails, where the agents that ran it went away."""

AHEAD = 64
"""Jobs that wait and are looked at for one that is like an agent's last."""

Write = Callable[[Answer], None]


def run_jobs(
    jobs: Iterable[Job],
    run: Run,
    write: Write,
    agents: Agents | None = None,
    *,
    written: Collection[str] = (),
    attempts: int = ATTEMPTS,
    started: Callable[[Job, str], None] | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Run every job whose key is not `written` yet, and write each answer once.

    Args:
        jobs: those with a key that was there before are left out.
        run: an importable function; agents in other processes call it with a job's payload.
        write: called in this process, once for each job, as soon as its answer is there. What it
            raises ends the dispatch; what was written stays.
        agents: where jobs run; this process by default.
        written: keys of jobs that have their row, from an earlier dispatch that was ended.
        attempts: how often a job is handed out at most. Only the loss of an agent repeats a job: an
            error that a job raises is its answer.
        started: told of each job that is handed out, with the name of its agent.
        stop: asked before a job is handed out; jobs in flight are waited for.
        clock: seconds, by which jobs with a time limit are ended; that is their answer. A job that
            runs in this process is not.

    Raises DispatchError where no agent can run a job, before any is handed out, and where there are
    no agents.

    """
    unique = {job.key: job for job in jobs}
    wanted = [job for key, job in unique.items() if key not in set(written)]
    where = agents or Embedded()
    try:
        offers = where.register(run)
        refuse_impossible(wanted, offers)
        dispatch = _Dispatch(wanted, where, offers, write, attempts, started, stop, clock)
        dispatch.run()
    finally:
        where.close()
    return dispatch.summary(kept=len(unique) - len(wanted))


class _Dispatch:
    """The state of one dispatch: jobs that wait, jobs in flight, agents without one."""

    def __init__(
        self,
        jobs: Sequence[Job],
        agents: Agents,
        offers: Sequence[Offer],
        write: Write,
        attempts: int,
        started: Callable[[Job, str], None] | None,
        stop: Callable[[], bool] | None,
        clock: Callable[[], float],
    ) -> None:
        # Jobs that few agents can run come first: those agents may not be busy with what any can.
        self._waiting = sorted(jobs, key=lambda job: len(able(offers, job)))
        self._agents, self._write, self._limit = agents, write, attempts
        self._started, self._stop, self._clock = started, stop, clock
        self._offers = {offer.agent: offer for offer in offers}
        self._registered = tuple(offers)
        self._flying: dict[str, Job] = {}
        self._since: dict[str, float] = {}
        self._last: dict[str, Job] = {}
        self._attempts: Counter[str] = Counter()
        self._outcomes: Counter[bool] = Counter()
        self._lost: list[str] = []
        self._niceness: dict[str, int] = {}

    def run(self) -> None:
        """Hand out and take back until nothing is in flight that could still end."""
        self._hand_out()
        while self._flying or (self._waiting and self._hopeful()):
            for event in self._agents.wait():
                self._take(event)
            self._end_overdue()
            self._hand_out()

    def summary(self, kept: int) -> Summary:
        return Summary(
            kept=kept,
            done=self._outcomes[False],
            failed=self._outcomes[True],
            remaining=tuple(self._waiting),
            agents=self._registered,
            lost=tuple(self._lost),
            notes=tuple(_niceness_note(self._niceness)),
        )

    def _hopeful(self) -> bool:
        return self._agents.waiting_for_agents() and not self._stopped()

    def _stopped(self) -> bool:
        return self._stop is not None and self._stop()

    def _hand_out(self) -> None:
        for name, offer in self._offers.items():
            if name in self._flying or self._stopped():
                continue
            job = self._next(offer)
            if job is not None:
                self._submit(name, job)

    def _next(self, offer: Offer) -> Job | None:
        """The first job that an agent can run; of those that need the same and come soon, one that
        is like its last, else one that is like none in flight.
        """
        fitting = islice((job for job in self._waiting if able([offer], job)), AHEAD)
        first = next(fitting, None)
        if first is None:
            return None
        last = self._last.get(offer.agent)
        flying = {job.alike for job in self._flying.values()}

        def worth(job: Job) -> tuple[bool, bool]:
            like_last = last is not None and job.alike == last.alike
            return not (job.alike and like_last), bool(job.alike) and job.alike in flying

        same = [job for job in fitting if job.requirements == first.requirements]
        return min([first, *same], key=worth)

    def _submit(self, agent: str, job: Job) -> None:
        self._waiting.remove(job)
        self._flying[agent] = self._last[agent] = job
        self._since[agent] = self._clock()
        self._attempts[job.key] += 1
        if self._started is not None:
            self._started(job, agent)
        self._agents.submit(agent, job.payload)

    def _take(self, event: Event) -> None:
        if isinstance(event, Joined):
            self._offers[event.offer.agent] = event.offer
        elif isinstance(event, Lost):
            self._take_loss(event)
        else:
            self._take_answer(event)

    def _end_overdue(self) -> None:
        now = self._clock()
        for agent, job in list(self._flying.items()):
            limit = job.time_limit_s
            if limit is None or now - self._since[agent] < limit:
                continue
            del self._flying[agent], self._offers[agent]
            self._agents.replace(agent)
            error = f"the job was ended after its time limit of {limit:g} s, with its process"
            self._answer(job, agent, None, error, {})

    def _take_answer(self, event: Ended) -> None:
        job = self._flying.pop(event.agent)
        self._niceness[event.agent] = int(event.worker.get("niceness", 0))
        self._answer(job, event.agent, event.result, event.error, event.worker)

    def _take_loss(self, event: Lost) -> None:
        self._offers.pop(event.agent, None)
        self._lost.append(f"agent {event.agent} went away ({event.reason})")
        job = self._flying.pop(event.agent, None)
        if job is None:
            return
        if self._attempts[job.key] < self._limit:
            self._waiting.insert(0, job)
            return
        error = f"the agent went away {self._limit} times while it ran this job ({event.reason})"
        self._answer(job, event.agent, None, error, {})

    def _answer(self, job: Job, agent: str, result: Any, error: str, worker: Any) -> None:
        tried = self._attempts[job.key]
        answer = Answer(job, result, error, attempts=tried, agent=agent, worker=worker)
        self._write(answer)
        self._outcomes[answer.failed] += 1


def _niceness_note(niceness: dict[str, int]) -> Iterable[str]:
    slow = sorted(agent for agent, value in niceness.items() if value > 0)
    if slow:
        yield (
            f"agents {', '.join(slow)} ran at niceness {max(niceness.values())}, so anything else "
            "on their machines went first and latencies are longer than they need be; start their "
            "nodes with RAY_worker_niceness=0"
        )
