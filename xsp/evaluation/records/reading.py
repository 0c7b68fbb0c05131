"""Evaluations out of the database: one whole, or many as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy import func, select

from xsp.database import evaluation_tables as tables
from xsp.database.store import Store
from xsp.errors import EvaluationError
from xsp.evaluation.manifest.reading import manifest_from_record
from xsp.evaluation.records.checking import checked
from xsp.evaluation.records.evaluation import Evaluation, Measure, Trace
from xsp.evaluation.records.packing import damaged, unpacked

FACTS = [
    "id",
    "name",
    "model",
    "version",
    "task",
    "predictor",
    "runtime",
    "device",
    "system",
    "scenario",
    "measured_at",
    "valid",
    "errors",
    "traced",
    "identity",
    "again",
]
"""The first columns of `evaluations`; those of measures follow. `traced` is the level at which runs
of their own were traced, missing where none were; no measure comes from these.
"""
_LAST = "~"
"""Sorts after every digit of an id."""


def read(store: Store, id: str) -> Evaluation:  # noqa: A002 - what it is called everywhere
    """One evaluation, by its id or the first digits of it.

    Raises EvaluationError where there is none or several, ManifestError where a newer xsp wrote it,
    DatabaseError.
    """
    table = tables.evaluations
    asked = select(table, tables.systems.c.facts).join(tables.systems)
    with store.reading() as connection:
        # A range, which the index of ids answers; SQLite reads the whole table for LIKE.
        beginning = table.c.id.between(id, id + _LAST)
        matching = asked.where(beginning, table.c.id.startswith(id, autoescape=True)).limit(2)
        found = connection.execute(matching).mappings().all()
        if len(found) != 1 or not id:
            many = "several evaluations begin" if found else "there is no evaluation that begins"
            raise EvaluationError(
                f"{many} with {id!r} in {store.place}; `xsp evaluate --list` shows them"
            )
        row = dict(found[0])
        measures = _rows(connection, tables.measures, row["id"])
        traces = _rows(connection, tables.traces, row["id"])
    return _evaluation(row, measures, traces)


def code_of(store: Store, sha256: str) -> bytes | None:
    """A file of code that a manifest named, None if it is not in the database."""
    asked = select(tables.code.c.content).where(tables.code.c.sha256 == sha256)
    with store.reading() as connection:
        found = connection.execute(asked).scalar_one_or_none()
    return None if found is None else bytes(found)


def evaluations(store: Store, newest: int | None = None) -> pd.DataFrame:
    """One row for each evaluation, or for the `newest` ones, in the order in which they were
    measured: the columns `FACTS`, and one for each measure with its value; NaN where it was not
    measured or is unknown, or where the database has no number.
    """
    table, models, systems = tables.evaluations, tables.models, tables.systems
    columns = {
        **{column.name: column for column in table.c},
        "model": models.c.name,
        "version": models.c.version,
        "task": models.c.task,
        "system": systems.c.name,
        "traced": _traced_level(),
    }
    chosen = [columns[name].label(name) for name in FACTS]
    asked = select(*chosen).join(models, table.c.model == models.c.digest).join(systems)
    latest_first = asked.order_by(table.c.measured_at.desc(), table.c.id.desc()).limit(newest)
    with store.reading() as connection:
        rows = connection.execute(latest_first).all()
    facts = pd.DataFrame([tuple(row) for row in reversed(rows)], columns=FACTS)
    facts["measured_at"] = pd.to_numeric(facts["measured_at"], errors="coerce")
    values = measures(store, None if newest is None else facts["id"].tolist())
    if values.empty:
        return facts
    values["value"] = pd.to_numeric(values["value"], errors="coerce")
    wide = values.pivot_table(index="evaluation", columns="name", values="value", sort=False)
    return facts.join(wide, on="id")


def _traced_level() -> Any:
    """Looked up by the index of traces: a join would read them all for the newest rows."""
    of_this = tables.traces.c.evaluation == tables.evaluations.c.id
    return select(tables.traces.c.level).where(of_this).limit(1).scalar_subquery()


def alike(store: Store, id: str, most: int) -> list[str]:  # noqa: A002 - as in `read`
    """The ids of valid evaluations of the same manifest by the same runtime on the same system as
    this one, which is the last of them if it is valid; the others are the newest, in the order in
    which they were measured.
    """
    table, systems = tables.evaluations, tables.systems
    same = (table.c.identity, systems.c.name, table.c.runtime)
    with store.reading() as connection:
        asked = select(*same).join(systems).where(table.c.id == id)
        own = connection.execute(asked).first()
        if own is None:
            return []
        matching = [column == value for column, value in zip(same, own, strict=True)]
        found = select(table.c.id).join(systems).where(*matching, table.c.valid)
        first = found.order_by((table.c.id == id).desc(), table.c.measured_at.desc())
        rows = connection.execute(first.limit(most)).all()
    return [row.id for row in reversed(rows)]


def count(store: Store) -> tuple[int, float | None]:
    """How many evaluations there are, and when the newest was measured."""
    table = tables.evaluations
    with store.reading() as connection:
        row = connection.execute(select(func.count(), func.max(table.c.measured_at))).one()
    return int(row[0]), row[1]


def measures(store: Store, of: Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each measure of each evaluation, or of those with these ids: evaluation, name,
    value, low, high, unit.
    """
    asked = select(tables.measures)
    if of is not None:
        asked = asked.where(tables.measures.c.evaluation.in_(of))
    with store.reading() as connection:
        rows = connection.execute(asked).all()
    names = [column.name for column in tables.measures.c]
    return pd.DataFrame([tuple(row) for row in rows], columns=names)


def traces(store: Store) -> pd.DataFrame:
    """One row for each trace: evaluation, sha256, kind, level, spans, trace_id."""
    with store.reading() as connection:
        rows = connection.execute(select(tables.traces)).all()
    return pd.DataFrame(
        [tuple(row) for row in rows], columns=[column.name for column in tables.traces.c]
    )


def _rows(connection: Any, table: Any, id: str) -> list[Mapping[str, Any]]:  # noqa: A002 - likewise
    asked = select(table).where(table.c.evaluation == id)
    return [dict(row) for row in connection.execute(asked).mappings()]


def _evaluation(
    row: Mapping[str, Any], measures: list[Mapping[str, Any]], traces: list[Mapping[str, Any]]
) -> Evaluation:
    try:
        found = Evaluation(
            id=row["id"],
            manifest=manifest_from_record(row["manifest"]),
            system=json.loads(row["facts"]),
            predictor=row["predictor"],
            runtime=row["runtime"],
            outcome=unpacked(row["queries"], row),
            measures=tuple(Measure(**_without(each, "evaluation")) for each in measures),
            traces=tuple(Trace(**_without(each, "evaluation")) for each in traces),
            measured_at=row["measured_at"],
            doubts=tuple(json.loads(row["doubts"])),
            job=row["job"],
            again=row["again"],
        )
        return checked(found)
    except (ValueError, TypeError) as error:
        raise damaged(row["id"], error) from error


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
