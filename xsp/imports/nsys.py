"""Exports of Nsight Systems: SQLite as `nsys export --type sqlite` writes it.

Layers are the NVTX push/pop ranges: the innermost ones are layers, those around them modules. Of
PyTorch's operators (`emit_nvtx`) those in no other operator are layers. Library calls are those of
cuBLAS and cuDNN, where they were recorded (`--trace=cublas,cudnn`); their arguments are not
recorded.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.ancestors import nearest_above
from xsp.capture.limits import most_bytes, within
from xsp.errors import CaptureError
from xsp.imports.assembling import capture_of
from xsp.imports.foreign import (
    DEVICE_COLUMNS,
    HOST_COLUMNS,
    RANGE_COLUMNS,
    ForeignTrace,
    backwards,
    table,
)
from xsp.imports.nesting import parents
from xsp.imports.operators import BACKWARD, from_nvtx
from xsp.imports.stamps import unknown, unknown_sentence
from xsp.profiles import Profile
from xsp.types import Level
from xsp.words.slugs import with_slug

TOOL = "Nsight Systems"
PUSH_POP = 59
"""`NVTX_EVENTS.eventType` of ranges that nest on their thread (nsys's table
ENUM_NSYS_EVENT_TYPE).
"""

_KERNELS, _COPIES, _SETS, _GRAPHS = (
    f"CUPTI_ACTIVITY_KIND_{what}" for what in ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")
)
_API = "CUPTI_ACTIVITY_KIND_RUNTIME"
_LIBRARIES = {"CUBLAS_EVENTS": "cuBLAS", "CUDNN_EVENTS": "cuDNN"}
_COPY_KINDS = {
    1: "HtoD",
    2: "DtoH",
    3: "HtoA",
    4: "AtoH",
    5: "AtoA",
    6: "AtoD",
    7: "DtoA",
    8: "DtoD",
    9: "HtoH",
    10: "PtoP",
}
"""`CUpti_ActivityMemcpyKind`."""

_VERSION = re.compile(r"(_ptsz|_ptds)?_v\d+$")
_LAUNCH = {
    "registersPerThread": "registers_per_thread",
    "staticSharedMemory": "static_shared_bytes",
    "dynamicSharedMemory": "dynamic_shared_bytes",
    **{f"{what}{axis.upper()}": f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"},
}
_MISSING = {
    Level.LAYER: "the export has no NVTX ranges; record it with --trace=nvtx and ranges in the "
    "program "
    "(torch.autograd.profiler.emit_nvtx, torch.cuda.nvtx.range)",
    Level.LIBRARY: "the export has no library calls; record it with --trace=cublas,cudnn",
    Level.KERNEL: "the export has no GPU activities; record it with --trace=cuda",
}
_WHOLE_GRAPHS = (
    "{} launches of CUDA graphs were recorded as a whole: their kernels are in no table, and "
    "device times are too low "
    "by them; record with --cuda-graph-trace=node"
)


def from_nsys(path: str | os.PathLike[str], *, runs: str | None = None) -> Profile:
    """A profile of an export of Nsight Systems, `*.sqlite`.

    `runs` is how the names of the NVTX ranges begin that are one run each, such as the program's
    iterations; without it the whole trace is one run. Of several processes the one with the most
    GPU activities is taken. Levels that the export does not hold are "unavailable" in
    `prof.levels`, with the reason.

    Raises CaptureError if the file is missing, no such export, or holds nothing that happened on
    the host.
    """
    source = Path(path)
    if not source.is_file():
        raise CaptureError(
            f"there is no file {str(source)!r}; write one with `nsys export --type sqlite REPORT`"
        )
    within(source.stat().st_size, most_bytes(), f"the export {str(source)!r}")
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database:
            trace = _trace(_Export(database), source.stem, runs)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CaptureError(
            f"a table of {str(source)!r} lacks what Nsight Systems writes ({type(error).__name__}: "
            f"{error}); export "
            "the report again, with the release of nsys that recorded it"
        ) from error
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise CaptureError(
            f"{str(source)!r} is not an SQLite export of Nsight Systems ({error}); make one from "
            "a report with `nsys export --type sqlite REPORT.nsys-rep`"
        ) from error
    return Profile(capture_of(trace))


class _Export:
    """Tables of the database; those that nsys did not write, because it recorded nothing for them,
    are empty.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        self.names = {str(name) for (name,) in names}
        if not self.names & {_API, _KERNELS, "NVTX_EVENTS"}:
            raise CaptureError(
                f"the database has none of the tables {_API}, {_KERNELS} and NVTX_EVENTS of an "
                "Nsight Systems export; "
                "record with `nsys profile --trace=cuda,nvtx` and export with `nsys export --type "
                "sqlite`"
            )
        strings = self.read("StringIds")
        self._strings = dict(zip(strings.get("id", []), strings.get("value", []), strict=True))

    def read(self, name: str) -> pd.DataFrame:
        """A whole table, ordered by its start; empty where it is not there."""
        if name not in self.names:
            return pd.DataFrame()
        # The name is one of this module's constants, never the user's.
        found = pd.read_sql_query(f'SELECT * FROM "{name}"', self._database)  # noqa: S608
        return (
            found.sort_values("start", kind="stable", ignore_index=True)
            if "start" in found
            else found
        )

    def text(self, numbers: pd.Series) -> pd.Series:
        """Strings by their numbers in `StringIds`."""
        return numbers.map(self._strings).fillna("unnamed").astype(object)


def _trace(export: _Export, name: str, runs: str | None) -> ForeignTrace:
    tables = {
        one: export.read(one)
        for one in (_API, _KERNELS, _COPIES, _SETS, _GRAPHS, "NVTX_EVENTS", *_LIBRARIES)
    }
    process, warnings = _process(tables)
    tables = {one: _of_process(rows, process) for one, rows in tables.items()}
    if len(tables[_GRAPHS]):
        warnings.append(with_slug("whole-graphs", _WHOLE_GRAPHS.format(len(tables[_GRAPHS]))))
    recorded = sum(map(len, tables.values()))
    tables = {one: _forwards(rows) for one, rows in tables.items()}
    warnings += backwards(recorded - sum(map(len, tables.values())))
    tables, unstamped = _with_known_stamps(tables)
    warnings += unknown_sentence(unstamped)
    ranges = _named_ranges(export, tables["NVTX_EVENTS"])
    is_run = ranges["name"].str.startswith(runs) if runs else pd.Series(False, index=ranges.index)
    if runs and not is_run.any():
        raise CaptureError(
            f"no NVTX range in the export has a name that begins with {runs!r}; leave out runs "
            "to take the whole export as one run"
        )
    return ForeignTrace(
        name=name,
        tool=TOOL,
        windows=ranges.loc[is_run, ["thread", "start_ns", "end_ns"]],
        ranges=_ranges(ranges[~is_run]),
        library=_library(export, tables),
        api=_api(export, tables[_API]),
        device=_device(export, tables),
        environment=_environment(export),
        missing=_MISSING,
        warnings=warnings,
        epoch_offset_ns=_epoch_offset(export),
    )


def _with_known_stamps(tables: dict[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], int]:
    """The tables without events of unknown start, and how many these were."""
    stamped = {name: rows for name, rows in tables.items() if {"start", "end"} <= set(rows)}
    if not stamped:
        return tables, 0
    every = pd.concat([rows[["start", "end"]] for rows in stamped.values()])
    start, end = every["start"], every["end"].fillna(every["start"])
    is_unknown = unknown(start.to_numpy(np.int64), end.to_numpy(np.int64))
    ends_of_tables = np.cumsum([len(rows) for rows in stamped.values()])
    parts = np.split(~is_unknown, ends_of_tables[:-1])
    known = {name: rows[part] for (name, rows), part in zip(stamped.items(), parts, strict=True)}
    return tables | known, int(is_unknown.sum())


def _epoch_offset(export: _Export) -> int | None:
    """Unix time of the start of the session, from which stamps count."""
    started = export.read("TARGET_INFO_SESSION_START_TIME")
    if "utcEpochNs" not in started or not len(started.dropna(subset=["utcEpochNs"])):
        return None
    return int(started["utcEpochNs"].dropna().iloc[0])


def _process(tables: dict[str, pd.DataFrame]) -> tuple[int | None, list[str]]:
    """The process to take (None: there is one only, or none is named), and a sentence if others are
    left out.
    """
    columns = {_KERNELS: "globalPid", _COPIES: "globalPid", _SETS: "globalPid"}
    named = [tables[name][column] for name, column in columns.items() if column in tables[name]]
    if not named:
        named = [
            _pid(tables[name]["globalTid"])
            for name in (_API, "NVTX_EVENTS")
            if "globalTid" in tables[name]
        ]
    counts = _pid(pd.concat(named)).value_counts() if named else pd.Series(dtype=np.int64)
    if len(counts) < 2:
        return None, []
    chosen = int(counts.index[0])
    number = chosen >> 24 & 0xFFFFFF
    left_out = (
        f"the export has {len(counts)} processes; only {number}, with the most GPU activities, is "
        "taken"
    )
    return chosen, [with_slug("several-processes", left_out)]


def _pid(serialised: pd.Series) -> pd.Series:
    """Global ids of nsys have the thread in the low 24 bits; without it they name the process."""
    return serialised // (1 << 24) * (1 << 24)


def _of_process(rows: pd.DataFrame, process: int | None) -> pd.DataFrame:
    column = next((name for name in ("globalPid", "globalTid") if name in rows), None)
    return rows if process is None or column is None else rows[_pid(rows[column]) == process]


def _forwards(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~(rows["end"] < rows["start"])] if "end" in rows else rows


def _thread(rows: pd.DataFrame) -> pd.Series:
    return rows["globalTid"] % (1 << 24)


def _named_ranges(export: _Export, rows: pd.DataFrame) -> pd.DataFrame:
    """Push/pop ranges that were closed."""
    if not len(rows):
        return table([], HOST_COLUMNS)
    rows = rows[(rows["eventType"] == PUSH_POP) & rows["end"].notna()]
    names = pd.Series(None, index=rows.index, dtype=object)
    if "text" in rows:
        names = rows["text"].astype(object)
    if "textId" in rows:
        names = names.where(names.notna(), export.text(rows["textId"]))
    return _host_table(rows, names)


def _ranges(named: pd.DataFrame) -> pd.DataFrame:
    """The program's ranges, and operators in no other operator."""
    known = [from_nvtx(name) for name in named["name"]]
    is_operator = np.array([is_operator for _, is_operator, _ in known], dtype=bool)
    places = named[list(HOST_COLUMNS[:3])]
    above = parents(*(places[name].to_numpy() for name in places))
    in_operator = nearest_above(above, is_operator) >= 0
    rows = [
        (*place, *_range(*one))
        for place, one in zip(places.itertuples(index=False, name=None), known, strict=True)
    ]
    kept = np.flatnonzero(~in_operator).tolist()
    return table([rows[row] for row in kept], RANGE_COLUMNS)


def _range(name: str, is_operator: bool, shapes: list[list[int]]) -> tuple[Any, ...]:
    if name.startswith(BACKWARD):
        bare = name.removeprefix(BACKWARD)
        return (bare, bare, "autograd", "backward", -1, False, False, "", shapes, [])
    kind = name if is_operator else "NVTX range"
    return (name, kind, "function", "forward", -1, not is_operator, False, "", shapes, [])


def _host(export: _Export, rows: pd.DataFrame) -> pd.DataFrame:
    if not len(rows):
        return table([], HOST_COLUMNS)
    names = export.text(rows["nameId"]).map(lambda name: _VERSION.sub("", name))
    return _host_table(rows, names)


def _host_table(rows: pd.DataFrame, names: pd.Series[Any]) -> pd.DataFrame:
    """HOST_COLUMNS of rows of an export."""
    columns = {
        "thread": _thread(rows),
        "start_ns": rows["start"],
        "end_ns": rows["end"],
        "name": names,
    }
    return pd.DataFrame(columns).astype(dict.fromkeys(HOST_COLUMNS[:3], np.int64))


def _api(export: _Export, rows: pd.DataFrame) -> pd.DataFrame:
    found = _host(export, rows)
    return found.assign(
        correlation_id=rows["correlationId"].fillna(0).to_numpy(dtype=np.int64) if len(rows) else 0
    )


def _library(export: _Export, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    parts = [
        _host(export, tables[name]).assign(library=library) for name, library in _LIBRARIES.items()
    ]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(arguments=pd.Series([{}] * len(found), dtype=object))


def _device(export: _Export, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    kernels, copies, sets = tables[_KERNELS], tables[_COPIES], tables[_SETS]
    parts = [
        _activities("kernel", kernels, lambda rows: export.text(rows["demangledName"])),
        _activities(
            "memcpy",
            copies,
            lambda rows: "memcpy " + rows["copyKind"].map(_COPY_KINDS).fillna("of unknown kind"),
        ),
        _activities("memset", sets, lambda _rows: "memset"),
    ]
    return pd.concat(parts, ignore_index=True)


def _activities(kind: str, rows: pd.DataFrame, names: Any) -> pd.DataFrame:
    if not len(rows):
        return table([], DEVICE_COLUMNS)
    fixed = {
        "start": "start_ns",
        "end": "end_ns",
        "correlationId": "correlation_id",
        "streamId": "stream",
    }
    fixed |= {"contextId": "context", "bytes": "bytes", **(_LAUNCH if kind == "kernel" else {})}
    found = pd.DataFrame({new: rows[old] for old, new in fixed.items() if old in rows})
    found = found.assign(kind=kind, name=names(rows)).reindex(columns=list(DEVICE_COLUMNS))
    numbers = [name for name in DEVICE_COLUMNS if name not in ("kind", "name")]
    return found.fillna(dict.fromkeys(numbers, 0)).astype(dict.fromkeys(numbers, np.int64))


def _environment(export: _Export) -> dict[str, Any]:
    devices = export.read("TARGET_INFO_GPU")
    if not len(devices):
        return {}
    names = {"name": "gpu", "totalMemory": "gpu_memory_bytes", "smCount": "multiprocessors"}
    first = devices.iloc[0]
    known = set(first.dropna().index)
    facts = {ours: first[theirs] for theirs, ours in names.items() if theirs in known}
    facts = {name: value if isinstance(value, str) else int(value) for name, value in facts.items()}
    if {"computeMajor", "computeMinor"} <= known:
        facts["compute_capability"] = f"{int(first['computeMajor'])}.{int(first['computeMinor'])}"
    return facts | {"gpu_count": len(devices)}
