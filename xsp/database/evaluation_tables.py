"""Tables of evaluations in a performance database; `xsp.evaluation.records` fills them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
"""Of all tables of a performance database."""

models = Table(
    "models",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("content", Text, nullable=False),
)
"""What was evaluated; `content` is the model of a manifest as canonical JSON, `digest` its
sha256.
"""

systems = Table(
    "systems",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("facts", Text, nullable=False),
)
"""What evaluations ran on: the facts of `xsp doctor`, versions of runtimes, labels, as JSON."""

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("job", String(64), unique=True),
    Column("identity", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("model", String(64), ForeignKey("models.digest"), nullable=False),
    Column("system", String(64), ForeignKey("systems.digest"), nullable=False),
    Column("predictor", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("measured_at", Float, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("errors", Integer, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("doubts", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("queries", LargeBinary, nullable=False),
    Column("again", String(32)),
)
"""One row for each call of `evaluate`. `manifest` is canonical JSON, `identity` its sha256, and
`job` the key of a dispatched one. `queries` has the columns of the outcome, `again` the evaluation
that this one repeats. `reasons`, `doubts` and `details` are JSON.
"""

measures = Table(
    "measures",
    metadata,
    Column("evaluation", String(32), ForeignKey("evaluations.id"), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("value", Float),
    Column("low", Float),
    Column("high", Float),
    Column("unit", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
"""What was measured: a value with its 95 % interval. Null is unknown, and `reason` says why."""

traces = Table(
    "traces",
    metadata,
    Column("evaluation", String(32), ForeignKey("evaluations.id"), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("spans", Integer, nullable=False),
    Column("trace_id", String(32), nullable=False),
)
"""Captures and spans of stages by checksum; the files are in the artifact store."""

code = Table(
    "code",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""Python that manifests name: a record can be run again where its files are gone."""

Index("evaluations_by_identity", evaluations.c.identity)
by_time = Index("evaluations_by_time", evaluations.c.measured_at, evaluations.c.id)
Index("evaluations_by_model", evaluations.c.model, evaluations.c.system)

TABLES = [models, systems, evaluations, measures, traces, code]
