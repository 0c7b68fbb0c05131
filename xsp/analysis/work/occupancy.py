"""Theoretical occupancy: how many of the warps that fit on a multiprocessor a kernel's launch lets
run there.

The limits are those of the "Technical Specifications per Compute Capability" in the CUDA C++
Programming Guide, the rounding that of NVIDIA's occupancy calculator (registers are handed out to
warps in units of 256, from the file of the partition of the multiprocessor on which the warp runs;
shared memory to blocks in units of 128 or 256 bytes).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

_WARP = 32
_REGISTER_UNIT = 256
_REGISTERS = 65536


Ints = npt.NDArray[np.int64]


class Multiprocessor(NamedTuple):
    """What one multiprocessor holds; shared memory in bytes, of which every block also takes
    `reserved`.
    """

    warps: int
    blocks: int
    shared: int
    shared_unit: int = 128
    reserved: int = 1024
    partitions: int = 4


_KIB = 1024
MULTIPROCESSORS = {
    "6.0": Multiprocessor(64, 32, 64 * _KIB, 256, 0, partitions=2),
    "6.1": Multiprocessor(64, 32, 96 * _KIB, 256, 0),
    "7.0": Multiprocessor(64, 32, 96 * _KIB, 256, 0),
    "7.5": Multiprocessor(32, 16, 64 * _KIB, 256, 0),
    "8.0": Multiprocessor(64, 32, 164 * _KIB),
    "8.6": Multiprocessor(48, 16, 100 * _KIB),
    "8.7": Multiprocessor(48, 16, 164 * _KIB),
    "8.9": Multiprocessor(48, 24, 100 * _KIB),
    "9.0": Multiprocessor(64, 32, 228 * _KIB),
    "10.0": Multiprocessor(64, 32, 228 * _KIB),
    "10.3": Multiprocessor(64, 32, 228 * _KIB),
    "12.0": Multiprocessor(48, 24, 100 * _KIB),
}
"""By compute capability."""


def theoretical_occupancy(
    kernels: pd.DataFrame, compute_capability: str | None, multiprocessors: int | None = None
) -> npt.NDArray[np.float64]:
    """Occupancy, 0 to 1, of each row of `kernels`; NaN for copies, sets and unknown GPUs.

    With `multiprocessors` the number of blocks of the grid is a limit too, as it is to what a
    counter would read: two blocks on 132 multiprocessors never have more than one on any.
    """
    limits = MULTIPROCESSORS.get(compute_capability or "")
    if limits is None:
        return np.full(len(kernels), np.nan)
    threads = _product(kernels, "block")
    warps = np.maximum(-(-threads // _WARP), 1)
    blocks = np.minimum(_blocks_by_registers(kernels, limits, warps), limits.warps // warps)
    blocks = np.minimum(blocks, _blocks_by_shared_memory(kernels, limits))
    blocks = np.minimum(blocks, limits.blocks)
    if multiprocessors:
        blocks = np.minimum(blocks, -(-_product(kernels, "grid") // multiprocessors))
    # A kernel that ran fitted: limits that say otherwise (clusters, carve-outs) are not known well
    # enough.
    occupancy = np.minimum(np.maximum(blocks, 1) * warps / limits.warps, 1.0)
    is_kernel = (kernels["kind"] == "kernel").to_numpy()
    return np.where((threads > 0) & is_kernel, occupancy, np.nan)


def _blocks_by_registers(kernels: pd.DataFrame, limits: Multiprocessor, warps: Ints) -> Ints:
    registers = kernels["registers_per_thread"].to_numpy(np.int64)
    per_warp = np.maximum(_rounded(registers * _WARP, _REGISTER_UNIT), 1)
    warps_of_partition = _REGISTERS // limits.partitions // per_warp
    return warps_of_partition * limits.partitions // warps


def _blocks_by_shared_memory(kernels: pd.DataFrame, limits: Multiprocessor) -> Ints:
    fixed = kernels["static_shared_bytes"].to_numpy(np.int64)
    asked = kernels["dynamic_shared_bytes"].to_numpy(np.int64)
    per_block = _rounded(fixed + asked + limits.reserved, limits.shared_unit)
    return limits.shared // np.maximum(per_block, 1)


def _product(kernels: pd.DataFrame, what: str) -> Ints:
    return np.asarray(
        np.prod([kernels[f"{what}_{axis}"].to_numpy(np.int64) for axis in "xyz"], axis=0)
    )


def _rounded(amount: Ints, unit: int) -> Ints:
    return np.asarray(-(-amount // unit) * unit)
