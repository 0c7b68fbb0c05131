"""Whether tables hold what their schema says: types and ranges by Arrow, keys by numpy.

After these checks nothing that reads a capture can fail by its contents. Every one is vectorised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xsp.capture.schema import NEEDED_WITH, REQUIRED_TABLES, TABLES, TEXT, Column, details_of
from xsp.types import DEPTH_OF_NUMBER, LEVEL_ABBREVIATIONS, LEVEL_OF_NUMBER, Level

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]


class BrokenTableError(Exception):
    """A table does not hold what its schema says; the message is a sentence."""


def checked_table(name: str, table: pa.Table) -> pd.DataFrame:
    """The table with the types of its schema. Raises BrokenTableError."""
    columns = TABLES[name]
    names = table.schema.names
    if len(set(names)) < len(names):
        raise BrokenTableError(f"{name} has two columns with the same name")
    if missing := [each for each, known in columns.items() if known.required and each not in names]:
        raise BrokenTableError(f"{name} lacks {', '.join(missing)}")
    made = [_column(f"{name}.{each}", table.column(each), columns.get(each)) for each in names]
    found: pd.DataFrame = pa.table(made, names=names).to_pandas(use_threads=False)
    for each in names:
        if each in columns and columns[each].nullable:
            found[each] = table.column(each).to_pandas(
                types_mapper={pa.int64(): pd.Int64Dtype()}.get
            )
    return found


def _column(where: str, values: pa.ChunkedArray, known: Column | None) -> pa.ChunkedArray:
    if known is None:
        return _unknown(where, values)
    arrow = pa.large_string() if known.dtype is TEXT else known.dtype
    # A column without a single value is written with any type.
    if not len(values):
        return pa.chunked_array([], type=arrow)
    if pa.types.is_null(values.type) and known.nullable:
        return values.cast(arrow)
    if values.null_count and not known.nullable:
        raise BrokenTableError(f"{where} has missing values")
    if known.dtype is TEXT:
        return _text(where, values, known)
    if pa.types.is_integer(known.dtype):
        return _whole_numbers(where, values, known)
    if values.type != known.dtype:
        raise BrokenTableError(f"{where} must be of type {known.dtype}, not {values.type}")
    return values


def _unknown(where: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that this version does not know, such as a counter: numbers, flags or text."""
    kind = values.type
    if (
        pa.types.is_null(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
    ):
        return values
    return _text(where, values, Column(TEXT))


def _whole_numbers(where: str, values: pa.ChunkedArray, known: Column) -> pa.ChunkedArray:
    if not pa.types.is_integer(values.type):
        raise BrokenTableError(f"{where} must be whole numbers, not {values.type}")
    least, most = pc.min_max(values).values()
    low, high = (bound.as_py() for bound in (least, most))
    if low is not None and (low < known.low or high > known.high):
        beyond = low if low < known.low else high
        raise BrokenTableError(
            f"{where} must be between {known.low} and {known.high}, not {beyond}"
        )
    try:
        return values.cast(known.dtype)
    except pa.ArrowInvalid as error:
        raise BrokenTableError(f"{where} does not fit {known.dtype}: {error}") from error


def _text(where: str, values: pa.ChunkedArray, known: Column) -> pa.ChunkedArray:
    if not _is_text(values.type):
        raise BrokenTableError(f"{where} must be text, not {values.type}")
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise BrokenTableError(f"{where} is not valid Unicode: {error}") from error
    if known.choices or known.rule:
        for value in values.unique().to_pylist():
            _judge(where, value, known)
    if pa.types.is_dictionary(values.type) and not known.categories:
        values = values.cast(pa.large_string())
    return values


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _judge(where: str, value: str, known: Column) -> None:
    if known.choices and value not in known.choices:
        choices = ", ".join(known.choices)
        raise BrokenTableError(f"{where} must be one of {choices}, not {ascii(value)[:60]}")
    if known.rule and (said := known.rule(value)):
        raise BrokenTableError(f"{where}{said}")


def check_relations(tables: Mapping[str, pd.DataFrame]) -> None:
    """Raises BrokenTableError where a row of one table leads to none of another, or to itself, or
    where that other table is missing.
    """
    for name, other in NEEDED_WITH.items():
        if name in tables and other not in tables:
            raise BrokenTableError(f"there is a table {name}, and no table {other}")
    for name, table in tables.items():
        for column, known in TABLES[name].items():
            if known.rows_of and column in table:
                _rows_there(f"{name}.{column}", table[column], len(tables[known.rows_of]))
    for complaint, broken in _relations(tables):
        if broken.any():
            raise BrokenTableError(f"{complaint} (row {int(np.flatnonzero(broken)[0])})")


def _rows_there(where: str, rows: pd.Series, count: int) -> None:
    if len(rows) and int(rows.max()) >= count:
        raise BrokenTableError(
            f"{where} refers to row {int(rows.max())}, and there are only {count}"
        )


def check_span_rows(tables: Mapping[str, pd.DataFrame]) -> None:
    """The same of spans and the tables that their details lead to, where no others are read."""
    level, detail, parent = (tables["spans"][name] for name in ("level", "detail", "parent"))
    size = _sizes_of_details(tables)
    _rows_there("spans.parent", parent, len(parent))
    beyond = detail.to_numpy() >= size[level.to_numpy()]
    # A detail of MODEL spans leads to a call, whose table is not always filled.
    if (beyond & (level.to_numpy() > Level.MODEL)).any():
        raise BrokenTableError("spans.detail refers to no row of its level's table")


def _sizes_of_details(tables: Mapping[str, pd.DataFrame]) -> Ints:
    """Rows that `detail` of a span can lead to, by the number of its level."""
    return np.array([len(details_of(tables, each)) for each in LEVEL_OF_NUMBER])


def _relations(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Bools]]:
    """What must not be, and the rows where it is."""
    yield from _run_relations(tables)
    yield from _span_relations(tables)
    yield from _layer_relations(tables["layers"])
    above = details_of(tables, Level.OP)["above"].to_numpy()
    yield (
        "operators has a row that does not come after the one above",
        above >= np.arange(len(above)),
    )
    if "repeats" in tables:
        yield from _repeat_relations(tables)
    for name in ("synchronizations", "ranges"):
        if name in tables:
            yield f"{name} has an end before its start", _backwards(tables[name], "end_ns")


def _run_relations(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Bools]]:
    runs, calls = tables["runs"], tables["model_calls"]
    number = runs["run"].to_numpy()
    yield "runs has no row", np.array([not len(runs)])
    yield "calls has no row", np.array([not len(tables["calls"])])
    yield "runs.run does not count from 0", number != np.arange(len(runs))
    levels = _traced(runs)[:, np.argsort(DEPTH_OF_NUMBER)]
    deepest = levels.shape[1] - 1 - np.argmax(levels[:, ::-1], axis=1)
    named = np.array([level.name for level in Level], dtype=object)[deepest]
    yield "runs.deepest is not the deepest level of its rung", named != runs["deepest"].to_numpy()
    yield "model_calls has no row", np.array([not len(calls)])
    yield "model_calls has an end before its start", _backwards(calls, "host_end_ns")
    yield (
        "model_calls ends before its call returned",
        (calls["end_ns"].to_numpy() < calls["host_end_ns"].to_numpy()),
    )


def _traced(runs: pd.DataFrame) -> Bools:
    """Whether each run traced each level: runs x levels, by their numbers."""
    short = [LEVEL_ABBREVIATIONS[level] for level in LEVEL_OF_NUMBER]
    codes, rungs = pd.factorize(runs["rung"].to_numpy(dtype=object))
    by_rung = np.array(
        [[level in rung.split("/") for level in short] for rung in rungs], dtype=bool
    )
    return by_rung.reshape(-1, len(short))[codes]


def _span_relations(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Bools]]:
    spans, api = tables["spans"], tables["api_calls"]
    run, level, parent = (spans[name].to_numpy() for name in ("run", "level", "parent"))
    below = level > Level.MODEL
    yield "spans has a MODEL span with a parent", ~below & (parent >= 0)
    yield "spans has a span of a deeper level without a parent", below & (parent < 0)
    yield "spans has a parent that does not come before its child", parent >= np.arange(len(spans))
    above = np.maximum(parent, 0)
    yield "spans has a parent of another run", below & (run[above] != run)
    depth = np.array(DEPTH_OF_NUMBER)[level]
    yield "spans has a parent of a deeper level", below & (depth[above] > depth)
    yield "spans has a parent that is a kernel", below & (level[above] == Level.KERNEL)
    yield "spans has a level that its run did not trace", ~_traced(tables["runs"])[run, level]
    size = _sizes_of_details(tables)
    yield (
        "spans.detail refers to no row of its level's table",
        spans["detail"].to_numpy() >= size[level],
    )
    calls = np.bincount(tables["model_calls"]["run"].to_numpy(), minlength=len(tables["runs"]))
    models = np.bincount(run[~below], minlength=len(tables["runs"]))
    yield "spans does not have exactly one MODEL span for each model call of a run", calls != models
    caller = api["parent"].to_numpy()
    yield "api_calls has a call without a parent", caller < 0
    yield "api_calls has a parent of another run", run[caller] != api["run"].to_numpy()


def _repeat_relations(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Bools]]:
    """Events repeat spans of their own level that another run recorded."""
    spans, repeats = tables["spans"], tables["repeats"]
    run, level, span = (repeats[name].to_numpy() for name in ("run", "level", "span"))
    is_traced = _traced(tables["runs"])[run, level]
    yield "repeats has a level that its run did not trace", ~is_traced
    repeated = spans[["level", "run"]].iloc[span]
    yield "repeats has a span of another level", repeated["level"].to_numpy() != level
    yield "repeats has a span of the same run", repeated["run"].to_numpy() == run


def _layer_relations(layers: pd.DataFrame) -> Iterator[tuple[str, Bools]]:
    """The last two rows of `layers` stand for what is in no layer, and in no structure run."""
    yield "layers lacks its last two rows", np.array([len(layers) < 2])
    forward = layers["forward"].to_numpy()
    at = forward.copy()
    # Each step follows twice as many links as the step before. What is left then is a circle.
    for _ in range(len(layers).bit_length()):
        at = np.where(at >= 0, forward[at], -1)
        forward = np.where(forward >= 0, forward[forward], -1)
    yield "layers.forward forms a cycle", at >= 0


def _backwards(table: pd.DataFrame, end: str) -> Bools:
    found: Bools = table[end].to_numpy() < table["start_ns"].to_numpy()
    return found


def check_frames(tables: Mapping[str, pd.DataFrame]) -> None:
    """The same checks of tables that were made here, of another tool's trace for example.

    Raises BrokenTableError.
    """
    if missing := [name for name in REQUIRED_TABLES if name not in tables]:
        raise BrokenTableError(f"there is no table {missing[0]}")
    for name, table in tables.items():
        try:
            checked_table(name, pa.Table.from_pandas(table, preserve_index=False))
        except (pa.ArrowException, ValueError) as error:
            raise BrokenTableError(f"{name} has invalid values: {error}") from error
    check_relations(tables)
