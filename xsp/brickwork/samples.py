"""Times of bricks in the performance database: while they are being measured, and afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xsp.analysis.spans.statistics import trimmed
from xsp.database.entry import Entry, Machine
from xsp.database.store import Store
from xsp.graphs.layer import Layer
from xsp.words.numbers import known

NETWORK, TRAINED, EAGER = "network", "network, trained", "whole model"
"""How an entry's time came about: a brick's forward pass; with its backward pass; the model called
as its user calls it. A model's own graph is a brick of all its layers."""
WALL, CPU = "wall", "cpu"
"""Clocks: the time that passes, or the time for which the calling thread has a CPU."""
PAPER, DRIVER = "paper", "driver"
"""100 rounds, as the paper has them; or until the sum is known to 1 %, as `xsp.measure` has it."""


METHOD = (
    "one call a round, behind the brick that it follows in the model; a fresh copy of real input, "
    "weights of the brick's own occurrences in turn"
)


def algorithm_of(kind: str, clock: str) -> str:
    """NETWORK, TRAINED or EAGER by a clock: times of two clocks are never mixed."""
    return kind if clock == WALL else f"{kind}, CPU time"


def is_whole(algorithm: str) -> bool:
    """Whether this is a model as its user calls it, by whatever clock."""
    return algorithm.startswith(EAGER)


@dataclass(eq=False)
class Record:
    """What was measured so far of one layer in one state of the caches."""

    layer: Layer
    algorithm: str
    caches: str
    samples_ns: list[float] = field(default_factory=list)
    failure: str = ""
    complete: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Digest of the layer, algorithm, state of the caches."""
        return self.layer.digest, self.algorithm, self.caches

    @property
    def mean_ns(self) -> float:
        """Trimmed mean; NaN without samples."""
        return float(trimmed(self.samples_ns)[0])

    @property
    def half_width_ns(self) -> float:
        """Half of its 95 % interval; NaN with fewer than two samples."""
        return float(trimmed(self.samples_ns)[1])

    @property
    def again(self) -> Record | None:
        """What calls right behind those of the samples took (`rounds.Taken`); None without any."""
        samples_ns = self.facts.get("again_samples_ns")
        return Record(self.layer, self.algorithm, self.caches, samples_ns) if samples_ns else None

    def entry(self, machine: Machine) -> Entry:
        """As the database keeps it, with every sample."""
        is_timed = bool(self.samples_ns) and not self.failure
        return Entry(
            machine=machine,
            layer=self.layer,
            precision=self.layer.dtype,
            algorithm=self.algorithm,
            caches=self.caches,
            time_ns=self.mean_ns if is_timed else None,
            half_width_ns=known(self.half_width_ns) if is_timed else None,
            rounds=len(self.samples_ns),
            measured_at=time.time(),
            failure=self.failure,
            provenance={
                **self.facts,
                "samples_ns": self.samples_ns,
                "complete": self.complete,
            },
        )

    @classmethod
    def of(cls, entry: Entry) -> Record:
        """The inverse of `entry`."""
        facts = dict(entry.provenance)
        return cls(
            layer=entry.layer,
            algorithm=entry.algorithm,
            caches=entry.caches,
            samples_ns=list(facts.pop("samples_ns", [])),
            failure=entry.failure,
            complete=bool(facts.pop("complete", False)),
            facts=facts,
        )


Key = tuple[str, str, str]
"""Digest of the layer, algorithm, state of the caches."""


@dataclass(frozen=True)
class Done:
    """What a call of `measure` did: rounds, bricks measured now and known before, sentences about
    bricks that failed by digest, and whether the intervals became narrow enough.
    """

    machine: Machine
    records: dict[Key, Record]
    measured: int
    known: int
    rounds: int
    seconds: float
    precise: bool
    failures: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def stored(store: Store, machine: Machine, layers: Iterable[Layer]) -> dict[Key, Record]:
    """What the database has of these layers on a machine."""
    found = store.entries(machine, layers)
    return {
        (entry.layer.digest, entry.algorithm, entry.caches): Record.of(entry)
        for entry in found
        if "samples_ns" in entry.provenance
    }


def keep(store: Store, machine: Machine, records: Sequence[Record]) -> None:
    """Write records in one transaction."""
    store.put(record.entry(machine) for record in records)


def times_of(records: Mapping[Key, Record], algorithm: str, caches: str) -> dict[str, Record]:
    """By digest, the records of one kind that have a time."""
    return {
        digest: record
        for (digest, own, state), record in records.items()
        if (own, state) == (algorithm, caches) and record.samples_ns and not record.failure
    }
