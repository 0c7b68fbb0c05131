"""What is read of each collective's span, whether it is a call's or a kernel's."""

from __future__ import annotations

import re
from math import nan

import pandas as pd


def timed(rows: pd.DataFrame, names: pd.Series, types: pd.Series) -> pd.DataFrame:
    """Spans of collectives: run, detail, name, type, start_ns, end_ns, and call_ns and wait_ns:
    when the call returned and when the wait for it began, both its end for one that blocks.
    """
    detail, start = rows["detail"].to_numpy(), rows["start_ns"].to_numpy()
    end = start + rows["duration_ns"].to_numpy()
    return pd.DataFrame(
        {
            "run": rows["run"].to_numpy(),
            "detail": detail,
            "name": names.astype(object).to_numpy()[detail],
            "type": types.astype(object).to_numpy()[detail],
            "start_ns": start,
            "call_ns": end,
            "wait_ns": end,
            "end_ns": end,
        }
    )


def item_bytes(dtype: str) -> float:
    """Bytes of an element, by the number of bits in the type's name: `float32`, `ncclBfloat16`."""
    if dtype == "bool":
        return 1.0
    bits = re.search(r"(?:int|loat)(\d+)", dtype)
    return float(bits.group(1)) / 8 if bits else nan
