"""Hardware counters over a CUPTI that behaves like the real one, and the plan and the formulas around them."""

from __future__ import annotations

import ctypes
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("cupti.cupti", reason="cupti-python names the launch functions")

import xsp
from xsp.analysis.counters import FORMULAS, counted_work
from xsp.analysis.distinct import planned, shared, spread
from xsp.analysis.sequence import kernel_sequence
from xsp.capture import TABLES
from xsp.counting import Counters, Gpu, counted
from xsp.driver import Executor
from xsp.errors import LevelError
from xsp.levels._native.launches import Watch
from xsp.levels.cupti import CuptiLibrary
from xsp.levels.metrics import GROUPS, chosen, parse_metrics
from xsp.levels.range_profiler import MetricHost
from xsp.target import target_of

SOURCE = Path(__file__).parent / "native" / "fake_range_profiler.c"
ROOT = Path(__file__).parent.parent
CAPTURES = ROOT / "examples" / "captures"
CONTEXT, OTHER_CONTEXT = 77, 78
LAUNCH_KERNEL, GRAPH_LAUNCH = 307, 514
ALPHA, BETA, GAMMA, SLOW = (f"unit__{name}.sum" for name in ("alpha", "beta", "gamma", "slow"))


class FakeCupti(CuptiLibrary):
    """The fake library with its test-only functions."""

    @property
    def controls(self) -> ctypes.CDLL:
        """Functions named `fake_...`."""
        return self._library

    def launch(self, kernel: str, context: int = CONTEXT, cbid: int = LAUNCH_KERNEL) -> None:
        """What a program does to run a kernel."""
        self.controls.fake_launch(kernel.encode(), ctypes.c_void_p(context), cbid)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, compiled once."""
    target = tmp_path_factory.mktemp("cupti") / "libcupti.so.13"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Werror", str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture
def library(compiled: Path) -> Iterator[FakeCupti]:
    """The fake library in its first state; no profiler, host object or subscriber may be left by a test."""
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
    return {name: prof.table(name) for name in TABLES}


@pytest.fixture(scope="module")
def names(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Names of that capture's kernels in the order of their launches."""
    return list(kernel_sequence(tables)["name"])


def collect(
    library: FakeCupti, tables: dict[str, pd.DataFrame], target: Callable[[], object], *metrics: str
) -> Counters:
    """Counters of a target in the fake library."""
    executor = Executor(target_of(target, (), {}))
    return counted(executor, tables, metrics or (ALPHA, BETA), False, lambda: Gpu.of(library, 0, CONTEXT))


def launching(library: FakeCupti, names: list[str]) -> Callable[[], None]:
    """A program that runs these kernels."""

    def program() -> None:
        for name in names:
            library.launch(name)

    return program


# ---- which kernels are measured ----


def test_repeated_kernels_are_measured_twice_others_once(tables: dict[str, pd.DataFrame]) -> None:
    """Of each distinct kernel the first launch is measured, and the last of those that repeat, no matter how many."""
    plan = planned(kernel_sequence(tables), tables)
    for key in np.unique(plan.keys):
        positions = np.flatnonzero(plan.keys == key)
        assert set(positions[plan.wanted[positions]]) == {positions[0], positions[-1]}
        assert set(plan.kernels[positions]) == {plan.kernels[positions[0]]}
    assert 2 * len(plan.measured) < len(plan.keys)


def test_other_shapes_are_another_kernel(tables: dict[str, pd.DataFrame]) -> None:
    """A launch in a layer with other shapes is measured on its own, even if the kernel and its grid are the same."""
    sequence = kernel_sequence(tables)
    before = planned(sequence, tables)
    position = before.second[0]
    layers = tables["layers"].copy()
    layers.loc[sequence["layer"][position], "input_shapes"] = "[[1, 2, 3]]"
    after = planned(sequence, {**tables, "layers": layers})
    assert after.keys[position] != after.keys[before.first[position]]
    assert position in after.measured


def test_equal_kernels_share_the_values_of_the_first(tables: dict[str, pd.DataFrame]) -> None:
    """A kernel that was not measured has the values of the position in `sample`, which was."""
    plan = planned(kernel_sequence(tables), tables)
    values = plan.measured[:, None] * [1.0, -1.0]
    table = shared(plan, [ALPHA, BETA], values)
    assert list(table.columns) == ["position", "kernel", "sample", ALPHA, BETA]
    assert (table[ALPHA] == table["sample"]).all()
    assert (table[BETA] == -table["sample"]).all()
    own = table[plan.wanted]
    assert (own["sample"] == own["position"]).all()
    assert (plan.keys[table["sample"]] == plan.keys).all()


def test_spread_is_how_far_equal_launches_are_apart(tables: dict[str, pd.DataFrame]) -> None:
    """Launches of equal kernels that count 90 and 110 give a spread of 0.2; a metric that counts nothing gives none."""
    plan = planned(kernel_sequence(tables), tables)
    again = np.isin(plan.measured, plan.second)
    values = np.stack([np.where(again, 110.0, 90.0), np.full(len(again), 5.0), np.zeros(len(again))], axis=1)
    assert spread(plan, [ALPHA, BETA, GAMMA], values) == pytest.approx({ALPHA: 0.2, BETA: 0.0, GAMMA: None})


# ---- which metrics are collected ----


def test_groups_and_raw_names_can_be_mixed() -> None:
    """Metrics can be given as one string or several, named twice, as groups and as CUPTI's names."""
    assert parse_metrics("flops, dram,dram") == ("flops", "dram")
    assert parse_metrics(["occupancy", ALPHA]) == ("occupancy", ALPHA)
    assert parse_metrics(()) == ()


@pytest.mark.parametrize("wrong", ["flop", 7])
def test_what_cannot_be_a_metric_is_refused_at_once(wrong: Any) -> None:
    """A name that is neither a group nor of CUPTI's form is refused before anything runs, with what there is."""
    with pytest.raises(LevelError, match=f"{wrong}.*flops, dram, occupancy, tensor, l2"):
        parse_metrics([wrong])


def test_metrics_that_exclude_each_other_go_into_two_runs(host: MetricHost) -> None:
    """Metrics that together need two passes are measured in two runs of one pass each, which is ten times faster."""
    choice = chosen([ALPHA, BETA, GAMMA], host)
    assert [one.metrics for one in choice.configurations] == [(ALPHA, BETA), (GAMMA,)]
    assert choice.passes == 2


def test_metric_of_several_passes_is_measured_alone(host: MetricHost) -> None:
    """A metric that needs two passes by itself does not make the others be measured twice."""
    choice = chosen([ALPHA, SLOW, BETA], host)
    assert [(one.metrics, one.passes) for one in choice.configurations] == [((ALPHA, BETA), 1), ((SLOW,), 2)]


def test_metric_that_the_chip_lacks_is_named(host: MetricHost) -> None:
    """An unknown metric is named with near ones, a counter without a rollup with a full name; the rest is collected."""
    choice = chosen(["unit__alpa.sum", "unit__beta", "dram", GAMMA], host)
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
    """The real libcupti knows all metrics of all groups for an H100, in at most five runs for what is usually asked."""
    choice = chosen(("flops", "dram", "occupancy"), hopper)
    assert choice.missing == ()
    assert {one.passes for one in choice.configurations} == {1}
    assert len(choice.configurations) <= 5
    everything = counted_work(
        pd.DataFrame({"position": [0]} | dict.fromkeys(chosen(tuple(GROUPS), hopper).metrics, 1.0))
    )
    assert everything.notna().all(axis=None)


def test_the_real_library_refuses_what_the_chip_lacks(hopper: MetricHost) -> None:
    """The real libcupti and this code agree on the structures: a good metric has passes, a bad one is refused."""
    dram = hopper.configured(["dram__bytes_read.sum", "dram__bytes_write.sum"])
    assert dram is not None
    assert dram.passes == 1
    assert hopper.configured(["dram__bytes_red.sum"]) is None


# ---- measuring ----


def test_every_kernel_has_its_own_values(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Values are those of the launch they stand beside, over several runs, and the facts say what was done."""
    found = collect(library, tables, launching(library, names), ALPHA, BETA, GAMMA)
    assert found.doubts == ()
    assert found.table["position"].tolist() == list(range(len(names)))
    assert found.table["kernel"].tolist() == kernel_sequence(tables)["kernel"].tolist()
    assert found.table[ALPHA].tolist() == [len(name) for name in names]
    assert found.table[BETA].tolist() == [ord(name[0]) for name in names]
    assert found.table[GAMMA].tolist() == [1000 * len(name) for name in names]
    facts = found.facts
    assert (facts["metrics"], facts["passes"], facts["runs"]) == ([ALPHA, BETA, GAMMA], 2, 2)
    assert facts["measured"] + facts["shared"] == len(names)
    assert facts["spread"] == {ALPHA: 0.0, BETA: 0.0, GAMMA: 0.0}
    assert (facts["cache"], facts["why"]) == ("in place", None)


def refused(found: Counters) -> str:
    """The sentence of counters that could not be collected."""
    assert len(found.table) == 0
    assert found.doubts == (f"{found.facts['why']} [no-counters]",)
    return str(found.facts["why"])


def test_no_privilege_is_a_sentence(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Without access to the counters there is a table without rows and a sentence with NVIDIA's name for it."""
    library.controls.fake_refuse_enable(35)
    found = collect(library, tables, launching(library, names))
    assert "ERR_NVGPUCTRPERM" in refused(found)


def test_unsupported_gpu_is_a_sentence(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """A configuration that CUPTI cannot profile is named."""
    library.controls.fake_support(5, 1)
    assert "cmp" in refused(collect(library, tables, launching(library, names)))


@pytest.mark.parametrize(
    ("refusal", "function"), [("fake_refuse_start", "Start"), ("fake_refuse_decode", "DecodeData")]
)
def test_refusal_at_a_launch_is_a_sentence(
    library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str], refusal: str, function: str
) -> None:
    """What CUPTI refuses while the target runs ends the counting, not the program, and is told with its launch."""
    getattr(library.controls, refusal)(7)
    sentence = refused(collect(library, tables, launching(library, names)))
    assert re.search(rf"around launch \d+, cuptiRangeProfiler{function} failed with CUPTI_ERROR_INVALID_OP", sentence)


def test_dropped_ranges_are_not_hidden(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Counters that CUPTI dropped make the whole collection void."""
    library.controls.fake_drop(1)
    assert "dropped" in refused(collect(library, tables, launching(library, names)))


def test_other_kernels_than_before_are_noticed(
    library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]
) -> None:
    """A target that runs other kernels, or one more, than the profile has gets no counters."""
    other = [*names[:5], "another_kernel", *names[6:]]
    assert "launch 5 was of another_kernel" in refused(collect(library, tables, launching(library, other)))
    assert f"launched {len(names) + 1} kernels" in refused(
        collect(library, tables, launching(library, [*names, names[0]]))
    )


def test_another_context_is_noticed(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Kernels in another CUDA context would go unmeasured, so there are no counters."""

    def program() -> None:
        launching(library, names[:-1])()
        library.launch(names[-1], context=OTHER_CONTEXT)

    assert "1 in other CUDA contexts" in refused(collect(library, tables, program))


def test_graph_launch_is_noticed(library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """A CUDA graph's kernels cannot be told apart, so there are no counters."""

    def program() -> None:
        launching(library, names)()
        library.launch("", cbid=GRAPH_LAUNCH)

    assert "1 of CUDA graphs" in refused(collect(library, tables, program))


def test_graphs_in_the_profile_are_refused_before_anything_runs(
    library: FakeCupti, tables: dict[str, pd.DataFrame]
) -> None:
    """If the profile shows launches of CUDA graphs, the target is not run again."""
    calls = tables["api_calls"].assign(name="cudaGraphLaunch")
    ran: list[int] = []
    found = collect(library, {**tables, "api_calls": calls}, lambda: ran.append(1))
    assert "CUDA graphs" in refused(found)
    assert ran == []


def test_launches_on_two_threads_at_once_are_noticed(
    library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]
) -> None:
    """Where another thread launches during a launch, which kernel was measured is not certain."""

    def program() -> None:
        library.controls.fake_launch_begins(names[0].encode(), ctypes.c_void_p(CONTEXT), LAUNCH_KERNEL)
        rest = threading.Thread(target=launching(library, names[1:]))
        rest.start()
        rest.join()

    assert "at the same time" in refused(collect(library, tables, program))


def test_exception_of_the_target_leaves_nothing_behind(
    library: FakeCupti, tables: dict[str, pd.DataFrame], names: list[str]
) -> None:
    """What the target raises passes through; the profiler is disabled and the subscriber gone (see fixture)."""

    def program() -> None:
        library.launch(names[0])
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        collect(library, tables, program)


def test_no_kernels_is_a_sentence(library: FakeCupti, tables: dict[str, pd.DataFrame]) -> None:
    """A profile without the KERNEL level says so where counters were asked for."""
    spans = tables["spans"]
    found = collect(library, {**tables, "spans": spans[spans["level"] < 3]}, lambda: None)
    assert "KERNEL level" in refused(found)


def test_profile_without_counters_says_why_and_is_saved(tmp_path: Path) -> None:
    """Where there is no GPU a profile that asks for counters is made all the same, and tells what is missing."""
    prof = xsp.measure(torch.nn.Linear(4, 4), torch.ones(2, 4), iterations=2, metrics="dram,flops", progress=False)
    assert any(sentence.startswith("hardware counters were not collected") for sentence in prof.warnings)
    assert xsp.load(prof.save(tmp_path / "a.xsp")).table("counters").columns.tolist() == [
        "position",
        "kernel",
        "sample",
    ]
    with pytest.raises(LevelError, match="'bandwidth'"):
        xsp.measure(torch.nn.Linear(4, 4), torch.ones(2, 4), metrics="bandwidth")


def test_native_part_matches_its_python_side(tmp_path: Path) -> None:
    """The structure that C fills and the one that Python reads have the same size and fields in the same places."""
    fields = [name for name, *_ in Watch._fields_]
    places = " ".join(f'printf(" %zu", offsetof(struct watch, {field}));' for field in fields)
    program = f"""#include "{ROOT / "xsp" / "levels" / "_native" / "launches.c"}"
        #include <stddef.h>
        int main(void) {{ printf("%zu", sizeof(struct watch)); {places} }}"""
    command = ["gcc", "-xc", "-std=gnu11", "-D_GNU_SOURCE", "-", "-lpthread", "-o", str(tmp_path / "layout")]
    subprocess.run(command, input=program, text=True, check=True)
    written = subprocess.run([str(tmp_path / "layout")], capture_output=True, text=True, check=True).stdout
    expected = [ctypes.sizeof(Watch), *(getattr(Watch, field).offset for field in fields)]
    assert [int(number) for number in written.split()] == expected


# ---- from counters to work ----


def table_of(**columns: float) -> pd.DataFrame:
    """A `counters` table with one row."""
    return pd.DataFrame(
        {"position": [0], "kernel": [0], "sample": [0], **{name: [value] for name, value in columns.items()}}
    )


def test_fused_multiply_add_is_two_operations() -> None:
    """FLOPs per precision are additions, multiplications and twice the fused multiply-adds, tensor cores apart."""
    instructions = {
        f"smsp__sass_thread_inst_executed_op_{letter}{operation}_pred_on.sum": value
        for letter, scale in (("d", 1.0), ("f", 10.0), ("h", 100.0))
        for operation, value in (("add", scale), ("mul", 2 * scale), ("fma", 3 * scale))
    }
    tensor = dict.fromkeys(FORMULAS["tensor_fp16"][0], 1000.0)
    row = counted_work(table_of(**instructions, **tensor)).iloc[0]
    assert (row["flops_fp64"], row["flops_fp32"], row["flops_fp16"]) == (9, 90, 900)
    assert row["flops_tensor"] == 3000
    assert row["flops"] == 3999
    assert row["precision"] == "fp16"


def test_total_is_unknown_where_a_part_is() -> None:
    """Without the tensor cores' counters the total is unknown, as bytes are without theirs: never too low, never 0."""
    instructions = {name: 1.0 for precision in ("fp64", "fp32", "fp16") for name in FORMULAS[precision][0]}
    row = counted_work(table_of(**instructions)).iloc[0]
    assert row["flops_fp32"] == 4
    assert np.isnan(row[["flops", "flops_tensor", "dram_read_bytes", "l2_bytes", "occupancy"]].astype(float)).all()


def test_occupancy_is_a_share() -> None:
    """CUPTI's percentage becomes a number from 0 to 1, and bytes stay bytes."""
    row = counted_work(
        table_of(**{"sm__warps_active.avg.pct_of_peak_sustained_active": 25.0, "dram__bytes_op_read.sum": 64.0})
    ).iloc[0]
    assert row["occupancy"] == 0.25
    assert row["dram_read_bytes"] == 64
    assert row["precision"] == ""
