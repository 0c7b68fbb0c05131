"""Queries that arrive when they once did."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.recording import Query, Recording
from xsp.evaluation.scenarios.settings import Replay
from xsp.evaluation.scenarios.worker import Worker

LARGEST_FILE_BYTES = 2**28
LEAD_NS = 10_000_000
"""Between the decision to begin and the first arrival."""


def with_arrivals(scenario: Any, beside: Path | None = None) -> Any:
    """A replay of a file's arrival times as one that has the times itself, so that it can be
    repeated without the file; any other scenario as it is. The file lies in the folder `beside`,
    the working directory if left out, or below it.

    Raises EvaluationError if the file is elsewhere or missing, has another checksum than the
    scenario says, or holds anything but finite numbers in ascending order.
    """
    if not isinstance(scenario, Replay) or scenario.arrivals_file is None:
        return scenario
    folder = (beside or Path()).resolve()
    path = (folder / scenario.arrivals_file).resolve()
    if not path.is_relative_to(folder):
        raise EvaluationError(
            f"the arrival times in {str(scenario.arrivals_file)!r} must be in {str(folder)!r} or "
            "below it: move the file there"
        )
    times = tuple(_read(path, scenario.sha256).tolist())
    return scenario.model_copy(update={"arrivals_s": times, "arrivals_file": None, "sha256": None})


def arrivals_ns(scenario: Replay) -> npt.NDArray[np.int64]:
    """Arrival times of a replay that has them, int64 [queries], ns after the first one."""
    times = np.asarray(scenario.arrivals_s, dtype=np.float64)
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
            f"{str(path)!r} must hold a number of seconds on each line, and does not"
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
