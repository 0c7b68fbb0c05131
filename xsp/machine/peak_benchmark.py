"""Measuring what the hardware reaches: matrix products by precision, and memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

GPU_SIZES = (2048, 4096, 8192, 16384)
CPU_SIZES = (512, 1024, 2048)
GPU_BYTES = 1 << 30
"""Of each array that is copied: far more than any cache holds."""
CPU_BYTES = 1 << 28
SAMPLE_S = 0.02
"""A sample is as many calls in a row as take this long, so that launching them and reading the
clock do not count.
"""
SAMPLES = 5
LONGEST_CALL_S = 0.5
"""No size is tried of which one call would take longer."""

_TYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Peak:
    """What was reached: `per_s` in FLOP/s, or bytes/s for "dram"; `how` says with what."""

    resource: str
    per_s: float
    how: str

    @property
    def key(self) -> str:
        """Its name in `Profile.environment["measured_peaks"]`, for example
        `fp16_tensor_flops_per_s`.
        """
        unit = "bytes" if self.resource == "dram" else "flops"
        return f"{self.resource.replace(' ', '_')}_{unit}_per_s"


def measure_peaks(
    device: str,
    resources: Sequence[str],
    sizes: Sequence[int] | None = None,
    array_bytes: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Peak]:
    """The best of several samples for each resource, such as "fp32", "fp16 tensor" and "dram".

    Products are of square matrices of random numbers (of zeros they would be faster: switching bits
    takes power); bandwidth is that of a copy or of `a + s * b`, read and written bytes counted,
    whichever is faster. What the device cannot compute, or has no memory for, is left out.
    """
    on_gpu = device == "cuda"
    sizes = sizes or (GPU_SIZES if on_gpu else CPU_SIZES)
    found: list[Peak | None] = []
    for resource in resources:
        announce(resource)
        if resource == "dram":
            found.append(_bandwidth(device, array_bytes or (GPU_BYTES if on_gpu else CPU_BYTES)))
        else:
            found.append(_products(device, resource, sizes))
    return [peak for peak in found if peak is not None]


def resources_of(known: Collection[str], device: str) -> list[str]:
    """What can be measured: for each precision the fastest of the resources that the device is
    known to have.

    fp32, fp64 and memory also where nothing is known.
    """
    names = [(name, f"{name} tensor") for name in ("fp64", "fp32", "tf32", "fp16", "bf16")]
    best = [tensor if tensor in known and device == "cuda" else name for name, tensor in names]
    return [*(name for name in best if name in known or name in {"fp64", "fp32"}), "dram"]


def _products(device: str, resource: str, sizes: Sequence[int]) -> Peak | None:
    precision = resource.partition(" ")[0]
    best: Peak | None = None
    with torch.inference_mode(), _float32_products("high" if precision == "tf32" else "highest"):
        for size in sizes:
            if best is not None and 2 * size**3 / best.per_s > LONGEST_CALL_S:
                break
            try:
                per_s = _product_rate(device, _TYPES[precision], size)
            except RuntimeError:  # not enough memory, or no such product on this device
                break
            if best is None or per_s > best.per_s:
                best = Peak(resource, per_s, f"product of {size} x {size} matrices")
    return best


def _product_rate(device: str, dtype: torch.dtype, size: int) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=out), device)


def _bandwidth(device: str, array_bytes: int) -> Peak | None:
    try:
        a, b, c = (torch.rand(array_bytes // 4, device=device) for _ in range(3))
    except RuntimeError:  # not enough memory
        return None
    with torch.inference_mode():
        copied = 2 * array_bytes / _seconds(lambda: a.copy_(b), device)
        summed = 3 * array_bytes / _seconds(lambda: torch.add(b, c, alpha=0.5, out=a), device)
    how = f"{'copy' if copied >= summed else 'triad'} of arrays of {array_bytes / 2**20:.0f} MiB"
    return Peak("dram", max(copied, summed), how)


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(call: Callable[[], object], device: str) -> float:
    """Least time of one call over all samples."""
    timed = _gpu_seconds if device == "cuda" else _cpu_seconds
    call()
    single = timed(call, 1)
    calls = max(1, round(SAMPLE_S / max(single, 1e-7)))
    return min(timed(call, calls) / calls for _ in range(SAMPLES))


def _gpu_seconds(call: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _cpu_seconds(call: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - begin
