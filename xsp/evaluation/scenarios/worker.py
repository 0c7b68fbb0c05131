"""What answers queries, in a thread. It completes each one whatever the system does: a query that
is never completed would let loadgen wait for ever.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Executor

from xsp.evaluation.scenarios.recording import Query, Recording
from xsp.evaluation.scenarios.scenario import System

LONGEST = 500
"""Characters of an error that are kept."""

Done = Callable[[list[int]], None]
"""Told the ids of the samples that are answered."""


class Worker:
    """Answers queries in the order in which they come, up to `batch` of them in one call.

    Args:
        system: answers them.
        recording: what is told when they are answered.
        done: likewise.
        batch: samples that one call may have.
        thread: an executor of one thread. The warm-up has to have run in it: libraries have state
            for each thread, such as the handles of cuBLAS and cuDNN, which take tens of
            milliseconds to make.

    """

    def __init__(
        self, system: System, recording: Recording, done: Done, batch: int, thread: Executor
    ) -> None:
        self.errors = 0
        self.first_error: str | None = None
        self._system = system
        self._recording = recording
        self._done = done
        self._batch = batch
        self._waiting: queue.SimpleQueue[Query | None] = queue.SimpleQueue()
        self._ended = thread.submit(self._run)

    def put(self, query: Query) -> None:
        """Let a query wait for its answer."""
        self._waiting.put(query)

    def finish(self) -> None:
        """Return when everything that waits is answered."""
        self._waiting.put(None)
        self._ended.result()

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
        # Most calls are of one query; what is spent here passes while others wait.
        alone = len(queries) == 1
        first = queries[0]
        indices = first.indices if alone else [index for each in queries for index in each.indices]
        failed = False
        begun_ns = time.monotonic_ns()
        try:
            self._system(indices)
        except BaseException as error:  # SystemExit too would end this thread and leave the query
            failed = True
            self.errors += len(queries)
            self.first_error = self.first_error or f"{type(error).__name__}: {error}"[:LONGEST]
        now_ns = time.monotonic_ns()
        for query in queries:
            self._recording.completed(query.row, now_ns, failed, begun_ns)
        self._done(first.ids if alone else [sample for each in queries for sample in each.ids])
