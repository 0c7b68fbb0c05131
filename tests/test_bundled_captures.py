"""What the captures recorded on an H100 show, on any machine: the GPU path, proved where there is
no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from quick import TESTED

import xsp

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
NAMES = ("resnet50", "transformer", "train_step")
MAX_DEPTH = 16
"""No chain of parents in these captures is longer: library call, a few layers inside each other,
model.
"""
LEVELS = ["MODEL", "LAYER", "LIBRARY", "KERNEL"]


def path_of(name: str) -> Path:
    """Where a bundled capture lies."""
    return CAPTURES / f"h100_{name}.xsp"


def layers_of_kernels(prof: xsp.Profile) -> pd.DataFrame:
    """The row of the layers table that each kernel's chain of parents meets first."""
    spans = prof.spans
    indexed = spans.set_index("span_id")
    current = indexed.loc[spans.loc[spans["level"] == "KERNEL", "parent_id"]]
    while (below := (current["level"] != "LAYER").to_numpy()).any():
        ids = np.where(below, current["parent_id"], current.index)
        current = indexed.loc[ids]
    return prof.table("layers").iloc[current["detail"]]


def calls_named(prof: xsp.Profile, name: str) -> pd.DataFrame:
    """The recorded library calls of one name, one row per call of a run."""
    calls = prof.table("library_calls")
    return calls[calls["name"] == name]


@pytest.mark.parametrize("name", NAMES)
def test_all_levels_were_traced(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """On an H100 with cupti-python every level is traced, and every rung of the ladder was run as
    often.
    """
    prof = profiles[name]
    assert "H100" in prof.environment["gpu"]
    assert prof.levels["level"].tolist() == LEVELS
    assert set(prof.levels["status"]) == {"traced"}
    by_rung = prof.runs["rung"].value_counts()
    assert set(by_rung.index) == {"M", "M/L", "M/L/Lib", "M/L/Lib/K"}
    assert by_rung.nunique() == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_was_lost(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """No record was dropped, no kernel lacks its launch, and every event was in the
    structure run.
    """
    prof = profiles[name]
    assert prof.lost == 0
    assert prof.runs[["lost", "orphans", "unmatched"]].to_numpy().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_parent_is_of_a_level_above(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A kernel's parent is a library call or a layer, a call's a layer, a layer's the model or a
    layer around it.
    """
    spans = profiles[name].spans
    level_of = spans.set_index("span_id")["level"].astype(str)
    above = level_of.reindex(spans["parent_id"]).fillna("caller")
    assert set(zip(spans["level"].astype(str), above, strict=True)) <= {
        ("MODEL", "caller"),
        ("LAYER", "MODEL"),
        ("LAYER", "LAYER"),
        ("LIBRARY", "LAYER"),
        ("KERNEL", "LIBRARY"),
        ("KERNEL", "LAYER"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_leads_to_the_model(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Going from parent to parent, every kernel arrives at the MODEL span of its run."""
    spans = profiles[name].spans
    indexed = spans.set_index("span_id")
    kernels = spans[spans["level"] == "KERNEL"]
    current = indexed.loc[kernels["parent_id"]]
    for _ in range(MAX_DEPTH):
        ids = np.where(current["level"] == "MODEL", current.index, current["parent_id"])
        current = indexed.loc[ids]
    assert set(current["level"]) == {"MODEL"}
    assert (current["run"].to_numpy() == kernels["run"].to_numpy()).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_starts_before_its_launch(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Device and host stamps are on one clock: no kernel starts before the call that launched it,
    to within 1 µs.
    """
    prof = profiles[name]
    kernels = prof.spans[prof.spans["level"] == "KERNEL"]
    launches = prof.table("api_calls").groupby(["run", "correlation_id"])["start_ns"].min()
    wanted = pd.MultiIndex.from_frame(kernels[["run", "correlation_id"]])
    assert (kernels["start_ns"].to_numpy() - launches.loc[wanted].to_numpy()).min() >= -1_000


def test_resnet50_calls_cudnn_once_per_convolution(profiles: dict[str, xsp.Profile]) -> None:
    """ResNet-50's 53 convolutions are 53 cuDNN calls, each below its own Conv2d."""
    prof = profiles["resnet50"]
    assert len(calls_named(prof, "cudnnBackendExecute")) == 53
    tree = prof.tree()
    calls = tree[tree["name"] == "cudnnBackendExecute"]
    assert calls["calls"].tolist() == [1] * 53
    layers = tree.set_index("node").loc[calls["parent"]]
    assert set(layers["type"]) == {"Conv2d"}


def test_resnet50_flops(profiles: dict[str, xsp.Profile]) -> None:
    """Decoded arguments give 8.2 GFLOP per image, twice the 4.1 G multiply-adds published for
    ResNet-50 v1.5.
    """
    calls = profiles["resnet50"].table("library_calls")
    assert calls["flops"].sum() / 32 == pytest.approx(8.2e9, rel=0.01)


def test_resnet50_classifier_is_one_gemm(profiles: dict[str, xsp.Profile]) -> None:
    """The classifier is one cublasLtMatmul of 1000 classes, 32 images and 2048 features, in half
    precision.
    """
    calls = calls_named(profiles["resnet50"], "cublasLtMatmul")
    [arguments] = [json.loads(text) for text in calls["arguments"]]
    assert sorted(arguments[size] for size in "mnk") == [32, 1000, 2048]
    assert arguments["a_type"] == "CUDA_R_16F"
    assert calls["flops"].tolist() == [2 * 32 * 1000 * 2048]


def test_gpt2_has_twelve_blocks(profiles: dict[str, xsp.Profile]) -> None:
    """GPT-2's tree has 12 blocks with attention and MLP, each with its four matrix products."""
    prof = profiles["transformer"]
    tree = prof.tree()
    modules = tree[tree["level"] == "MODULE"].set_index("name")
    blocks = [f"h.{index}" for index in range(12)]
    assert modules.loc[blocks, "type"].tolist() == ["Block"] * 12
    assert modules.loc[[f"{block}.attn" for block in blocks], "type"].tolist() == ["Attention"] * 12
    assert (modules.loc[blocks, "kernels"] > 0).all()
    assert len(calls_named(prof, "cublasLtMatmul")) == 12 * 4


def test_training_kernels_lead_to_both_passes(profiles: dict[str, xsp.Profile]) -> None:
    """Kernels of a training step belong to forward and backward layers, and every convolution has
    both.
    """
    layers = layers_of_kernels(profiles["train_step"])
    assert set(layers["phase"]) == {"forward", "backward"}
    forward = set(layers.loc[(layers["phase"] == "forward") & (layers["type"] == "Conv2d"), "name"])
    backward = set(layers.loc[layers["phase"] == "backward", "name"])
    assert len(forward) == 53
    assert forward <= backward


def test_training_convolutions_cost_three_forwards(profiles: dict[str, xsp.Profile]) -> None:
    """A convolution's two gradients cost as many FLOPs as its output each; only the first needs no
    image gradient.
    """
    convolutions = calls_named(profiles["train_step"], "cudnnBackendExecute")
    kinds = convolutions["arguments"].map(
        lambda text: json.loads(text)["operations"][0]["operation"]
    )
    flops = convolutions["flops"].groupby(kinds).agg(["size", "sum"])
    assert flops["size"].to_dict() == {
        "CONVOLUTION_FORWARD": 53,
        "CONVOLUTION_BACKWARD_FILTER": 53,
        "CONVOLUTION_BACKWARD_DATA": 52,
    }
    assert flops["sum"]["CONVOLUTION_BACKWARD_FILTER"] == flops["sum"]["CONVOLUTION_FORWARD"]


@pytest.mark.parametrize("name", NAMES)
def test_busy_time_fits_into_the_latency(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """The GPU is busy for some but not more than all of the deepest rung's latency."""
    prof = profiles[name]
    runs = prof.runs
    deepest = runs.loc[runs["deepest"] == "KERNEL", "latency_ns"].mean() / 1e6
    assert 0 < prof.tree().iloc[0]["device_ms"] <= deepest


@pytest.mark.parametrize("name", NAMES)
def test_captures_are_small(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """A capture takes less than 40 bytes per span, names, arguments and all."""
    assert path_of(name).stat().st_size / len(profiles[name].spans) < 40


WITHOUT_TORCH = """
import sys
import xsp
prof = xsp.load(sys.argv[1])
str(prof), prof._repr_html_(), prof.spans, prof.levels
for name in xsp.analysis.__all__:
    getattr(xsp.analysis, name)(prof)
xsp.compare(prof, prof)
prof.to_perfetto("x.pftrace")
again = xsp.from_kineto(prof.to_chrome("x.json.gz"))
assert again.kernel_count == prof.kernel_count
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "cupti", "cuda"}))
"""


def test_a_capture_is_used_without_torch(tmp_path: Path) -> None:
    """A capture is opened, shown, analysed, compared and exported, and a trace imported, without
    torch or cupti-python being imported, as on a machine that has neither.
    """
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path_of("transformer"))]
    environment = {**os.environ, "PYTHONPATH": str(TESTED)}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True, timeout=240)
    assert said.strip() == "[]"


def test_a_block_of_the_tree_adds_up(profiles: dict[str, xsp.Profile]) -> None:
    """On one stream nothing overlaps, so the GPU-busy times of ResNet-50's parts add up to the
    model's.
    """
    tree: Any = profiles["resnet50"].tree()
    root = tree.iloc[0]
    parts = tree[tree["parent"] == root["node"]]
    assert parts["kernels"].sum() == root["kernels"]
    assert parts["device_ms"].sum() == pytest.approx(root["device_ms"], rel=0.02)


def test_old_names_work_for_one_release_and_say_the_new_one() -> None:
    """`prof.kernels` warns and gives `prof.kernel_count`, `prof.table("spans")` the raw spans;
    `iteration` of `prof.spans` is its `round`.
    """
    prof = xsp.load(path_of("resnet50"))
    with pytest.warns(DeprecationWarning, match="kernel_count"):
        assert prof.kernels == prof.kernel_count
    with pytest.warns(DeprecationWarning, match="raw_spans"):
        pd.testing.assert_frame_equal(prof.table("spans"), prof.table("raw_spans"))
    with pytest.raises(xsp.XspError, match=r"no table 'kernel'.*raw_spans, .*kernels"):
        prof.table("kernel")
    pd.testing.assert_series_equal(prof.spans["iteration"], prof.spans["round"], check_names=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_correction_closes(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Fitted to the recordings as they are, the deepest rung without the tracers' cost is within
    2 % of the unprofiled latency. A change of the correction that costs closure shows here, where
    numbers that are kept only show that something changed.
    """
    assert abs(profiles[name].closure_error["error"].iloc[-1]) < 0.02
