"""Dispatched jobs in the database: kept when they are asked for, so that a run that was killed goes
on from its id alone; and what became of each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from sqlalchemy import select, update

from xsp.database import evaluation_tables, job_tables
from xsp.database.store import Store, upsert
from xsp.errors import EvaluationError
from xsp.evaluation.dispatch.job import Answer, Job
from xsp.evaluation.records.transport import from_json
from xsp.evaluation.records.writing import write

COLUMNS = ["run", "key", "evaluation", "error", "attempts", "agent", "worker", "ended_at"]
ALIKE = "alike"
"""In a job's payload: the mark of jobs that share a model on a runtime."""
TIME_LIMIT = "time_limit_s"
"""In a job's payload: after so many seconds it is ended; null or absent is never."""
_NICE = (
    "measured at niceness {}, so anything else on the machine went first; start agents with "
    "RAY_worker_niceness=0"
)


def add_jobs(store: Store, run: str, jobs: Sequence[Job]) -> None:
    """Keep jobs that are asked for; those that are there already stay as they are."""
    rows = [
        {
            "key": job.key,
            "run": run,
            "place": place,
            "payload": json.dumps(dict(job.payload)),
            "requirements": json.dumps(dict(job.requirements)),
        }
        for place, job in enumerate(jobs)
    ]
    with store.writing() as connection:
        for row in rows:
            statement = upsert(connection)(job_tables.jobs).values(row)
            connection.execute(statement.on_conflict_do_nothing(index_elements=["key"]))


def unfinished(store: Store, run: str) -> list[Job]:
    """The jobs of a run that have neither an evaluation nor an error, in order.

    Raises EvaluationError where there is no such run.
    """
    table, done = job_tables.jobs, evaluation_tables.evaluations
    asked = (
        select(table.c.key, table.c.payload, table.c.requirements, table.c.ended_at, done.c.id)
        .outerjoin(done, done.c.job == table.c.key)
        .where(table.c.run == run)
    )
    with store.reading() as connection:
        rows = connection.execute(asked.order_by(table.c.place)).all()
    if not rows:
        raise EvaluationError(f"there is no run {run!r} in {store.place}; check its id")
    # A writer that is killed may leave an evaluation whose job has not been told of it.
    waiting = [row for row in rows if row.ended_at is None and row.id is None]
    return [_job(row) for row in waiting]


def _job(row: Any) -> Job:
    payload = json.loads(row.payload)
    limit = payload.get(TIME_LIMIT)
    return Job(row.key, payload, json.loads(row.requirements), limit, payload.get(ALIKE, ""))


def finish(store: Store, answer: Answer) -> str | None:
    """Write a job's evaluation, or its error; returns the evaluation's id. Writing the same job
    twice changes nothing.
    """
    found = None
    if answer.result is not None:
        evaluation = replace(from_json(answer.result), job=answer.job.key)
        niceness = int(answer.worker.get("niceness", 0))
        if niceness > 0:
            evaluation = replace(evaluation, doubts=(*evaluation.doubts, _NICE.format(niceness)))
        write(store, evaluation)
        found = evaluation.id
    table = job_tables.jobs
    changed = {
        "evaluation": found,
        "error": answer.error or None,
        "attempts": answer.attempts,
        "agent": answer.agent,
        "worker": json.dumps(dict(answer.worker)),
        "ended_at": time.time(),
    }
    open_job = (table.c.key == answer.job.key) & table.c.ended_at.is_(None)
    with store.writing() as connection:
        connection.execute(update(table).where(open_job).values(changed))
    return found


def jobs(store: Store, run: str | None = None) -> pd.DataFrame:
    """One row for each job, of one run or of all: the columns `COLUMNS`."""
    table = job_tables.jobs
    asked: Any = select(*(table.c[name] for name in COLUMNS))
    if run is not None:
        asked = asked.where(table.c.run == run)
    with store.reading() as connection:
        rows = connection.execute(asked.order_by(table.c.run, table.c.place)).all()
    return pd.DataFrame([tuple(row) for row in rows], columns=COLUMNS)
