"""Work done by each kernel, from hardware counters: the formulas, and a `counters` table read with
them.

A quantity can be had from different counters on different chips. Each chip knows some of a
quantity's formulas; a recorder collects one of them, and here the first whose counters were all
collected is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

Formula = Mapping[str, float]
"""Weights of raw CUPTI metrics whose weighted sum is the quantity."""

_THREADS = "smsp__sass_thread_inst_executed_op"


def _instructions(letter: str) -> tuple[Formula, ...]:
    """FLOPs of one precision on the CUDA cores, from instructions that threads executed,
    predicated-off ones left out.

    A fused multiply-add is two operations: the mapping of `flop_count_sp`, `_dp` and `_hp` to these
    counters in the CUPTI documentation ("Metrics Mapping Table").
    """
    weights = {"add": 1.0, "mul": 1.0, "fma": 2.0}
    return (
        {
            f"{_THREADS}_{letter}{operation}_pred_on.sum": weight
            for operation, weight in weights.items()
        },
    )


def _tensor(*alternatives: tuple[str, ...]) -> tuple[Formula, ...]:
    """Operations of the tensor cores on one type of operand: CUPTI counts multiplications and
    additions, so 2mnk.
    """
    return tuple(
        {f"sm__ops_path_tensor_{part}.sum": 1.0 for part in parts} for parts in alternatives
    )


FORMULAS: Mapping[str, tuple[Formula, ...]] = {
    "fp64": _instructions("d"),
    "fp32": _instructions("f"),
    "fp16": _instructions("h"),
    "tensor_fp64": _tensor(("src_fp64",)),
    "tensor_tf32": _tensor(("src_tf32_dst_fp32",)),
    "tensor_bf16": _tensor(("src_bf16_dst_fp32",)),
    # GH100 needs two passes for all of fp16 at once, and one for each of its parts. Turing has one
    # counter for the three types that its successors tell apart; it can multiply only fp16 among
    # them.
    "tensor_fp16": _tensor(
        ("op_hgmma_src_fp16", "op_hmma_src_fp16_dst_fp16", "op_hmma_src_fp16_dst_fp32"),
        ("src_fp16_dst_fp16", "src_fp16_dst_fp32"),
        ("src_fp16_dst_fp16", "src_fp16_bf16_tf32_dst_fp32"),
    ),
    "tensor_fp8": _tensor(
        ("src_fp8",),
        ("src_fp8_dst_fp16", "src_fp8_dst_fp32"),
        ("src_fp4_fp6_fp8_dst_fp16", "src_fp4_fp6_fp8_dst_fp32"),
    ),
    "tensor_int8": _tensor(("op_igmma_src_int8", "op_imma_src_int8"), ("src_int8",)),
    "dram_read_bytes": ({"dram__bytes_read.sum": 1.0}, {"dram__bytes_op_read.sum": 1.0}),
    "dram_write_bytes": ({"dram__bytes_write.sum": 1.0}, {"dram__bytes_op_write.sum": 1.0}),
    "l2_bytes": ({"lts__t_bytes.sum": 1.0},),
    "occupancy": ({"sm__warps_active.avg.pct_of_peak_sustained_active": 0.01},),
}
"""Ways to compute each quantity, the preferred first. Operations and bytes are sums over one
kernel; `occupancy` is the share, 0 to 1, of the warps that fit on the multiprocessors, over the
cycles in which those were active.
"""

CORE_PRECISIONS = ("fp64", "fp32", "fp16")
"""Types of operands on the CUDA cores; `fp16` has bf16 too, which the same instructions compute."""

TENSOR_PRECISIONS = ("fp64", "tf32", "bf16", "fp16", "fp8")
"""Floating-point types of operands on the tensor cores."""


def counted_work(table: pd.DataFrame) -> pd.DataFrame:
    """What each kernel did, by hardware counters.

    Args:
        table: the capture's `counters`: `position`, `kernel`, `sample` and a column for every raw
            CUPTI metric.

    Returns a row per row of `table`: `position`; `flops`, all floating-point operations; of these
    `flops_fp64`, `flops_fp32` and `flops_fp16` on the CUDA cores and `flops_tensor` on the tensor
    cores; `dram_read_bytes`, `dram_write_bytes`, `l2_bytes`; `occupancy`, 0 to 1; `precision`, the
    type of operand of most operations, "" where there are none. What was not collected is NaN, and
    so is a sum of which a part was not collected. A type that the chip's tensor cores do not have
    counts nothing.

    """
    cores = {precision: quantity(table, precision) for precision in CORE_PRECISIONS}
    tensor = _tensor_operations(table)
    columns = {
        "position": table["position"].to_numpy(),
        "flops": _total([*cores.values(), *tensor.values()], len(table), known=bool(tensor)),
        **{f"flops_{precision}": operations for precision, operations in cores.items()},
        "flops_tensor": _total(tensor.values(), len(table), known=bool(tensor)),
    }
    for name in ("dram_read_bytes", "dram_write_bytes", "l2_bytes", "occupancy"):
        columns[name] = quantity(table, name)
    columns["precision"] = _dominant(cores, tensor, len(table))
    return pd.DataFrame(columns)


def quantity(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """One quantity of FORMULAS for each row of a `counters` table; NaN where its counters were not
    collected.
    """
    formula = next((one for one in FORMULAS[name] if set(one) <= set(table.columns)), None)
    if formula is None:
        return np.full(len(table), np.nan)
    total: npt.NDArray[np.float64] = table[list(formula)].to_numpy(np.float64) @ np.array(
        list(formula.values())
    )
    return total


def _tensor_operations(table: pd.DataFrame) -> dict[str, npt.NDArray[np.float64]]:
    """Operations by type, of the types that were collected."""
    every = {precision: quantity(table, f"tensor_{precision}") for precision in TENSOR_PRECISIONS}
    return {
        precision: operations
        for precision, operations in every.items()
        if not np.isnan(operations).all()
    }


def _total(
    parts: Iterable[npt.NDArray[np.float64]], rows: int, *, known: bool
) -> npt.NDArray[np.float64]:
    return np.sum([np.zeros(rows), *parts], axis=0) if known else np.full(rows, np.nan)


def _dominant(
    cores: Mapping[str, npt.NDArray[np.float64]],
    tensor: Mapping[str, npt.NDArray[np.float64]],
    rows: int,
) -> npt.NDArray[np.object_]:
    names = np.array([*cores, *tensor, ""], dtype=object)
    operations = np.nan_to_num(np.stack([*cores.values(), *tensor.values(), np.zeros(rows)]))
    chosen = np.where(operations.max(axis=0) > 0, operations.argmax(axis=0), len(names) - 1)
    return names[chosen]
