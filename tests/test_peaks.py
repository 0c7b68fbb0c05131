"""Peaks of GPUs and CPUs, from device properties, data sheets and measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captures import gpu_profile

from xsp import Profile, measure
from xsp.analysis import layer_roofline
from xsp.analysis.peaks import cpu_peaks, gpu_peaks, ideal_arithmetic_intensity, peaks
from xsp.analysis.work.gpu_rates import published_peaks
from xsp.machine.processor import processor


@pytest.mark.parametrize(
    ("gpu", "resource", "tera"),
    [
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla V100-SXM2-16GB", "dram", 0.9),
        ("Tesla T4", "int8 tensor", 130),
        ("NVIDIA A100-SXM4-80GB", "tf32 tensor", 156),
        ("NVIDIA A100-SXM4-80GB", "fp64 tensor", 19.5),
        ("NVIDIA A100 80GB PCIe", "dram", 1.935),
        ("NVIDIA A10", "tf32 tensor", 62.5),
        ("NVIDIA L4", "fp8 tensor", 242),
        ("NVIDIA L40S", "fp16 tensor", 362),
        ("NVIDIA GeForce RTX 3090", "tf32 tensor", 35.5),
        ("NVIDIA GeForce RTX 4090", "int8 tensor", 660.6),
        ("NVIDIA RTX 6000 Ada Generation", "fp32", 91.1),
        ("NVIDIA H100 PCIe", "tf32 tensor", 378),
        ("NVIDIA H100 80GB HBM3", "fp8 tensor", 1978.9),
        ("NVIDIA H100 80GB HBM3", "fp64", 33.5),
        ("NVIDIA H100 NVL", "dram", 3.9),
        ("NVIDIA H200", "dram", 4.8),
        ("NVIDIA B200", "fp8 tensor", 4500),
    ],
)
def test_published_peaks(gpu: str, resource: str, tera: float) -> None:
    """The table of GPUs gives the data sheets' dense figures, also those that follow by ratio."""
    assert published_peaks(gpu)[resource] / 1e12 == pytest.approx(tera, rel=0.005)


@pytest.mark.parametrize(
    "gpu", ["NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 3090 Ti", "Radeon"]
)
def test_similar_names_are_not_taken_for_known_ones(gpu: str) -> None:
    """A GPU whose name merely resembles a known one has no published peaks."""
    assert published_peaks(gpu) == {}


def test_the_paper_s_ideal_intensity() -> None:
    """The V100's ideal arithmetic intensity is 17.44 FLOP/byte (XSP, section III-D)."""
    prof = gpu_profile(environment={"gpu": "Tesla V100-SXM2-16GB", "compute_capability": "7.0"})
    assert ideal_arithmetic_intensity(prof, "fp32") == pytest.approx(17.44, abs=0.01)
    assert np.isnan(ideal_arithmetic_intensity(prof, "bf16"))


def test_device_properties_come_before_the_table() -> None:
    """With clocks in the capture, peaks are multiprocessors x rate x clock, and bandwidth 2 x clock
    x bus.
    """
    environment = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "memory_bus_bits": 5120,
    }
    found = gpu_peaks(environment)
    assert found["fp32"] == (132 * 256 * 1980e6, "device properties")
    rate, source = found["dram"]
    assert rate == pytest.approx(3.352e12, rel=1e-3)
    assert source == "device properties"
    unknown = gpu_peaks(
        {"gpu": "GPU of the future", "compute_capability": "99.0", "multiprocessors": 7}
    )
    assert unknown == {}


def test_measured_peaks_are_ceilings_too() -> None:
    """Measured peaks follow the theoretical ones, and count where there is no other."""
    measured = {"dram_bytes_per_s": 2e12, "fp16_tensor_flops_per_s": 6e14}
    known = peaks(
        gpu_profile(environment={"gpu": "NVIDIA H100 80GB HBM3", "measured_peaks": measured})
    )
    rows = known[known["source"] == "measured"].set_index("resource")
    assert rows["per_s"].to_dict() == {"dram": 2e12, "fp16 tensor": 6e14}
    assert rows["precision"].to_dict() == {"dram": "", "fp16 tensor": "fp16"}
    assert known["source"].tolist()[-2:] == ["measured"] * 2
    prof = gpu_profile(environment={"gpu": "GPU of the future", "measured_peaks": measured})
    assert ideal_arithmetic_intensity(prof, "fp16") == pytest.approx(300)


def test_a_cpu_has_no_ceilings_of_the_gpu_beside_it() -> None:
    """A model on the CPU of a machine whose GPU was measured: the peaks are the CPU's, and nothing
    runs in TF32.
    """
    measured = {"dram_bytes_per_s": 2e12, "fp16_tensor_flops_per_s": 6e14, "fp32_flops_per_s": 5e13}
    environment = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "allow_tf32": True,
        "measured_peaks": measured,
        "cpu_cores": 2,
        "cpu_max_mhz": 2000.0,
        "cpu_flags": ["fma"],
    }
    model = torch.nn.Linear(8, 4)
    capture = measure(model, torch.randn(2, 8), iterations=3)._capture
    meta = {
        **capture.meta,
        "environment": {**capture.meta["environment"], "torch_threads": 2, **environment},
    }
    prof = Profile(replace(capture, meta=meta))
    table = peaks(prof)
    assert set(table["source"]) == {"device properties"}
    assert table.set_index("resource")["per_s"].to_dict() == {"fp64": 64e9, "fp32": 128e9}
    roofline = layer_roofline(prof)
    assert roofline["precision"].tolist() == ["fp32"]
    assert roofline["memory_bound"].isna().all()


def test_peaks_of_a_cpu(tmp_path: Path) -> None:
    """A CPU's peak is cores x SIMD operations x clock, with hyper-threads of a core
    counted once.
    """
    facts = {"physical id": "0", "cpu MHz": "2000.000", "flags": "sse2 avx avx2 fma avx512f"}
    entries = [{"processor": number, "core id": number % 2, **facts} for number in range(4)]
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "\n\n".join(
            "\n".join(f"{key}\t: {value}" for key, value in entry.items()) for entry in entries
        )
        + "\n"
    )
    read = processor(cpuinfo, tmp_path)
    assert read["cpu_max_mhz"] == 2000
    assert read["cpu_cores"] in (1, 2)
    found = cpu_peaks(
        {"cpu_cores": 2, "cpu_max_mhz": 2000.0, "cpu_flags": read["cpu_flags"], "torch_threads": 1}
    )
    assert found["fp32"] == (64 * 2e9, "device properties")
    assert found["fp64"] == (32 * 2e9, "device properties")
    assert processor(tmp_path / "missing", tmp_path) == {}
