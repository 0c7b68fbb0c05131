"""The thread that answers queries. It completes each one whatever the system does: a query that is
never completed would let loadgen wait for ever.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from xsp.evaluation.scenarios.recording import Query, Recording
from xsp.evaluation.scenarios.scenario import System

LONGEST = 500
"""Characters of an error that are kept."""

Done = Callable[[list[int]], None]
"""Told the ids of the samples that are answered."""


class Worker:
    """Answers queries in the order in which they come, up to `batch` of them in one call."""

    def __init__(self, system: System, recording: Recording, done: Done, batch: int = 1) -> None:
        self.errors = 0
        self.first_error: str | None = None
        self._system = system
        self._recording = recording
        self._done = done
        self._batch = batch
        self._waiting: queue.SimpleQueue[Query | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="xsp system", daemon=True)
        self._thread.start()

    def put(self, query: Query) -> None:
        """Let a query wait for its answer."""
        self._waiting.put(query)

    def finish(self) -> None:
        """Return when everything that waits is answered."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            queries, ended = self._together(first)
            self._answer(queries)
            if ended:
                return

    def _together(self, first: Query) -> tuple[list[Query], bool]:
        """The first query and those that wait already; whether the end was reached."""
        queries = [first]
        while len(queries) < self._batch:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return queries, True
            queries.append(more)
        return queries, False

    def _answer(self, queries: list[Query]) -> None:
        indices = [index for query in queries for index in query.indices]
        failed = False
        try:
            self._system(indices)
        except BaseException as error:  # SystemExit too would end this thread and leave the query
            failed = True
            self.errors += len(queries)
            self.first_error = self.first_error or f"{type(error).__name__}: {error}"[:LONGEST]
        now_ns = time.monotonic_ns()
        for query in queries:
            self._recording.completed(query.row, now_ns, failed)
        self._done([sample for query in queries for sample in query.ids])
