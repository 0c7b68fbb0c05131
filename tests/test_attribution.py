"""The synthetic models of benchmarks/attribution.py, with a tracer that takes operations on the CPU
for kernels.

What the models launch is counted by a dispatch mode, independently of layers, so this proves the
expected numbers and the way from launches to layers; that CUPTI's records take it too is for
tests/gpu/test_attribution_gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from attribution import CASES, Case, attribution, judged, kernels_by_layer
from operations import operations_are_kernels


@pytest.fixture(autouse=True)
def _no_group_stays() -> Iterator[None]:
    """What DistributedDataParallel's model asks for lasts as long as the test."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("name", CASES)
def test_every_launch_is_found_under_its_true_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each synthetic model launches what it is said to launch, and every launch is found under the
    layer that did.
    """
    operations_are_kernels(monkeypatch)
    found = kernels_by_layer(CASES[name].make("cpu"))
    assert judged(CASES[name], found) == {
        "kernels": sum(CASES[name].kernels.values()),
        "right_percent": 100.0,
        "wrong": [],
    }


def test_the_report_has_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's part (d) has a row for each model."""
    operations_are_kernels(monkeypatch)
    only = "nested, shared, functional"
    monkeypatch.setitem(attribution.__globals__, "CASES", {only: CASES[only]})
    assert attribution("cpu") == {only: {"kernels": 17, "right_percent": 100.0, "wrong": []}}


def test_kernels_under_other_layers_are_counted() -> None:
    """A kernel under the wrong layer makes the score less than 100, and both layers are named."""
    case = Case(
        lambda _device: lambda: None, {("a", "forward"): 4, ("b", "forward"): 6}, whole=True
    )
    assert judged(case, {("a", "forward"): 4, ("b", "forward"): 5, ("c", "backward"): 1}) == {
        "kernels": 10,
        "right_percent": 80.0,
        "wrong": [
            {"layer": "b", "phase": "forward", "launched": 6, "found": 5},
            {"layer": "c", "phase": "backward", "launched": 0, "found": 1},
        ],
    }
