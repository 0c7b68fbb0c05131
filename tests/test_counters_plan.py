"""Which metrics are collected together, and in how many runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pandas as pd
import pytest
from fake_counters import ALPHA, BETA, GAMMA, SASS, SLOW

from xsp.analysis.work.counters import counted_work
from xsp.errors import LevelError
from xsp.levels.counters.metrics import (
    BLOCKS,
    GROUPS,
    INSTRUMENTED,
    choose_metrics,
    parse_metrics,
)
from xsp.levels.counters.range_profiler import MetricHost
from xsp.levels.kernel.cupti import CuptiLibrary

pytest_plugins = ["fake_counters"]


def test_groups_and_raw_names_can_be_mixed() -> None:
    """Metrics can be given as one string or several, named twice, as groups and as
    CUPTI's names.
    """
    assert parse_metrics("flops, dram,dram") == ("flops", "dram")
    assert parse_metrics(["occupancy", ALPHA]) == ("occupancy", ALPHA)
    assert parse_metrics(()) == ()


@pytest.mark.parametrize("wrong", ["flop", 7])
def test_what_cannot_be_a_metric_is_refused_at_once(wrong: Any) -> None:
    """A name that is neither a group nor of CUPTI's form is refused before anything runs, with what
    there is.
    """
    with pytest.raises(LevelError, match=f"flops, dram, occupancy, tensor, l2.*, not .{wrong}"):
        parse_metrics([wrong])


def test_metrics_that_exclude_each_other_go_into_two_runs(host: MetricHost) -> None:
    """Metrics that need two passes together are measured in two runs, each with a witness of which
    kernels it saw.
    """
    choice = choose_metrics([ALPHA, BETA, GAMMA], host)
    assert [one.metrics for one in choice.configurations] == [
        (BLOCKS, ALPHA, BETA),
        (BLOCKS, GAMMA),
    ]
    assert choice.metrics == (ALPHA, BETA, GAMMA)
    assert choice.passes == 2


def test_metric_of_several_passes_is_measured_alone(host: MetricHost) -> None:
    """A metric that needs two passes by itself does not make the others be measured twice."""
    choice = choose_metrics([ALPHA, SLOW, BETA], host)
    assert [one.passes for one in choice.configurations] == [1, 2]
    assert [set(one.metrics) for one in choice.configurations] == [
        {BLOCKS, ALPHA, BETA},
        {BLOCKS, SLOW},
    ]


def test_instruction_counts_have_a_witness_of_their_own(host: MetricHost) -> None:
    """What instrumented code counts goes into a run of its own, with the instructions that it
    counted in all.
    """
    choice = choose_metrics([ALPHA, SASS], host)
    assert [set(one.metrics) for one in choice.configurations] == [
        {BLOCKS, ALPHA},
        {INSTRUMENTED, SASS},
    ]


def test_metric_that_the_chip_lacks_is_named(host: MetricHost) -> None:
    """An unknown metric is named with near ones, a counter without a rollup with a full name; the
    rest is collected.
    """
    choice = choose_metrics(["unit__alpa.sum", "unit__beta", "dram", GAMMA], host)
    assert choice.metrics == (GAMMA,)
    unknown, incomplete, group = choice.missing
    assert "FAKE100 chip has no metric 'unit__alpa.sum'" in unknown
    assert "unit__alpha" in unknown
    assert "unit__beta.sum" in incomplete
    assert "'dram'" in group


@pytest.fixture(scope="module")
def hopper() -> MetricHost:
    """An H100 as the installed libcupti knows it, which needs no GPU."""
    try:
        files = distribution("nvidia-cuda-cupti").files or []
    except PackageNotFoundError:
        pytest.skip("libcupti is not installed")
    path = next(file for file in files if file.name.startswith("libcupti.so"))
    return MetricHost(CuptiLibrary(str(path.locate())), "GH100")


def test_an_h100_answers_every_group(hopper: MetricHost) -> None:
    """The real libcupti knows all metrics of all groups for an H100, in at most five runs for what
    is usually asked.
    """
    choice = choose_metrics(("flops", "dram", "occupancy"), hopper)
    assert choice.missing == ()
    assert {one.passes for one in choice.configurations} == {1}
    assert len(choice.configurations) <= 5
    everything = counted_work(
        pd.DataFrame(
            {"position": [0]} | dict.fromkeys(choose_metrics(tuple(GROUPS), hopper).metrics, 1.0)
        )
    )
    assert everything.notna().all(axis=None)


def test_the_real_library_refuses_what_the_chip_lacks(hopper: MetricHost) -> None:
    """The real libcupti and this code agree on the structures: a good metric has passes, a bad one
    is refused.
    """
    dram = hopper.configured(["dram__bytes_read.sum", "dram__bytes_write.sum"])
    assert dram is not None
    assert dram.passes == 1
    assert hopper.configured(["dram__bytes_red.sum"]) is None
