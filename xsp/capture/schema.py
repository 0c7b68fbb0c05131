"""The tables of a capture: type, range and meaning of every column (docs/captures.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from xsp.capture.rules import MOST, Rule, having, items, json_text, optional, record, text, whole
from xsp.types import LEVEL_ABBREVIATIONS, DeviceKind, Level, Tables

TEXT = "text"
"""Type of a column of text, which files may hold plain or as a dictionary."""


@dataclass(frozen=True)
class Column:
    """One column. `dtype` is what it has once it is read: an Arrow type, or TEXT.

    `low` and `high` bound its numbers. `rows_of` names the table of which it holds rows. `choices`
    are the texts that it may hold, `rule` judges each distinct text. A column that is not
    `required` may be missing, a `nullable` one may have gaps; text with `categories` is a pandas
    Categorical.
    """

    dtype: Any
    low: int = -MOST
    high: int = MOST
    rows_of: str = ""
    choices: Collection[str] = ()
    rule: Rule | None = None
    nullable: bool = False
    categories: bool = False
    required: bool = True

    @property
    def optional(self) -> Column:
        """The same, of which a file may be without."""
        return replace(self, required=False)


def _row(table: str, low: int = 0) -> Column:
    return Column(pa.int32(), low, rows_of=table)


def _wide_row(table: str, low: int = -1) -> Column:
    return Column(pa.int64(), low, rows_of=table)


_NS = Column(pa.int64())
_DURATION = Column(pa.int64(), 0, 2**53)
_ORDINAL = Column(pa.int64(), 0, 2**31)
_COUNT = Column(pa.int64(), 0)
_SIZE_OR_UNKNOWN = Column(pa.int64(), -1)
_ID = Column(pa.uint32(), 0)
_TEXT = Column(TEXT)
_FLAG = Column(pa.bool_())
_LAUNCH = Column(pa.int32(), 0)
_CONFIDENCE = Column(TEXT, choices=("exact", "verified", "inferred", "unknown"))

_DIMENSION = 2**40
"""More than any dimension of a tensor, and few enough of these for float64."""


_SIZES = items(whole(0, _DIMENSION))


def _dimensions(value: Any) -> str:
    if said := _SIZES(value):
        return said
    return f" must have at most {MOST} elements" if prod(value) > MOST else ""


_SHAPE = json_text(_dimensions)
_SHAPES = json_text(items(_dimensions))
_NAMES = json_text(items(text))


def names_of_any_version(value: Any) -> str:
    """A list of names; captures of early versions have it as Python writes it."""
    return _NAMES(value.replace("'", '"') if isinstance(value, str) else value)


def _matrices(value: Any) -> str:
    return _dimensions(value) or items(whole(), least=2)(value)


_TYPE = optional(text)
"""A data type's name; null for one that the decoder does not know."""
_TENSOR = having({"dims": _dimensions, "type": _TYPE})
_TENSORS = ("X", "W", "Y", "dX", "dW", "dY", "x", "w", "y", "dx", "dw", "dy", "matA")
_ATTENDED = having(dict.fromkeys("QKVO", having({"dims": _matrices, "type": _TYPE})))
_OPERATION = having({"operation": text})


def _tensors(value: Any) -> str:
    """The operands of a call or of a node of cuDNN's graph, as far as they are described."""
    for name in _TENSORS:
        each = value.get(name)
        if isinstance(each, dict) and (said := _tensor(each)):
            return f".{name}{said}"
    return ""


def _tensor(value: dict[str, Any]) -> str:
    return _TENSOR(value) if "dims" in value else _TYPE(value.get("type"))


def _node(value: Any) -> str:
    said = _OPERATION(value) or _tensors(value)
    return said or (_ATTENDED(value) if value["operation"] == "SDPA_FWD" else "")


_NODES = items(_node)
_CALL = record(
    {},
    {
        **dict.fromkeys(("m", "n", "k", "batch_count"), whole(0, _DIMENSION)),
        **dict.fromkeys(
            ("a_type", "b_type", "c_type", "d_type", "data_type", "compute_type"), _TYPE
        ),
    },
)


def _call_arguments(value: Any) -> str:
    said = _CALL(value) or _tensors(value)
    nodes = value.get("operations") if not said else None
    return _NODES(nodes) if isinstance(nodes, list) else said


_SENT = record(
    {"operation": text, "bytes": whole(0), "dtype": text},
    {"ranks": optional(items(whole(0))), "group": text, "peer": whole(0)},
)
_LAYER_ARGUMENTS = record(
    {}, {"communications": items(_SENT), "ticket": whole(-1), "awaited": whole(-1)}
)

_LEVELS = [level.name for level in Level]
_BELOW_MODEL = [LEVEL_ABBREVIATIONS[level] for level in Level if level is not Level.MODEL]
_RUNGS = [
    "/".join(("M", *rest))
    for number in range(len(_BELOW_MODEL) + 1)
    for rest in combinations(_BELOW_MODEL, number)
]

_WHEN_AND_WHERE: Mapping[str, Column] = {
    "start_ns": _NS,
    "duration_ns": _DURATION,
    "thread": _ID,
    "stream": Column(pa.int32(), -1),
    "context": _ID,
    "correlation_id": _ID,
}
"""Of a span: its interval, and the thread of the host or the stream of the device."""

TABLES: Mapping[str, Mapping[str, Column]] = {
    "runs": {
        "run": _row("runs"),
        "rung": Column(TEXT, choices=_RUNGS),
        "deepest": Column(TEXT, choices=_LEVELS),
        "round": _ORDINAL,
        "position": _ORDINAL,
        "start_ns": _NS,
        "latency_ns": _DURATION,
        "host_latency_ns": _DURATION,
        "lost": _COUNT,
        "unmatched": _COUNT,
        "orphans": _COUNT,
    },
    "model_calls": {
        "run": _row("runs"),
        "thread": _ID,
        "start_ns": _NS,
        "host_end_ns": _NS,
        "end_ns": _NS,
    },
    "spans": {
        "run": _row("runs"),
        "level": Column(pa.int8(), 0, len(Level) - 1),
        "detail": Column(pa.int32(), 0),
        "parent": _row("spans", -1),
        **_WHEN_AND_WHERE,
    },
    "repeats": {
        "run": _row("runs"),
        "level": Column(pa.int8(), Level.LIBRARY, Level.KERNEL),
        "span": _row("spans"),
        **_WHEN_AND_WHERE,
    },
    "api_calls": {
        "run": _row("runs"),
        "name": Column(TEXT, categories=True),
        "parent": _row("spans", -1),
        "start_ns": _NS,
        "duration_ns": _DURATION,
        "thread": _ID,
        "correlation_id": _ID,
    },
    "synchronizations": {
        "run": _row("runs"),
        "kind": Column(pa.uint8(), 0),
        "correlation_id": _ID,
        "context": _ID,
        "stream": _ID,
        "start_ns": _NS,
        "end_ns": _NS,
        "event_id": _ID,
    },
    "calls": {
        "name": _TEXT,
        "call": _ORDINAL,
        "input_shapes": Column(TEXT, rule=_SHAPES),
        "input_dtypes": Column(TEXT, rule=names_of_any_version),
        "batch_size": _SIZE_OR_UNKNOWN,
    },
    "modules": {
        "name": _TEXT,
        "type": _TEXT,
        "parameter_bytes": _COUNT,
        "is_leaf": _FLAG,
        "calls": _COUNT,
    },
    "layers": {
        "name": _TEXT,
        "type": _TEXT,
        "kind": Column(TEXT, choices=("module", "function", "range", "autograd", "none")),
        "module": _TEXT,
        "phase": Column(TEXT, choices=("forward", "backward")),
        "forward": _wide_row("layers"),
        "input_shapes": Column(TEXT, rule=_SHAPES),
        "input_dtypes": Column(TEXT, rule=_NAMES),
        "output_shapes": Column(TEXT, rule=_SHAPES),
        "output_dtypes": Column(TEXT, rule=_NAMES),
        "parameter_bytes": _COUNT,
        "allocated_bytes": _SIZE_OR_UNKNOWN,
        "peak_bytes": _SIZE_OR_UNKNOWN,
        "weight_shape": Column(TEXT, rule=_SHAPE).optional,
        "arguments": Column(TEXT, rule=json_text(_LAYER_ARGUMENTS)).optional,
        "source": _TEXT.optional,
        "of_graph": _FLAG.optional,
    },
    "library_calls": {
        "name": _TEXT,
        "library": _TEXT,
        "arguments": Column(TEXT, rule=json_text(_call_arguments)),
        "flops": replace(_COUNT, nullable=True),
    },
    "kernels": {
        "kind": Column(TEXT, choices=[kind.name.lower() for kind in DeviceKind]),
        "name": _TEXT,
        "registers_per_thread": Column(pa.uint16(), 0),
        "static_shared_bytes": _LAUNCH,
        "dynamic_shared_bytes": _LAUNCH,
        "bytes": _COUNT,
        **{f"{what}_{axis}": _LAUNCH for what in ("grid", "block") for axis in "xyz"},
    },
    "graph_nodes": {
        "span": _row("spans"),
        "graph": Column(pa.int64(), 1, 2**32 - 1),
        "node": _COUNT,
        "owner": Column(TEXT, choices=("order", "turn", "unknown")),
    },
    "operators": {
        "name": _TEXT,
        "above": _wide_row("operators"),
    },
    "serialized": {
        "run": Column(pa.int64(), 0),
        "layer": _wide_row("layers", 0),
        "kernels": _COUNT,
        "busy_ns": _DURATION,
    },
    "counters": {
        "position": _wide_row("spans", 0),
        "kernel": _wide_row("kernels", 0),
        "sample": _wide_row("counters", 0),
    },
    "calls_of_modules": {
        "module": _TEXT,
        "first": _wide_row("layers", 0),
        "last": _COUNT,
        "input_shapes": Column(TEXT, rule=_SHAPES),
    },
    "compiled_graphs": {
        "graph": _ORDINAL,
        "phase": Column(TEXT, choices=("forward", "backward")),
        "calls": _COUNT,
        "entering_ns": _SIZE_OR_UNKNOWN,
        "running_ns": _DURATION,
    },
    "compiled_launches": {
        "graph": _ORDINAL,
        "phase": Column(TEXT, choices=("forward", "backward")),
        "ordinal": _ORDINAL,
        "kernel": _TEXT,
        "kind": Column(TEXT, choices=("triton", "template", "extern", "cpp")),
        "confidence": _CONFIDENCE,
    },
    "compiled_origins": {
        "launch": _wide_row("compiled_launches", 0),
        "layer": _TEXT,
        "operators": _TEXT,
        "source": _TEXT,
        "share": Column(pa.float64()),
        "confidence": _CONFIDENCE,
        "flops": replace(_COUNT, nullable=True).optional,
    },
    "compiled_kernels": {
        "position": _ORDINAL,
        "graph": _ORDINAL,
        "launch": _wide_row("compiled_launches"),
        "by": Column(TEXT, choices=("name", "place", "kind", "inputs", "around", "")),
        "flops": replace(_COUNT, nullable=True).optional,
    },
    "compiled_copies": {
        "position": _ORDINAL,
        "graph": _ORDINAL,
        "launch": _wide_row("compiled_launches"),
        "by": Column(TEXT, choices=("call", "place", "kind", "inputs", "around", "")),
    },
    "ranges": {
        "run": _row("runs"),
        "name": _TEXT,
        "domain": _TEXT,
        "source": Column(TEXT, choices=("nvtx", "record_function")).optional,
        "thread": _ID,
        "start_ns": _NS,
        "end_ns": _NS,
    },
}
"""Columns by table. Files may have further ones, of numbers, flags or text."""

OPTIONAL_TABLES = (
    "serialized",
    "counters",
    "ranges",
    "calls_of_modules",
    "repeats",
    "graph_nodes",
    "compiled_graphs",
    "compiled_launches",
    "compiled_origins",
    "compiled_kernels",
    "compiled_copies",
    "operators",
)
"""Tables that only some captures have."""

NEEDED_WITH = {
    "compiled_launches": "compiled_origins",
    "compiled_origins": "compiled_launches",
    "compiled_kernels": "compiled_launches",
}
"""Tables that only some captures have, and none without another one."""

REQUIRED_TABLES = tuple(name for name in TABLES if name not in OPTIONAL_TABLES)

DETAILS = {
    Level.MODEL: "calls",
    Level.LAYER: "layers",
    Level.OP: "operators",
    Level.LIBRARY: "library_calls",
    Level.KERNEL: "kernels",
}
"""The table that `detail` of a level's spans holds rows of."""


def with_sources(ranges: pd.DataFrame) -> pd.DataFrame:
    """The table `ranges` with its column `source`: captures from before there was a choice have
    NVTX alone.
    """
    if "source" in ranges:
        return ranges
    told: pd.DataFrame = ranges.copy()
    told.insert(list(told.columns).index("domain") + 1, "source", "nvtx")
    return told


_NO_OPERATORS = pd.DataFrame({"name": pd.Series(dtype=object), "above": pd.Series(dtype=np.int64)})


def details_of(tables: Tables, level: Level) -> pd.DataFrame:
    """The table that `detail` of a level's spans holds rows of; without rows where operators were
    not traced.
    """
    return tables.get(DETAILS[level], _NO_OPERATORS)
