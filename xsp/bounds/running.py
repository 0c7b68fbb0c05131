"""Measuring what a database lacks: every algorithm for every layer, one after another."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xsp.bounds.algorithms import Candidate, candidates, missing_tools, precisions, tools, variants
from xsp.bounds.timing import BUDGET_S, Timer, timed, timer_for
from xsp.database.entry import COLD, WARM, Entry, Machine
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer
from xsp.graphs.unique import unique_layers
from xsp.measuring.progress import bar

ALL = "(all algorithms)"
"""The name of an entry that says that a layer's algorithms have all been tried."""


@dataclass(frozen=True)
class Wanted:
    """A layer to compute in some precision, in every way that the libraries offer."""

    layer: Layer
    precision: str


@dataclass(frozen=True)
class Measured:
    """What a call of `measure_missing` did: layers, algorithms timed, those that failed, sentences
    on what could not be tried, and whether the time budget ended it early.
    """

    layers: int
    algorithms: int
    failed: int
    notes: tuple[str, ...]
    seconds: float
    unfinished: int = 0


def device_of(name: str | None = None) -> str:
    """The device asked for; by default "cuda" where torch sees a GPU, else "cpu".

    Raises XspError for another name, and for a GPU that is not there.
    """
    if name not in {None, "cuda", "cpu"}:
        raise XspError(f"device must be cuda or cpu, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise XspError("torch sees no GPU; check nvidia-smi, or measure on the CPU: --device cpu")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def this_machine(device: str) -> Machine:
    """The machine that entries measured here belong to."""
    from xsp.machine.environment import environment

    return Machine.of(environment(), device)


def wanted_of(graphs: Iterable[Graph], device: str, *, with_variants: bool = True) -> list[Wanted]:
    """What the bounds of these models need: every unique layer in every precision, and, if
    `with_variants`, in other layouts and narrower types.
    """
    found: dict[tuple[str, str], Wanted] = {}
    for each in unique_layers(list(graphs)):
        others = [own for _, own in variants(each.layer, device)] if with_variants else []
        for layer in (each.layer, *others):
            for precision in precisions(layer, device):
                found.setdefault((layer.digest, precision), Wanted(layer, precision))
    return list(found.values())


def missing(store: Store, machine: Machine, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those of which the database does not have every algorithm."""
    layers = [each.layer for each in wanted]
    done = {
        (entry.layer.digest, entry.precision)
        for entry in store.entries(machine, layers)
        if entry.algorithm == ALL and not _offers_more(entry)
    }
    return [each for each in wanted if (each.layer.digest, each.precision) not in done]


def _offers_more(entry: Entry) -> bool:
    """Whether a package with more algorithms has been installed since."""
    then = entry.provenance.get("tools", {})
    return any(now is not None and then.get(name) is None for name, now in tools().items())


def measure_missing(
    store: Store,
    wanted: Sequence[Wanted],
    device: str,
    *,
    cold: bool = False,
    budget_s: float | None = None,
    each_s: float = BUDGET_S,
    progress: bool | None = None,
    timer: Timer | None = None,
) -> Measured:
    """Time every algorithm of what the database lacks, and write each layer when it is done, so
    that nothing measured is lost when this is interrupted.

    Args:
        store: the database to fill.
        wanted: what to measure; what is there already is skipped.
        device: "cuda" or "cpu".
        cold: measure with cold caches too.
        budget_s: seconds after which no further layer is begun; None for no limit.
        each_s: seconds at most for one algorithm.
        progress: show a bar; None for only where somebody watches.
        timer: how to time, the best that works here by default.

    """
    machine = this_machine(device)
    todo = missing(store, machine, wanted)
    begin = time.perf_counter()
    if not todo:
        return Measured(0, 0, 0, tuple(missing_tools(device)), 0.0)
    bench = _Bench(machine, device, timer or timer_for(device), each_s, cold)
    done = 0
    with bar("layers", len(todo), progress, "layer") as shown:
        for each in todo:
            if budget_s is not None and time.perf_counter() - begin > budget_s:
                break
            store.put(bench.entries(each))
            done += 1
            shown.update(1)
    seconds = time.perf_counter() - begin
    notes = (*missing_tools(device), *bench.notes())
    return Measured(done, bench.timed, bench.failed, notes, seconds, len(todo) - done)


class _Bench:
    """Times the candidates of one layer after another."""

    def __init__(
        self, machine: Machine, device: str, timer: Timer, each_s: float, cold: bool
    ) -> None:
        self._machine, self._device, self._timer = machine, device, timer
        self._each_s, self._caches = each_s, (WARM, COLD) if cold else (WARM,)
        self._unknown: set[str] = set()
        self.timed = self.failed = 0

    def notes(self) -> list[str]:
        """Which operators could not be measured."""
        names = ", ".join(sorted(self._unknown))
        return (
            [f"no benchmark is known for {names}; these layers count as nothing"] if names else []
        )

    def entries(self, wanted: Wanted) -> list[Entry]:
        """An entry for each algorithm, and one that says that these are all."""
        offered = candidates(wanted.layer, wanted.precision, self._device)
        if not offered:
            self._unknown.add(wanted.layer.operator)
        found = [entry for each in offered for entry in self._timed(each)]
        names = [each.algorithm for each in offered]
        provenance = {"algorithms": names, "tools": tools()}
        entry = functools.partial(Entry, self._machine, wanted.layer, wanted.precision)
        last = entry(ALL, WARM, None, measured_at=time.time(), provenance=provenance)
        return [*found, last]

    def _timed(self, candidate: Candidate) -> list[Entry]:
        make = functools.partial(
            Entry,
            self._machine,
            candidate.layer,
            candidate.precision,
            candidate.algorithm,
            measured_at=time.time(),
        )
        try:
            with candidate.under():
                call = candidate.prepare()
                results = [timed(self._timer, call, each, self._each_s) for each in self._caches]
        except Exception as error:  # a library says in many ways that it cannot compute something
            self.failed += 1
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"[:300]
            self._recover()
            return [make(self._caches[0], None, failure=said)]
        self.timed += 1
        provenance = self._provenance()
        return [
            make(
                caches,
                each.time_ns,
                half_width_ns=each.half_width_ns,
                rounds=each.rounds,
                provenance=provenance,
            )
            for caches, each in zip(self._caches, results, strict=True)
        ]

    def _provenance(self) -> dict[str, Any]:
        clocks = _clocks() if self._device == "cuda" else {}
        return {"method": self._timer.method, **clocks}

    def _recover(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _clocks() -> dict[str, Any]:
    """SM clock in MHz and what throttles the GPU, just after a measurement."""
    watch = _watch()
    watch.states.clear()
    watch.read(0)
    if not watch.states:
        return {}
    now = watch.states[-1]
    return {"sm_clock_mhz": now.sm_clock_mhz, "throttled_by": now.throttled_by}


@functools.cache
def _watch() -> Any:
    from xsp.machine.gpu_state import GpuWatch

    return GpuWatch()
