"""Measuring the bricks that a database lacks, in turn with whole models; what is measured is kept
while it goes on, so that a run that is killed loses seconds.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from xsp.brickwork import device
from xsp.brickwork.calls import CallsOf, calls_in
from xsp.brickwork.conditions import CpuShare, conditions, host_of
from xsp.brickwork.items import Item, called, clock_of, said
from xsp.brickwork.network import fresh
from xsp.brickwork.occurrences import Occurrences, occurrences_in
from xsp.brickwork.operators import difference
from xsp.brickwork.plan import Options, Prepared, Subject, sums
from xsp.brickwork.precision import wide
from xsp.brickwork.rounds import (
    COLD,
    MODEL,
    WARM,
    Runnable,
    Taken,
    launches_of,
    looped,
    round_of,
    settled,
)
from xsp.brickwork.samples import (
    EAGER,
    METHOD,
    NETWORK,
    PAPER,
    WALL,
    Done,
    Key,
    Record,
    is_whole,
    keep,
    stored,
)
from xsp.database.store import Store
from xsp.measuring.progress import bar
from xsp.measuring.stopping import FEWEST_ROUNDS, MAXIMUM_ROUNDS, MINIMUM_ROUNDS, TARGET

KEPT_EVERY_S = 5.0
"""What was measured since then is measured again after a kill."""
_LOOKS_AT = 5
"""Rounds between two looks at the intervals: two narrow looks in a row end the rounds."""
_WARM_UP = 2
_LOOPED = {WARM: 20, COLD: 5}


def measure(store: Store, ready: Prepared, options: Options, seed: int = 0) -> Done:
    """Measure what the database lacks of these models on this machine.

    All bricks and whole models take turns: every round calls each once, bricks of one model and
    granularity behind each other, these sequences in random order. A brick
    whose call raises becomes an entry that says why, and the others go on.

    Raises DatabaseError where the database cannot be written.
    """
    begin = time.perf_counter()
    with settled(options.threads) as threads:
        session = _Session(store, ready.subjects, options, threads)
        rounds, precise = session.run(random.Random(seed))  # noqa: S311 # an order, no secret
    return Done(
        machine=session.machine,
        records=session.records,
        measured=len(session.items),
        known=session.known,
        rounds=rounds,
        seconds=time.perf_counter() - begin,
        precise=precise,
        failures={
            record.layer.digest: record.failure
            for record in session.records.values()
            if record.failure
        },
        notes=tuple(session.notes),
    )


class _Session:
    def __init__(
        self, store: Store, subjects: Sequence[Subject], options: Options, threads: int
    ) -> None:
        self.store, self.options = store, options
        self.device = subjects[0].model.device if subjects else "cpu"
        self.machine = host_of(self.device)
        layers = {each.layer.digest: each.layer for one in subjects for each in one.bricks}
        self.records = stored(store, self.machine, layers.values())
        self.items: list[Item] = []
        self._taken: set[Key] = set()
        self.notes: list[str] = []
        self._sums = sums(subjects)
        self._wholes = {each.whole.layer.digest for each in subjects if each.whole is not None}
        self._facts = {
            "statistics": options.statistics,
            "threads": threads,
            "clock": options.clock,
            "torch": str(torch.__version__),
            "method": METHOD,
        }
        self._before = conditions()
        self._begin = self._kept_at = time.perf_counter()
        self._needed = {*layers}
        self._was_wide = self._needed
        self._segment = 0
        for subject in subjects:
            self._add(subject)

    @property
    def known(self) -> int:
        """How many bricks the database had already."""
        mine = {id(item.record) for item in self.items}
        return sum(
            record.complete and id(record) not in mine
            for (_, algorithm, caches), record in self.records.items()
            if caches == MODEL and not is_whole(algorithm)
        )

    def _add(self, subject: Subject) -> None:
        """Everything of a model that neither the database nor a model before it has."""
        algorithm = subject.algorithm
        missing = [
            brick
            for brick in subject.bricks
            if not self._is_done((brick.layer.digest, algorithm, MODEL))
        ]
        try:
            of_operators = [brick for brick in missing if brick.call is None]
            found: dict[str, Occurrences | CallsOf] = {
                **occurrences_in(subject.model, of_operators),
                **calls_in(subject.model, missing),
            }
        except Exception as error:  # whatever an operator raises
            self.notes.append(f"{subject.model.name} cannot be run layer by layer: {said(error)}")
            return
        trained, clock = subject.model.work.grad, clock_of(subject)
        for segment in subject.segments:
            self._segment += 1
            for digest in dict.fromkeys(brick.layer.digest for brick in segment):
                if digest not in found:
                    continue
                each = found.pop(digest)
                record = self._record(each.layer, algorithm, (digest, algorithm, MODEL))
                record.facts |= {"values": each.values, "occurrences": len(each.inputs)}
                make = partial(each.runnable, self.device, trained=trained, clock=clock)
                self._take(record, make)
        self._segment += 1
        if subject.whole is not None:
            self._compare(subject)
            layer = subject.whole.layer
            key = (layer.digest, subject.whole_algorithm, MODEL)
            if not self._is_done(key):
                self._take(
                    self._record(layer, subject.whole_algorithm, key), partial(called, subject)
                )

    def _compare(self, subject: Subject) -> None:
        """Say where a call of the model does something else than its bricks. A training step is not
        made for that: it would change the model.
        """
        model = subject.model
        with contextlib.suppress(Exception):  # what is wrong with the call, its measurement tells
            if not model.work.grad and (why := difference(model)):
                self.notes.append(f"{model.name}: {why}")

    def _is_done(self, key: Key) -> bool:
        known = self.records.get(key)
        return key in self._taken or (known is not None and known.complete)

    def _record(self, layer: Any, algorithm: str, key: Key) -> Record:
        record = self.records.setdefault(key, Record(layer, algorithm, MODEL))
        record.facts |= self._facts
        return record

    def _take(self, record: Record, make: Callable[[], Runnable]) -> None:
        """Into the rounds, if it runs."""
        try:
            runnable = replace(make(), segment=self._segment)
            for number in range(max(_WARM_UP, len(runnable.calls))):
                round_of([runnable], number, fresh, random.Random(0))  # noqa: S311 # an order
        except Exception as error:  # whatever an operator raises
            record.failure = said(error)
            record.complete = True
            keep(self.store, self.machine, [record])
            return
        self.items.append(Item(record, runnable))
        self._taken.add(record.key)

    def run(self, order: random.Random) -> tuple[int, bool]:
        """Rounds until done; returns how many, and whether the intervals are narrow enough.

        What was measured is kept also where this is interrupted.
        """
        active, rounds = self._active(), 0
        share = CpuShare()
        try:
            with bar("bricks", MAXIMUM_ROUNDS, self.options.progress, "round") as shown:
                while active and not (rounds >= FEWEST_ROUNDS and self._is_spent()):
                    self._round(active, rounds, order)
                    rounds += 1
                    shown.update(1)
                    self._look(rounds)
                    active = self._active()
        finally:
            self._facts["cpu_share"] = share.value
            self._keep(self.items)
        if rounds and self.options.clock == WALL and (doubt := share.doubt()):
            self.notes.append(doubt)
        if self.device == "cuda":
            self._trace(order)
        if self.options.bracket:
            self._loop_all()
        return rounds, not self._needed or not self.items

    def _is_spent(self) -> bool:
        budget = self.options.budget_s
        return budget is not None and time.perf_counter() - self._begin > budget

    def _active(self) -> list[Item]:
        return [item for item in self.items if not self._is_known(item)]

    def _is_known(self, item: Item) -> bool:
        enough = len(item.record.samples_ns) >= MAXIMUM_ROUNDS
        return enough or item.record.layer.digest not in self._needed

    def _round(self, items: Sequence[Item], number: int, order: random.Random) -> None:
        runnables = [item.runnable for item in items]
        taken = round_of(runnables, number, fresh, order)
        for item, each in zip(items, taken, strict=True):
            item.record.samples_ns.append(float(each.total_ns))
            if each.again_ns is not None:
                item.record.facts.setdefault("again_samples_ns", []).append(float(each.again_ns))
        if self.device == "cuda":
            self._launch(items, taken, number, order)
        if time.perf_counter() - self._kept_at > KEPT_EVERY_S:
            self._keep(items)

    def _launch(
        self, items: Sequence[Item], taken: Sequence[Taken], number: int, order: random.Random
    ) -> None:
        """How long each brick keeps the host; of whole models, what `taken` tells is enough."""
        mine = [
            place
            for place, item in enumerate(items)
            if item.record.layer.digest not in self._wholes
        ]
        launches = launches_of([items[place].runnable for place in mine], number, fresh, order)
        host_ns = {place: each.host_ns for place, each in enumerate(taken)}
        host_ns |= {mine[place]: each for place, each in launches.items()}
        for place, item in enumerate(items):
            hosts = item.record.facts.setdefault("host_samples_ns", [])
            hosts.append(float(host_ns[place]))

    def _look(self, rounds: int) -> None:
        """Leave out what was known well enough at two looks in a row: a sum with all of its bricks,
        a whole model with its graph. Most of them need few rounds, and the others have more time.
        """
        if self.options.statistics == PAPER or rounds % _LOOKS_AT or rounds < MINIMUM_ROUNDS:
            return
        is_wide = wide(self.records, self._sums, TARGET)
        self._needed = is_wide | self._was_wide
        self._was_wide = is_wide

    def _keep(self, items: Sequence[Item]) -> None:
        after = conditions()
        before = self._before.get("minor_faults", 0)
        faults = after.get("minor_faults", before) - before
        for item in items:
            item.record.complete = self._is_known(item)
            item.record.facts |= {**self._facts, **after, "minor_faults": faults}
        keep(self.store, self.machine, [item.record for item in items])
        self._kept_at = time.perf_counter()

    def _trace(self, order: random.Random) -> None:
        """What each brick, and each model as its user calls it, does on the GPU."""
        mine = [item for item in self.items if item.record.algorithm in {NETWORK, EAGER}]
        facts, why = device.timelines([item.runnable for item in mine], order)
        self.notes += [why] if why else []
        for item, each in zip(mine, facts, strict=False):
            item.record.facts |= each
        keep(self.store, self.machine, [item.record for item in mine])

    def _loop_all(self) -> None:
        for item in self.items:
            if not is_whole(item.record.algorithm) and not self._is_spent():
                self._bracket(item)

    def _bracket(self, item: Item) -> None:
        found = []
        for state, count in _LOOPED.items():
            own = item.record
            times = [float(each) for each in looped(item.runnable, state, count, fresh)]
            record = Record(own.layer, own.algorithm, state, times, complete=True)
            record.facts |= self._facts | {"method": f"a loop, caches {state}"}
            self.records[record.key] = record
            found.append(record)
        keep(self.store, self.machine, found)
