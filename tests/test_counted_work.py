"""From the values of counters to operations, bytes and occupancy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.analysis.work.counters import FORMULAS, counted_work


def table_of(**columns: float) -> pd.DataFrame:
    """A `counters` table with one row."""
    return pd.DataFrame(
        {
            "position": [0],
            "kernel": [0],
            "sample": [0],
            **{name: [value] for name, value in columns.items()},
        }
    )


def test_fused_multiply_add_is_two_operations() -> None:
    """FLOPs per precision are additions, multiplications and twice the fused multiply-adds, tensor
    cores apart.
    """
    instructions = {
        f"smsp__sass_thread_inst_executed_op_{letter}{operation}_pred_on.sum": value
        for letter, scale in (("d", 1.0), ("f", 10.0), ("h", 100.0))
        for operation, value in (("add", scale), ("mul", 2 * scale), ("fma", 3 * scale))
    }
    tensor = dict.fromkeys(FORMULAS["tensor_fp16"][0], 1000.0)
    row = counted_work(table_of(**instructions, **tensor)).iloc[0]
    assert (row["flops_fp64"], row["flops_fp32"], row["flops_fp16"]) == (9, 90, 900)
    assert row["flops_tensor"] == 3000
    assert row["flops"] == 3999
    assert row["precision"] == "fp16"


def test_total_is_unknown_where_a_part_is() -> None:
    """Without the tensor cores' counters the total is unknown, as bytes are without theirs: never
    too low, never 0.
    """
    instructions = {
        name: 1.0 for precision in ("fp64", "fp32", "fp16") for name in FORMULAS[precision][0]
    }
    row = counted_work(table_of(**instructions)).iloc[0]
    assert row["flops_fp32"] == 4
    assert np.isnan(
        row[["flops", "flops_tensor", "dram_read_bytes", "l2_bytes", "occupancy"]].astype(float)
    ).all()


def test_occupancy_is_a_share() -> None:
    """CUPTI's percentage becomes a number from 0 to 1, and bytes stay bytes."""
    row = counted_work(
        table_of(
            **{
                "sm__warps_active.avg.pct_of_peak_sustained_active": 25.0,
                "dram__bytes_op_read.sum": 64.0,
            }
        )
    ).iloc[0]
    assert row["occupancy"] == 0.25
    assert row["dram_read_bytes"] == 64
    assert row["precision"] == ""
