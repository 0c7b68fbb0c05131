"""Systems under load on a GPU: what a test takes of it is read from the measured process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import loadable_systems as systems
import pytest

from xsp.evaluation.metrics.measured import measured
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.running import run_scenario
from xsp.evaluation.scenarios.settings import Server, SingleStream
from xsp.evaluation.scenarios.starting import Forking

pytestmark = pytest.mark.gpu

SIDE = 4096


def test_memory_and_energy_of_the_gpu_are_read(tmp_path: Path) -> None:
    """A system that holds two matrices has at least their bytes at its peak, and its products cost
    energy for each input.
    """
    scenario = SingleStream(kind="single_stream", queries=500)
    outcome = run_scenario(scenario, partial(systems.multiplying, SIDE), 4, logs=tmp_path)
    assert outcome.valid
    assert outcome.usage.peak_device_bytes is not None
    assert outcome.usage.peak_device_bytes >= 2 * 4 * SIDE**2
    found = measured(outcome)
    assert found["energy_joules"].value > 0
    assert found["energy_per_input_joules"].value == found["energy_joules"].value / 500


def test_a_server_on_the_gpu_answers_waiting_queries_together(tmp_path: Path) -> None:
    """Every query is answered when several are taken in one call."""
    scenario = Server(
        kind="server", rate_per_s=2000, latency_bound_ms=60_000, queries=1000, batch=16
    )
    outcome = run_scenario(scenario, partial(systems.multiplying, SIDE), 4, logs=tmp_path)
    assert (outcome.valid, outcome.errors, len(outcome.samples)) == (True, 0, 1000)


def test_forks_use_the_gpu_and_tests_share_what_is_there(tmp_path: Path) -> None:
    """A fork of a process that has imported torch uses the GPU; a second test of the system has no
    process of its own, and its peak of memory is its own.
    """
    scenario = SingleStream(kind="single_stream", queries=64)
    system = partial(systems.multiplying, SIDE)
    with Forking() as forking, MeasuredProcess(forking) as process:
        first, second = (
            run_scenario(scenario, system, 4, logs=tmp_path, process=process) for _ in range(2)
        )
        assert process.started == 1
    assert (first.valid, second.valid) == (True, True)
    assert (first.details["forked"], second.details["tests_before"]) == (True, 1)
    peaks = [each.usage.peak_device_bytes for each in (first, second)]
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert 4 * SIDE * SIDE <= peaks[1] <= peaks[0]
