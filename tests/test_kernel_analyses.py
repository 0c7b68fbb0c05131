"""The analyses of kernels and library calls, checked against values that plain pandas recomputes
from the profile's own tables.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture, gpu_profile
from scipy.stats import trim_mean
from times_by_hand import (
    H100_DRAM,
    H100_FP16,
    H100_FP32,
    NAMES,
    deepest_kernels,
    last_run,
    positions,
)

import xsp
from xsp import analysis

# ---- A8 to A10: kernels ----


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_in_the_order_of_their_launches(
    name: str, profiles: dict[str, xsp.Profile]
) -> None:
    """A8 has each kernel of a run once, none pooled, in launch order, with its layer and its
    trimmed mean.
    """
    prof = profiles[name]
    kernels = positions(prof)
    last = last_run(kernels)
    table = analysis.kernel_information(prof)
    assert table["index"].tolist() == list(range(len(last)))
    assert table["name"].tolist() == last["name"].astype(str).tolist()
    assert table["layer"].tolist() == prof.table("layers").loc[last["layer"], "name"].tolist()
    index = analysis.layer_information(prof).set_index(["name", "phase"])["index"]
    layers = prof.table("layers").loc[last["layer"], ["name", "phase"]]
    assert table["layer_index"].tolist() == index.loc[pd.MultiIndex.from_frame(layers)].tolist()
    same = kernels.pivot(index="run", columns="position", values="config")
    assert (same == same.iloc[-1]).all().all(), "the bundled runs repeat each other"
    durations = kernels.pivot(index="run", columns="position", values="duration_ns")
    np.testing.assert_allclose(
        table["latency_ms"], trim_mean(durations.to_numpy(), 0.2, axis=0) / 1e6
    )


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_rated_against_their_own_precision(
    name: str, profiles: dict[str, xsp.Profile]
) -> None:
    """A8 and A9: intensity and throughput by their definitions, bound by memory iff below the
    precision's ridge.
    """
    table = analysis.kernel_information(profiles[name])
    traffic = table["dram_read_bytes"] + table["dram_write_bytes"]
    some = table[table["flops"].notna() & (traffic > 0)]
    np.testing.assert_allclose(
        some["arithmetic_intensity"], some["flops"] / traffic.loc[some.index]
    )
    np.testing.assert_allclose(some["flops_per_s"], some["flops"] / (some["latency_ms"] / 1e3))
    for precision, peak in (("fp16", H100_FP16), ("fp32", H100_FP32)):
        mine = some[some["precision"] == precision]
        assert len(mine)
        assert (mine["memory_bound"] == (mine["arithmetic_intensity"] < peak / H100_DRAM)).all()
    unknown = table[table["flops"].isna()]
    assert unknown["memory_bound"].isna().all()
    assert unknown["arithmetic_intensity"].isna().all()
    roofline = analysis.kernel_roofline(profiles[name])
    pd.testing.assert_frame_equal(roofline, table[roofline.columns])


@pytest.mark.parametrize("name", NAMES)
def test_kernels_by_name_counts_all(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A10 counts every kernel of a run, sums its latency and gives its share of the unprofiled
    latency.
    """
    prof = profiles[name]
    each = analysis.kernel_information(prof)
    table = analysis.kernels_by_name(prof).set_index("name")
    last = last_run(positions(prof))
    assert table["count"].to_dict() == last["name"].astype(str).value_counts().to_dict()
    sums = each.groupby("name")
    np.testing.assert_allclose(table["latency_ms"], sums["latency_ms"].sum().reindex(table.index))
    np.testing.assert_allclose(table["share"], table["latency_ms"] / prof.latency_ms)
    np.testing.assert_allclose(table["flops"], sums["flops"].sum(min_count=1).reindex(table.index))
    each["weighted"] = each["occupancy"] * each["latency_ms"]
    weighted = each.groupby("name")["weighted"].sum() / sums["latency_ms"].sum()
    np.testing.assert_allclose(table["occupancy"], weighted.reindex(table.index))
    assert table["latency_ms"].is_monotonic_decreasing


# ---- A11 to A14: layers and kernels ----


@pytest.mark.parametrize("name", NAMES)
def test_kernels_by_layer_sums_each_layer(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A11 sums the kernels of each layer, copies and sets left out, two of one name in one layer
    counted twice.
    """
    prof = profiles[name]
    each = analysis.kernel_information(prof)
    table = analysis.kernels_by_layer(prof).set_index("layer_index")
    groups = each.groupby("layer_index")
    assert table["kernels"].tolist() == groups.size().tolist()
    assert table["kernels"].sum() == len(last_run(positions(prof)))
    np.testing.assert_allclose(table["kernel_latency_ms"], groups["latency_ms"].sum())
    for column in ("flops", "dram_read_bytes", "dram_write_bytes"):
        np.testing.assert_allclose(table[column], groups[column].sum(min_count=1))
    np.testing.assert_allclose(
        table["flops_per_s"], table["flops"] / (table["kernel_latency_ms"] / 1e3)
    )
    layers = analysis.layer_information(prof).set_index("index")
    pd.testing.assert_series_equal(
        table["layer_latency_ms"], layers["latency_ms"].reindex(table.index), check_names=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_layer_metrics_and_roofline_agree_with_the_kernels(
    name: str, profiles: dict[str, xsp.Profile]
) -> None:
    """A12 and A14 have every layer; those with kernels as in A11, those without did nothing on the
    device.
    """
    prof = profiles[name]
    by_layer = analysis.kernels_by_layer(prof).set_index("layer_index")
    metrics = analysis.layer_metrics(prof).set_index("layer_index")
    roofline = analysis.layer_roofline(prof).set_index("layer_index")
    assert len(metrics) == len(roofline) == len(analysis.layer_information(prof))
    work = ["flops", "dram_read_bytes", "dram_write_bytes"]
    pd.testing.assert_frame_equal(metrics.loc[by_layer.index, work], by_layer[work])
    assert (metrics.drop(by_layer.index)[work] == 0).all(axis=None)
    rated = ["arithmetic_intensity", "flops_per_s", "precision", "memory_bound"]
    pd.testing.assert_frame_equal(roofline.loc[by_layer.index, rated], by_layer[rated])
    np.testing.assert_allclose(
        roofline.loc[by_layer.index, "latency_ms"], by_layer["kernel_latency_ms"]
    )


# ---- library calls ----


@pytest.mark.parametrize("name", NAMES)
def test_library_calls_have_both_times(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Host time of a call is from the rung that ends with LIBRARY, GPU time from the kernels that
    it launched.
    """
    prof = profiles[name]
    spans, recorded = prof.spans, prof.table("library_calls")
    own = spans[(spans["level"] == "LIBRARY") & (spans["rung"] == "M/L/Lib")]
    host = own.pivot(index="run", columns="detail", values="duration_ns")
    table = analysis.library_calls(prof)
    deepest = spans[(spans["level"] == "LIBRARY") & (spans["rung"] == "M/L/Lib/K")]
    first = deepest[deepest["run"] == deepest["run"].min()].sort_values("start_ns", kind="stable")[
        "detail"
    ]
    assert table["name"].tolist() == recorded.loc[first, "name"].tolist()
    assert table["arguments"].tolist() == recorded.loc[first, "arguments"].tolist()
    np.testing.assert_allclose(
        table["host_ms"], trim_mean(host[first].to_numpy(), 0.2, axis=0) / 1e6
    )
    kernels = deepest_kernels(prof)
    # A kernel may begin before the one before it has ended; that time counts once.
    kernels = kernels[kernels["call"] >= 0].sort_values(["run", "call", "start_ns"], kind="stable")
    reached = (
        kernels.groupby(["run", "call"])["end_ns"]
        .cummax()
        .groupby([kernels["run"], kernels["call"]])
        .shift()
    )
    begin = np.fmax(kernels["start_ns"], reached)
    own_time = (kernels["end_ns"] - begin).clip(lower=0)
    launched = own_time.groupby([kernels["run"], kernels["call"]]).sum().unstack(fill_value=0)
    busy = launched.reindex(columns=first, fill_value=0).to_numpy()
    np.testing.assert_allclose(table["gpu_ms"], trim_mean(busy, 0.2, axis=0) / 1e6)
    by_api = analysis.library_by_api(prof).set_index("name")
    assert by_api["count"].to_dict() == recorded["name"].value_counts().to_dict()
    np.testing.assert_allclose(
        by_api["gpu_ms"], table.groupby("name")["gpu_ms"].sum().reindex(by_api.index)
    )
    np.testing.assert_allclose(by_api["share"], by_api["gpu_ms"] / prof.latency_ms)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_by_library_call_lead_to_both(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Every kernel that a library call launched is there once, with the call it belongs to."""
    prof = profiles[name]
    table = analysis.kernels_by_library_call(prof)
    last = last_run(positions(prof))
    mine = last[last["call"] >= 0]
    assert table["index"].tolist() == mine["position"].tolist()
    assert table["kernel"].tolist() == mine["name"].astype(str).tolist()
    calls = analysis.library_calls(prof).set_index("index")
    assert calls.loc[table["library_index"], "name"].tolist() == table["library_call"].tolist()
    assert calls.loc[table["library_index"], "layer"].tolist() == table["layer"].tolist()
    assert (
        table["library_call"].tolist()
        == prof.table("library_calls").loc[mine["call"], "name"].tolist()
    )


# ---- control flow that differs, several calls ----


def test_runs_that_differ_are_aligned_by_kernel_and_layer() -> None:
    """A kernel that one run has before the others does not shift the durations of those
    behind it.
    """
    capture = gpu_capture()
    spans, api = capture.tables["spans"], capture.tables["api_calls"]
    runs = spans.loc[spans["level"] == 3, "run"].unique()
    extra = spans[(spans["run"] == runs[0]) & (spans["level"] == 3) & (spans["detail"] == 2)].copy()
    extra["start_ns"] -= 550_000
    extra["correlation_id"] = 99
    launch = api[(api["run"] == runs[0]) & (api["correlation_id"] == 3)].assign(
        correlation_id=99, start_ns=0
    )
    changed = {
        "spans": pd.concat([spans, extra], ignore_index=True),
        "api_calls": pd.concat([api, launch], ignore_index=True),
    }
    table = analysis.kernel_information(
        xsp.Profile(replace(capture, tables={**capture.tables, **changed}))
    )
    assert table["latency_ms"].tolist() == pytest.approx([0.05, 0.25, 0.10, 0.15])


def test_copies_and_sets_are_time_but_no_kernels() -> None:
    """A set belongs to its layer's latency and to its library call's GPU time, and is not among the
    kernels.
    """
    prof = gpu_profile()
    assert "memset" not in analysis.kernel_information(prof)["name"].tolist()
    latency = analysis.layer_latency(prof).set_index("name")["latency_ms"]
    assert latency["fc"] == pytest.approx(0.16)
    assert analysis.library_calls(prof)["gpu_ms"].tolist() == pytest.approx([0.30, 0.16])
    assert analysis.kernels_by_layer(prof)["kernel_latency_ms"].tolist() == pytest.approx(
        [0.30, 0.10, 0.15]
    )
