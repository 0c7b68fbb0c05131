"""One stretch of CUPTI recording, from the enabling of the activity kinds to decoded tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from xsp.errors import TracingError
from xsp.levels._native.activity import ActivityBuffers, Faults
from xsp.levels.kernel import cupti
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.kernel.cupti_clock import ClockSource, CuptiClock
from xsp.levels.kernel.names import NameTable
from xsp.levels.kernel.records import RawRecords, Window, convert, rows
from xsp.tracing.clock import ClockMap, Reading, pair_readings, read_bracketed, same_clock
from xsp.types import Columns

RETURN_TIMEOUT_S = 0.1
"""CUPTI may deliver buffers a moment after the flush returned."""


class CuptiSession:
    """Records between `start` and `stop`.

    `stop` leaves no activity kind enabled and CUPTI on the clock it has by default, the latter at
    the end of `kept_clock`. The buffer callbacks stay registered, since CUPTI knows no way to take
    them back; the next tool registers its own.
    """

    def __init__(self, library: CuptiLibrary, buffers: ActivityBuffers, table: NameTable) -> None:
        self.library = library
        self._buffers = buffers
        self._table = table
        self._clock = CuptiClock(library, buffers)
        self._enabled: list[int] = []
        self._source = ClockSource.MONOTONIC
        self._start_ns = 0
        self._first: Reading | None = None
        self.lost = 0
        self.clock = ClockMap(0, 0.0, 0, "none")
        self.tables: dict[str, Columns] = {}

    def start(self, source: ClockSource) -> None:
        """Enable every activity kind of `cupti.LAYOUTS`.

        The first session of a process costs CUPTI tens to hundreds of milliseconds here, later ones
        a few.

        Raises:
            TracingError: CUPTI refuses; then nothing is left enabled.

        """
        self._buffers.prepare()
        self.lost = self._discard_leftovers()
        self._source = source
        self.tables = {}
        with ExitStack() as undo:
            undo.callback(self._restore)
            self._clock.use(source)
            self.library.register_buffer_callbacks(self._buffers.requested, self._buffers.completed)
            self.library.take_dropped_records()
            self._start_ns = time.monotonic_ns()
            for name in cupti.LAYOUTS:
                self.library.enable(cupti.kind(name))
                self._enabled.append(cupti.kind(name))
            self._record_queries(on=False)
            self._first = read_bracketed(self.library.timestamp)
            undo.pop_all()

    def stop(self, synchronize: Callable[[], None]) -> None:
        """Wait for the GPU, disable the kinds, take the buffers and decode them.

        Whatever fails, the kinds are disabled and the clock is restored before the error is raised.

        Raises:
            TracingError: CUPTI refuses; the session's records are gone.

        """
        stop_ns = time.monotonic_ns()
        with ExitStack() as undo:
            undo.callback(self._restore)
            # A forced flush hands over records of running kernels without an end and never again.
            synchronize()
            last = read_bracketed(self.library.timestamp)
            self._disable()
            self.library.flush()
            self._await_buffers()
            # Decoded on CUPTI's present clock: device stamps are converted while buffers are handed
            # over.
            self._finish(Window(self._start_ns, stop_ns, last.after_ns, time.monotonic_ns()), last)

    def _finish(self, window: Window, last: Reading) -> None:
        assert self._first is not None  # noqa: S101 - start() read it
        mapping = same_clock if self._source is ClockSource.MONOTONIC else pair_readings
        self.clock = mapping(self._first, last)
        raw, faults = self._take()
        self.tables, untimed = convert(raw, self.clock, window, self._table)
        dropped = max(self.library.take_dropped_records(), self._buffers.state().declined)
        self.lost += (
            dropped + untimed + faults.short_records + faults.no_room + faults.broken_buffers
        )

    def _take(self) -> tuple[RawRecords, Faults]:
        layouts = {cupti.kind(name): cupti.layout(name) for name in cupti.LAYOUTS}
        records, faults = self._buffers.decode(self.library.next_record, layouts)
        return {name: records[cupti.kind(name)] for name in cupti.LAYOUTS}, faults

    def _discard_leftovers(self) -> int:
        """How many records came too late for the previous session: they are missing there and
        foreign here.
        """
        raw, _ = self._take()
        return sum(map(len, raw.values()))

    def _await_buffers(self) -> None:
        deadline = time.monotonic() + RETURN_TIMEOUT_S
        while self._buffers.state().lent and time.monotonic() < deadline:
            time.sleep(0.001)

    def _record_queries(self, *, on: bool) -> None:
        # A libcupti that refuses records them all: slower, but nothing is wrong.
        with suppress(TracingError):
            for domain, cbid in cupti.queries():
                self.library.record_api(domain, cbid, on)

    def _disable(self) -> None:
        with ExitStack() as every_one:  # also when one of them fails
            if self._enabled:
                # First of all, while the kinds are still enabled; the next tool finds every
                # function recorded.
                self._record_queries(on=True)
            while self._enabled:
                every_one.callback(self.library.disable, self._enabled.pop())

    def _restore(self) -> None:
        with ExitStack() as steps:
            steps.callback(self._clock.release)
            steps.callback(self._disable)


def trial(
    session: CuptiSession, probe: Callable[[], None], synchronize: Callable[[], None]
) -> ClockSource:
    """The clock that gives `probe`, which must run something on the GPU, believable times.

    CUPTI's release notes tell of versions, 12.6 update 2 to 13.1, that stamp records with 0 under a
    timestamp callback, so only a record that arrived with a time inside the session is proof.

    Raises:
        TracingError: the GPU runs nothing, no record arrives, or none has a time under either
        clock.

    """
    untimed = False
    for source in ClockSource:
        session.start(source)
        _run(probe, session, synchronize)
        if rows(session.tables["device_activity"]):
            return source
        untimed = untimed or session.lost > 0
    what = "its record has an implausible time" if untimed else "no record of it arrived"
    msg = (
        f"CUPTI recorded nothing usable for a trial kernel ({what}): update the driver or "
        "CUDA, then run again"
    )
    raise TracingError(msg)


def _run(probe: Callable[[], None], session: CuptiSession, synchronize: Callable[[], None]) -> None:
    try:
        try:
            probe()
        finally:
            session.stop(synchronize)
    except (
        RuntimeError
    ) as error:  # what torch raises for every CUDA error, an exhausted memory included
        msg = (
            f"the GPU cannot run a small kernel ({error}): free its memory, or start the process "
            "again"
        )
        raise TracingError(msg) from error
