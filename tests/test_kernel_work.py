"""What each kernel did: worked out from arguments and shapes, checked by hand, or counted by the
hardware.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import isqrt, prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture

import xsp
from xsp import analysis
from xsp.analysis.work.kernel_work import kernel_work, resolve_precision
from xsp.analysis.work.occupancy import theoretical_occupancy

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
NAMES = ("resnet50", "transformer", "train_step")
H100_FP16, H100_FP32 = 989.4e12, 66.9e12


def test_resnet50_convolutions_by_hand(profiles: dict[str, xsp.Profile]) -> None:
    """Convolutions and classifier of ResNet-50 v1.5 do 8.18 GFLOP an image: 2 K P Q C R S each,
    from its layers.
    """
    prof = profiles["resnet50"]
    layers = prof.table("layers")
    total = 0
    for row in layers[layers["type"] == "Conv2d"].to_dict("records"):
        [[_, channels, _, _]], [[batch, filters, height, width]] = (
            json.loads(row[f"{side}_shapes"]) for side in ("input", "output")
        )
        window = row["parameter_bytes"] // (2 * filters * channels)
        assert isqrt(window) ** 2 == window
        total += 2 * batch * filters * height * width * channels * window
    total += 2 * 32 * 2048 * 1000
    work = kernel_work(prof)
    products = work[work["precision"] == "fp16"]
    assert products["flops"].sum() == total
    assert total / 32 / 1e9 == pytest.approx(8.18, abs=0.005)
    assert (products["flops_tensor"] == products["flops"]).all()
    assert len(products) == 54


def test_gpt2_products_by_hand(profiles: dict[str, xsp.Profile]) -> None:
    """GPT-2 small on 64 tokens: four projections and attention in twelve blocks, then the
    vocabulary.
    """
    work = kernel_work(profiles["transformer"])
    block = 2 * 64 * 768 * (2304 + 768 + 3072 + 3072) + 2 * 2 * 12 * 64 * 64 * 64
    assert work.loc[work["precision"] == "fp16", "flops"].sum() == 12 * block + 2 * 64 * 768 * 50257


def test_attention_inside_a_layer_is_told_by_its_graph() -> None:
    """cuDNN's attention graph gives FLOPs and bytes where the layer around it has several products
    (ViT-B/16).
    """
    prof = xsp.load(CAPTURES / "models" / "vit_b_16.xsp")
    images, heads, tokens, width = 32, 12, 197, 64
    calls = analysis.library_calls(prof)
    own = calls[calls["arguments"].str.contains("SDPA")]
    attention = analysis.kernels_by_library_call(prof).query("kernel.str.contains('sdpa')")
    flops = 4 * images * heads * tokens**2 * width
    assert own["flops"].tolist() == attention["flops"].tolist() == [flops] * 12
    traffic = 4 * images * heads * tokens * width * 2
    np.testing.assert_allclose(attention["arithmetic_intensity"], flops / traffic)


def test_bytes_are_those_of_the_operands(profiles: dict[str, xsp.Profile]) -> None:
    """A convolution reads its input and filter and writes its output once; its layout changes get
    no bytes.
    """
    prof = profiles["resnet50"]
    work = kernel_work(prof)
    first = work[work["layer"] == 0]
    [main] = first[first["flops"].notna()].to_dict("records")
    assert "fprop" in main["name"]
    assert main["dram_read_bytes"] == 2 * (32 * 3 * 224 * 224 + 64 * 3 * 7 * 7)
    assert main["dram_write_bytes"] == 2 * 32 * 64 * 112 * 112
    assert first["dram_read_bytes"].notna().sum() == 1
    longer = first.sort_values("duration_ns")["name"].iloc[-1]
    assert "nchwToNhwc" in longer, (
        "the longest kernel changes the layout, and still does no arithmetic"
    )


def test_work_is_kept_when_a_layer_is_launched_in_chunks(profiles: dict[str, xsp.Profile]) -> None:
    """An optimizer's list of tensors is worked off by several launches, which share its bytes by
    their duration.
    """
    prof = profiles["train_step"]
    layers = prof.table("layers")
    row = int(layers.index[layers["type"] == "foreach_mul"][0])
    work = kernel_work(prof)
    mine = work[work["layer"] == row]
    assert len(mine) > 1
    shapes, types = (json.loads(layers[f"input_{what}"][row]) for what in ("shapes", "dtypes"))
    size = sum(
        prod(shape) * int(kind.removeprefix("float")) // 8
        for shape, kind in zip(shapes, types, strict=True)
    )
    assert mine["dram_read_bytes"].sum() == pytest.approx(size)
    rate = mine["dram_read_bytes"] / mine["duration_ns"]
    np.testing.assert_allclose(rate, rate.iloc[0])


def test_work_of_a_recurrent_network_is_that_of_its_products() -> None:
    """cuDNN unrolls an LSTM: its work belongs to the products of all steps, not to the one copy
    that is longer.
    """
    prof = xsp.load(CAPTURES / "models" / "lstm.xsp")
    table = analysis.kernel_information(prof)
    mine = table[(table["layer"] == "lstm") & (table["flops"] > 0)]
    assert mine["name"].str.startswith("nvjet").all()
    assert mine["flops"].sum() == pytest.approx(2 * 32 * 128 * 2 * 4 * 1024 * (1024 + 1024))
    assert (mine["flops_per_s"] < H100_FP16).all()


def test_sums_say_how_much_of_them_is_known() -> None:
    """A layer without known FLOPs lowers the coverage of its own sum to 0 and of the model's by its
    share of the latency; helpers of a known layer do not.
    """
    capture = gpu_capture()
    whole = analysis.kernels_by_layer(xsp.Profile(capture)).set_index("layer")
    calls = capture.tables["library_calls"].assign(flops=pd.array([None, None], dtype="Int64"))
    tables = capture.tables | {"library_calls": calls}
    layers = capture.tables["layers"]
    prof = xsp.Profile(
        replace(
            capture, tables=tables | {"layers": layers.assign(type="multiplies", kind="module")}
        )
    )
    unknown = analysis.kernels_by_layer(prof)
    assert unknown["flops"].isna().all()
    assert (unknown["flops_coverage"] == 0).all()
    known = whole["flops"].notna()
    assert (whole["flops_coverage"] == known).all()
    [model] = analysis.kernels_by_model(xsp.Profile(capture)).to_dict("records")
    share = whole.loc[known, "kernel_latency_ms"].sum() / whole["kernel_latency_ms"].sum()
    assert 0 < model["flops_coverage"] == pytest.approx(share)
    by_name = analysis.kernels_by_name(counted_profile())
    assert (by_name["flops_coverage"] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_beats_the_hardware(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """Analytic FLOPs never exceed what an H100 can compute in the kernel's time, at its precision's
    peak.
    """
    table = analysis.kernel_information(profiles[name])
    peak = table["precision"].map({"fp16": H100_FP16, "fp32": H100_FP32, "fp64": 66.9e12})
    some = peak.notna()
    assert (table.loc[some, "flops_per_s"] < peak[some]).all()


@pytest.mark.parametrize(
    ("kernel", "switches", "precision"),
    [
        (
            "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16",
            {},
            "tf32",
        ),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x128_16x4_tn_align4>", {}, "tf32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x8", {"allow_tf32": True}, "fp32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc", {}, "fp32"),
        ("ampere_scudnn_128x64_relu_interior_nn_v1", {}, "fp32"),
        ("volta_cgemm_32x32_tn", {"allow_tf32": True}, "fp32"),
        ("void at::native::conv_depthwise2d_forward_kernel<3, float, int>", {}, "fp32"),
        ("cudnn_infer_kernel", {}, "tf32"),
        ("cudnn_infer_kernel", {"cudnn_allow_tf32": False}, "fp32"),
        ("nvjet_sss_128x64", {}, "fp32"),
        ("nvjet_sss_128x64", {"allow_tf32": True}, "tf32"),
        ("nvjet_sss_128x64", {"allow_tf32": True, "compute_capability": "7.5"}, "fp32"),
    ],
)
def test_tf32_is_told_by_the_kernel_before_the_switches(
    kernel: str, switches: dict[str, Any], precision: str
) -> None:
    """Kernels of the CUDA cores stay fp32 although TF32 is allowed, which for convolutions it is by
    default.
    """
    names, products = np.array([kernel], dtype=object), np.array([True])
    found = resolve_precision(
        np.array(["fp32"], dtype=object), products, names, {"compute_capability": "9.0", **switches}
    )
    assert found.tolist() == [precision]


def test_occupancy_by_hand() -> None:
    """Theoretical occupancy follows the limits of warps, registers, shared memory and the grid."""
    launches = [
        # block, registers, dynamic shared bytes, grid, occupancy on compute capability 9.0
        (1024, 32, 0, 10_000, 1.0),
        (256, 64, 0, 10_000, 0.5),  # 65536 / (64 * 256) = 4 blocks of 8 warps of 64
        (
            128,
            255,
            0,
            10_000,
            8 / 64,
        ),  # registers in units of 256 a warp: 8192 each, 2 blocks of 4 warps
        (384, 168, 163_972, 10_000, 12 / 64),  # one block's shared memory
        (128, 16, 0, 132, 4 / 64),  # one block for each multiprocessor
        (64, 16, 0, 10_000, 1.0),  # 32 blocks of 2 warps
        (32, 16, 0, 10_000, 0.5),  # no more than 32 blocks
        (
            32,
            80,
            0,
            10_000,
            24 / 64,
        ),  # 16384 registers of a partition / (80 * 32) = 6 warps of each of four
    ]
    kernels = pd.DataFrame(
        {
            "kind": "kernel",
            "registers_per_thread": [row[1] for row in launches],
            "static_shared_bytes": 0,
            "dynamic_shared_bytes": [row[2] for row in launches],
            "grid_x": [row[3] for row in launches],
            "grid_y": 1,
            "grid_z": 1,
            "block_x": [row[0] for row in launches],
            "block_y": 1,
            "block_z": 1,
        }
    )
    assert theoretical_occupancy(kernels, "9.0", 132).tolist() == [row[4] for row in launches]
    assert theoretical_occupancy(kernels, "9.0")[4] == 1.0
    assert np.isnan(theoretical_occupancy(kernels, "3.5")).all()


# ---- counters ----


def counted_profile(**changes: Any) -> xsp.Profile:
    """The synthetic capture with hardware counters of its four kernels."""
    columns = {
        "position": [0, 1, 2, 3],
        "kernel": [0, 1, 2, 3],
        "sample": [0, 1, 2, 3],
        "smsp__sass_thread_inst_executed_op_dadd_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_dmul_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_dfma_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum": [0.0, 1000.0, 1e6, 0.0],
        "smsp__sass_thread_inst_executed_op_fmul_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_hadd_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_hmul_pred_on.sum": 0.0,
        "smsp__sass_thread_inst_executed_op_hfma_pred_on.sum": 0.0,
        "sm__ops_path_tensor_src_fp16_dst_fp16.sum": 0.0,
        "sm__ops_path_tensor_src_fp16_dst_fp32.sum": [0.0, 4e9, 0.0, 1e9],
        "dram__bytes_read.sum": [1e6, 1e7, 2e6, 0.0],
        "dram__bytes_write.sum": [1e6, 0.0, 2e6, 0.0],
        "sm__warps_active.avg.pct_of_peak_sustained_active": [50.0, 25.0, 100.0, 10.0],
    }
    capture = gpu_capture()
    table = pd.DataFrame(columns).assign(**changes)
    return xsp.Profile(replace(capture, tables={**capture.tables, "counters": table}))


def test_counters_stand_in_for_estimates() -> None:
    """With hardware counters, FLOPs, bytes, occupancy and precision are the counted ones, and
    marked so.
    """
    table = analysis.kernel_information(counted_profile())
    assert table["source"].tolist() == ["counters"] * 4
    assert table["flops"].tolist() == [0, 4e9 + 1000, 1e6, 1e9]
    assert table["precision"].tolist() == ["", "fp16", "fp32", "fp16"]
    assert table["occupancy"].tolist() == [0.5, 0.25, 1.0, 0.1]
    # The ridge of an H100 lies at 295 FLOP/byte for fp16 and at 20 for fp32; no bytes, no verdict.
    assert table["memory_bound"].tolist()[:3] == [True, False, True]
    assert pd.isna(table["memory_bound"][3])
    by_layer = analysis.kernels_by_layer(counted_profile()).set_index("layer_index")
    assert by_layer.loc[0, "arithmetic_intensity"] == pytest.approx((4e9 + 1000) / 12e6)
    assert by_layer.loc[0, "occupancy"] == pytest.approx((0.5 * 0.05 + 0.25 * 0.25) / 0.30)
    assert by_layer.loc[0, "precision"] == "fp16"


def test_counters_of_another_kernel_are_not_used() -> None:
    """Where the counted kernel is not the one at its position, its estimate stays."""
    work = kernel_work(counted_profile(kernel=[0, 1, 2, 2]))
    assert work["flops_source"].tolist() == ["counters"] * 3 + ["analytic"]
    assert work["flops"].tolist()[3] == 2 * 8 * 10 * 64


def test_metrics_that_were_not_collected_are_estimated() -> None:
    """Counters without DRAM metrics leave the bytes analytic, and the row says it is mixed."""
    table = (
        counted_profile()
        .table("counters")
        .drop(columns=["dram__bytes_read.sum", "dram__bytes_write.sum"])
    )
    capture = gpu_capture()
    work = kernel_work(xsp.Profile(replace(capture, tables={**capture.tables, "counters": table})))
    assert work["bytes_source"].tolist() == ["", "analytic", "analytic", "analytic"]
    assert work["flops_source"].tolist() == ["counters"] * 4
