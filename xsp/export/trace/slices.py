"""The slices of one run: its spans, the modules around its layers, its CUDA API calls and the
program's own ranges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.outside import stands_for_outside
from xsp.capture.schema import details_of, with_sources
from xsp.export.trace.arguments import Arguments, arguments_of, counters_by_position
from xsp.types import LEVEL_OF_NUMBER, Level, Tables

Ints = npt.NDArray[np.int64]

MODULE = "MODULE"
API = "CUDA API"
NVTX = "NVTX"
CATEGORIES = ("MODEL", MODULE, "LAYER", "OP", "LIBRARY", API, "KERNEL", NVTX)
"""Kinds of slices, outermost first; those named as levels are spans, the others are additions."""

THREAD, OUTSIDE, RANGES = 0, 1, 2
"""Column `side`: what is on the track of a thread or stream itself, and what is on tracks beside it
because it need not nest with that: work outside layers, and the program's own ranges.
"""

_OF_LEVEL = np.array([CATEGORIES.index(level.name) for level in LEVEL_OF_NUMBER])
"""Place in CATEGORIES, by the number of the level."""


def span_slices(
    tables: Tables, spans: pd.DataFrame, about: Arguments, order: Ints
) -> tuple[pd.DataFrame, list[Arguments]]:
    """Slices of spans, in the order of the spans, and the arguments that their column `arguments`
    points to.

    `order` is the time of each span's launch, which decides to which kernel counters belong;
    `about` is added to the arguments of MODEL slices.
    """
    level, detail = spans["level"].to_numpy(), spans["detail"].to_numpy()
    names = [details_of(tables, one)["name"].to_numpy(dtype=object) for one in LEVEL_OF_NUMBER]
    first = np.r_[0, np.cumsum([len(each) for each in names])]
    on_device = level == Level.KERNEL
    stands_in = (level == Level.LAYER) & _stand_ins(tables)[
        np.where(level == Level.LAYER, detail, 0)
    ]
    index, arguments = _arguments(tables, level, detail, _position(tables, spans, order))
    for one in np.unique(index[level == Level.MODEL]):
        arguments[one] = arguments[one] | about
    table = pd.DataFrame(
        {
            "row": spans.index.to_numpy(),
            "category": _OF_LEVEL[level],
            "name": np.concatenate(names)[first[level] + detail],
            "start_ns": spans["start_ns"].to_numpy(),
            "end_ns": spans["start_ns"].to_numpy() + spans["duration_ns"].to_numpy(),
            "recorded_ns": spans["recorded_ns"].to_numpy(),
            "on_device": on_device,
            "context": np.where(on_device, spans["context"], 0),
            "number": np.where(on_device, spans["stream"], spans["thread"]).astype(np.int64),
            "side": np.where(stands_in, OUTSIDE, THREAD),
            "correlation_id": spans["correlation_id"].to_numpy(),
            "arguments": index,
        }
    )
    return table, arguments


def _stand_ins(tables: Tables) -> npt.NDArray[np.bool_]:
    """Rows of `layers` that hold what no layer accounts for: their spans last as long as the model
    call.
    """
    outside = stands_for_outside(tables["layers"])
    return outside if len(outside) else np.zeros(1, dtype=bool)


def _position(tables: Tables, spans: pd.DataFrame, order: Ints) -> Ints:
    """Position of each kernel in the launch order, -1 for other spans and where counters are of
    another kernel.
    """
    position = np.full(len(spans), -1, dtype=np.int64)
    counted = counters_by_position(tables)
    if not counted:
        return position
    detail = spans["detail"].to_numpy()
    is_kernel = (spans["level"] == Level.KERNEL).to_numpy()
    is_kernel = (
        is_kernel
        & (tables["kernels"]["kind"].to_numpy() == "kernel")[np.where(is_kernel, detail, 0)]
    )
    kernels = np.flatnonzero(is_kernel)
    kernels = kernels[np.lexsort((spans["start_ns"].to_numpy()[kernels], order[kernels]))]
    known = np.full(max(len(kernels), max(counted) + 1), -1, dtype=np.int64)
    known[list(counted)] = [kernel for kernel, _ in counted.values()]
    place = np.arange(len(kernels))
    position[kernels] = np.where(known[place] == detail[kernels], place, -1)
    return position


def _arguments(
    tables: Tables, level: Ints, detail: Ints, position: Ints
) -> tuple[Ints, list[Arguments]]:
    keys = pd.DataFrame({"level": level, "detail": detail, "position": position})
    index = (
        keys.groupby(["level", "detail", "position"], sort=False)
        .ngroup()
        .to_numpy()
        .astype(np.int64)
    )
    distinct = keys.drop_duplicates()
    found: list[Arguments] = [{} for _ in range(len(distinct))]
    counted = counters_by_position(tables)
    for one in Level:
        rows = np.flatnonzero((distinct["level"] == one).to_numpy())
        for place, arguments in zip(
            rows, arguments_of(one, tables, distinct["detail"].to_numpy()[rows]), strict=True
        ):
            where = int(distinct["position"].iloc[place])
            found[place] = arguments | (counted[where][1] if where >= 0 else {})
    return index, found


def module_slices(tables: Tables, modules: pd.DataFrame) -> tuple[pd.DataFrame, list[Arguments]]:
    """Slices of `enclosing_modules`, and their arguments."""
    known = tables["modules"].iloc[modules["detail"].to_numpy(dtype=np.int64)]
    arguments = [
        {
            "type": row["type"],
            "parameter_bytes": int(row["parameter_bytes"]),
            "interval": "its first to its last layer",
        }
        for row in known.to_dict("records")
    ]
    return _host_slices(MODULE, modules, np.arange(len(modules))), arguments


def api_slices(api: pd.DataFrame) -> pd.DataFrame:
    """Slices of API calls; all share one, empty, dictionary of arguments."""
    return _host_slices(
        API, api.assign(end_ns=api["start_ns"] + api["duration_ns"]), np.zeros(len(api), np.int64)
    )


def nvtx_slices(tables: Tables, run: int) -> tuple[pd.DataFrame, list[Arguments]]:
    """Slices of the program's own ranges in a run, and their arguments: one for each domain of
    NVTX, and one for `record_function`.
    """
    ranges = tables.get("ranges")
    if ranges is None:
        ranges = pd.DataFrame(
            {name: pd.Series(dtype=object) for name in ("run", "domain", "name", *_STAMPS)}
        )
    ranges = ranges[ranges["run"] == run]
    is_nvtx = with_sources(ranges)["source"] == "nvtx"
    code, domains = pd.factorize(ranges["domain"].where(is_nvtx))
    told: list[Arguments] = [{"domain": str(domain)} for domain in domains]
    return _host_slices(NVTX, ranges, code.astype(np.int64) % (len(told) + 1)), [
        *told,
        {"source": "record_function"},
    ]


_STAMPS = ("thread", "start_ns", "end_ns")


def _host_slices(category: str, table: pd.DataFrame, arguments: Ints) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": -1,
            "category": CATEGORIES.index(category),
            "name": table["name"].to_numpy(dtype=object),
            "start_ns": table["start_ns"].to_numpy(dtype=np.int64),
            "end_ns": table["end_ns"].to_numpy(dtype=np.int64),
            "recorded_ns": table["recorded_ns" if "recorded_ns" in table else "start_ns"].to_numpy(
                dtype=np.int64
            ),
            "on_device": False,
            "context": 0,
            "number": table["thread"].to_numpy(dtype=np.int64),
            "side": RANGES if category == NVTX else THREAD,
            "correlation_id": table["correlation_id"].to_numpy()
            if "correlation_id" in table
            else 0,
            "arguments": arguments,
        }
    )
