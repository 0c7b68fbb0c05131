"""Tables that only some captures have: graphs, operators, compiled code, and ranges of the user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from test_capture_rules import WHOLE, about

import xsp
from xsp.capture.file import Capture, check_capture
from xsp.capture.schema import with_sources
from xsp.capture.table_checks import BrokenTableError, checked_table

ROWS: dict[str, dict[str, Any]] = {
    "graph_nodes": {"span": 0, "graph": 1, "node": 0, "owner": "order"},
    "operators": {"name": "aten::add", "above": -1},
    "compiled_graphs": {
        "graph": 0,
        "phase": "forward",
        "calls": 1,
        "entering_ns": 0,
        "running_ns": 0,
    },
    "compiled_launches": {
        "graph": 0,
        "phase": "forward",
        "ordinal": 0,
        "kernel": "triton_0",
        "kind": "triton",
        "confidence": "exact",
    },
    "compiled_origins": {
        "launch": 0,
        "layer": "stem",
        "operators": "aten.add",
        "source": "net.py:3",
        "share": 1.0,
        "confidence": "exact",
    },
    "compiled_kernels": {"position": 0, "graph": 0, "launch": 0, "by": "name"},
}
"""One row of each, as it can be."""


def table(name: str, **values: Any) -> pd.DataFrame:
    """A table of one row, with these values."""
    return pd.DataFrame([{**ROWS[name], **values}])


ALL = {name: table(name) for name in ROWS}


def said_of(name: str, **values: Any) -> str:
    """What is said about a capture that has all these tables, one of them with these values."""
    return about({**ALL, name: table(name, **values)})


ORDINAL, COUNT = (0, 2**31), (0, 2**61)

BOUNDS = {
    ("graph_nodes", "graph"): (1, 2**32 - 1),
    ("graph_nodes", "node"): COUNT,
    ("compiled_graphs", "graph"): ORDINAL,
    ("compiled_graphs", "calls"): COUNT,
    ("compiled_graphs", "entering_ns"): (-1, 2**61),
    ("compiled_graphs", "running_ns"): (0, 2**53),
    ("compiled_launches", "graph"): ORDINAL,
    ("compiled_launches", "ordinal"): ORDINAL,
    ("compiled_kernels", "position"): ORDINAL,
    ("compiled_kernels", "graph"): ORDINAL,
}


def test_one_row_of_each_is_taken() -> None:
    """What the tests of this file change is taken as it is."""
    assert about(ALL) == ""


@pytest.mark.parametrize(("name", "column"), BOUNDS)
def test_numbers_are_taken_within_their_bounds_only(name: str, column: str) -> None:
    """Both bounds of a column are taken, one below and one above are refused with its name."""
    low, high = BOUNDS[name, column]
    for value in (low, high):
        assert said_of(name, **{column: value}) == ""
    for value in (low - 1, high + 1):
        said = said_of(name, **{column: value})
        assert f"{name}.{column} must be between {low} and {high}, not {value}" in said


def test_a_number_above_is_shown_beside_one_that_is_as_it_should_be() -> None:
    """Not the other one."""
    rows = pd.concat([table("compiled_graphs", graph=5), table("compiled_graphs", graph=2**31 + 1)])
    said = about({**ALL, "compiled_graphs": rows})
    assert f"compiled_graphs.graph must be between 0 and {2**31}, not {2**31 + 1}" in said


ROWS_OF = {
    ("graph_nodes", "span"): (0, len(WHOLE.tables["spans"])),
    ("compiled_origins", "launch"): (0, 1),
    ("compiled_kernels", "launch"): (-1, 1),
}
"""The first row that can be meant, and how many there are."""


@pytest.mark.parametrize(("name", "column"), ROWS_OF)
def test_references_lead_to_rows_that_are_there(name: str, column: str) -> None:
    """The last row of the other table can be meant, the row after it cannot, nor one before the
    first.
    """
    first, count = ROWS_OF[name, column]
    for row in (first, count - 1):
        assert said_of(name, **{column: row}) == ""
    said = said_of(name, **{column: count})
    assert f"{name}.{column} refers to row {count}, and there are only {count}" in said
    assert f"{name}.{column} must be between {first}" in said_of(name, **{column: first - 1})


@pytest.mark.parametrize(
    ("above", "row"), [([0], 0), ([-1, 1], 1), ([-1, 0, 2], 2)], ids=["one", "two", "three"]
)
def test_an_operator_comes_after_the_one_that_calls_it(above: list[int], row: int) -> None:
    """It is above none of itself: whoever goes up comes to an end."""
    names = ["aten::add"] * len(above)
    operators = pd.DataFrame({"name": names, "above": np.array(above, dtype=np.int64)})
    said = about({**ALL, "operators": operators})
    assert f"operators has a row that does not come after the one above (row {row})" in said
    better = operators.assign(above=np.arange(-1, len(above) - 1))
    assert about({**ALL, "operators": better}) == ""


SURE = ("exact", "verified", "inferred", "unknown")

CHOICES = {
    ("graph_nodes", "owner"): ("order", "turn", "unknown"),
    ("compiled_graphs", "phase"): ("forward", "backward"),
    ("compiled_launches", "phase"): ("forward", "backward"),
    ("compiled_launches", "kind"): ("triton", "template", "extern", "cpp"),
    ("compiled_launches", "confidence"): SURE,
    ("compiled_origins", "confidence"): SURE,
    ("compiled_kernels", "by"): ("name", "place", "kind", "inputs", "around", ""),
}


@pytest.mark.parametrize(("name", "column"), CHOICES)
def test_words_are_those_that_are_known(name: str, column: str) -> None:
    """Each of them is taken, any other is refused with all of them."""
    for choice in CHOICES[name, column]:
        assert said_of(name, **{column: choice}) == ""
    known = ", ".join(CHOICES[name, column])
    said = said_of(name, **{column: "other"})
    assert f"{name}.{column} must be one of {known}, not 'other'" in said


@pytest.mark.parametrize(("name", "column"), [(name, key) for name in ROWS for key in ROWS[name]])
def test_every_column_is_needed_and_has_no_gaps(name: str, column: str) -> None:
    """One that is missing is named, and so is one in which a value is missing."""
    assert f"{name} lacks {column}" in about({**ALL, name: ALL[name].drop(columns=column)})
    two_rows = pd.concat([ALL[name], ALL[name]], ignore_index=True).astype({column: object})
    two_rows.loc[1, column] = None
    assert f"{name}.{column} has missing values" in about({**ALL, name: two_rows})


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ("compiled_launches", "compiled_origins"),
        ("compiled_origins", "compiled_launches"),
    ],
)
def test_tables_of_compiled_code_come_together(missing: str, left: str) -> None:
    """One whose rows lead to a table that is not there is refused, not read until it fails."""
    tables = {name: each for name, each in ALL.items() if name != missing}
    assert f"there is a table {left}, and no table {missing}" in about(tables)
    needed = {name: WHOLE.tables[name] for name in WHOLE.tables}
    only = {**needed, "compiled_kernels": ALL["compiled_kernels"]}
    with pytest.raises(xsp.CaptureError, match="and no table compiled_launches"):
        check_capture(Capture(WHOLE.meta, only), "it")


def test_a_share_is_a_number_that_can_be_a_part() -> None:
    """Whole numbers are none, though Python takes them for such."""
    assert "compiled_origins.share must be of type double, not int64" in said_of(
        "compiled_origins", share=1
    )


def test_text_that_is_no_unicode_is_refused() -> None:
    """Half of a pair of surrogates, which other programs can write."""
    spoiled = pa.array([b"\xed\xa0\x80"], pa.binary())
    names = pa.StringArray.from_buffers(1, spoiled.buffers()[1], spoiled.buffers()[2])
    operators = pa.table({"name": names, "above": pa.array([-1], pa.int64())})
    with pytest.raises(BrokenTableError, match=r"operators\.name is not valid Unicode"):
        checked_table("operators", operators)


def test_ranges_from_before_there_was_a_choice_are_nvtx() -> None:
    """The column that says so stands after the domain, wherever that is; a table that has it stays
    as it is.
    """
    old = WHOLE.tables["ranges"].drop(columns="source", errors="ignore")
    found = with_sources(old)
    place = list(old.columns).index("domain") + 1
    expected = [*old.columns[:place], "source", *old.columns[place:]]
    assert list(found.columns) == expected
    assert set(found["source"]) == {"nvtx"}
    assert "source" not in old
    assert with_sources(found) is found


COMPILATION: dict[str, Any] = {
    **dict.fromkeys(("id", "function", "source", "reason", "failed", "no_cudagraph"), ""),
    "phase": "forward",
    "when": "within",
    "guards": 0,
    **dict.fromkeys(("guard_check_ns", "total_ns", "inductor_ns", "triton_ns"), 0),
}


@pytest.mark.parametrize(
    "name", ["guards", "guard_check_ns", "total_ns", "inductor_ns", "triton_ns"]
)
def test_what_a_compilation_took_is_a_whole_number_or_not_known(name: str) -> None:
    """None of them is below 0."""

    def said(value: object) -> str:
        row = {**COMPILATION, name: value}
        return about(ALL, compiled={"compilations": [row], "graph_breaks": []})

    assert said(0) == said(None) == ""
    assert f"compilations[0].{name} must be a whole number from 0" in said(-1)
