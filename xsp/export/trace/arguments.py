"""What is known of a slice besides its times: shapes, decoded arguments, launch configuration,
counters.

One dictionary for each row of the table that a span's `detail` points to, however many spans repeat
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.capture.schema import details_of
from xsp.types import Level, Tables

Arguments = dict[str, Any]
"""JSON-able values by name; what is unknown is left out."""


_JSON = ("input_shapes", "input_dtypes", "output_shapes", "output_dtypes")
_LAYER = ("type", "kind", "phase", "module", "source")
_LAYER_BYTES = ("parameter_bytes", "allocated_bytes", "peak_bytes")
_LAUNCH = ("registers_per_thread", "static_shared_bytes", "dynamic_shared_bytes")


def arguments_of(level: Level, tables: Tables, rows: npt.NDArray[np.int64]) -> list[Arguments]:
    """Arguments of these rows of the level's table (`calls`, `layers`, `operators`,
    `library_calls`, `kernels`).
    """
    told = details_of(tables, level).iloc[rows].to_dict("records")
    return [_BY_LEVEL[level](row) for row in told]


def _call(row: Mapping[Any, Any]) -> Arguments:
    found = {name: _parsed(row[name]) for name in ("input_shapes", "input_dtypes")}
    return found | ({"batch_size": int(row["batch_size"])} if row["batch_size"] >= 0 else {})


def _layer(row: Mapping[Any, Any]) -> Arguments:
    found: Arguments = {name: row[name] for name in _LAYER if row.get(name)}
    found |= {name: value for name in _JSON if (value := _parsed(row[name]))}
    return found | {name: int(row[name]) for name in _LAYER_BYTES if row[name] >= 0}


def _library_call(row: Mapping[Any, Any]) -> Arguments:
    flops = {} if pd.isna(row["flops"]) else {"flops": int(row["flops"])}
    return {"library": row["library"], **_parsed(row["arguments"]), **flops}


def _kernel(row: Mapping[Any, Any]) -> Arguments:
    if row["kind"] != "kernel":
        return {"kind": row["kind"], "bytes": int(row["bytes"])}
    shape = {what: [int(row[f"{what}_{axis}"]) for axis in "xyz"] for what in ("grid", "block")}
    return {"kind": "kernel", **shape, **{name: int(row[name]) for name in _LAUNCH}}


def _parsed(text: str) -> Any:
    try:
        # What JSON has no numbers for stays text: a trace with NaN in it is not JSON.
        return json.loads(text, parse_constant=str) if text else {}
    except ValueError:
        return text


_BY_LEVEL: Mapping[Level, Callable[[Mapping[Any, Any]], Arguments]] = {
    Level.MODEL: _call,
    Level.LAYER: _layer,
    # Of an operator only the name is known.
    Level.OP: lambda _row: {},
    Level.LIBRARY: _library_call,
    Level.KERNEL: _kernel,
}


def counters_by_position(tables: Tables) -> dict[int, tuple[int, Arguments]]:
    """Hardware counters of the kernel at each position of the launch order: its row of `kernels`
    and the values.

    Empty where none were collected.
    """
    table = tables.get("counters")
    if table is None or not len(table):
        return {}
    metrics = [str(name) for name in table.columns if name not in ("position", "kernel", "sample")]
    return {
        int(row["position"]): (
            int(row["kernel"]),
            {name: float(row[name]) for name in metrics if pd.notna(row[name])},
        )
        for row in table.to_dict("records")
    }
