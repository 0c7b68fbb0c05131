"""Several models side by side, against values recomputed from the spans in plain pandas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from captures import gpu_profile
from quick import measured
from torch import nn

import xsp
from xsp.analysis.work.operations import (
    CONVOLUTION,
    GEMM,
    call_operation,
    kernel_operations,
    layer_operation,
)

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"


@pytest.fixture(scope="module")
def resnet() -> xsp.Profile:
    return xsp.load(CAPTURES / "h100_resnet50.xsp")


@pytest.fixture(scope="module")
def transformer() -> xsp.Profile:
    return xsp.load(CAPTURES / "h100_transformer.xsp")


@pytest.fixture(scope="module")
def table(resnet: xsp.Profile, transformer: xsp.Profile) -> pd.DataFrame:
    return xsp.analysis.compare_models({"resnet": resnet, "gpt": transformer}).set_index("name")


def _kernels(prof: xsp.Profile) -> pd.DataFrame:
    """Kernels of the deepest rung's runs with the type of the layer above, found by walking up the
    parents.
    """
    spans = prof.spans
    parent = spans.set_index("span_id")["parent_id"]
    level = spans.set_index("span_id")["level"].astype(str)
    detail = spans.set_index("span_id")["detail"]
    kernels = spans[spans["level"] == "KERNEL"].copy()
    kernels = kernels[~kernels["name"].isin(["memset", "memcpy"])]
    above = kernels["parent_id"].to_numpy()
    kernels["call"] = [str(level[span]) for span in above]
    while (lower := level.loc[above].to_numpy() != "LAYER").any():
        above = pd.Series(parent.loc[above].to_numpy()).where(lower, above).to_numpy()
    types = prof.table("layers")["type"].to_numpy()
    kernels["type"] = types[detail.loc[above].to_numpy()]
    return kernels


def test_share_of_convolutions_is_their_layers_kernel_time(
    table: pd.DataFrame, resnet: xsp.Profile
) -> None:
    """The convolution share of ResNet-50 is the time of kernels below Conv2d layers over that of
    all kernels.
    """
    time = _kernels(resnet).groupby("type")["duration_ns"].sum()
    assert table.loc["resnet", "convolution_share"] == pytest.approx(
        time["Conv2d"] / time.sum(), rel=0.02
    )
    assert table.loc["resnet", "gemm_share"] == pytest.approx(time["Linear"] / time.sum(), rel=0.1)


def test_share_of_products_is_that_of_linear_layers(
    table: pd.DataFrame, transformer: xsp.Profile
) -> None:
    """GPT-2's GEMM share is that of its linear layers, whose kernels all come from cuBLAS;
    attention is no product.
    """
    time = _kernels(transformer).groupby("type")["duration_ns"].sum()
    row = table.loc["gpt"]
    assert row["gemm_share"] == pytest.approx(time["Linear"] / time.sum(), rel=0.02)
    assert row["gemm_kernel_share"] == pytest.approx(row["gemm_share"], rel=0.02)
    assert row["convolution_share"] == row["convolution_kernel_share"] == 0
    assert row["top_layer_type"] == "Linear"


def test_gpu_share_is_union_of_kernels_over_unprofiled_latency(
    table: pd.DataFrame, resnet: xsp.Profile
) -> None:
    """GPU share is GPU-busy time, kernels on one stream added up, over the latency without
    tracers.
    """
    spans = resnet.spans
    kernels = spans[spans["level"] == "KERNEL"]
    assert kernels["stream"].nunique() == 1
    busy_ms = kernels.groupby("run")["duration_ns"].sum().sort_values().iloc[12:-12].mean() / 1e6
    assert table.loc["resnet", "gpu_share"] == pytest.approx(busy_ms / resnet.latency_ms, rel=0.01)
    assert table.loc["resnet", "kernels"] == kernels.groupby("run").size().median()


def test_thirds_divide_the_layers_latency(table: pd.DataFrame, resnet: xsp.Profile) -> None:
    """Beginning, middle and end are the thirds of the layers by index, and together all of their
    latency.
    """
    layers = xsp.analysis.layer_latency(resnet)
    layers = layers[~layers["name"].str.startswith("(")]
    first = layers["latency_ms"].iloc[: -(-len(layers) // 3)].sum() / layers["latency_ms"].sum()
    row = table.loc["resnet"]
    assert row["beginning_share"] == pytest.approx(first)
    assert row["beginning_share"] + row["middle_share"] + row["end_share"] == pytest.approx(1)
    assert row["layers"] == len(layers)


def test_row_repeats_the_analyses_of_the_model(table: pd.DataFrame, resnet: xsp.Profile) -> None:
    """Latency, throughput and roofline are those of A1 and A15; closure and losses those of the
    profile.
    """
    row = table.loc["resnet"]
    a1, a15 = (
        getattr(xsp.analysis, name)(resnet).iloc[0]
        for name in ("model_information", "kernels_by_model")
    )
    assert list(row[["latency_ms", "throughput_per_s", "batch_size"]]) == list(
        a1[["latency_ms", "throughput_per_s", "batch_size"]]
    )
    assert list(row[["arithmetic_intensity", "memory_bound", "source"]]) == list(
        a15[["arithmetic_intensity", "memory_bound", "source"]]
    )
    assert row["closure_error"] == resnet.closure_error.loc["M/L/Lib/K", "error"]
    assert row["lost"] == resnet.lost


def test_profiles_without_names_keep_their_own(
    resnet: xsp.Profile, transformer: xsp.Profile
) -> None:
    """A sequence gives a row for each profile under its own name, one profile a single row."""
    assert xsp.analysis.compare_models([transformer, resnet])["name"].tolist() == [
        "GPT2",
        "ResNet50",
    ]
    assert len(xsp.analysis.compare_models(resnet)) == 1
    assert xsp.analysis.compare_models([]).empty


def test_three_rounds_do_for_a_row() -> None:
    """A profile of few rounds has a row, with no closure error where no costs were fitted."""
    row = xsp.analysis.compare_models(gpu_profile()).iloc[0]
    assert row["kernels"] == 5
    assert row["top_kernel"] == "sm90_xmma_fprop_implicit_gemm"
    assert pd.isna(row["closure_error"])


def test_cpu_profile_is_shared_out_by_layer_latency() -> None:
    """Without kernels shares are of the layers' time on the host, and what only a GPU tells is
    missing.
    """
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    prof = measured(model, torch.ones(2, 3, 8, 8))
    row = xsp.analysis.compare_models({"net": prof}).iloc[0]
    layers = xsp.analysis.layer_latency(prof)
    by_type = layers.groupby("type")["latency_ms"].sum() / layers["latency_ms"].sum()
    assert row["convolution_share"] == pytest.approx(by_type["Conv2d"])
    assert row["gemm_share"] == pytest.approx(by_type["Linear"])
    assert row["top_kernel"] == ""
    assert row[["gpu_share", "gemm_kernel_share", "memory_bound"]].isna().all()


@pytest.mark.parametrize(
    ("kinds", "operation"),
    [
        (
            "Conv2d conv1d ConvTranspose2d conv_transpose2d ParametrizedConv1d Conv2dSame",
            CONVOLUTION,
        ),
        ("Linear linear Conv1D NonDynamicallyQuantizableLinear matmul baddbmm einsum", GEMM),
        ("scaled_dot_product_attention LSTM convert mul Embedding", ""),
    ],
)
def test_operation_of_a_layer_is_told_by_its_type(kinds: str, operation: str) -> None:
    """Types of torch, timm and transformers are told apart; transformers' Conv1D is a
    linear layer.
    """
    assert {kind: layer_operation(kind) for kind in kinds.split()} == dict.fromkeys(
        kinds.split(), operation
    )


def test_graphs_of_cudnn_are_told_by_their_operations() -> None:
    """A graph with products and reductions is attention; with a convolution it is one, whatever
    else it has.
    """

    def graph(*operations: str) -> str:
        return json.dumps({"operations": [{"operation": each} for each in operations]})

    assert (
        call_operation("cudnnBackendExecute", graph("MATMUL", "REDUCTION", "POINTWISE", "MATMUL"))
        == ""
    )
    assert (
        call_operation("cudnnBackendExecute", graph("CONVOLUTION_FORWARD", "POINTWISE"))
        == CONVOLUTION
    )
    assert call_operation("cudnnBackendExecute", graph("MATMUL", "POINTWISE")) == GEMM
    assert call_operation("cudnnBackendExecute", "{}") == ""
    assert call_operation("cublasLtMatmul", "{}") == GEMM
    assert call_operation("cublasGemmStridedBatchedEx", "{}") == GEMM
    assert call_operation("cudnnRNNForward", "{}") == ""


def test_kernels_without_a_library_call_are_told_by_name() -> None:
    """PyTorch's own depthwise convolution is one; a type conversion and a flash attention kernel
    are nothing.
    """
    names = [
        "void conv_depthwise2d_forward_kernel<3>()",
        "convert_kernel",
        "flash_fwd_kernel_gemm",
        "nvjet_sm90",
        "add",
    ]
    calls = np.full(len(names), -1, dtype=np.int64)
    nothing = pd.DataFrame({"name": [], "arguments": []})
    assert kernel_operations(pd.Series(names), calls, nothing).tolist() == [
        CONVOLUTION,
        "",
        "",
        GEMM,
        "",
    ]
