"""Evaluations into the database: each in one transaction, once for each job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from xsp.database import evaluation_tables as tables
from xsp.database.store import Store, upsert
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.records.packing import details_of, packed


def write(store: Store, evaluation: Evaluation, code: Mapping[str, bytes] | None = None) -> bool:
    """Keep an evaluation; False where its id or job is there already, which changes nothing.

    `code` is the Python that the manifest names, by checksum.

    Raises DatabaseError; nothing of the evaluation is there then.
    """
    facts = json.dumps(dict(evaluation.system), sort_keys=True)
    model = evaluation.manifest.model.model_dump_json()
    with store.writing() as connection:
        if _is_there(connection, evaluation):
            return False
        _once(connection, tables.systems, _system_row(facts, evaluation))
        _once(connection, tables.models, _model_row(model, evaluation))
        for sha256, content in (code or {}).items():
            row = {"sha256": sha256, "name": sha256, "content": content}
            _once(connection, tables.code, row)
        row = _row(evaluation, digest(model), digest(facts))
        connection.execute(tables.evaluations.insert().values(row))
        _many(connection, tables.measures, _rows(evaluation, evaluation.measures))
        _many(connection, tables.traces, _rows(evaluation, evaluation.traces))
    return True


def digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_there(connection: Connection, evaluation: Evaluation) -> bool:
    table = tables.evaluations
    same = table.c.id == evaluation.id
    if evaluation.job is not None:
        same = same | (table.c.job == evaluation.job)
    return connection.execute(select(table.c.id).where(same)).first() is not None


def _once(connection: Connection, table: Any, row: Mapping[str, Any]) -> None:
    statement = upsert(connection)(table).values(row)
    key = [column.name for column in table.primary_key]
    connection.execute(statement.on_conflict_do_nothing(index_elements=key))


def _many(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _system_row(facts: str, evaluation: Evaluation) -> dict[str, Any]:
    name = evaluation.system.get("gpu") if evaluation.manifest.runtime.device != "cpu" else None
    name = name or evaluation.system.get("cpu") or "unknown"
    return {"digest": digest(facts), "name": str(name), "facts": facts}


def _model_row(content: str, evaluation: Evaluation) -> dict[str, Any]:
    model = evaluation.manifest.model
    return {
        "digest": digest(content),
        "name": model.name,
        "version": model.version,
        "task": model.task,
        "content": content,
    }


def _row(evaluation: Evaluation, model: str, system: str) -> dict[str, Any]:
    outcome = evaluation.outcome
    reasons = {"reasons": list(outcome.reasons), "doubts": list(outcome.doubts)}
    return {
        "id": evaluation.id,
        "job": evaluation.job,
        "identity": evaluation.manifest.identity,
        "name": evaluation.manifest.name,
        "manifest": evaluation.manifest.canonical(),
        "model": model,
        "system": system,
        "predictor": evaluation.predictor,
        "runtime": evaluation.runtime,
        "device": evaluation.manifest.runtime.device,
        "scenario": outcome.scenario,
        "measured_at": evaluation.measured_at,
        "valid": outcome.valid,
        "errors": outcome.errors,
        "reasons": json.dumps(reasons),
        "doubts": json.dumps(list(evaluation.doubts)),
        "details": details_of(outcome),
        "queries": packed(outcome),
        "again": evaluation.again,
    }


def _rows(evaluation: Evaluation, each: Iterable[Measure | Trace]) -> list[dict[str, Any]]:
    """Rows that have the facts of measures or traces under their names."""
    return [{"evaluation": evaluation.id, **asdict(one)} for one in each]
