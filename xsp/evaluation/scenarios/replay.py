"""Queries that arrive when they once did."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.recording import Query, Recording
from xsp.evaluation.scenarios.settings import Replay
from xsp.evaluation.scenarios.worker import Worker

LARGEST_FILE_BYTES = 2**28
LEAD_NS = 10_000_000
"""Between the decision to begin and the first arrival."""


def arrivals_ns(scenario: Replay, beside: Path | None = None) -> npt.NDArray[np.int64]:
    """Arrival times, int64 [queries], ns after the first one. A relative file is looked for in the
    folder `beside`.

    Raises EvaluationError if a file is missing, has another checksum than the scenario says, or
    holds anything but finite numbers in ascending order.
    """
    if scenario.arrivals_s is not None:
        times = np.asarray(scenario.arrivals_s, dtype=np.float64)
    else:
        assert scenario.arrivals_file is not None  # noqa: S101  (the settings demand one)
        times = _read((beside or Path()) / scenario.arrivals_file, scenario.sha256)
    since_first = (times - times[0]) * (1e9 / scenario.speed)
    return np.asarray(np.rint(since_first), dtype=np.int64)


def _read(path: Path, sha256: str | None) -> npt.NDArray[np.float64]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise EvaluationError(
                f"{str(path)!r} is larger than {LARGEST_FILE_BYTES >> 20} MiB; split the recording"
            )
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"the arrival times in {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise EvaluationError(f"{str(path)!r} has the checksum {found}, not {sha256}")
    try:
        times = np.array([float(word) for word in content.decode().split()])
    except ValueError as error:
        raise EvaluationError(
            f"{str(path)!r} must hold a number of seconds on each line: {error}"
        ) from error
    if not len(times) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise EvaluationError(
            f"{str(path)!r} must hold at least one arrival time, all finite and in ascending order"
        )
    return times


def replay(
    arrivals: npt.NDArray[np.int64], worker: Worker, recording: Recording, samples: int, seed: int
) -> None:
    """Let a query of one sample, drawn at random, arrive at each of the times, and return when all
    are answered.
    """
    indices = np.random.default_rng(seed).integers(0, samples, len(arrivals)).tolist()
    start_ns = time.monotonic_ns() + LEAD_NS
    for number, (arrival_ns, index) in enumerate(zip(arrivals.tolist(), indices, strict=True)):
        scheduled_ns = start_ns + arrival_ns
        early_ns = scheduled_ns - time.monotonic_ns()
        if early_ns > 0:
            time.sleep(early_ns / 1e9)
        row = recording.issued(time.monotonic_ns(), 1, number, scheduled_ns)
        worker.put(Query(row, [index], []))
    worker.finish()
