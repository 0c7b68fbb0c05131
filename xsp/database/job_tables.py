"""The table of dispatched jobs; `xsp.evaluation.records.jobs` fills it."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, String, Table, Text

from xsp.database.evaluation_tables import metadata

jobs = Table(
    "jobs",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("run", String(16), nullable=False),
    Column("place", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("evaluation", String(32)),
    Column("error", Text),
    Column("attempts", Integer),
    Column("agent", Text),
    Column("worker", Text),
    Column("ended_at", Float),
)
"""One row for each job, from when it is asked for: `place` is its order within its `run`. What
became of it follows: an evaluation or an error, the last agent, and facts of the agent's process
(JSON). `ended_at` (unix time) is null until then.
"""

by_run = Index("jobs_by_run", jobs.c.run, jobs.c.place)
