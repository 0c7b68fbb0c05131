"""Hardware counters over a CUPTI that behaves like the real one: their values, and caches."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_counters import (
    ALPHA,
    BETA,
    COLD,
    GAMMA,
    SASS,
    SLOW,
    FakeCupti,
    Kernel,
    collect,
    launching,
    refused,
)

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.errors import LevelError
from xsp.levels.counters.metrics import FLUSHED


def test_every_kernel_has_its_own_values(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Values are those of the kernel they stand beside, over several runs, and the facts say what
    was done.
    """
    found = collect(cupti, tables, launching(cupti, kernels), ALPHA, BETA, GAMMA, SLOW)
    assert found.doubts == ()
    assert found.table.columns.tolist() == [
        "position",
        "kernel",
        "sample",
        ALPHA,
        BETA,
        GAMMA,
        SLOW,
    ]
    assert (
        found.table["position"].tolist()
        == found.table["sample"].tolist()
        == list(range(len(kernels)))
    )
    assert found.table["kernel"].tolist() == kernel_sequence(tables)["kernel"].tolist()
    assert found.table[ALPHA].tolist() == [len(name) for name, _ in kernels]
    assert found.table[BETA].tolist() == [ord(name[0]) for name, _ in kernels]
    assert found.table[GAMMA].tolist() == [1000 * len(name) for name, _ in kernels]
    facts = found.facts
    assert (facts["metrics"], facts["passes"], facts["runs"]) == ([ALPHA, BETA, GAMMA, SLOW], 4, 8)
    assert facts["measured"] == len(kernels)
    assert (facts["cache"], facts["why"]) == ("in place", None)


pytest_plugins = ["fake_counters"]


def test_counts_that_scatter_are_averaged_and_the_spread_is_told(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Counts of n - 2 and n + 2 give n and a spread of 4 / n; what repeats exactly has a spread of
    0.
    """
    cupti.controls.fake_noise(ctypes.c_double(2.0))
    found = collect(cupti, tables, launching(cupti, kernels))
    first_letters = [ord(name[0]) for name, _ in kernels]
    assert found.table[BETA].tolist() == first_letters
    assert found.facts["spread"] == {ALPHA: 0.0, BETA: pytest.approx(4 / np.mean(first_letters))}


def test_instructions_of_kernels_without_instrumentation_are_unknown(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Where CUPTI added no counting code, instruction counts are NaN rather than 0, and a warning
    names a kernel.
    """
    silent = kernels[3][0]
    found = collect(cupti, tables, launching(cupti, kernels, uninstrumented=silent), SASS, ALPHA)
    expected = [np.nan if name == silent else 7.0 for name, _ in kernels]
    np.testing.assert_array_equal(found.table[SASS], expected)
    assert found.table[ALPHA].notna().all()
    (sentence,) = found.doubts
    assert f"{sum(name == silent for name, _ in kernels)} kernels" in sentence
    assert silent in sentence


def test_caches_can_be_flushed_before_every_kernel(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Every kernel finds empty caches, what empties them is not in the table, and the facts
    say so.
    """
    found = collect(cupti, tables, launching(cupti, kernels), ALPHA, BETA, GAMMA, caches=FLUSHED)
    (sentence,) = found.doubts
    assert "flushed before every kernel" in sentence
    assert found.facts["cache"] == FLUSHED
    assert found.facts["measured"] == len(found.table) == len(kernels)
    assert found.table[ALPHA].tolist() == [len(name) for name, _ in kernels]
    assert found.table[BETA].tolist() == [ord(name[0]) + COLD for name, _ in kernels]
    assert found.table[GAMMA].tolist() == [1000 * len(name) for name, _ in kernels]


def test_another_listener_rules_out_flushing(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """CUPTI tells one listener of launches: where there is another, nothing is counted, and a
    sentence names it.
    """
    cupti.controls.fake_other_listener()
    sentence = refused(collect(cupti, tables, launching(cupti, kernels), caches=FLUSHED))
    assert "cuptiSubscribe failed" in sentence
    assert "torch.profiler" in sentence


def test_flush_that_fails_is_told(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """An error of the driver while the caches are emptied is not hidden, though a launch cannot
    report it.
    """
    cupti.controls.fake_refuse_synchronize(700)
    sentence = refused(collect(cupti, tables, launching(cupti, kernels), caches=FLUSHED))
    assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in sentence


@pytest.mark.parametrize("silent", [1, 2])
def test_kernels_that_were_not_preceded_by_a_flush_are_not_taken_for_it(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel], silent: int
) -> None:
    """Where kernels come to the GPU without CUPTI telling of it, one or an even number, nothing is
    counted.
    """

    def program() -> None:
        launching(cupti, kernels[:-silent])()
        for name, blocks in kernels[-silent:]:
            cupti.controls.fake_launch_silently(name.encode(), ctypes.c_uint64(blocks))

    assert "does not report" in refused(collect(cupti, tables, program, caches=FLUSHED))


def test_caches_are_in_place_or_flushed() -> None:
    """Another word is refused at once, with the two that there are."""
    with pytest.raises(LevelError, match=r"'in place'.*'flushed'.*, not 'warm'"):
        xsp.measure(torch.nn.Linear(4, 4), torch.ones(2, 4), metrics="dram", caches="warm")


def test_profile_without_counters_says_why_and_is_saved(tmp_path: Path) -> None:
    """Where there is no GPU a profile that asks for counters is made all the same, and tells what
    is missing.
    """
    prof = xsp.measure(
        torch.nn.Linear(4, 4), torch.ones(2, 4), iterations=2, metrics="dram,flops", progress=False
    )
    assert any(
        sentence.startswith("hardware counters were not collected") for sentence in prof.warnings
    )
    assert xsp.load(prof.save(tmp_path / "a.xsp")).table("counters").columns.tolist() == [
        "position",
        "kernel",
        "sample",
    ]
    with pytest.raises(LevelError, match="'bandwidth'"):
        xsp.measure(torch.nn.Linear(4, 4), torch.ones(2, 4), metrics="bandwidth")
