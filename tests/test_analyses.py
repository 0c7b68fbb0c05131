"""The analyses of models and layers, checked against values that plain pandas recomputes from the
profile's own tables.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import trim_mean
from times_by_hand import H100_DRAM, H100_FP16, NAMES, called_layers, timeline_by_layer

import xsp
from xsp import analysis

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"

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


# ---- how they are reached ----


REACHED = """
import sys
import xsp
assert not {"xsp.analysis.layers", "xsp.analysis.kernels"} & sys.modules.keys()
prof = xsp.load(sys.argv[1])
analysis = xsp.analysis
assert len(analysis.peaks.peaks(prof))
assert "xsp.analysis.figures" not in sys.modules
assert len(analysis.figures.layer_latency(prof).data)
for name in analysis.__all__:
    assert len(getattr(analysis, name)(prof)), name
"""


def test_analyses_are_reached_from_the_package() -> None:
    """`xsp.analysis.layer_information`, `xsp.analysis.peaks` and `xsp.analysis.figures` work right
    after `import xsp`, which imports none of them.
    """
    command = [sys.executable, "-c", REACHED, str(CAPTURES / "h100_transformer.xsp")]
    subprocess.run(command, check=True, cwd=CAPTURES, timeout=240)
