"""Hardware counters that cannot be had are a sentence, and leave the program as it was."""

from __future__ import annotations

import pandas as pd
import pytest
from fake_counters import FakeCupti, Kernel, collect, launching, refused

from xsp.types import Level

pytest_plugins = ["fake_counters"]


def test_no_privilege_is_a_sentence(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Without access to the counters there is a table without rows and a sentence with NVIDIA's
    name for it.
    """
    cupti.controls.fake_refuse_enable(35)
    assert "ERR_NVGPUCTRPERM" in refused(collect(cupti, tables, launching(cupti, kernels)))


def test_unsupported_gpu_is_a_sentence(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """A configuration that CUPTI cannot profile is named."""
    cupti.controls.fake_support(5, 1)
    assert "cmp" in refused(collect(cupti, tables, launching(cupti, kernels)))


@pytest.mark.parametrize(
    ("refusal", "function"), [("fake_refuse_start", "Start"), ("fake_refuse_decode", "DecodeData")]
)
def test_refusal_while_counting_is_a_sentence(
    cupti: FakeCupti,
    tables: dict[str, pd.DataFrame],
    kernels: list[Kernel],
    refusal: str,
    function: str,
) -> None:
    """What CUPTI refuses while the target runs ends the counting, not the program, and names the
    call.
    """
    getattr(cupti.controls, refusal)(7)
    sentence = refused(collect(cupti, tables, launching(cupti, kernels)))
    assert f"cuptiRangeProfiler{function} failed with CUPTI_ERROR_INVALID_OPERATION (7)" in sentence


def test_dropped_ranges_are_not_hidden(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """Kernels whose counters CUPTI dropped make the whole collection void."""
    cupti.controls.fake_drop(1)
    assert f"dropped {len(kernels)} kernels" in refused(
        collect(cupti, tables, launching(cupti, kernels))
    )


def test_other_work_than_before_is_noticed(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """A target that runs one kernel more than the profile has, or the same ones in another order,
    gets no counters.
    """
    more = refused(collect(cupti, tables, launching(cupti, [*kernels, kernels[0]])))
    assert f"{len(kernels) + 1} kernels, but {len(kernels)} in an earlier run" in more
    position = next(i for i in range(1, len(kernels)) if kernels[i][1] != kernels[i - 1][1])
    swapped = list(kernels)
    swapped[position - 1 : position + 1] = swapped[position], swapped[position - 1]
    other = refused(collect(cupti, tables, launching(cupti, swapped)))
    assert f"kernel {position - 1} had {kernels[position][1]} thread blocks" in other
    assert kernels[position - 1][0] in other


def test_graphs_in_the_profile_are_refused_before_anything_runs(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame]
) -> None:
    """If the profile shows launches of CUDA graphs, the target is not run again."""
    calls = tables["api_calls"].assign(name="cudaGraphLaunch")
    ran: list[int] = []
    found = collect(cupti, {**tables, "api_calls": calls}, lambda: ran.append(1))
    assert "CUDA graphs" in refused(found)
    assert ran == []


def test_several_contexts_are_refused(cupti: FakeCupti, tables: dict[str, pd.DataFrame]) -> None:
    """Kernels in another CUDA context would go unmeasured, so there are no counters."""
    spans = tables["spans"].copy()
    spans.loc[spans.index[spans["level"] == Level.KERNEL][-1], "context"] = 9
    assert "2 CUDA contexts" in refused(collect(cupti, {**tables, "spans": spans}, lambda: None))


def test_kernels_of_a_foreign_context_are_not_counted_elsewhere(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame]
) -> None:
    """Kernels of a CUDA context that nobody knows have no counters, rather than another GPU's."""
    spans = tables["spans"].copy()
    spans.loc[spans["context"] > 0, "context"] = 9
    assert "neither this thread's nor PyTorch's" in refused(
        collect(cupti, {**tables, "spans": spans}, lambda: None)
    )


def test_exception_of_the_target_leaves_nothing_behind(
    cupti: FakeCupti, tables: dict[str, pd.DataFrame], kernels: list[Kernel]
) -> None:
    """What the target raises passes through, and the profiler is disabled (see fixture)."""

    def program() -> None:
        cupti.launch(*kernels[0])
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        collect(cupti, tables, program)


def test_no_kernels_is_a_sentence(cupti: FakeCupti, tables: dict[str, pd.DataFrame]) -> None:
    """A profile without the KERNEL level says so where counters were asked for."""
    spans = tables["spans"]
    found = collect(cupti, {**tables, "spans": spans[spans["level"] < Level.KERNEL]}, lambda: None)
    assert "KERNEL level" in refused(found)
