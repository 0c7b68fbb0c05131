"""The analyses of a profile, checked against values that plain pandas recomputes from the profile's
own tables.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture, gpu_profile
from scipy.stats import trim_mean

import xsp
from xsp import analysis

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
NAMES = ("resnet50", "transformer", "train_step")
H100_FP16, H100_FP32, H100_DRAM = 989.4e12, 66.9e12, 3350e9


@cache
def deepest_kernels(prof: xsp.Profile) -> pd.DataFrame:
    """Kernels, copies and sets of the deepest rung's runs by launch, with their kernel's, layer's
    and call's row.
    """
    spans = prof.spans.set_index("span_id", drop=False)
    kernels = spans[spans["level"] == "KERNEL"].copy()
    above = spans.loc[kernels["parent_id"]]
    kernels["call"] = np.where(above["level"] == "LIBRARY", above["detail"], -1)
    while (above["level"] != "LAYER").any():
        above = spans.loc[np.where(above["level"] == "LAYER", above["span_id"], above["parent_id"])]
    kernels["layer"], kernels["layer_span"] = (
        above["detail"].to_numpy(),
        above["span_id"].to_numpy(),
    )
    facts = prof.table("kernels").loc[kernels["detail"]]
    kernels["kind"], kernels["config"] = facts["kind"].to_numpy(), kernels["detail"]
    launches = prof.table("api_calls").groupby(["run", "correlation_id"])["start_ns"].min()
    kernels["launch"] = launches.loc[
        pd.MultiIndex.from_frame(kernels[["run", "correlation_id"]])
    ].to_numpy()
    return kernels.sort_values(["run", "launch", "start_ns"], kind="stable").reset_index(drop=True)


def positions(prof: xsp.Profile) -> pd.DataFrame:
    """Rows of `deepest_kernels` that are kernels, with their position in the run."""
    kernels = deepest_kernels(prof)
    kernels = kernels[kernels["kind"] == "kernel"]
    return kernels.assign(position=kernels.groupby("run").cumcount())


def last_run(kernels: pd.DataFrame) -> pd.DataFrame:
    """The kernels of the last run, by position."""
    result: pd.DataFrame = kernels[kernels["run"] == kernels["run"].max()].reset_index(drop=True)
    return result


def timeline_by_layer(prof: xsp.Profile) -> pd.DataFrame:
    """Busy and idle ns of each layer and run on the corrected timeline: a walk along the device's
    time. The layer "" is the time in none.
    """
    corrected = prof.corrected
    assert corrected is not None
    spans = prof.spans
    for column in ("start_ns", "duration_ns"):
        spans.loc[corrected["row"], column] = corrected[column].to_numpy()
    spans = spans.loc[corrected["row"]].set_index("span_id", drop=False)
    layers = prof.table("layers")
    charged: dict[tuple[str, str, int], list[float]] = {}
    for run, kernels in (
        (int(str(one)), part) for one, part in deepest_kernels(prof).groupby("run")
    ):
        mine = spans[spans["run"] == run]
        call = mine[mine["level"] == "MODEL"].iloc[0]
        walk = HostWalk(mine[mine["level"] == "LAYER"], layers)
        reached = int(call["start_ns"])
        times = mine.loc[kernels["span_id"], ["start_ns", "duration_ns"]].to_numpy()
        entered = mine.loc[kernels["layer_span"], "start_ns"].to_numpy()
        facts = layers.loc[kernels["layer"], ["name", "phase"]].to_numpy()
        for at in np.argsort(times[:, 0], kind="stable"):
            start, end = int(times[at, 0]), int(times[at].sum())
            own = charged.setdefault((*facts[at], run), [0.0, 0.0])
            own[0] += max(end - max(start, reached), 0)
            if start > reached:
                cut = min(max(int(entered[at]), reached), start)
                own[1] += start - cut
                walk.charge(charged, run, reached, cut)
            reached = max(reached, end)
        walk.charge(charged, run, reached, int(call["start_ns"] + call["duration_ns"]))
    index = pd.MultiIndex.from_tuples(charged, names=["layer", "phase", "run"])
    return pd.DataFrame(list(charged.values()), index=index, columns=["busy", "idle"])


class HostWalk:
    """Which layer the host is in: of all open ones the one that began last."""

    def __init__(self, spans: pd.DataFrame, layers: pd.DataFrame) -> None:
        inside = layers.loc[spans["detail"]]
        real = (inside["name"] != "(outside layers)").to_numpy()
        starts = spans["start_ns"].to_numpy()[real]
        ends = starts + spans["duration_ns"].to_numpy()[real]
        keys = list(zip(inside["name"][real], inside["phase"][real], strict=True))
        self.edges = np.unique(np.concatenate([starts, ends]))
        self.owner: list[tuple[str, str]] = [("", "")] * len(self.edges)
        for layer in np.argsort(starts, kind="stable"):
            first, last = np.searchsorted(self.edges, [starts[layer], ends[layer]])
            self.owner[first:last] = [keys[layer]] * (last - first)

    def charge(
        self, charged: dict[tuple[str, str, int], list[float]], run: int, begin: int, end: int
    ) -> None:
        """Idle time from `begin` to `end`, to whom it belongs."""
        while begin < end:
            at = int(np.searchsorted(self.edges, begin, side="right"))
            until = min(end, int(self.edges[at])) if at < len(self.edges) else end
            key = self.owner[at - 1] if at else ("", "")
            charged.setdefault((*key, run), [0.0, 0.0])[1] += until - begin
            begin = until


def called_layers(prof: xsp.Profile) -> pd.DataFrame:
    """Rows of `layers` that the runs have spans of."""
    spans = prof.spans
    return prof.table("layers").loc[sorted(spans.loc[spans["level"] == "LAYER", "detail"].unique())]


# ---- A1 and A15: models ----


@pytest.mark.parametrize("name", NAMES)
def test_model_information_is_of_unprofiled_runs(
    name: str, profiles: dict[str, xsp.Profile]
) -> None:
    """A1 is the trimmed mean of the runs at rung M, and throughput the batch over it."""
    prof = profiles[name]
    latency = prof.runs.query("rung == 'M'")["latency_ns"]
    [row] = analysis.model_information(prof).to_dict("records")
    assert row["latency_ms"] == pytest.approx(trim_mean(latency, 0.2) / 1e6)
    assert row["rounds"] == len(latency)
    batch = prof.table("calls")["batch_size"].iloc[0]
    if batch > 0:
        assert row["batch_size"] == batch
        assert row["throughput_per_s"] == pytest.approx(batch / (row["latency_ms"] / 1e3))
        assert row["latency_per_input_ms"] == pytest.approx(row["latency_ms"] / batch)
    else:
        assert pd.isna(row["batch_size"])
        assert np.isnan(row["throughput_per_s"])


def test_models_side_by_side(profiles: dict[str, xsp.Profile]) -> None:
    """A1 and A15 of several profiles have a row for each, in their order."""
    several = [profiles[name] for name in NAMES]
    for fn in (analysis.model_information, analysis.kernels_by_model):
        together = fn(several)
        assert together["name"].tolist() == [prof.name for prof in several]
        pd.testing.assert_frame_equal(together[:1], fn(several[0]), check_dtype=False)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_by_model_sums_all_kernels(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A15 sums latency, FLOPs and bytes of A8; occupancy is weighted with latency, intensity is
    from the sums.
    """
    prof = profiles[name]
    each = analysis.kernel_information(prof)
    [row] = analysis.kernels_by_model(prof).to_dict("records")
    assert row["kernel_latency_ms"] == pytest.approx(each["latency_ms"].sum())
    for column in ("flops", "dram_read_bytes", "dram_write_bytes"):
        assert row[column] == pytest.approx(each[column].sum())
    assert row["occupancy"] == pytest.approx(
        np.average(each["occupancy"], weights=each["latency_ms"])
    )
    traffic = each[["dram_read_bytes", "dram_write_bytes"]].sum().sum()
    assert row["arithmetic_intensity"] == pytest.approx(each["flops"].sum() / traffic)
    assert row["flops_per_s"] == pytest.approx(
        each["flops"].sum() / (each["latency_ms"].sum() / 1e3)
    )
    assert row["precision"] == "fp16"
    assert row["memory_bound"] == (row["arithmetic_intensity"] < H100_FP16 / H100_DRAM)


# ---- A2 to A7: layers ----


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_those_that_ran(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A2 has every layer and phase once, numbered as they first begin, calls of one layer
    pooled.
    """
    prof = profiles[name]
    table = analysis.layer_information(prof)
    rows = called_layers(prof)
    assert table["index"].tolist() == list(range(len(table)))
    assert set(zip(table["name"], table["phase"], strict=True)) == set(
        zip(rows["name"], rows["phase"], strict=True)
    )
    spans = prof.spans
    deepest = spans[(spans["rung"] == "M/L/Lib/K") & (spans["level"] == "LAYER")]
    first = deepest[deepest["run"] == deepest["run"].min()].sort_values("start_ns", kind="stable")
    layers = prof.table("layers").loc[first["detail"]]
    began = layers[layers["kind"] != "none"][["name", "phase"]].drop_duplicates()
    assert list(zip(table["name"], table["phase"], strict=True))[: len(began)] == list(
        zip(began["name"], began["phase"], strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_layer_latency_is_what_the_layer_costs(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A2 and A3: the device's busy time for a layer and the idle time that it causes, mean over the
    runs; A13 tells the two apart. With the time in no layer they make the corrected
    latency of the model.
    """
    prof = profiles[name]
    by_run = timeline_by_layer(prof)
    runs = by_run.index.get_level_values("run").nunique()
    expected = by_run.groupby(["layer", "phase"]).sum() / runs / 1e6
    whole = expected.to_numpy().sum()
    spans, corrected = prof.spans, prof.corrected
    assert corrected is not None
    model = (spans.loc[corrected["row"], "level"] == "MODEL").to_numpy()
    assert whole == pytest.approx(corrected.loc[model, "duration_ns"].sum() / runs / 1e6)
    assert prof.tree()["latency_ms"].iloc[0] == pytest.approx(whole)
    expected = expected.drop(("", ""), errors="ignore")
    table = analysis.layer_information(prof).set_index(["name", "phase"])
    found = table["latency_ms"].reindex(expected.index)
    np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table["share"], table["latency_ms"] / whole)
    assert (table["latency_ms"].drop(expected.index) == 0).all()
    phases = analysis.layer_information(prof)["phase"]
    parts = analysis.gpu_vs_nongpu(prof).assign(phase=phases).set_index(["layer", "phase"])
    np.testing.assert_allclose(parts["gpu_ms"].reindex(expected.index), expected["busy"], rtol=1e-9)
    np.testing.assert_allclose(
        parts["nongpu_ms"].reindex(expected.index), expected["idle"], atol=1e-9
    )
    timed = parts[parts["layer_latency_ms"] > 0]
    np.testing.assert_allclose(timed["gpu_share"] + timed["nongpu_share"], 1)
    np.testing.assert_allclose(timed["gpu_share"], timed["gpu_ms"] / timed["layer_latency_ms"])


@pytest.mark.parametrize("name", NAMES)
def test_host_and_device_times_are_the_trees(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A2's host_ms and device_ms are those of the layer's nodes in the latency table."""
    prof = profiles[name]
    tree = prof.tree(pooled=True)
    nodes = tree[tree["level"] == "LAYER"].groupby(["name", "phase"])
    table = analysis.layer_information(prof).set_index(["name", "phase"])
    for column in ("host_ms", "device_ms"):
        np.testing.assert_allclose(
            table[column], nodes[column].sum(min_count=1).reindex(table.index)
        )
    assert (
        (
            table["type"]
            == nodes["type"].first().reindex(table.index).where(lambda kind: kind != "", None)
        )
        .where(table["type"] != table.index.get_level_values(0), True)
        .all()
    )


@pytest.mark.parametrize("name", NAMES)
def test_layer_memory_is_what_calls_allocate(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A4 sums what the calls of a layer allocate; backward() itself without the nodes that have
    rows of their own.
    """
    prof = profiles[name]
    rows = called_layers(prof)
    known = rows[(rows["allocated_bytes"] >= 0) & (rows["type"] != "backward")]
    expected = known.groupby(["name", "phase"])["allocated_bytes"].sum()
    table = analysis.layer_memory(prof).set_index(["name", "phase"])["allocated_bytes"]
    assert (table.reindex(expected.index) == expected).all()
    every = prof.table("layers")
    whole = every.loc[every["type"] == "backward", "allocated_bytes"].sum()
    nodes = every.loc[
        (every["kind"] == "autograd") & (every["allocated_bytes"] >= 0), "allocated_bytes"
    ].sum()
    assert table.sum() == expected.sum() + max(whole - nodes, 0)


def test_types_are_counted_by_calls(profiles: dict[str, xsp.Profile]) -> None:
    """A5: ResNet-50 runs 53 convolutions, 53 batch norms and 49 activations, though 3 share each
    ReLU module.
    """
    counts = analysis.layer_type_distribution(profiles["resnet50"]).set_index("type")
    expected = {
        "Conv2d": 53,
        "BatchNorm2d": 53,
        "ReLU": 49,
        "add": 16,
        "MaxPool2d": 1,
        "Linear": 1,
        "flatten": 1,
    }
    assert counts["count"].to_dict() == expected | {"AdaptiveAvgPool2d": 1}
    assert counts["share"].sum() == pytest.approx(1)
    backward = analysis.layer_type_distribution(profiles["train_step"]).set_index("type")["count"]
    assert backward[["Conv2d", "BatchNorm2d", "ReLU"]].tolist() == [106, 106, 98]


@pytest.mark.parametrize("name", NAMES)
def test_sums_by_type(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A6 and A7 are A2 summed by type, with shares of the whole and the largest first."""
    prof = profiles[name]
    sums = (
        analysis.layer_information(prof)
        .groupby("type")[["latency_ms", "allocated_bytes"]]
        .sum(min_count=1)
    )
    for fn, column in (
        (analysis.layer_latency_by_type, "latency_ms"),
        (analysis.layer_memory_by_type, "allocated_bytes"),
    ):
        table = fn(prof).set_index("type")
        np.testing.assert_allclose(table[column], sums[column].reindex(table.index))
        np.testing.assert_allclose(table["share"], table[column] / sums[column].sum())
        assert table[column].dropna().is_monotonic_decreasing
        assert len(table) == len(sums)


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


# ---- how they are reached ----


def test_analyses_are_reached_from_the_package_and_need_no_torch() -> None:
    """`xsp.analysis.layer_information` works right after `import xsp`, which imports none of them,
    and no torch.
    """
    program = (
        "import sys, xsp\n"
        "early = [name for name in sys.modules if name in ('xsp.analysis.layers', "
        "'xsp.analysis.kernels')]\n"
        f"prof = xsp.load({str(CAPTURES / 'h100_transformer.xsp')!r})\n"
        "names = [name for name in xsp.analysis.__all__ if name != 'compare']  # which takes two "
        "profiles\n"
        "sizes = [len(getattr(xsp.analysis, name)(prof)) for name in names]\n"
        "print(early, min(sizes) > 0, 'torch' in sys.modules)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=CAPTURES
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["[]", "True", "False"]


@pytest.mark.parametrize("expression", ["peaks.peaks(prof)", "figures.layer_latency(prof).data"])
def test_submodules_that_the_pages_name_are_there_right_after_import(expression: str) -> None:
    """`xsp.analysis.peaks` and `xsp.analysis.figures` need no import of their own."""
    capture = str(CAPTURES / "h100_transformer.xsp")
    program = f"import xsp; prof = xsp.load({capture!r}); print(len(xsp.analysis.{expression}))"
    finished = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=CAPTURES
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 0
