"""Models taken apart, what was measured of their bricks, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from xsp.brickwork import brick_tables, tables
from xsp.brickwork.plan import Subject
from xsp.brickwork.samples import Key, Record
from xsp.database.entry import Machine
from xsp.errors import GraphError
from xsp.graphs.graph import Graph
from xsp.graphs.unique import shares as shares_of
from xsp.graphs.unique import similarity as similarity_of


@dataclass(frozen=True, eq=False)
class BricksData:
    """Models as bricks and their constructed latencies on one machine.

    `failures` has a sentence for each model that could not be taken apart, `notes` what to know
    about the others.
    """

    subjects: tuple[Subject, ...]
    records: Mapping[Key, Record]
    machine: Machine
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def granularities(self) -> list[int]:
        """Those that the models were taken apart at."""
        return sorted({each for one in self.subjects for each in one.decompositions}) or [1]

    @cached_property
    def models(self) -> pd.DataFrame:
        """One row for each model, granularity and rule: `tables.MODEL_COLUMNS`."""
        return tables.model_table(self.subjects, self.records)

    @cached_property
    def pools(self) -> pd.DataFrame:
        """One row for each granularity, all models together: `tables.POOL_COLUMNS`."""
        return tables.pool_table(self.subjects, self.records)

    def bricks(self, granularity: int | None = None) -> pd.DataFrame:
        """One row for each unique brick, the costliest first: `brick_tables.BRICK_COLUMNS`."""
        wanted = self._checked(granularity)
        return brick_tables.brick_table(self.subjects, self.records, wanted)

    def graphs(self, granularity: int | None = None) -> dict[str, Graph]:
        """By model, its bricks as the layers of a graph."""
        wanted = self._checked(granularity)
        return {each.model.name: each.decompositions[wanted].graph for each in self.subjects}

    def shares(self, granularity: int | None = None) -> pd.DataFrame:
        """How much of each model, and of all together, is unique: `xsp.graphs.unique.shares`."""
        return shares_of(self.graphs(granularity))

    def similarity(self, granularity: int | None = None) -> pd.DataFrame:
        """Jaccard similarity of the models' unique bricks, a square table."""
        return similarity_of(self.graphs(granularity))

    def leave_one_out(self, granularity: int | None = None) -> pd.DataFrame:
        """What each model adds to the bricks of the others: `brick_tables.leave_one_out`."""
        return brick_tables.leave_one_out(self.subjects, self.records, self._checked(granularity))

    def to_dict(self) -> dict[str, Any]:
        """Tables as JSON-able values; what is not known is null."""
        return {
            "machine": dict(self.machine.facts),
            "models": _rows(self.models),
            "pools": _rows(self.pools),
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }

    def _checked(self, granularity: int | None) -> int:
        known = self.granularities
        wanted = known[0] if granularity is None else granularity
        if wanted not in known:
            raise GraphError(
                f"the models were not taken apart at granularity {wanted} but at {known}; ask for "
                "one of these, or decompose them again"
            )
        return wanted


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    known = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in known.to_dict("records")]
