"""Bricks on a GPU: what is read from kernel records, and latencies composed by the replay."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xsp.brickwork.composing import latency_ns, replayed
from xsp.brickwork.cutting import Decomposition, decomposed
from xsp.brickwork.device import Calls, latencies, works
from xsp.brickwork.model import model_of
from xsp.brickwork.network import fresh
from xsp.brickwork.plan import Options, subject_of
from xsp.brickwork.rounds import MODEL, Runnable, launches_of
from xsp.brickwork.samples import EAGER, NETWORK, Record
from xsp.brickwork.tables import model_table

TYPICAL = {"launch_ns": 4_000.0, "gap_ns": 1_000.0, "wake_ns": 8_000.0}


def test_a_program_of_short_kernels_is_bound_by_the_host() -> None:
    """Each kernel is done before the next is launched: the last launch, its way, its length and
    the way back.
    """
    launches = np.linspace(0.0, 90_000.0, 10)
    found = latency_ns(100_000.0, launches, np.full(10, 2_000.0), TYPICAL)
    assert found == pytest.approx(max(100_000, 90_000 + 4_000 + 2_000 + 8_000), abs=10)


def test_a_program_of_long_kernels_is_bound_by_the_gpu() -> None:
    """Kernels queue up: the first launch's way, all lengths with the gaps between, the way back."""
    launches = np.linspace(0.0, 90_000.0, 10)
    found = latency_ns(100_000.0, launches, np.full(10, 50_000.0), TYPICAL)
    assert found == pytest.approx(4_000 + 10 * 50_000 + 9 * 1_000 + 8_000, abs=10)


def test_a_program_that_launches_nothing_takes_the_host_its_time() -> None:
    """No operation, no waiting."""
    assert latency_ns(7_000.0, np.zeros(0), np.zeros(0), TYPICAL) == 7_000.0


def columns(rows: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Tables of operations (launch, start, end)."""
    ids = np.arange(len(rows), dtype=np.uint32)
    launch, start, end = np.array(rows, dtype=np.int64).T
    return {
        "api_calls": {"correlation_id": ids[::-1], "start_ns": launch[::-1]},
        "device_activity": {"correlation_id": ids, "start_ns": start, "end_ns": end},
    }


def test_operations_belong_to_the_call_that_launched_them() -> None:
    """Copies of inputs before a call do not count; a call with another number of operations than
    usual is left out; gaps are taken from operations that queued.
    """
    calls = Calls(
        np.array([0, 1, 0, 0]),
        np.array([1_000, 21_000, 41_000, 61_000]),
        np.array([11_000, 31_000, 51_000, 71_000]),
        np.array([35_000, 38_000, 75_000, 76_000]),
    )
    rows = [
        (500, 600, 900),  # a copy of an input
        (2_000, 5_000, 20_000),
        (6_000, 20_500, 30_000),
        (22_000, 25_000, 29_000),
        (42_000, 45_000, 60_000),
        (46_000, 60_500, 70_000),
        (62_000, 65_000, 70_000),  # once a call launched one operation only
    ]
    tables = columns(rows)
    two, one = works(calls, tables, 2)
    assert two["launch_at"] == pytest.approx([0.1, 0.5])
    assert two["duration_ns"] == pytest.approx([15_000, 9_500])
    assert two["busy_ns"] == pytest.approx(24_500)
    assert one["duration_ns"] == pytest.approx([4_000])
    found = latencies(calls, tables)
    assert found["launch_ns"] == 3_000
    assert found["gap_ns"] == 500
    assert found["wake_ns"] == pytest.approx(np.median([5_000, 9_000, 5_000, 6_000]))


def test_operations_side_by_side_keep_the_gpu_once() -> None:
    """A library that spreads a call over streams: 15 us, 12 us beside it and 3 beyond it, 4 within;
    then 5 us alone. The GPU works for 23 us of them, not for 39; no gap is below 0, and the wait
    ends behind the operation that ends last.
    """
    calls = Calls(np.array([0]), np.array([1_000]), np.array([40_000]), np.array([60_000]))
    tables = columns(
        [
            (2_000, 5_000, 20_000),
            (3_000, 8_000, 23_000),
            (4_000, 9_000, 13_000),
            (5_000, 24_000, 29_000),
        ]
    )
    (work,) = works(calls, tables, 1)
    assert work["duration_ns"] == pytest.approx([15_000, 3_000, 0, 5_000])
    assert work["busy_ns"] == pytest.approx(23_000)
    assert latencies(calls, tables)["gap_ns"] == 1_000
    beside = columns([(2_000, 5_000, 40_000), (3_000, 8_000, 23_000)])
    assert latencies(calls, beside)["wake_ns"] == pytest.approx(20_000)


def cut() -> Decomposition:
    module = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU()).eval()
    return decomposed(model_of(module, (torch.randn(4),)), 1)


def records(made: Decomposition, busy_half_ns: float = 0.0) -> dict[str, Record]:
    work = {
        "launch_at": [0.5],
        "duration_ns": [40_000.0],
        "busy_ns": 40_000.0,
        "busy_half_ns": busy_half_ns,
    }
    facts = {"host_samples_ns": [10_000.0] * 5, "device": work, "latencies": TYPICAL}
    return {
        each.layer.digest: Record(each.layer, NETWORK, "model", [60_000.0] * 5, facts=facts)
        for each in made.bricks
    }


def test_bricks_overlap_as_they_do_in_a_program() -> None:
    """Three bricks of 10 us on the host and 40 us on the GPU take 140 us, not 3 times 60: while one
    runs, the host launches the next.
    """
    made = cut()
    found = replayed(made, records(made))
    assert found is not None
    assert found.latency_ns == pytest.approx(5_000 + 4_000 + 3 * 40_000 + 2 * 1_000 + 8_000, abs=10)
    assert found.half_width_ns == pytest.approx(0.0, abs=1.0)


def test_equal_bricks_vary_together_in_the_interval() -> None:
    """Two of three are the same: 95 % of the sums lie within the root of (2 x 1000)^2 + 1000^2."""
    made = cut()
    found = replayed(made, records(made, 1_000.0))
    assert found is not None
    assert found.half_width_ns == pytest.approx(np.hypot(2_000, 1_000), rel=0.35)


def test_without_a_trace_there_is_no_replay() -> None:
    """A record of the CPU has no device timeline; a brick without a time makes it unknown."""
    made = cut()
    known = records(made)
    digest = made.bricks[1].layer.digest
    unknown = replayed(made, {key: each for key, each in known.items() if key != digest})
    assert unknown is not None
    assert np.isnan(unknown.latency_ns)
    known[digest].facts = {}
    assert replayed(made, known) is None
    assert json.loads(made.bricks[0].layer.key)["operator"] == "brick"


def test_launches_are_timed_without_waiting_in_between() -> None:
    """Calls of a segment follow each other twice, a wait before each time; those with a backward
    pass are not made, and inputs are copies made before.
    """
    events: list[str] = []

    def runnable(name: str, segment: int, *, trained: bool = False) -> Runnable:
        weights = [[torch.ones(1)]] if trained else None
        wait = partial(events.append, "wait")
        return Runnable([lambda _: events.append(name)], [[one]], weights, wait, segment=segment)

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        events.append("copy")
        return tensor.clone()

    one = torch.ones(1)
    many = [runnable("a", 0), runnable("b", 0), runnable("c", 0, trained=True)]
    found = launches_of(many, 3, copied, random.Random(0))
    assert sorted(found) == [0, 1]
    assert events == ["copy"] * 4 + ["wait", "a", "b"] * 2


def test_many_launches_are_timed_a_few_at_a_time() -> None:
    """Each of 70 calls is made twice, and no more inputs are held than of 32."""
    calls: list[int] = []
    many = [Runnable([partial(calls.append, place)], [[]]) for place in range(70)]
    found = launches_of(many, 0, fresh, random.Random(0))
    assert len(found) == 70
    assert calls == [*range(32)] * 2 + [*range(32, 64)] * 2 + [*range(64, 70)] * 2


def test_the_device_time_of_a_model_stands_beside_that_of_its_bricks() -> None:
    """Three bricks of 40 us each are 120 us; the model as its user calls it was traced too. What
    was not traced is not known.
    """
    module = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU()).eval()
    subject = subject_of(model_of(module, (torch.randn(4),)), Options())
    assert subject.whole is not None
    times = records(subject.decompositions[1])
    whole = Record(subject.whole.layer, EAGER, MODEL, [200_000.0] * 5)
    whole.facts = {"device": {"busy_ns": 125_000.0}}
    known = {each.key: each for each in (*times.values(), whole)}
    row = model_table([subject], known).iloc[0]
    assert row["constructed_device_ms"] == pytest.approx(0.120)
    assert row["device_ms"] == pytest.approx(0.125)
    whole.facts = {}
    assert np.isnan(model_table([subject], known).iloc[0]["device_ms"])
