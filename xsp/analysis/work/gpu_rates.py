"""What NVIDIA GPUs can compute per cycle and multiprocessor, and published peaks of well-known
ones.

Rates: "Throughput of Native Arithmetic Instructions" in the CUDA C++ Programming Guide for the CUDA
cores (a fused multiply-add is two operations), NVIDIA's architecture white papers (V100, Turing,
A100, GA102, Ada, H100, Blackwell) for the tensor cores, with float32 accumulation and without
sparsity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

Rates = Mapping[str, int]


def _rates(
    fp64: int,
    fp32: int,
    fp16: int,
    bf16: int,
    tensor: int,
    tf32: int,
    fp8: int,
    int8: int,
    fp64_tensor: int = 0,
) -> Rates:
    """Operations per cycle by resource, in the order of the peaks of `peaks`; what a chip lacks
    is left out.
    """
    every = {
        "fp64": fp64,
        "fp64 tensor": fp64_tensor,
        "fp32": fp32,
        "tf32 tensor": tf32,
        "fp16": fp16,
        "fp16 tensor": tensor,
        "bf16": bf16,
        "bf16 tensor": tensor if tf32 else 0,
        "fp8 tensor": fp8,
        "int8 tensor": int8,
    }
    return {resource: each for resource, each in every.items() if each}


RATES: Mapping[str, Rates] = {
    "7.0": _rates(64, 128, 256, 0, 1024, 0, 0, 0),
    "7.5": _rates(4, 128, 256, 0, 1024, 0, 0, 2048),
    "8.0": _rates(64, 128, 512, 256, 2048, 1024, 0, 4096, fp64_tensor=128),
    "8.6": _rates(4, 256, 256, 256, 1024, 512, 0, 2048),
    "8.9": _rates(4, 256, 256, 256, 1024, 512, 2048, 2048),
    "9.0": _rates(128, 256, 512, 512, 4096, 2048, 8192, 8192, fp64_tensor=256),
    "10.0": _rates(128, 256, 512, 512, 8192, 4096, 16384, 16384, fp64_tensor=128),
    "12.0": _rates(4, 256, 256, 256, 1024, 512, 2048, 2048),
}
"""By compute capability."""


class Published(NamedTuple):
    """Dense peaks from a GPU's data sheet, in TFLOP/s and GB/s; `fp16_tensor` with float32
    accumulation.
    """

    name: re.Pattern[str]
    compute_capability: str
    fp32: float
    fp16_tensor: float
    dram: float


def _published(
    name: str, capability: str, fp32: float, fp16_tensor: float, dram: float
) -> Published:
    return Published(re.compile(name), capability, fp32, fp16_tensor, dram)


# The first whose pattern is found in the device's name counts. Sources: NVIDIA's data sheets of
# these products, for GeForce the appendices of the GA102 and Ada white papers. Half the printed
# value where that is with sparsity.
PUBLISHED = (
    _published(r"V100.*PCIE", "7.0", 14.0, 112.0, 900),
    _published(r"V100", "7.0", 15.7, 125.0, 900),
    _published(r"\bT4\b", "7.5", 8.1, 65.0, 320),
    _published(r"A100.*80GB PCIe", "8.0", 19.5, 312.0, 1935),
    _published(r"A100.*80GB", "8.0", 19.5, 312.0, 2039),
    _published(r"A100", "8.0", 19.5, 312.0, 1555),
    _published(r"\bA10\b", "8.6", 31.2, 125.0, 600),
    _published(r"RTX 3090(?! Ti)", "8.6", 35.6, 71.0, 936),
    _published(r"\bL4\b", "8.9", 30.3, 121.0, 300),
    _published(r"\bL40S\b", "8.9", 91.6, 362.0, 864),
    _published(r"RTX 4090(?! (D|Laptop))", "8.9", 82.6, 165.2, 1008),
    _published(r"RTX 6000 Ada", "8.9", 91.1, 364.2, 960),
    _published(r"H100 PCIe", "9.0", 51.2, 756.0, 2000),
    _published(r"H100 NVL", "9.0", 60.0, 835.5, 3900),
    _published(r"H100.*(HBM3|SXM)", "9.0", 66.9, 989.4, 3350),
    _published(r"H200 NVL", "9.0", 60.0, 835.5, 4800),
    _published(r"\bH200\b", "9.0", 66.9, 989.4, 4800),
    _published(r"\bB200\b", "10.0", 80.0, 2250.0, 8000),
)

_FULL_RATE = {"int8 tensor", "fp64 tensor"}


def rates_of(gpu: str, compute_capability: str | None) -> Rates:
    """Operations per cycle and multiprocessor by resource; empty for a GPU that is not known.

    On GeForce cards the tensor cores accumulate in float32, as PyTorch asks them to, at half the
    rate of the chip.
    """
    rates = RATES.get(compute_capability or "", {})
    slow = "GeForce" in gpu
    return {
        resource: each // 2
        if slow and "tensor" in resource and resource not in _FULL_RATE
        else each
        for resource, each in rates.items()
    }


def published_peaks(gpu: str) -> dict[str, float]:
    """FLOP/s by resource and bytes/s as `dram` from the data sheet; empty for a GPU that is not in
    the table.

    The data sheet gives fp32 and the fp16 of the tensor cores; the rest follows by the ratio of the
    rates, among CUDA cores and among tensor cores apart, because some data sheets assume another
    clock for each.
    """
    row = next((row for row in PUBLISHED if row.name.search(gpu)), None)
    if row is None:
        return {}
    rates = rates_of(gpu, row.compute_capability)
    core, tensor = row.fp32 / rates["fp32"], row.fp16_tensor / rates["fp16 tensor"]
    on_tensor = {resource: "tensor" in resource and resource != "fp64 tensor" for resource in rates}
    flops = {
        resource: each * (tensor if on_tensor[resource] else core) * 1e12
        for resource, each in rates.items()
    }
    return {**flops, "dram": row.dram * 1e9}
