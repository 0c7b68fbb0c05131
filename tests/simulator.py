"""A host and a GPU played instruction by instruction, with tracers of known cost: the truth that a
replay must find.

Each host thread is a list of instructions; the thread whose clock is least goes next. A launch is
placed on its stream at once, because what it may wait for was launched before. Deliberately shares
nothing with the replay but the columns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from xsp.analysis.correction.charges import COST_LEVELS, PLACEMENTS, Costs, EventKind
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.timeline import ApiKind, Timeline
from xsp.types import (
    API_CALLS,
    DEFAULT_LEVELS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    OPERATOR_EVENTS,
    SYNCHRONIZATIONS,
    Columns,
    Level,
    empty,
)

ALL = frozenset(DEFAULT_LEVELS)
MAIN = 7


def _of_three(distributions: Sequence[int]) -> tuple[float, float, float]:
    """The means of three."""
    first, second, third = map(float, distributions)
    return first, second, third


@dataclass(frozen=True)
class Work:
    """Host time that belongs to the program."""

    ns: int


@dataclass(frozen=True)
class Call:
    """A traced call of the LAYER, OP or LIBRARY level around other instructions."""

    level: Level
    body: tuple[object, ...]
    kind: EventKind = EventKind.LAYER


@dataclass(frozen=True)
class Launch:
    """A device operation (0 kernel, 1 copy, 2 set); a blocking one is waited for within
    the call.
    """

    stream: int
    ns: int
    kind: int = 0
    blocking: bool = False


@dataclass(frozen=True)
class Record:
    stream: int
    event: int


@dataclass(frozen=True)
class StreamWait:
    stream: int
    event: int


@dataclass(frozen=True)
class Synchronize:
    """Of a stream, an event, or (both None) of everything."""

    stream: int | None = None
    event: int | None = None


@dataclass(frozen=True)
class Spawn:
    thread: int
    body: tuple[object, ...]


@dataclass(frozen=True)
class Join:
    thread: int


@dataclass(frozen=True)
class Machine:
    """Latencies in ns; `noise` draws a factor for each of them."""

    launch: tuple[int, int, int] = (6000, 7000, 6500)
    gap: tuple[int, int, int] = (900, 1100, 1000)
    event: int = 1500
    wake: int = 9000
    synchronize: int = 2500
    copy_wake: int = 5000
    copy: int = 3000
    spawn: int = 4000
    join: int = 5000
    launch_call: int = 5000
    submit: int = 3000
    call: int = 800

    def latencies(self) -> Latencies:
        """What a replay of very many runs would have learnt."""
        wake = (float(self.wake), float(self.copy_wake), float(self.join))
        back = (float(self.synchronize), float(self.copy), 0.0)
        launch, gap = _of_three(self.launch), _of_three(self.gap)
        return Latencies(launch, gap, float(self.event), wake, back)


@dataclass
class _Thread:
    name: int
    now: int
    todo: list[object]


@dataclass
class _Op:
    stream: int
    kind: int
    correlation: int
    start: int
    end: int
    done: int


@dataclass
class Simulation:
    """One run of a program. `levels` are traced at `costs`; `noise()` gives a factor for each cost
    and latency.
    """

    program: Sequence[object]
    costs: Costs = field(default_factory=Costs)
    levels: frozenset[Level] = ALL
    machine: Machine = field(default_factory=Machine)
    price_noise: Callable[[], float] = lambda: 1.0
    noise: Callable[[], float] = lambda: 1.0
    start_ns: int = 10**15

    def __post_init__(self) -> None:
        self.ops: list[_Op] = []
        self.stamps: list[tuple[int, int]] = []
        self.layers: list[tuple[int, ...]] = []
        self.library: list[tuple[int, ...]] = []
        self.operators: list[tuple[int, ...]] = []
        self.api: list[tuple[int, ...]] = []
        self.syncs: list[tuple[int, ...]] = []
        self.records: list[tuple[int, ...]] = []
        self.handoffs: list[tuple[int, ...]] = []
        self.recorded: dict[int, _Op | None] = {}
        self.correlation = 0
        self._run()

    def _run(self) -> None:
        main = _Thread(MAIN, self.start_ns, list(self.program))
        self.threads = {MAIN: main}
        while any(thread.todo for thread in self.threads.values()):
            ready = [t for t in self.threads.values() if t.todo and not self._blocked(t)]
            thread = min(ready, key=lambda t: (t.now, t.name))
            self._step(thread, thread.todo.pop(0))
        self.host_end_ns = main.now
        self._step(main, Synchronize())
        while main.todo:
            self._step(main, main.todo.pop(0))
        self.end_ns = main.now

    def _blocked(self, thread: _Thread) -> bool:
        head = thread.todo[0]
        return isinstance(head, Join) and bool(self.threads[head.thread].todo)

    def _step(self, thread: _Thread, instruction: object) -> None:
        getattr(self, f"_do_{type(instruction).__name__.lower()}")(thread, instruction)

    def _pay(self, thread: _Thread, name: str, share: float) -> None:
        if COST_LEVELS[name] in self.levels:
            thread.now += round(getattr(self.costs, name) * share * self.price_noise())

    def _lasts(self, ns: int) -> int:
        return round(ns * self.noise())

    def _do_work(self, thread: _Thread, work: Work) -> None:
        thread.now += self._lasts(work.ns)

    def _do_call(self, thread: _Thread, call: Call) -> None:
        name = "library_ns" if call.level is Level.LIBRARY else f"{call.kind.name.lower()}_ns"
        self._pay(thread, name, PLACEMENTS[call.kind].before_start)
        table = self._table(name)
        slot = len(table)
        table.append((thread.name, thread.now, 0, call.kind))
        thread.todo[:0] = [*call.body, _Leave(name, slot, call.kind)]
        self.stamps.append((thread.name, thread.now))
        self._pay(thread, name, PLACEMENTS[call.kind].after_start)

    def _table(self, cost: str) -> list[tuple[int, ...]]:
        return {"library_ns": self.library, "operator_ns": self.operators}.get(cost, self.layers)

    def _do__leave(self, thread: _Thread, leave: _Leave) -> None:
        table = self._table(leave.name)
        table[leave.slot] = (thread.name, table[leave.slot][1], thread.now, leave.kind)
        self.stamps.append((thread.name, thread.now))
        if leave.kind is not EventKind.BACKWARD:
            self._pay(thread, leave.name, PLACEMENTS[leave.kind].after_end)
        else:
            # Nothing is paid after a node. A stamp that fell on a wait of no length could be before
            # it or after it.
            thread.now += 1

    def _enter(self, thread: _Thread, name: str) -> int:
        self.correlation += 1
        self.stamps.append((thread.name, thread.now))
        entered = thread.now
        self._pay(thread, name, 0.5)
        return entered

    def _exit(self, thread: _Thread, name: str, entered: int, kind: ApiKind) -> None:
        self.api.append((thread.name, self.correlation, entered, thread.now, kind))
        self.stamps.append((thread.name, thread.now))
        self._pay(thread, name, 0.5)

    def _do_launch(self, thread: _Thread, launch: Launch) -> None:
        entered = self._enter(thread, "launch_ns")
        arrived = thread.now
        ready = arrived + self._lasts(self.machine.launch[launch.kind])
        before = [op for op in self.ops if op.stream == launch.stream]
        if before:
            ready = max(ready, before[-1].done + self._lasts(self.machine.gap[launch.kind]))
        for op in self.held.pop(launch.stream, []):
            ready = max(ready, op.done + self._lasts(self.machine.event))
        end = ready + self._lasts(launch.ns)
        tail = 0
        if launch.kind == 0 and Level.KERNEL in self.levels:
            tail = round(self.costs.kernel_ns * self.price_noise())
        op = _Op(launch.stream, launch.kind, self.correlation, ready, end, end + tail)
        self.ops.append(op)
        if launch.blocking:
            freely = arrived + self._lasts(self.machine.copy)
            thread.now = max(freely, op.done + self._lasts(self.machine.copy_wake))
            self._exit(thread, "launch_ns", entered, ApiKind.LAUNCH | ApiKind.WAIT)
        else:
            thread.now = arrived + self._lasts(self.machine.launch_call)
            self._exit(thread, "launch_ns", entered, ApiKind.LAUNCH)

    @property
    def held(self) -> dict[int, list[_Op]]:
        held: dict[int, list[_Op]] = self.__dict__.setdefault("_held", {})
        return held

    def _plain_call(self, thread: _Thread) -> None:
        entered = self._enter(thread, "api_ns")
        thread.now += self._lasts(self.machine.call)
        self._exit(thread, "api_ns", entered, ApiKind.OTHER)

    def _last(self, stream: int | None) -> _Op | None:
        mine = [op for op in self.ops if stream is None or op.stream == stream]
        return mine[-1] if mine else None

    def _do_record(self, thread: _Thread, record: Record) -> None:
        self.recorded[record.event] = self._last(record.stream)
        self._plain_call(thread)
        self.records.append((self.correlation, 1, record.stream, record.event))

    def _do_streamwait(self, thread: _Thread, wait: StreamWait) -> None:
        if wait.event not in self.recorded:
            return
        awaited = self.recorded[wait.event]
        # A stream that waits for its own event waits for nothing that its order does not give it.
        if awaited is not None and awaited.stream != wait.stream:
            self.held.setdefault(wait.stream, []).append(awaited)
        entered = thread.now
        self._plain_call(thread)
        self.syncs.append((2, self.correlation, 1, wait.stream, entered, thread.now, wait.event))

    def _do_synchronize(self, thread: _Thread, sync: Synchronize) -> None:
        entered = self._enter(thread, "api_ns")
        arrived = thread.now
        if sync.event is not None:
            waited = [self.recorded[sync.event]] if self.recorded.get(sync.event) else []
        else:
            waited = [op for op in self.ops if sync.stream is None or op.stream == sync.stream]
        thread.now = arrived + self._lasts(self.machine.synchronize)
        if waited:
            thread.now = max(
                thread.now, max(op.done for op in waited if op) + self._lasts(self.machine.wake)
            )
        kind = 1 if sync.event is not None else 3 if sync.stream is not None else 4
        self.syncs.append(
            (kind, self.correlation, 1, sync.stream or 0, entered, thread.now, sync.event or 0)
        )
        self._exit(thread, "api_ns", entered, ApiKind.WAIT)

    def _do_spawn(self, thread: _Thread, spawn: Spawn) -> None:
        begun = thread.now + self._lasts(self.machine.spawn)
        self.handoffs.append((spawn.thread, self.start_ns, begun, thread.name, thread.now))
        self.threads[spawn.thread] = _Thread(spawn.thread, begun, list(spawn.body))

    def _do_join(self, thread: _Thread, join: Join) -> None:
        other = self.threads[join.thread].now
        begun = thread.now
        thread.now = max(begun, other + self._lasts(self.machine.join))
        self.handoffs.append((thread.name, begun, thread.now, join.thread, other))

    def timeline(self, with_records: bool = True, with_handoffs: bool = True) -> Timeline:
        """What the tracers report of this run."""
        traced = self.api if Level.KERNEL in self.levels else []
        layers = self.layers if Level.LAYER in self.levels else []
        library = self.library if Level.LIBRARY in self.levels else []
        operators = self.operators if Level.OP in self.levels else []
        device = [
            (o.kind, o.correlation, 1, o.stream, o.start, o.end)
            for o in self.ops
            if Level.KERNEL in self.levels
        ]
        return Timeline.from_columns(
            model_start_ns=self.start_ns,
            host_end_ns=self.host_end_ns,
            sync_end_ns=self.end_ns,
            main_thread=MAIN,
            layer_events=_columns(empty(LAYER_EVENTS), ("thread", "start_ns", "end_ns"), layers),
            library_events=_columns(
                empty(LIBRARY_EVENTS), ("thread", "start_ns", "end_ns"), library
            ),
            operator_events=_columns(
                empty(OPERATOR_EVENTS), ("thread", "start_ns", "end_ns"), operators
            ),
            api_calls=_columns(
                empty(API_CALLS), ("thread", "correlation_id", "start_ns", "end_ns"), traced
            ),
            device_activity=_columns(
                empty(DEVICE_ACTIVITY),
                ("kind", "correlation_id", "context", "stream", "start_ns", "end_ns"),
                device,
            ),
            synchronizations=_columns(
                empty(SYNCHRONIZATIONS),
                ("kind", "correlation_id", "context", "stream", "start_ns", "end_ns", "event_id"),
                self.syncs if traced else [],
            ),
            api_kind=np.array([row[4] for row in traced], dtype=np.int64),
            layer_kind=np.array([row[3] for row in layers], dtype=np.int64),
            event_records=_columns(
                {}, ("correlation_id", "context", "stream", "event_id"), self.records
            )
            if with_records
            else None,
            handoffs=_columns(
                {}, ("thread", "start_ns", "end_ns", "from_thread", "from_ns"), self.handoffs
            )
            if with_handoffs and self.handoffs
            else None,
        )

    @property
    def latency_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class _Leave:
    name: str
    slot: int
    kind: EventKind


def _columns(base: Columns, names: Sequence[str], rows: Sequence[tuple[int, ...]]) -> Columns:
    made = {
        name: np.zeros((len(rows), *column.shape[1:]), column.dtype)
        for name, column in base.items()
    }
    for index, name in enumerate(names):
        values = np.array([row[index] for row in rows], dtype=np.int64)
        made[name] = values.astype(base[name].dtype) if name in base else values
    return made


def lognormal(seed: int, spread: float) -> Callable[[], float]:
    """Factors of mean 1 and the given relative standard deviation."""
    draw = random.Random(seed)
    sigma = math.sqrt(math.log1p(spread**2))
    return lambda: draw.lognormvariate(-(sigma**2) / 2, sigma)
