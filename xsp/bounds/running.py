"""Measuring what a database lacks: every algorithm for every layer, one after another."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from xsp.bounds.algorithms import Candidate, candidates, missing_tools, tools
from xsp.bounds.known import DEFAULTS
from xsp.bounds.timers import timer_for
from xsp.bounds.timing import BUDGET_S, Prepared, Timed, Timer, raced
from xsp.bounds.wanted import ALL, Wanted, missing
from xsp.database.entry import COLD, WARM, Entry, Machine
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.measuring.progress import bar
from xsp.words.numbers import known


@dataclass(frozen=True)
class Measured:
    """What a call of `measure_missing` did: layers, algorithms timed, those that failed, sentences
    on what could not be tried, and how many layers the time budget left, by the granularity that
    asks for them.
    """

    layers: int
    algorithms: int
    failed: int
    notes: tuple[str, ...]
    seconds: float
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def unfinished(self) -> int:
        """Layers that were left."""
        return sum(self.left.values())


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
    left = Counter(each.purpose for each in todo[done:])
    return Measured(done, bench.timed, bench.failed, notes, seconds, dict(left))


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
        offered = candidates(wanted.layer, wanted.precision, self._device, wanted.most)
        if not offered:
            self._unknown.add(wanted.layer.operator)
        found = self._raced(offered)
        names = [each.algorithm for each in offered]
        provenance = {"algorithms": names, "tools": tools(), "most": wanted.most}
        entry = functools.partial(Entry, self._machine, wanted.layer, wanted.precision)
        last = entry(ALL, WARM, None, measured_at=time.time(), provenance=provenance)
        return [*found, last]

    def _raced(self, offered: Sequence[Candidate]) -> list[Entry]:
        ready, failures = self._prepared(offered)
        found: list[Entry] = []
        by_name = {each.algorithm: each for each in offered}
        for caches in self._caches if ready else ():
            names = list(ready)
            results = raced(self._timer, list(ready.values()), caches, self._each_s)
            provenance = self._provenance()
            for name, result in zip(names, results, strict=True):
                if isinstance(result, Exception):
                    failures[name] = result
                    del ready[name]
                else:
                    found.append(self._entry(by_name[name], caches, result, provenance))
        self.timed += len(ready)
        self.failed += len(failures)
        if failures:
            self._recover()
        return [*found, *(self._failed(by_name[name], error) for name, error in failures.items())]

    def _prepared(
        self, offered: Sequence[Candidate]
    ) -> tuple[dict[str, Prepared], dict[str, Exception]]:
        """By algorithm, those that can run, and why the others cannot."""
        ready: dict[str, Prepared] = {}
        failures: dict[str, Exception] = {}
        for each in offered:
            try:
                with each.under():
                    call = each.prepare()
            except Exception as error:  # a library says in many ways that it cannot compute this
                failures[each.algorithm] = error
            else:
                # On a CPU one slow sample says little: other programs run beside it.
                always = each.algorithm in DEFAULTS or self._device == "cpu"
                ready[each.algorithm] = Prepared(call, each.under, to_the_end=always)
        return ready, failures

    def _entry(
        self, candidate: Candidate, caches: str, result: Timed, provenance: Mapping[str, Any]
    ) -> Entry:
        return Entry(
            self._machine,
            candidate.layer,
            candidate.precision,
            candidate.algorithm,
            caches,
            result.time_ns,
            known(result.half_width_ns),
            result.rounds,
            time.time(),
            provenance=provenance,
        )

    def _failed(self, candidate: Candidate, error: Exception) -> Entry:
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"[:300]
        return Entry(
            self._machine,
            candidate.layer,
            candidate.precision,
            candidate.algorithm,
            self._caches[0],
            None,
            measured_at=time.time(),
            failure=said,
        )

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
