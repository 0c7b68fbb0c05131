"""From runs and the structure run to the tables of a capture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.correlate import Correlated, StructureCodes, correlate
from xsp.analysis.spans.graph_launches import NODE_MASK
from xsp.analysis.spans.graph_layers import Captured, Owner, Unled, lead_to_layers
from xsp.analysis.spans.joining import LAUNCH_FACTS, NotJoined, join_by_order
from xsp.analysis.spans.operator_paths import OperatorPaths
from xsp.analysis.spans.outside import NO_LAYER_KIND, NOT_IN_STRUCTURE, OUTSIDE_LAYERS
from xsp.analysis.spans.shared_values import SharedValues, as_series, followed_by
from xsp.capture.run import Run, within_model
from xsp.types import RANGES, SYNCHRONIZATIONS, ApiDomain, Columns, DeviceKind, Level

_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Vocabulary:
    """What the indices in the runs stand for, at the end of the climb.

    `modules` and `calls` are rows of the structure run (dictionaries), `layers` its columns, since
    there can be very many (`columns_of` makes them of rows). `library_calls` are rows too, with
    `symbol` the index into `symbols`; `kernels` are kernel names; `api_name` names an API call by
    domain and cbid; `captured` is what the program's CUDA graphs hold, `operators` are names of
    operators.
    """

    calls: list[dict[str, Any]]
    modules: list[dict[str, Any]]
    layers: Mapping[str, Sequence[Any]]
    library_calls: list[dict[str, Any]]
    symbols: Sequence[str]
    library_of: Callable[[str], str]
    kernels: Sequence[str]
    api_name: Callable[[int, int], str]
    calls_of_modules: list[dict[str, Any]] = field(default_factory=list)
    captured: Sequence[Captured] = ()
    operators: Sequence[str] = ()

    @property
    def codes(self) -> StructureCodes:
        """What timed events are matched against."""
        return StructureCodes(
            np.array(self.layers["code"], dtype=np.int64),
            np.array([row["symbol"] for row in self.library_calls], dtype=np.int64),
        )


@dataclass(frozen=True)
class Assembled:
    """The tables of a capture (see `capture.TABLES`), the levels of a separate ladder whose events
    could not be joined with the annotated runs, and what of CUDA graphs was led to no layers.
    """

    tables: dict[str, pd.DataFrame]
    differences: tuple[NotJoined, ...]
    unled: tuple[Unled, ...] = ()


def assemble(runs: Sequence[Run], words: Vocabulary) -> dict[str, pd.DataFrame]:
    """The tables of a capture (see `capture.TABLES`). In `spans`, `parent` is a row of the same
    table or -1.
    """
    return assemble_runs(runs, words).tables


def assemble_runs(runs: Sequence[Run], words: Vocabulary, *, spent: bool = False) -> Assembled:
    """The same, and what could not be joined or led. With `spent` the runs lose their layer events,
    which are as large as what is made of them.
    """
    codes = words.codes
    found = join_by_order(runs, [_correlated(run, codes, spent) for run in runs], codes)
    parts = found.parts
    sizes = np.array([len(part.spans["level"]) for part in parts])
    first = np.r_[0, np.cumsum(sizes)[:-1]]
    paths = OperatorPaths()
    for part in parts:
        paths.lead_to(part.spans)
    spans = _spans(parts, sizes, first)
    library_calls = _library_calls(words, _unrecorded(spans, len(words.library_calls)))
    kernels, config = _kernels(parts, words.kernels)
    spans.loc[spans["level"] == Level.KERNEL, "detail"] = config
    tables = {
        "runs": _runs(runs, parts),
        "model_calls": _below_each_other([run.model_calls for run in runs]),
        "synchronizations": _below_each_other(
            [_synchronizations(run, part) for run, part in zip(runs, parts, strict=True)]
        ),
        "spans": spans,
        "api_calls": _api_calls(parts, first, words.api_name),
        "calls": pd.DataFrame(words.calls),
        "modules": pd.DataFrame(
            words.modules, columns=["name", "type", "parameter_bytes", "is_leaf", "calls"]
        ),
        "layers": _layers(words.layers),
        "library_calls": library_calls,
        "kernels": kernels,
    }
    ranges = _below_each_other([_ranges(run) for run in runs])
    called = _calls_of_modules(words.calls_of_modules)
    optional = {
        "ranges": ranges,
        "calls_of_modules": called,
        "repeats": found.repeats,
        "graph_nodes": _graph_nodes(parts, spans),
        "operators": paths.table(words.operators),
    }
    tables |= {name: table for name, table in optional.items() if len(table)}
    led = lead_to_layers(tables, words.captured)
    return Assembled(led.tables, found.differences, led.unled)


def _correlated(run: Run, codes: StructureCodes, spent: bool) -> Correlated:
    part = correlate(run, codes)
    if spent:
        run.tables.pop("layer_events", None)
    return part


def _graph_nodes(parts: Sequence[Correlated], spans: pd.DataFrame) -> pd.DataFrame:
    """The spans of what graphs launched, with the id of the graph and the number of the node: the
    lower half of a `graphNodeId`, whose upper half is the graph's.
    """
    graph, node = (
        np.concatenate([part.device[name] for part in parts]).astype(np.int64)
        for name in ("graph", "graph_node")
    )
    row = np.flatnonzero(spans["level"] == Level.KERNEL)
    replayed = graph > 0
    columns = {"span": row[replayed], "graph": graph[replayed], "node": node[replayed] & NODE_MASK}
    return pd.DataFrame(columns).assign(owner=Owner.UNKNOWN.value)


def _below_each_other(tables: Sequence[Columns]) -> pd.DataFrame:
    """Tables of all runs below each other, with the run's number as first column."""
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    sizes = [len(next(iter(table.values()))) for table in tables]
    return pd.DataFrame(
        {"run": np.repeat(np.arange(len(tables), dtype=np.int32), sizes), **columns}
    )


def _synchronizations(run: Run, part: Correlated) -> Columns:
    """Those whose API call lies inside a model call."""
    table = run.table("synchronizations", SYNCHRONIZATIONS)
    inside = np.isin(table["correlation_id"], part.api_calls["correlation_id"])
    return {name: column[inside] for name, column in table.items()}


def _ranges(run: Run) -> Columns:
    """Those that began inside a model call."""
    return within_model(run.table("ranges", RANGES), run.model_calls)[0]


def _runs(runs: Sequence[Run], parts: Sequence[Correlated]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": np.arange(len(runs), dtype=np.int32),
            "rung": [run.spec.name for run in runs],
            "deepest": [run.spec.deepest.name for run in runs],
            "round": [run.round for run in runs],
            "position": [run.position for run in runs],
            "start_ns": [int(run.model_calls["start_ns"][0]) for run in runs],
            "latency_ns": [run.latency_ns for run in runs],
            "host_latency_ns": [run.host_latency_ns for run in runs],
            "lost": [run.lost for run in runs],
            "unmatched": [part.unmatched for part in parts],
            "orphans": [part.orphans for part in parts],
        }
    )


def _spans(
    parts: Sequence[Correlated], sizes: npt.NDArray[Any], first: npt.NDArray[Any]
) -> pd.DataFrame:
    """The spans of all parts, which are taken out of them a column at a time: held twice, those
    of many rounds are what a profile needs most memory for.
    """

    def taken(name: str) -> npt.NDArray[Any]:
        return np.concatenate([part.spans.pop(name) for part in parts])

    found = {
        "run": np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        "level": taken("level"),
        "detail": taken("detail"),
        "parent": _moved(taken("parent"), np.repeat(first.astype(np.int32), sizes)),
        "start_ns": taken("start_ns"),
    }
    found["duration_ns"] = taken("end_ns")
    found["duration_ns"] -= found["start_ns"]
    found |= {name: taken(name) for name in ("thread", "stream", "context", "correlation_id")}
    return pd.DataFrame(found, copy=False)


def _moved(parent: npt.NDArray[Any], first: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    moved = parent.astype(np.int32)
    np.add(moved, first, out=moved, where=moved >= 0)
    return moved


def _kernels(
    parts: Sequence[Correlated], names: Sequence[str]
) -> tuple[pd.DataFrame, npt.NDArray[np.int32]]:
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.concatenate([part.device[name] for part in parts]) for name in LAUNCH_FACTS
    }
    for shape in ("grid", "block"):
        joined = np.concatenate([part.device[shape] for part in parts])
        columns |= {f"{shape}_{axis}": joined[:, i] for i, axis in enumerate(_AXES)}
    every = pd.DataFrame(columns)
    config: npt.NDArray[np.int32] = (
        every.groupby(list(every.columns), sort=False).ngroup().to_numpy().astype(np.int32)
    )
    distinct = every.drop_duplicates().reset_index(drop=True)
    kinds = np.array([kind.name.lower() for kind in DeviceKind])
    distinct["kind"] = kinds[distinct["kind"]] if len(distinct) else distinct["kind"].astype(str)
    distinct["name"] = np.array(names, dtype=object)[distinct["name"]] if len(distinct) else []
    return distinct, config


def _api_calls(
    parts: Sequence[Correlated], first: npt.NDArray[Any], api_name: Callable[[int, int], str]
) -> pd.DataFrame:
    wanted = ("domain", "cbid", "parent", "start_ns", "end_ns", "thread", "correlation_id")
    joined = {name: np.concatenate([part.api_calls[name] for part in parts]) for name in wanted}
    sizes = np.array([len(part.api_calls["cbid"]) for part in parts])
    key = joined["domain"].astype(np.int64) << 32 | joined["cbid"]
    distinct, code = np.unique(key, return_inverse=True)
    names = [api_name(int(ApiDomain(one >> 32)), int(one & 0xFFFFFFFF)) for one in distinct]
    return pd.DataFrame(
        {
            "run": np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
            "name": pd.Categorical.from_codes(code, categories=pd.Index(names, dtype=object)),
            "parent": (joined["parent"] + np.repeat(first, sizes)).astype(np.int32),
            "start_ns": joined["start_ns"],
            "duration_ns": joined["end_ns"] - joined["start_ns"],
            "thread": joined["thread"],
            "correlation_id": joined["correlation_id"],
        }
    )


_LAYER_COLUMNS = (
    "name",
    "type",
    "kind",
    "module",
    "phase",
    "forward",
    "input_shapes",
    "input_dtypes",
    "output_shapes",
    "output_dtypes",
    "parameter_bytes",
    "allocated_bytes",
    "peak_bytes",
    "weight_shape",
    "arguments",
    "source",
)
_LISTS = ("input_shapes", "input_dtypes", "output_shapes", "output_dtypes", "weight_shape")
_NESTED = (*_LISTS, "arguments")


_UNKNOWN_LAYER: dict[str, Any] = {
    "type": "",
    "kind": NO_LAYER_KIND,
    "module": "",
    "phase": "forward",
    "forward": -1,
    "parameter_bytes": 0,
    "allocated_bytes": -1,
    "peak_bytes": -1,
    "arguments": {},
    "source": "",
    **{name: [] for name in _LISTS},
}


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of layers as columns; what a row does not say is blank."""
    known = _UNKNOWN_LAYER | {"code": -1, "name": ""}
    return {name: [row.get(name, blank) for row in rows] for name, blank in known.items()}


def _layers(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Layer rows, then the two that `StructureCodes` speaks of; nested values become JSON text."""
    extra = columns_of([{"name": name} for name in (OUTSIDE_LAYERS, NOT_IN_STRUCTURE)])
    nothing = np.zeros(len(columns["code"]), dtype=np.int32)
    table = {}
    for name in _LAYER_COLUMNS:
        known = columns[name] if name in columns else SharedValues([_UNKNOWN_LAYER[name]], nothing)
        written = json.dumps if name in _NESTED else None
        table[name] = as_series(followed_by(known, extra[name]), written)
    return pd.DataFrame(table)


def _calls_of_modules(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["module", "first", "last", "input_shapes"])
    return table.assign(input_shapes=table["input_shapes"].map(json.dumps))


def _unrecorded(spans: pd.DataFrame, recorded: int) -> npt.NDArray[Any]:
    """Symbols of library calls that the structure run did not have; their details are renumbered to
    follow its rows.
    """
    calls = (spans["level"] == Level.LIBRARY) & (spans["detail"] >= recorded)
    symbols, place = np.unique(spans.loc[calls, "detail"] - recorded, return_inverse=True)
    spans.loc[calls, "detail"] = (recorded + place).astype(np.int32)
    return symbols


def _library_calls(words: Vocabulary, unrecorded: npt.NDArray[Any]) -> pd.DataFrame:
    """Library call rows, then one without arguments for every symbol that only timed runs
    called.
    """
    rows = [(words.symbols[row["symbol"]], row["arguments"]) for row in words.library_calls]
    rows += [(words.symbols[symbol], {}) for symbol in unrecorded]
    return pd.DataFrame(
        {
            "name": [name for name, _ in rows],
            "library": [words.library_of(name) for name, _ in rows],
            "arguments": [json.dumps(arguments) for _, arguments in rows],
            "flops": pd.array([arguments.get("flops") for _, arguments in rows], dtype="Int64"),
        }
    )
