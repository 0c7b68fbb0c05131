"""One run as arrays that the replay works on: host events, device operations, host waits, and who
waits for whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction import concurrency, dependencies
from xsp.analysis.correction.charges import EventKind, Ints
from xsp.analysis.spans.sums import distinct
from xsp.errors import TracingError
from xsp.types import OPERATOR_EVENTS, Columns, empty


class ApiKind(IntFlag):
    """What an API call means for the timeline; a blocking copy is `LAUNCH | WAIT`."""

    OTHER = 0
    LAUNCH = 1
    WAIT = 2


class WaitKind(IntEnum):
    """Host waits that share a wake-up latency."""

    SYNCHRONIZE = 0
    COPY = 1
    THREAD = 2


@dataclass(frozen=True, eq=False)
class HostEvents:
    """Traced host events of every level, equally long columns. `clock` indexes the run's
    independent host clocks.
    """

    clock: Ints
    kind: Ints
    start_ns: Ints
    end_ns: Ints


@dataclass(frozen=True, eq=False)
class DeviceOps:
    """Device operations ordered by stream and start. `launch` is a row of the host events or -1;
    `row` is the row of `DEVICE_ACTIVITY` that the operation came from; `after` (n, 2) holds pairs
    (operation, operation it waits for).
    """

    kind: Ints
    stream: Ints
    start_ns: Ints
    end_ns: Ints
    launch: Ints
    row: Ints
    after: Ints


@dataclass(frozen=True, eq=False)
class HostWaits:
    """Intervals in which a host clock waits. `event` is its row of the host events or -1; `on` (n,
    2) holds pairs (wait, device operation); a wait for another thread names that clock and the
    stamp that it waited for, else -1.
    """

    clock: Ints
    kind: Ints
    start_ns: Ints
    end_ns: Ints
    event: Ints
    from_clock: Ints
    from_ns: Ints
    on: Ints


@dataclass(frozen=True, eq=False)
class Timeline:
    """One run of the model: call at `start_ns`, return at `host_end_ns`, synchronised at `end_ns`.

    `clocks` maps a thread to its host clock. Threads that only ever run while the main thread waits
    for them (autograd) share the main thread's clock 0. `notes` says in sentences what could not be
    matched.
    """

    start_ns: int
    host_end_ns: int
    end_ns: int
    clocks: Mapping[int, int]
    events: HostEvents
    ops: DeviceOps
    waits: HostWaits
    notes: tuple[str, ...]

    @property
    def latency_ns(self) -> int:
        """From the model call to the end of the final synchronise."""
        return self.end_ns - self.start_ns

    @classmethod
    def from_columns(
        cls,
        *,
        model_start_ns: int,
        host_end_ns: int,
        sync_end_ns: int,
        main_thread: int,
        layer_events: Columns,
        library_events: Columns,
        api_calls: Columns,
        device_activity: Columns,
        synchronizations: Columns,
        api_kind: npt.ArrayLike,
        layer_kind: npt.ArrayLike | None = None,
        event_records: Columns | None = None,
        handoffs: Columns | None = None,
        concurrent_threads: Sequence[int] | None = None,
        operator_events: Columns | None = None,
    ) -> Timeline:
        """Build the timeline of one model call from the rows of the tracers' tables that belong to
        that call.

        `api_kind` gives an `ApiKind` per row of `api_calls`, `layer_kind` the `EventKind` of each
        layer event, LAYER by default. `event_records` (correlation_id, context, stream, event_id)
        tells what a wait for an event waits for; without it the operation that ended last before
        the wait's end is taken. `handoffs` (thread, start_ns, end_ns, from_thread, from_ns) are
        waits of threads for each other. `concurrent_threads` are those with a clock of their own;
        by default those that appear in `handoffs` or work beside a thread that shares the main
        thread's clock.

        Raises:
            TracingError: the stamps are out of order, or `api_kind` does not fit `api_calls`.

        """
        kinds = np.asarray(api_kind, dtype=np.int64)
        operators = empty(OPERATOR_EVENTS) if operator_events is None else operator_events
        _check(model_start_ns, host_end_ns, sync_end_ns, kinds, api_calls)
        layer_kinds = (
            np.full(len(layer_events["thread"]), EventKind.LAYER)
            if layer_kind is None
            else layer_kind
        )
        if concurrent_threads is None:
            handed = (
                []
                if handoffs is None
                else np.concatenate([handoffs["thread"], handoffs["from_thread"]]).tolist()
            )
            concurrent_threads = concurrency.beside(
                main_thread,
                handed,
                layer_events,
                library_events,
                api_calls,
                kinds & ApiKind.WAIT == 0,
            )
        events, clocks = _events(
            main=main_thread,
            concurrent=concurrent_threads,
            layer=layer_events,
            library=library_events,
            operators=operators,
            api=api_calls,
            kinds=kinds,
            layer_kinds=np.asarray(layer_kinds, dtype=np.int64),
        )
        first_api = len(events.kind) - len(kinds)
        work = dependencies.find(api_calls, kinds, device_activity, synchronizations, event_records)
        ops = DeviceOps(
            **work.ops | {"launch": np.where(work.launch < 0, -1, work.launch + first_api)}
        )
        waits = _waits(
            clocks=clocks,
            work=work,
            api=api_calls,
            kinds=kinds,
            first_api=first_api,
            handoffs=handoffs,
            host_end_ns=host_end_ns,
            sync_end_ns=sync_end_ns,
        )
        return cls(
            model_start_ns, host_end_ns, sync_end_ns, clocks, events, ops, waits, tuple(work.notes)
        )


def _check(
    start_ns: int, host_end_ns: int, sync_end_ns: int, kinds: Ints, api_calls: Columns
) -> None:
    if not start_ns <= host_end_ns <= sync_end_ns:
        raise TracingError(
            f"a model call has the stamps {start_ns}, {host_end_ns}, {sync_end_ns}: its start, "
            "its return and the end of synchronisation must be in this order; read all three "
            "from time.perf_counter_ns"
        )
    if len(kinds) != len(api_calls["thread"]):
        raise TracingError(
            f"api_kind has {len(kinds)} rows, api_calls {len(api_calls['thread'])}: give one "
            "ApiKind per API call"
        )


def _events(
    *,
    main: int,
    concurrent: Sequence[int],
    layer: Columns,
    library: Columns,
    operators: Columns,
    api: Columns,
    kinds: Ints,
    layer_kinds: Ints,
) -> tuple[HostEvents, dict[int, int]]:
    tables = (layer, library, operators, api)
    thread = np.concatenate([table["thread"] for table in tables]).astype(np.int64)
    kind = np.concatenate(
        [
            layer_kinds,
            np.full(len(library["thread"]), EventKind.LIBRARY),
            np.full(len(operators["thread"]), EventKind.OPERATOR),
            np.where(kinds & ApiKind.LAUNCH, EventKind.LAUNCH, EventKind.API),
        ]
    ).astype(np.int64)
    names = distinct(thread)
    own = {name: index + 1 for index, name in enumerate(concurrent)}
    clocks = {int(name): own.get(int(name), 0) for name in {main, *names.tolist(), *concurrent}}
    numbers = np.array([clocks[int(name)] for name in names], dtype=np.int64)
    clock = numbers[np.searchsorted(names, thread)]
    start, end = (
        np.concatenate([t[c] for t in tables]).astype(np.int64) for c in ("start_ns", "end_ns")
    )
    return HostEvents(clock, kind, start, end), clocks


def _waits(
    *,
    clocks: Mapping[int, int],
    work: dependencies.Dependencies,
    api: Columns,
    kinds: Ints,
    first_api: int,
    handoffs: Columns | None,
    host_end_ns: int,
    sync_end_ns: int,
) -> HostWaits:
    """API waits, waits for threads and, unless an API wait ends the run, the final synchronise,
    ordered by end.
    """
    rows = work.wait_rows
    api_clock = _clocks_of(api["thread"][rows], clocks)
    kind = np.where(kinds[rows] & ApiKind.LAUNCH, WaitKind.COPY, WaitKind.SYNCHRONIZE)
    start_ns, end_ns = api["start_ns"][rows], api["end_ns"][rows]
    parts = [_columns(len(rows), api_clock, kind, start_ns, end_ns, rows + first_api, -1, -1)]
    if handoffs is not None:
        ours, theirs = (_clocks_of(handoffs[c], clocks) for c in ("thread", "from_thread"))
        times = handoffs["start_ns"], handoffs["end_ns"]
        parts.append(
            _columns(len(ours), ours, WaitKind.THREAD, *times, -1, theirs, handoffs["from_ns"])
        )
    on = work.wait_on
    if not np.any((api_clock == 0) & (end_ns > host_end_ns)):
        number = sum(part.shape[1] for part in parts)
        final = np.stack([np.full(len(work.last_ops), number), work.last_ops], axis=1)
        parts.append(_columns(1, 0, WaitKind.SYNCHRONIZE, host_end_ns, sync_end_ns, -1, -1, -1))
        on = np.concatenate([on, final])
    table = np.concatenate(parts, axis=1).astype(np.int64)
    order = np.argsort(table[3], kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    on = np.stack([position[on[:, 0]], on[:, 1]], axis=1) if len(on) else on
    on = on[np.argsort(on[:, 0], kind="stable")]
    clock, kind, start, end, event, from_clock, from_ns = table[:, order]
    return HostWaits(clock, kind, start, end, event, from_clock, from_ns, on)


def _clocks_of(threads: Ints, clocks: Mapping[int, int]) -> Ints:
    return np.array([clocks[int(thread)] for thread in threads], dtype=np.int64)


def _columns(count: int, *columns: Ints | int) -> Ints:
    """The columns of `count` waits as rows; one number is that of all of them."""
    return np.stack([np.broadcast_to(column, count) for column in columns])
