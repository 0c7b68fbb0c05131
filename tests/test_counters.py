"""Hardware counters over a CUPTI that behaves like the real one, and the plan and the formulas
around them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from compiled_fakes import compiled_cupti

import xsp
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.analysis.work.counters import counted_work
from xsp.capture.file import TABLES
from xsp.errors import LevelError
from xsp.levels.counters.metrics import (
    BLOCKS,
    FLUSHED,
    GROUPS,
    IN_PLACE,
    INSTRUMENTED,
    choose_metrics,
    parse_metrics,
)
from xsp.levels.counters.range_profiler import MetricHost
from xsp.levels.kernel.cuda_driver import CudaDriver
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.measuring.afterwards.counting import Counters, Gpu, count_kernels
from xsp.measuring.executor import Executor
from xsp.measuring.target import target_of
from xsp.types import Level

SOURCE = Path(__file__).parent / "native" / "fake_range_profiler.c"
ROOT = Path(__file__).parent.parent
CAPTURES = ROOT / "examples" / "captures"
COLD = 1000
"""By how much more a kernel counts in the fake library that starts with empty caches."""
ALPHA, BETA, GAMMA, SLOW, SASS = (
    f"unit__{name}.sum" for name in ("alpha", "beta", "gamma", "slow", "sass_delta")
)

Kernel = tuple[str, int]
"""Name and thread blocks."""


class FakeCupti(CuptiLibrary):
    """The fake library, a CUDA driver too, with its test-only functions."""

    @property
    def controls(self) -> ctypes.CDLL:
        """Functions named `fake_...`."""
        return self._library

    def launch(self, name: str, blocks: int, *, instrumented: bool = True) -> None:
        """What a program does to run a kernel."""
        self.controls.fake_launch(name.encode(), ctypes.c_uint64(blocks), int(instrumented))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, compiled once."""
    return compiled_cupti(SOURCE, tmp_path_factory.mktemp("cupti"))


@pytest.fixture
def library(compiled: Path) -> Iterator[FakeCupti]:
    """The fake library in its first state; no profiler or host object may be left by a test."""
    fake = FakeCupti(compiled)
    fake.controls.fake_reset()
    yield fake
    assert fake.controls.fake_held() == 0


@pytest.fixture
def host(library: FakeCupti) -> MetricHost:
    """The fake chip."""
    return MetricHost(library, "FAKE100")


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Tables of a capture that was recorded on a GPU: a transformer, 138 kernels."""
    prof = xsp.load(CAPTURES / "h100_transformer.xsp")
    return prof.raw_tables(*TABLES)


@pytest.fixture(scope="module")
def kernels(tables: dict[str, pd.DataFrame]) -> list[Kernel]:
    """That capture's kernels in the order of their launches."""
    sequence = kernel_sequence(tables)
    launched = tables["kernels"].loc[sequence["kernel"]]
    return list(
        zip(
            sequence["name"],
            launched["grid_x"] * launched["grid_y"] * launched["grid_z"],
            strict=True,
        )
    )


def collect(
    library: FakeCupti,
    tables: dict[str, pd.DataFrame],
    target: Callable[[], object],
    *metrics: str,
    caches: str = IN_PLACE,
) -> Counters:
    """Counters of a target in the fake library."""
    executor, driver = Executor(target_of(target, (), {})), CudaDriver(library.controls)
    gpu = partial(Gpu.of, library, driver, [0, driver.current_context()])
    return count_kernels(executor, tables, metrics or (ALPHA, BETA), caches, False, gpu)


def launching(
    library: FakeCupti, kernels: list[Kernel], uninstrumented: str = ""
) -> Callable[[], None]:
    """A program that runs these kernels."""

    def program() -> None:
        assert library.controls.fake_pushed() == 0, (
            "the program's own context is the current one while it runs"
        )
        for name, blocks in kernels:
            library.launch(name, blocks, instrumented=name != uninstrumented)

    return program


# ---- which metrics are collected ----


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


# ---- measuring ----


def test_every_kernel_has_its_own_values(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Values are those of the kernel they stand beside, over several runs, and the facts say what
    was done.
    """
    found = collect(library, tables, launching(library, kernels), ALPHA, BETA, GAMMA, SLOW)
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


def test_counts_that_scatter_are_averaged_and_the_spread_is_told(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Counts of n - 2 and n + 2 give n and a spread of 4 / n; what repeats exactly has a spread of
    0.
    """
    library.controls.fake_noise(ctypes.c_double(2.0))
    found = collect(library, tables, launching(library, kernels))
    first_letters = [ord(name[0]) for name, _ in kernels]
    assert found.table[BETA].tolist() == first_letters
    assert found.facts["spread"] == {ALPHA: 0.0, BETA: pytest.approx(4 / np.mean(first_letters))}


def test_instructions_of_kernels_without_instrumentation_are_unknown(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Where CUPTI added no counting code, instruction counts are NaN rather than 0, and a warning
    names a kernel.
    """
    silent = kernels[3][0]
    found = collect(
        library, tables, launching(library, kernels, uninstrumented=silent), SASS, ALPHA
    )
    expected = [np.nan if name == silent else 7.0 for name, _ in kernels]
    np.testing.assert_array_equal(found.table[SASS], expected)
    assert found.table[ALPHA].notna().all()
    (sentence,) = found.doubts
    assert f"{sum(name == silent for name, _ in kernels)} kernels" in sentence
    assert silent in sentence


def refused(found: Counters) -> str:
    """The sentence of counters that could not be collected."""
    assert len(found.table) == 0
    assert found.doubts == (f"{found.facts['why']} [no-counters]",)
    return str(found.facts["why"])


def test_caches_can_be_flushed_before_every_kernel(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Every kernel finds empty caches, what empties them is not in the table, and the facts
    say so.
    """
    found = collect(
        library, tables, launching(library, kernels), ALPHA, BETA, GAMMA, caches=FLUSHED
    )
    (sentence,) = found.doubts
    assert "flushed before every kernel" in sentence
    assert found.facts["cache"] == FLUSHED
    assert found.facts["measured"] == len(found.table) == len(kernels)
    assert found.table[ALPHA].tolist() == [len(name) for name, _ in kernels]
    assert found.table[BETA].tolist() == [ord(name[0]) + COLD for name, _ in kernels]
    assert found.table[GAMMA].tolist() == [1000 * len(name) for name, _ in kernels]


def test_another_listener_rules_out_flushing(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """CUPTI tells one listener of launches: where there is another, nothing is counted, and a
    sentence names it.
    """
    library.controls.fake_other_listener()
    sentence = refused(collect(library, tables, launching(library, kernels), caches=FLUSHED))
    assert "cuptiSubscribe failed" in sentence
    assert "torch.profiler" in sentence


def test_flush_that_fails_is_told(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """An error of the driver while the caches are emptied is not hidden, though a launch cannot
    report it.
    """
    library.controls.fake_refuse_synchronize(700)
    sentence = refused(collect(library, tables, launching(library, kernels), caches=FLUSHED))
    assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in sentence


@pytest.mark.parametrize("silent", [1, 2])
def test_kernels_that_were_not_preceded_by_a_flush_are_not_taken_for_it(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel], silent: int
) -> None:
    """Where kernels come to the GPU without CUPTI telling of it, one or an even number, nothing is
    counted.
    """

    def program() -> None:
        launching(library, kernels[:-silent])()
        for name, blocks in kernels[-silent:]:
            library.controls.fake_launch_silently(name.encode(), ctypes.c_uint64(blocks))

    assert "does not report" in refused(collect(library, tables, program, caches=FLUSHED))


def test_caches_are_in_place_or_flushed() -> None:
    """Another word is refused at once, with the two that there are."""
    with pytest.raises(LevelError, match=r"'in place'.*'flushed'.*, not 'warm'"):
        xsp.measure(torch.nn.Linear(4, 4), torch.ones(2, 4), metrics="dram", caches="warm")


def test_no_privilege_is_a_sentence(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Without access to the counters there is a table without rows and a sentence with NVIDIA's
    name for it.
    """
    library.controls.fake_refuse_enable(35)
    assert "ERR_NVGPUCTRPERM" in refused(collect(library, tables, launching(library, kernels)))


def test_unsupported_gpu_is_a_sentence(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """A configuration that CUPTI cannot profile is named."""
    library.controls.fake_support(5, 1)
    assert "cmp" in refused(collect(library, tables, launching(library, kernels)))


@pytest.mark.parametrize(
    ("refusal", "function"), [("fake_refuse_start", "Start"), ("fake_refuse_decode", "DecodeData")]
)
def test_refusal_while_counting_is_a_sentence(
    library: FakeCupti,
    tables: dict[str, pd.DataFrame],
    kernels: list[Kernel],
    refusal: str,
    function: str,
) -> None:
    """What CUPTI refuses while the target runs ends the counting, not the program, and names the
    call.
    """
    getattr(library.controls, refusal)(7)
    sentence = refused(collect(library, tables, launching(library, kernels)))
    assert f"cuptiRangeProfiler{function} failed with CUPTI_ERROR_INVALID_OPERATION (7)" in sentence


def test_dropped_ranges_are_not_hidden(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Kernels whose counters CUPTI dropped make the whole collection void."""
    library.controls.fake_drop(1)
    assert f"dropped {len(kernels)} kernels" in refused(
        collect(library, tables, launching(library, kernels))
    )


def test_other_work_than_before_is_noticed(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """A target that runs one kernel more than the profile has, or the same ones in another order,
    gets no counters.
    """
    more = refused(collect(library, tables, launching(library, [*kernels, kernels[0]])))
    assert f"{len(kernels) + 1} kernels, but {len(kernels)} in an earlier run" in more
    position = next(i for i in range(1, len(kernels)) if kernels[i][1] != kernels[i - 1][1])
    swapped = list(kernels)
    swapped[position - 1 : position + 1] = swapped[position], swapped[position - 1]
    other = refused(collect(library, tables, launching(library, swapped)))
    assert f"kernel {position - 1} had {kernels[position][1]} thread blocks" in other
    assert kernels[position - 1][0] in other


def test_graphs_in_the_profile_are_refused_before_anything_runs(
    library: FakeCupti, tables: dict[str, pd.DataFrame]
) -> None:
    """If the profile shows launches of CUDA graphs, the target is not run again."""
    calls = tables["api_calls"].assign(name="cudaGraphLaunch")
    ran: list[int] = []
    found = collect(library, {**tables, "api_calls": calls}, lambda: ran.append(1))
    assert "CUDA graphs" in refused(found)
    assert ran == []


def test_several_contexts_are_refused(library: FakeCupti, tables: dict[str, pd.DataFrame]) -> None:
    """Kernels in another CUDA context would go unmeasured, so there are no counters."""
    spans = tables["spans"].copy()
    spans.loc[spans.index[spans["level"] == Level.KERNEL][-1], "context"] = 9
    assert "2 CUDA contexts" in refused(collect(library, {**tables, "spans": spans}, lambda: None))


def test_kernels_of_a_foreign_context_are_not_counted_elsewhere(
    library: FakeCupti, tables: dict[str, pd.DataFrame]
) -> None:
    """Kernels of a CUDA context that nobody knows have no counters, rather than another GPU's."""
    spans = tables["spans"].copy()
    spans.loc[spans["context"] > 0, "context"] = 9
    assert "neither this thread's nor PyTorch's" in refused(
        collect(library, {**tables, "spans": spans}, lambda: None)
    )


def test_exception_of_the_target_leaves_nothing_behind(
    library: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """What the target raises passes through, and the profiler is disabled (see fixture)."""

    def program() -> None:
        library.launch(*kernels[0])
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        collect(library, tables, program)


def test_no_kernels_is_a_sentence(library: FakeCupti, tables: dict[str, pd.DataFrame]) -> None:
    """A profile without the KERNEL level says so where counters were asked for."""
    spans = tables["spans"]
    found = collect(
        library, {**tables, "spans": spans[spans["level"] < Level.KERNEL]}, lambda: None
    )
    assert "KERNEL level" in refused(found)


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
