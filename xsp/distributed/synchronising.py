"""Collectives in one rank's capture: what they are, what they move among whom, and when."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.distributed.collective_calls import of_calls
from xsp.distributed.nccl_kernels import of_kernels
from xsp.types import Tables

TIMES = ("start_ns", "call_ns", "wait_ns", "end_ns")


def collectives(tables: Tables, size: int) -> pd.DataFrame:
    """Collectives of all rounds of one rank of `size`, in order: round, group (its ranks, see
    `process_groups`), number (of its group in the round), name, type, bytes (NaN where not known),
    dtype (empty where not known), and on that rank's clock start_ns, call_ns (when the call
    returned), wait_ns (when the wait for it began) and end_ns. The rank is held up from start_ns to
    call_ns and from wait_ns to end_ns.

    Where NCCL's kernels were recorded they are what is listed: a kernel begins when its rank has
    come, and ends when the data has. Else it is the calls that are; one that is waited for later
    ends with that wait. For those that block call_ns and wait_ns are end_ns.
    """
    found = of_kernels(tables, size)
    if found.empty:
        found = of_calls(tables)
    found = found.sort_values(["run", "start_ns"], kind="stable")
    rounds = tables["runs"].set_index("run")["round"]
    told = ("name", "type", "bytes", "dtype", *TIMES)
    return pd.DataFrame(
        {
            "round": found["run"].map(rounds).to_numpy(np.int64),
            "group": found["group"].to_numpy(object),
            "number": found.groupby(["run", "group"]).cumcount().to_numpy(np.int64),
            **{name: found[name].to_numpy() for name in told},
        }
    )
