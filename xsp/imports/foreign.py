"""What a trace of another tool holds, in the one form from which a capture is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from xsp.types import Level
from xsp.words.slugs import with_slug

RANGE_COLUMNS = (
    "thread",
    "start_ns",
    "end_ns",
    "name",
    "type",
    "kind",
    "phase",
    "forward",
    "may_enclose",
    "is_named",
    "module",
    "input_shapes",
    "input_dtypes",
)
"""Of `ForeignTrace.ranges`. `kind` is that of a layer (`module`, `function`, `autograd`), `forward`
the row whose backward work this is (-1 for none). A range that `may_enclose` and does is a module;
the others are layers. A name that `is_named` is complete, with `module` around it; others are
completed from the modules around them.
"""

HOST_COLUMNS = ("thread", "start_ns", "end_ns", "name")
DEVICE_COLUMNS = (
    "kind",
    "name",
    "start_ns",
    "end_ns",
    "correlation_id",
    "context",
    "stream",
    "registers_per_thread",
    "static_shared_bytes",
    "dynamic_shared_bytes",
    "bytes",
    "grid_x",
    "grid_y",
    "grid_z",
    "block_x",
    "block_y",
    "block_z",
)


@dataclass(frozen=True, eq=False)
class ForeignTrace:
    """Ranges of the host, library calls, CUDA API calls and device activities; times are ns on one
    clock.

    `windows` (thread, start_ns, end_ns) are the runs; without any, the whole trace is one run.
    `api` has `correlation_id`, `library` has `library` and `arguments` beside HOST_COLUMNS.
    `missing` says why a level is absent,
    `epoch_offset_ns` is Unix time minus that clock. The last window may be cut short where the end
    of the recording ends it.
    """

    name: str
    tool: str
    windows: pd.DataFrame
    ranges: pd.DataFrame
    library: pd.DataFrame
    api: pd.DataFrame
    device: pd.DataFrame
    environment: dict[str, Any]
    missing: dict[Level, str]
    warnings: list[str] = field(default_factory=list)
    epoch_offset_ns: int | None = None
    last_may_be_cut: bool = False


def table(rows: list[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with these columns, also where there are no rows; stamps and numbers are int64."""
    found = pd.DataFrame(rows, columns=list(columns))
    if "name" in found and pd.api.types.infer_dtype(found["name"]).startswith("mixed"):
        # Damaged: anything can stand there, and only text can be counted.
        found["name"] = found["name"].map(str)
    numbers = [name for name in columns if name in _NUMBERS]
    return found.astype(
        dict.fromkeys(numbers, np.int64) | {name: bool for name in columns if name in _FLAGS}
    )


def backwards(events: int) -> list[str]:
    """The sentence about events that end before they start and were left out, if there are any."""
    sentence = f"{events} events of the trace end before they start and are in no table"
    return [with_slug("backwards", sentence)] if events else []


_FLAGS = ("may_enclose", "is_named")
_NUMBERS = (
    "thread",
    "start_ns",
    "end_ns",
    "forward",
    "correlation_id",
    "context",
    "stream",
    *DEVICE_COLUMNS[7:],
)
