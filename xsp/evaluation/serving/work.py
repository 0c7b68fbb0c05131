"""Evaluations that were started here: one run after another, in a thread that hands jobs to agents.

Nothing is measured in this process: agents have their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

from xsp.database.store import Store
from xsp.errors import XspError
from xsp.evaluation.dispatch.agents import Agents
from xsp.evaluation.dispatch.job import Answer, Job
from xsp.evaluation.manifest.reading import manifest_from_record
from xsp.evaluation.matrix import dispatch
from xsp.evaluation.records.jobs import add_jobs

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
OPEN = frozenset({WAITING, RUNNING})


@dataclass(frozen=True)
class JobState:
    """One job as the page shows it; times are unix times."""

    run: str
    key: str
    model: str
    predictor: str
    scenario: str
    state: str = WAITING
    agent: str = ""
    evaluation: str | None = None
    error: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Work:
    """Runs that were started here, in order.

    Args:
        store: where evaluations are written, by this process alone.
        make_agents: makes the agents for one run.

    """

    def __init__(self, store: Store, make_agents: Callable[[], Agents]) -> None:
        self._store, self._make_agents = store, make_agents
        self._lock = threading.Lock()
        self._states: dict[str, JobState] = {}
        self._stopped: set[str] = set()
        self._runs: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="xsp-work", daemon=True)
        self._thread.start()

    def start(self, run: str, jobs: Sequence[Job]) -> None:
        """Keep the jobs in the database, and run them after those that wait already."""
        add_jobs(self._store, run, jobs)
        with self._lock:
            self._states.update({job.key: _first_state(run, job) for job in jobs})
        self._runs.put(run)

    def states(self) -> list[JobState]:
        """Every job that was started here, in order."""
        with self._lock:
            return list(self._states.values())

    def stop(self, run: str) -> None:
        """Hand out no further job of a run; those in flight end. What is left can be resumed."""
        with self._lock:
            self._stopped.add(run)

    def close(self) -> None:
        """Stop everything and wait for what is in flight."""
        with self._lock:
            self._stopped.update(state.run for state in self._states.values())
        self._runs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (run := self._runs.get()) is not None:
            try:
                dispatch(
                    run,
                    self._store,
                    self._make_agents(),
                    started=self._on_start,
                    ended=self._on_end,
                    stop=lambda run=run: run in self._stopped,  # type: ignore[misc] # the default binds it
                )
                self._close_open(run, STOPPED, "")
            except Exception as error:
                # The page must go on whatever a cluster or a database raises.
                said = (
                    str(error)
                    if isinstance(error, XspError)
                    else f"{type(error).__name__}: {error}"
                )
                self._close_open(run, FAILED, said)

    def _on_start(self, job: Job, agent: str) -> None:
        self._change(job.key, state=RUNNING, agent=agent, started_at=time.time())

    def _on_end(self, answer: Answer, evaluation: str | None) -> None:
        self._change(
            answer.job.key,
            state=FAILED if answer.failed else DONE,
            evaluation=evaluation,
            error=answer.error,
            ended_at=time.time(),
        )

    def _change(self, key: str, **changes: object) -> None:
        with self._lock:
            self._states[key] = replace(self._states[key], **changes)  # type: ignore[arg-type] # fields

    def _close_open(self, run: str, state: str, error: str) -> None:
        """What a run that is over has not run."""
        left = [each.key for each in self.states() if each.run == run and each.state in OPEN]
        for key in left:
            self._change(key, state=state, error=error)


def _first_state(run: str, job: Job) -> JobState:
    manifest = manifest_from_record(job.payload["manifest"])
    return JobState(
        run=run,
        key=job.key,
        model=f"{manifest.model.name} {manifest.model.version}",
        predictor=manifest.runtime.predictor,
        scenario=manifest.scenario.kind,
    )
