"""Which system for this model: its latency constructed for every machine of a database."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from xsp.brickwork.construction import summed
from xsp.brickwork.plan import Subject
from xsp.brickwork.rounds import MODEL
from xsp.brickwork.samples import Record
from xsp.database.entry import Machine
from xsp.database.store import Store

COLUMNS = ["model", "machine", "granularity", "constructed_ms", "constructed_ci_ms", "covered"]


def machines_for(store: Store, subjects: Iterable[Subject]) -> pd.DataFrame:
    """One row for each model, machine and granularity, the fastest machine of a model first; the
    latency is NaN where the machine lacks bricks (`covered` below 1).

    The model need not have run there, nor whole anywhere. Machines are those that the database has
    bricks of, also from files of other hosts (`xsp database import`).
    """
    rows = [row for subject in subjects for row in _rows(store, subject)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(
        ["model", "granularity", "constructed_ms"], kind="stable", ignore_index=True
    )


def _rows(store: Store, subject: Subject) -> list[dict[str, object]]:
    layers = {brick.layer.digest: brick.layer for brick in subject.bricks}
    machines: dict[str, Machine] = {}
    times: dict[str, dict[str, Record]] = {}
    for entry in store.entries(layers=layers.values(), caches=MODEL):
        if entry.algorithm == subject.algorithm and entry.time_ns is not None:
            machines[entry.machine.digest] = entry.machine
            known = times.setdefault(entry.machine.digest, {})
            known[entry.layer.digest] = Record.of(entry)
    rows: list[dict[str, object]] = []
    for digest, machine in machines.items():
        for granularity, cut in subject.decompositions.items():
            found = summed(cut, times[digest])
            rows.append(
                {
                    "model": subject.model.name,
                    "machine": f"{machine.name} ({digest[:6]})",
                    "granularity": granularity,
                    "constructed_ms": found.latency_ns / 1e6,
                    "constructed_ci_ms": found.half_width_ns / 1e6,
                    "covered": found.covered,
                }
            )
    return rows
