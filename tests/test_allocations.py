"""Bytes of a layer from the allocations that torch's profiler reports, which are given here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

from xsp.levels.layer.function_mode import Codes
from xsp.measuring.afterwards import memory
from xsp.measuring.afterwards.memory import LayerMemory, expected_s, fill_bytes, record_memory


def event(name: str, time_ns: int, *children: Any, **extra: Any) -> SimpleNamespace:
    """An event of the profiler."""
    fields = SimpleNamespace(**extra)
    return SimpleNamespace(
        name=name, start_time_ns=time_ns, children=list(children), extra_fields=fields
    )


def allocation(time_ns: int, size: int, total: int, device: str = "cpu") -> SimpleNamespace:
    """So many bytes more, or fewer, of which there are then so many."""
    where = SimpleNamespace(type=device)
    return event("[memory]", time_ns, alloc_size=size, total_allocated=total, device=where)


def stamp(number: int, time_ns: int) -> SimpleNamespace:
    """The mark of a layer's stamp."""
    return event(f"xsp stamp {number}", time_ns)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LayerMemory]:
    """What is found of one layer that was called once, and of one that was not, where the profiler
    reports these events.
    """

    def record(*events: Any) -> LayerMemory:
        monkeypatch.setattr(memory, "profiled_events", lambda _profile: list(events))
        monkeypatch.setattr(memory, "is_allocation", lambda each: each.name == "[memory]")
        called, other, codes = nn.Identity(), nn.Identity(), Codes()
        rows = np.array([codes.of_module(other), codes.of_module(called)])

        def run(ready: Callable[[], None]) -> None:
            ready()
            called(None)

        return record_memory(run, codes, rows)

    return record


CHANGES = [(50, 1000, 1000), (120, 64, 1064), (150, -64, 1000), (180, 32, 1032), (300, 8, 2000)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_layer_allocates_is_summed_and_its_peak_is_found(
    device: str, recorded: Callable[..., LayerMemory]
) -> None:
    """What is given back is not taken off; the peak counts what was there when it began. Events can
    be inside others and come in any order.
    """
    changes = [allocation(*each, device) for each in CHANGES]
    outer = event("outer", 0, changes[3], event("inner", 0, changes[0], stamp(1, 200)))
    found = recorded(changes[4], stamp(0, 100), outer, changes[2], changes[1])
    assert found.device == device
    assert found.allocated_bytes.tolist() == [-1, 96]
    assert found.peak_bytes.tolist() == [-1, 1064]


def test_the_gpu_is_what_counts_where_it_is_used(recorded: Callable[..., LayerMemory]) -> None:
    """Allocations of the host are left out then."""
    host = [allocation(110, 999, 999), allocation(190, 999, 10**6)]
    found = recorded(stamp(0, 100), *host, allocation(130, 7, 70, "cuda"), stamp(1, 200))
    assert found.device == "cuda"
    assert found.allocated_bytes.tolist() == [-1, 7]
    assert found.peak_bytes.tolist() == [-1, 70]


@pytest.mark.parametrize(
    ("time_ns", "allocated", "peak"), [(99, 0, 5), (100, 5, 5), (200, 5, 5), (201, 0, 0)]
)
def test_changes_at_a_layers_stamps_are_its_own(
    time_ns: int, allocated: int, peak: int, recorded: Callable[..., LayerMemory]
) -> None:
    """Those before it are in its peak while they are held, those after it are not."""
    found = recorded(stamp(0, 100), allocation(time_ns, 5, 5), stamp(1, 200))
    assert found.allocated_bytes.tolist() == [-1, allocated]
    assert found.peak_bytes.tolist() == [-1, peak]


def test_a_layer_in_a_run_without_allocations_allocates_nothing(
    recorded: Callable[..., LayerMemory],
) -> None:
    """Zero is known; a layer that did not run is not. One whose marks are missing is not either."""
    found = recorded(stamp(0, 100), stamp(1, 200))
    assert (found.device, found.allocated_bytes.tolist()) == ("cpu", [-1, 0])
    assert found.peak_bytes.tolist() == [-1, 0]
    assert recorded(stamp(0, 100)).allocated_bytes.tolist() == [-1, -1]
    assert recorded().peak_bytes.tolist() == [-1, -1]


def test_rows_that_stand_for_no_layer_have_no_bytes() -> None:
    """The table has two more rows than the structure run."""
    layers = pd.DataFrame({"name": ["a", "b", "", ""], "peak_bytes": 7})
    filled = fill_bytes(layers, LayerMemory("cpu", np.array([1, 2]), np.array([3, -1])))
    assert filled["allocated_bytes"].tolist() == [1, 2, -1, -1]
    assert filled["peak_bytes"].tolist() == [3, -1, -1, -1]
    assert filled["name"].tolist() == layers["name"].tolist()


def test_the_run_that_records_memory_takes_as_long_as_the_structure_run() -> None:
    """And 0.2 s for torch's profiler."""
    assert expected_s(3.0, 1000) == pytest.approx(3.4)
    assert expected_s(0.0, 0) == pytest.approx(0.2)
