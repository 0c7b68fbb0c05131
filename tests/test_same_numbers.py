"""A recording has the same corrected numbers in every version.

`python tests/test_same_numbers.py` writes tests/same_numbers.json anew, for a version that corrects
differently on purpose; CHANGELOG.md then says what changes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulator import (
    Call,
    Join,
    Launch,
    Record,
    Simulation,
    Spawn,
    StreamWait,
    Synchronize,
    Work,
    lognormal,
)

import xsp
from xsp.analysis.correction import fitted
from xsp.analysis.correction.charges import COST_LEVELS, OPERATOR_COST, Costs, EventKind
from xsp.analysis.correction.critical_path import slopes
from xsp.analysis.correction.replay import replay
from xsp.capture.schema import REQUIRED_TABLES
from xsp.types import Level

NUMBERS = Path(__file__).with_name("same_numbers.json")
CAPTURES = Path(__file__).parents[1] / "examples" / "captures"
_TABLES = {"spans": "raw_spans"}
"""What a profile calls a capture's tables, where the names differ."""

KINDS = [name for name in COST_LEVELS if COST_LEVELS[name] is not Level.OP]
"""No recording here has operators."""

NAMES = ("h100_resnet50", "h100_train_step", "h100_transformer")


def corrected_numbers(prof: xsp.Profile) -> dict[str, list[int]]:
    """Of the deepest rung's spans by level: how much earlier they start than they were recorded,
    their durations and their doubts, each summed, ns.
    """
    corrected, spans = prof.corrected, prof.table("raw_spans")
    assert corrected is not None
    recorded = spans.iloc[corrected["row"]].reset_index(drop=True)
    columns = {
        "earlier_ns": recorded["start_ns"] - corrected["start_ns"],
        "duration_ns": corrected["duration_ns"],
        "doubt_ns": corrected["doubt_ns"],
    }
    return {
        name: column.groupby(recorded["level"]).sum().tolist() for name, column in columns.items()
    }


def fitted_numbers(prof: xsp.Profile) -> dict[str, Any]:
    """Costs with their intervals and spread, and the closure of every rung, fitted anew."""
    found = fitted({name: prof.table(_TABLES.get(name, name)) for name in REQUIRED_TABLES})
    assert found is not None
    return {
        "costs": [getattr(found.costs, name) for name in KINDS],
        "intervals": [list(found.costs.intervals[name]) for name in KINDS],
        "identified": [found.costs.identified[name] for name in KINDS],
        "spread": np.delete(np.diag(found.spread), OPERATOR_COST).tolist(),
        "closure": {
            rung: [one.error, one.low, one.high, one.by_round[0]]
            for rung, one in found.closure.items()
        },
        "mostly_tracing": {
            name: share for name, share in found.mostly_tracing.items() if name in KINDS
        },
    }


def numbers_of(name: str) -> dict[str, Any]:
    prof = xsp.load(CAPTURES / f"{name}.xsp")
    return {"fitted": fitted_numbers(prof), "corrected": corrected_numbers(prof)}


PROGRAMS = 24
COSTS = Costs(
    layer_ns=5200,
    functional_ns=3400,
    backward_ns=4100,
    library_ns=820,
    launch_ns=1800,
    api_ns=600,
    kernel_ns=1000,
)


def program_of(draw: random.Random) -> list[object]:
    """A program with streams that wait for each other, waits of the host, and a second thread."""
    beside = _block(draw, (3, 4))
    first, middle, last = (_block(draw, (1, 2)) for _ in range(3))
    return [*first, Spawn(8, tuple(beside)), *middle, Join(8), *last]


def _block(draw: random.Random, streams: tuple[int, int]) -> list[object]:
    return [_instruction(draw, streams, 2) for _ in range(draw.randint(4, 9))]


def _instruction(draw: random.Random, streams: tuple[int, int], depth: int) -> object:
    stream, event = draw.choice(streams), 10 * streams[0] + draw.randint(0, 1)
    duration = draw.choice([2_000, 30_000, 150_000])
    if depth and draw.random() < 0.4:
        level = Level.LAYER if depth == 2 else Level.LIBRARY
        inner = [_instruction(draw, streams, depth - 1) for _ in range(draw.randint(0, 3))]
        kind = draw.choice([EventKind.LAYER, EventKind.FUNCTIONAL, EventKind.BACKWARD])
        return Call(level, (Work(draw.randint(300, 20_000)), *inner), kind)
    return draw.choice(
        [
            Work(duration // 3),
            Launch(stream, duration, draw.randint(0, 2)),
            Launch(stream, duration),
            Launch(stream, duration, 1, blocking=True),
            Record(stream, event),
            StreamWait(stream, event),
            Synchronize(stream),
            Synchronize(event=event),
            Synchronize(),
        ]
    )


def replayed_numbers(seed: int) -> list[float]:
    """Latency, time of the host, sums of all corrected stamps of threads and of operations, and
    what the latency depends on, of a noisy run of a simulated program.
    """
    draw = random.Random(seed)
    run = Simulation(
        program_of(draw), COSTS, noise=lognormal(seed, 0.3), price_noise=lognormal(seed + 1, 0.3)
    )
    timeline = run.timeline(with_records=seed % 3 > 0, with_handoffs=seed % 2 > 0)
    played = replay(timeline, COSTS)
    threads = sorted({thread for thread, _ in run.stamps})
    stamps = [[at for thread, at in run.stamps if thread == one] for one in threads]
    host = [
        int((played.host(thread, mine) - run.start_ns).sum())
        for thread, mine in zip(threads, stamps, strict=True)
    ]
    device = [
        int((ends - run.start_ns).sum()) for ends in (played.device_start_ns, played.device_end_ns)
    ]
    paid = slopes(played, [timeline.end_ns, timeline.host_end_ns])
    paid = np.delete(paid, OPERATOR_COST, axis=1)
    return [played.latency_ns, played.host_latency_ns, *host, *device, *paid.ravel().tolist()]


def assert_alike(now: Any, before: Any, rel: float) -> None:
    if isinstance(before, dict):
        assert now.keys() == before.keys()
        for key, value in before.items():
            assert_alike(now[key], value, rel)
    else:
        np.testing.assert_allclose(now, before, rtol=rel, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_has_the_numbers_that_it_had(name: str) -> None:
    """Costs, their doubt, closure and corrected times of the bundled captures are those of the
    version before: a change of them is a decision, never an accident.
    """
    before = json.loads(NUMBERS.read_text())[name]
    now = numbers_of(name)
    # The fit is a search in floating point, which differs a little from machine to machine.
    assert_alike(now["fitted"], before["fitted"], 1e-5)
    assert_alike(now["corrected"], before["corrected"], 1e-6)


def test_a_simulated_run_has_the_numbers_that_it_had() -> None:
    """Streams that wait for each other, waits of every kind, threads beside each other with and
    without records of whom they wait for: replays and slopes are those of the version before.
    """
    before = json.loads(NUMBERS.read_text())["simulated"]
    assert len(before) == PROGRAMS
    for seed, numbers in enumerate(before):
        np.testing.assert_allclose(replayed_numbers(seed), numbers, 1e-9, err_msg=f"seed {seed}")


if __name__ == "__main__":
    every: dict[str, Any] = {name: numbers_of(name) for name in NAMES}
    every["simulated"] = [replayed_numbers(seed) for seed in range(PROGRAMS)]
    NUMBERS.write_text(json.dumps(every) + "\n")
