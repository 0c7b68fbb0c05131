"""A test by MLPerf's loadgen, in this process. It is a global singleton that ends the process on
most mistakes: only `child` calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xsp.evaluation.extra import needed
from xsp.evaluation.scenarios.recording import Query, Recording
from xsp.evaluation.scenarios.settings import MultiStream, Offline, Server, SingleStream
from xsp.evaluation.scenarios.worker import Worker

Tested = SingleStream | MultiStream | Server | Offline

UNTIMED_NS = 100_000
"""Taken for a query's latency where no warm-up told it."""


def loadgen_module() -> Any:
    """The package mlcommons-loadgen. Raises EvaluationError where it is not installed."""
    with needed("load generation"):
        import mlperf_loadgen

        return mlperf_loadgen


def seeds(seed: int) -> list[int]:
    """The three seeds of loadgen: of the sample library, the order of samples, the schedule."""
    return [int(x) for x in np.random.SeedSequence(seed).generate_state(3)]


def run_loadgen(
    scenario: Tested,
    make_worker: Any,
    recording: Recording,
    samples: int,
    folder: Path,
    expected_ns: int = UNTIMED_NS,
) -> Worker:
    """Run the test until it ends; loadgen writes its logs to `folder`, which must exist.

    `make_worker(done)` gives the worker, `expected_ns` is about what a query takes.
    """
    lg = loadgen_module()
    worker: Worker = make_worker(_told(lg))
    at_once = scenario.batch if isinstance(scenario, Offline) else None
    number = 0

    def issue(ids: list[int], indices: list[int]) -> None:
        nonlocal number
        now_ns = time.monotonic_ns()
        size = at_once or len(ids)
        for first in range(0, len(ids), size):
            part = slice(first, first + size)
            row = recording.issued(now_ns, len(ids[part]), number)
            worker.put(Query(row, indices[part], ids[part]))
        number += 1

    # The fast one hands over two lists of numbers, and makes no object for each query.
    sut = lg.ConstructFastSUT(issue, _nothing)
    library = lg.ConstructQSL(samples, samples, _no_samples, _no_samples)
    lg.StartTestWithLogSettings(
        sut,
        library,
        _settings(lg, scenario, expected_ns),
        _logs(lg, folder),
        # Else loadgen obeys a file audit.config that happens to lie in the working directory.
        str(folder / "no audit.config"),
    )
    worker.finish()
    lg.DestroyQSL(library)
    lg.DestroyFastSUT(sut)
    return worker


def _told(lg: Any) -> Callable[[list[int]], None]:
    """What tells loadgen the ids of samples that are answered. Making an object for each takes
    5 to 10 µs of the time in which the next query waits, so they are used again.
    """
    complete, response = lg.QuerySamplesComplete, lg.QuerySampleResponse
    kept = [response(0, 0, 0)]

    def done(ids: list[int]) -> None:
        while len(kept) < len(ids):
            kept.append(response(0, 0, 0))
        used = kept if len(kept) == len(ids) else kept[: len(ids)]
        for each, sample in zip(used, ids, strict=True):
            each.id = sample
        complete(used)

    return done


def _nothing() -> None:
    """Loadgen's call to flush: nothing is held back."""


def _no_samples(_: list[int]) -> None:
    """Loadgen's call to load samples: the system has them."""


def _logs(lg: Any, folder: Path) -> Any:
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    # The trace is the only place where loadgen tells when a query was scheduled.
    logs.enable_trace = True
    return logs


def _settings(lg: Any, scenario: Tested, expected_ns: int) -> Any:
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed = seeds(
        scenario.seed
    )
    if isinstance(scenario, Offline):
        settings.scenario = lg.TestScenario.Offline
        settings.min_query_count = scenario.samples
        settings.min_duration_ms = 0
        return settings
    settings.min_query_count = scenario.queries
    settings.min_duration_ms = round(1000 * scenario.min_duration_s)
    if isinstance(scenario, SingleStream):
        settings.scenario = lg.TestScenario.SingleStream
        settings.single_stream_expected_latency_ns = expected_ns
        settings.single_stream_target_latency_percentile = scenario.percentile / 100
    elif isinstance(scenario, MultiStream):
        settings.scenario = lg.TestScenario.MultiStream
        settings.multi_stream_expected_latency_ns = expected_ns
        settings.multi_stream_samples_per_query = scenario.samples_per_query
        settings.multi_stream_target_latency_percentile = scenario.percentile / 100
    else:
        settings.scenario = lg.TestScenario.Server
        settings.server_target_qps = scenario.rate_per_s
        settings.server_target_latency_ns = round(1e6 * scenario.latency_bound_ms)
        settings.server_target_latency_percentile = scenario.percentile / 100
        settings.server_max_async_queries = scenario.most_waiting
    return settings
