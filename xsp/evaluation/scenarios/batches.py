"""Batches of growing size, measured by `xsp.sweep`."""

from __future__ import annotations

from collections.abc import Callable

from xsp.errors import TargetError
from xsp.evaluation.scenarios.recording import Recording
from xsp.evaluation.scenarios.scenario import System
from xsp.evaluation.scenarios.settings import Batched
from xsp.profiles import Profile
from xsp.sweeping.measure import sweep
from xsp.types import Level


def run_batches(
    scenario: Batched, system: System, recording: Recording, samples: int
) -> tuple[str, ...]:
    """Measure the system untraced for each batch size; a row for each timed call. Gives a sentence
    for each batch size that failed.
    """
    failures: list[str] = []

    def make_target(batch_size: int) -> Callable[[], None]:
        indices = [index % samples for index in range(batch_size)]

        def predict() -> None:
            system(indices)

        return predict

    def after(batch_size: object, found: Profile | str) -> None:
        if isinstance(found, str):
            failures.append(f"batch size {batch_size} failed: {found}")
            row = recording.issued(1, int(str(batch_size)), recording.count, 1)
            recording.completed(row, 1, failed=True)
            return
        runs = found.runs
        for start_ns, latency_ns in zip(runs["start_ns"], runs["latency_ns"], strict=True):
            begun = int(start_ns)
            row = recording.issued(begun, int(str(batch_size)), recording.count, begun)
            recording.completed(row, begun + int(latency_ns), failed=False)

    try:
        sweep(
            make_target,
            scenario.batch_sizes,
            after=after,
            levels=[Level.MODEL],
            iterations=scenario.iterations,
            warmup=max(scenario.warmup, 1),
            seed=scenario.seed,
            progress=False,
        )
    except TargetError:
        if not failures:
            raise
    return tuple(failures)
