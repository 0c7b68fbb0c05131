"""What a capture may hold: the range of every number, what rows must lead to, and the manifest.

The bounds stand here as docs/captures.md and the meaning of each column give them. What lies on a
bound is taken, what lies one beyond it is refused with the place and the rule.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzz.captures import Seed
from fuzz.targets import CORPUS

import xsp
from xsp.capture.file import Capture, check_capture
from xsp.capture.schema import REQUIRED_TABLES

SMALL = CORPUS / "small.xsp"

STAMP = (-(2**61), 2**61)
LENGTH = (0, 2**53)
ORDINAL = (0, 2**31)
COUNT = (0, 2**61)
SIZE_OR_UNKNOWN = (-1, 2**61)
ID = (0, 2**32 - 1)
LAUNCH = (0, 2**31 - 1)

BOUNDS: dict[str, dict[str, tuple[int, int]]] = {
    "runs": {
        "round": ORDINAL,
        "position": ORDINAL,
        "start_ns": STAMP,
        "latency_ns": LENGTH,
        "host_latency_ns": LENGTH,
        "lost": COUNT,
        "unmatched": COUNT,
        "orphans": COUNT,
    },
    "model_calls": {"thread": ID, "start_ns": STAMP, "host_end_ns": STAMP, "end_ns": STAMP},
    "spans": {
        "level": (0, 4),
        "detail": LAUNCH,
        "start_ns": STAMP,
        "duration_ns": LENGTH,
        "thread": ID,
        "stream": (-1, 2**31 - 1),
        "context": ID,
        "correlation_id": ID,
    },
    "api_calls": {
        "start_ns": STAMP,
        "duration_ns": LENGTH,
        "thread": ID,
        "correlation_id": ID,
    },
    "calls": {"call": ORDINAL, "batch_size": SIZE_OR_UNKNOWN},
    "modules": {"parameter_bytes": COUNT, "calls": COUNT},
    "layers": {
        "parameter_bytes": COUNT,
        "allocated_bytes": SIZE_OR_UNKNOWN,
        "peak_bytes": SIZE_OR_UNKNOWN,
    },
    "library_calls": {"flops": COUNT},
    "kernels": {
        "registers_per_thread": (0, 2**16 - 1),
        "static_shared_bytes": LAUNCH,
        "dynamic_shared_bytes": LAUNCH,
        "bytes": COUNT,
        "grid_x": LAUNCH,
        "block_z": LAUNCH,
    },
    "serialized": {"run": COUNT, "kernels": COUNT, "busy_ns": LENGTH},
    "calls_of_modules": {"last": COUNT},
    "ranges": {"thread": ID, "start_ns": STAMP, "end_ns": STAMP},
}


def small() -> Capture:
    """The small capture of the corpus, with every table that a capture can have."""
    seed = Seed.of(SMALL)
    found = {name.removesuffix(".parquet"): table for name, table in seed.tables.items()}
    module_calls = pd.DataFrame(
        {"module": ["block"], "first": [0], "last": [2], "input_shapes": ["[[8, 3]]"]}
    )
    found["counters"] = found["counters"].astype({"position": int, "kernel": int, "sample": int})
    return Capture(seed.manifest["meta"], {**found, "calls_of_modules": module_calls})


WHOLE = small()


def complaint(table: str, **columns: Any) -> str:
    """What is said about the small capture with these columns of a table, "" where it is taken."""
    changed = WHOLE.tables[table].assign(**columns)
    return about({table: changed})


def assert_said(said: str, words: str) -> None:
    """Refused with these words, or taken where there are none."""
    assert words in said
    assert bool(said) == bool(words)


def about(tables: dict[str, pd.DataFrame], **meta: Any) -> str:
    """What is said about the small capture with these tables and entries of its manifest."""
    needed = {name: WHOLE.tables[name] for name in REQUIRED_TABLES}
    try:
        check_capture(Capture({**WHOLE.meta, **meta}, {**needed, **tables}), "it")
    except xsp.CaptureError as error:
        return str(error)
    return ""


def test_the_small_capture_is_whole() -> None:
    """What the tests of this file change is taken as it is."""
    assert about(WHOLE.tables) == ""


@pytest.mark.parametrize("table", BOUNDS)
def test_numbers_are_taken_within_their_bounds_only(table: str) -> None:
    """Both bounds of a column are taken, one below and one above are refused with its name."""
    bounds = BOUNDS[table]
    for side in (0, 1):
        said = complaint(table, **{column: each[side] for column, each in bounds.items()})
        assert "must be between" not in said
        assert "does not fit" not in said
    for column, (low, high) in bounds.items():
        for value in (low - 1, high + 1):
            assert f"{table}.{column} " in complaint(table, **{column: value})


def test_the_value_out_of_bounds_is_the_one_that_is_shown() -> None:
    """Beside values on the other bound, the one that is beyond is named."""
    levels = np.zeros(len(WHOLE.tables["spans"]), np.int64)
    for beyond in (-1, 5):
        levels[-1] = beyond
        said = complaint("spans", level=levels)
        assert f"spans.level must be between 0 and 4, not {beyond}" in said


ROWS_OF = {
    ("runs", "run"): (0, "runs"),
    ("model_calls", "run"): (0, "runs"),
    ("spans", "run"): (0, "runs"),
    ("spans", "parent"): (-1, "spans"),
    ("api_calls", "run"): (0, "runs"),
    ("api_calls", "parent"): (-1, "spans"),
    ("layers", "forward"): (-1, "layers"),
    ("serialized", "layer"): (0, "layers"),
    ("counters", "position"): (0, "spans"),
    ("counters", "kernel"): (0, "kernels"),
    ("counters", "sample"): (0, "counters"),
    ("calls_of_modules", "first"): (0, "layers"),
    ("ranges", "run"): (0, "runs"),
}


@pytest.mark.parametrize(("table", "column"), ROWS_OF)
def test_references_lead_to_rows_that_are_there(table: str, column: str) -> None:
    """The last row of the other table can be meant, the row after it cannot, nor one before the
    first.
    """
    first, other = ROWS_OF[table, column]
    count = len(WHOLE.tables[other])
    place = f"{table}.{column}"
    for row in (first, count - 1):
        said = referring(table, column, row)
        assert f"{place} refers" not in said
        assert f"{place} must" not in said
    said = referring(table, column, count)
    assert f"{place} refers to row {count}, and there are only {count}" in said
    assert f"{place} must be between {first}" in referring(table, column, first - 1)


def referring(table: str, column: str, row: int) -> str:
    """What is said about a table whose column leads to this row everywhere."""
    return about({**WHOLE.tables, table: WHOLE.tables[table].assign(**{column: row})})


def spans_with(row: int, **values: int) -> dict[str, pd.DataFrame]:
    """The spans with other values in one row."""
    spans = WHOLE.tables["spans"].copy()
    for column, value in values.items():
        spans.loc[row, column] = value
    return {"spans": spans}


def row_of(run: int, level: int) -> int:
    """The first span of a level in a run of the small capture."""
    spans = WHOLE.tables["spans"]
    return int(np.flatnonzero((spans["run"] == run) & (spans["level"] == level))[0])


def with_wait(start_ns: int, end_ns: int) -> dict[str, pd.DataFrame]:
    names = WHOLE.tables["synchronizations"].columns
    row = dict.fromkeys(names, 0) | {"start_ns": start_ns, "end_ns": end_ns}
    return {"synchronizations": pd.DataFrame([row])}


def moved(table: str, column: str, by: Any) -> dict[str, pd.DataFrame]:
    """A table with one column a little different in its last row."""
    changed = WHOLE.tables[table].copy()
    changed.loc[len(changed) - 1, column] = by
    return {table: changed}


DEEPEST = 3
"""The first run of the small capture that traced kernels."""

BROKEN: dict[str, tuple[Callable[[], dict[str, pd.DataFrame]], str]] = {
    "no runs": (
        lambda: {
            name: WHOLE.tables[name].iloc[:0]
            for name in ("runs", "model_calls", "spans", "api_calls")
        },
        "runs has no row",
    ),
    "no calls": (lambda: {"calls": WHOLE.tables["calls"].iloc[:0]}, "calls has no row"),
    "runs that are not counted": (
        lambda: moved("runs", "run", 10),
        "runs.run does not count from 0 (row 11)",
    ),
    "no model calls": (
        lambda: {"model_calls": WHOLE.tables["model_calls"].iloc[:0]},
        "model_calls has no row",
    ),
    "another deepest level": (
        lambda: moved("runs", "deepest", "LAYER"),
        "deepest level of its rung (row 11)",
    ),
    "a call that ends before it starts": (
        lambda: moved("model_calls", "host_end_ns", 0),
        "model_calls has an end before its start (row 11)",
    ),
    "a call whose device ends before it returns": (
        lambda: moved("model_calls", "end_ns", 0),
        "model_calls ends before its call returned (row 11)",
    ),
    "a model call under another": (
        lambda: spans_with(row_of(1, 0), parent=0),
        f"spans has a MODEL span with a parent (row {row_of(1, 0)})",
    ),
    "a layer under itself": (
        lambda: spans_with(row_of(1, 1), parent=row_of(1, 1)),
        f"parent that does not come before its child (row {row_of(1, 1)})",
    ),
    "a layer without a parent": (
        lambda: spans_with(row_of(1, 1), parent=-1),
        "deeper level without a parent",
    ),
    "a parent in another run": (
        lambda: spans_with(row_of(2, 1), parent=row_of(1, 0)),
        "parent of another run",
    ),
    "a parent in a later run": (
        lambda: spans_with(row_of(1, 0), run=2),
        "parent of another run",
    ),
    "a parent of a deeper level": (
        lambda: spans_with(row_of(DEEPEST, 3), level=1, detail=0),
        "parent of a deeper level",
    ),
    "a parent that is a kernel": (
        lambda: spans_with(row_of(DEEPEST, 3) + 1, parent=row_of(DEEPEST, 3)),
        "a parent that is a kernel",
    ),
    "a level that was not traced": (
        lambda: spans_with(row_of(1, 1), level=2),
        "a level that its run did not trace",
    ),
    "a detail one row too far": (
        lambda: spans_with(row_of(1, 1), detail=len(WHOLE.tables["layers"])),
        "no row of its level's table",
    ),
    "two model calls with one span": (
        lambda: {
            "model_calls": pd.concat(
                [WHOLE.tables["model_calls"], WHOLE.tables["model_calls"].iloc[-1:]]
            )
        },
        "exactly one MODEL span for each model call of a run (row 11)",
    ),
    "an API call without a parent": (
        lambda: moved("api_calls", "parent", -1),
        "api_calls has a call without a parent",
    ),
    "an API call under another run": (
        lambda: moved("api_calls", "run", 0),
        "api_calls has a parent of another run",
    ),
    "layers without the two that stand for none": (
        lambda: {
            "layers": WHOLE.tables["layers"].iloc[:1],
            "spans": WHOLE.tables["spans"].query("run == 0"),
            "runs": WHOLE.tables["runs"].iloc[:1],
            "model_calls": WHOLE.tables["model_calls"].iloc[:1],
            "api_calls": WHOLE.tables["api_calls"].iloc[:0],
        },
        "layers lacks its last two rows",
    ),
    "a wait that ends before it starts": (
        lambda: with_wait(1, 0),
        "synchronizations has an end before its start",
    ),
    "a range that ends before it starts": (
        lambda: moved("ranges", "end_ns", -1),
        "ranges has an end before its start",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_rows_that_contradict_each_other_are_refused(what: str) -> None:
    """A capture whose rows cannot all be true is refused with what is wrong, and in which row."""
    made, said = BROKEN[what]
    assert said in about(made())


TAKEN: dict[str, Callable[[], dict[str, pd.DataFrame]]] = {
    "a wait without a length": lambda: with_wait(1, 1),
    "a range without a length": lambda: moved("ranges", "end_ns", 0),
    "a call that returns as the device ends": lambda: {
        "model_calls": WHOLE.tables["model_calls"].assign(
            end_ns=WHOLE.tables["model_calls"]["host_end_ns"]
        )
    },
    "a layer in a layer": lambda: spans_with(row_of(1, 1) + 1, parent=row_of(1, 1)),
    "the last row of a level's table": lambda: spans_with(
        row_of(1, 1), detail=len(WHOLE.tables["layers"]) - 1
    ),
    "layers that lead to each other in a line": lambda: {
        "layers": WHOLE.tables["layers"].assign(forward=[1, 2, 3, 4, -1])
    },
    "flops that are not known": lambda: {
        "library_calls": WHOLE.tables["library_calls"].assign(flops=None)
    },
    "no weights": lambda: {
        "layers": WHOLE.tables["layers"].drop(columns=["weight_shape", "source"], errors="ignore")
    },
    "a run that traced every level": lambda: {
        "runs": WHOLE.tables["runs"].replace({"rung": {"M/L/Lib/K": "M/L/O/Lib/K"}})
    },
    "a column of a later version": lambda: {
        "layers": WHOLE.tables["layers"].assign(later=1.5, flag=True, told="x", gap=None)
    },
}


@pytest.mark.parametrize("what", TAKEN)
def test_unusual_rows_are_taken(what: str) -> None:
    """What a program can do, however rarely it does, is a valid capture."""
    assert about(TAKEN[what]()) == ""


def repeating(run: int, level: int, span: int) -> dict[str, pd.DataFrame]:
    """One event of a run that repeats a span."""
    row = {"run": run, "level": level, "span": span, "start_ns": 0, "duration_ns": 0}
    place = dict.fromkeys(("thread", "stream", "context", "correlation_id"), 0)
    return {"repeats": pd.DataFrame([row | place])}


def test_events_of_a_level_timed_alone_repeat_spans_of_other_runs() -> None:
    """An earlier or a later run's span of the same level, of a level that the run traced."""
    library, kernel = row_of(DEEPEST, 2), row_of(DEEPEST, 3)
    for run in (2, 6):
        assert about(repeating(run, 2, library)) == ""
    assert about(repeating(7, 3, kernel)) == ""
    assert "span of the same run" in about(repeating(DEEPEST, 2, library))
    assert "span of another level" in about(repeating(7, 3, library))
    assert "a level that its run did not trace" in about(repeating(1, 2, library))
    assert "repeats.level must be between 2 and 3" in about(repeating(2, 1, library))


LONG = 2**40
SHAPES = {
    f"[[{LONG}]]": "",
    f"[[{LONG + 1}]]": "from 0 to",
    f"[[{2**31}, {2**30}]]": "",
    f"[[{2**31}, {2**30 + 1}]]": "elements",
    "[[0], []]": "",
    "[]": "",
    "[[1.0]]": "a whole number",
    "[1]": "a list",
    "{}": "a list",
}


@pytest.mark.parametrize("shapes", SHAPES)
def test_shapes_are_of_a_size_that_can_be(shapes: str) -> None:
    """A dimension has at most 2^40 elements and a tensor at most 2^61."""
    said = complaint("layers", input_shapes=shapes)
    assert_said(said, SHAPES[shapes])


def test_shapes_of_weights_are_one_tensors() -> None:
    """`weight_shape` is one list of sizes, where the others are lists of lists."""
    assert complaint("layers", weight_shape="[2, 3]") == ""
    assert "layers.weight_shape[0]" in complaint("layers", weight_shape="[[2, 3]]")


ARGUMENTS: dict[str, str] = {
    '{"m": 0, "n": 1099511627776, "k": 3, "batch_count": 1}': "",
    '{"m": -1}': ".m must",
    '{"k": 1099511627777}': ".k must",
    '{"a_type": null, "b_type": "float16"}': "",
    '{"compute_type": 3}': ".compute_type must",
    '{"X": {"dims": [1, 2], "type": "float16"}}': "",
    '{"X": {"dims": [-1], "type": "float16"}}': ".X.dims",
    '{"X": {"dims": [1]}}': ".X lacks type",
    '{"W": {"type": 3}}': ".W must be text",
    '{"W": {"strides": [1]}}': "",
    '{"matA": 7}': "",
    '{"operations": 7}': "",
    '{"operations": [{}]}': "[0] lacks operation",
    '{"operations": [{"operation": "CONV", "X": {"dims": [-1], "type": null}}]}': "[0].X.dims",
    '{"operations": [{"operation": "CONV"}]}': "",
    '{"operations": [{"operation": "SDPA_FWD"}]}': "[0] lacks Q",
    '{"later": [{"any": "thing"}]}': "",
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_of_calls_are_what_decoders_write(arguments: str) -> None:
    """Sizes, types and operands of a library call are judged where they stand."""
    said = complaint("library_calls", arguments=arguments)
    assert_said(said, ARGUMENTS[arguments])


@pytest.mark.parametrize(("dims", "taken"), [([1, 2], True), ([1], False), ([-1, 2], False)])
def test_attention_has_operands_of_two_dimensions_and_more(dims: list[int], taken: bool) -> None:
    """Each of cuDNN's four operands of attention is at least a matrix."""
    tensor = {"dims": [4, 4], "type": "float16"}
    operands = {**dict.fromkeys("QKV", tensor), "O": {**tensor, "dims": dims}}
    node = {"operation": "SDPA_FWD", **operands}
    said = complaint("library_calls", arguments=json.dumps({"operations": [node]}))
    assert (said == "") is taken
    assert taken or "[0].O.dims" in said


COSTS = ("layer_ns", "functional_ns", "library_ns", "launch_ns", "api_ns", "kernel_ns")
INTERVALS = {cost: [0.0, 2.0] for cost in COSTS}
FITTED = {
    **dict.fromkeys(COSTS, 0.0),
    "intervals": INTERVALS,
    "identified": dict.fromkeys(COSTS, True),
}
CLOSURE = {"error": 0.0, "low": -1.0, "high": 1.0, "by_round": [0.0]}
FULL: dict[str, Any] = {
    "gpu_states": [
        {
            "round": 0,
            "sm_clock_mhz": 0,
            "memory_clock_mhz": 0,
            "power_w": 0,
            "temperature_c": -300,
            "throttled_by": "",
            "other_processes": 0,
        }
    ],
    "environment": {
        "cpu_count": 0,
        "gpu_memory_bytes": 2**61,
        "max_sm_clock_mhz": 0,
        "power_limit_w": 0.5,
        "compute_capability": "9.0",
        "cpu_flags": ["avx"],
        "measured_peaks": {"dram": 0},
        "driver": None,
    },
    "correction": {
        "costs": FITTED,
        "closure": {"M/L": CLOSURE},
        "tight_loops": {"layer_ns": 0, "intervals": {"x": [1, 2]}, "identified": {"x": False}},
        "spread": [[0.0] * 7] * 7,
        "mostly_tracing": {"M/L": 0},
        "unshown": ["LAYER"],
    },
    "counters": {"metrics": ["a"], "spread": {"a": None}, "why": {"any": [1]}},
    "trace": {"trace_id": "0aF" + "1" * 29, "parent_span_id": "0" * 16, "first_span_id": 1},
    "rank": {"rank": 0, "size": 1, "host": "", "boot": ""},
    "compiled": {
        "compilations": [
            {
                **dict.fromkeys(("id", "function", "source", "reason", "failed"), ""),
                "no_cudagraph": "",
                "phase": "forward",
                "when": "within",
                "guards": 0,
                **dict.fromkeys(("guard_check_ns", "total_ns", "inductor_ns", "triton_ns"), 0),
            }
        ],
        "graph_breaks": [{"reason": "", "times": 0}],
    },
    "stopped": None,
    "memory_device": None,
    "clock": {"method": "x", "error_ns": 0},
    "epoch_offset_ns": 2**61,
}
"""A manifest with every entry that has a rule, at its bound where it has one."""


def put(path: str, value: Any) -> dict[str, Any]:
    """The full manifest with another value at a path such as `gpu_states.0.round`."""
    made = copy.deepcopy(FULL)
    *above, last = path.split(".")
    at: Any = made
    for key in above:
        at = at[int(key) if isinstance(at, list) else key]
    at[int(last) if isinstance(at, list) else last] = value
    return made


def test_a_manifest_with_everything_is_taken() -> None:
    """Every entry that docs/captures.md names can be there, each on its bound."""
    assert about({}, **FULL) == ""


WRONG = [
    *[
        (f"gpu_states.0.{key}", -1)
        for key in ("round", "sm_clock_mhz", "memory_clock_mhz", "power_w", "other_processes")
    ],
    ("gpu_states.0.round", 1.5),
    ("gpu_states.0.throttled_by", 1),
    ("environment.cpu_count", -1),
    ("environment.cpu_count", True),
    ("environment.gpu_memory_bytes", 2**61 + 1),
    ("environment.max_sm_clock_mhz", -1),
    ("environment.cpu_flags", "avx"),
    ("environment.measured_peaks.dram", -1),
    *[
        ("environment.compute_capability", value)
        for value in ("9.0.0", "sm_90", "", ".", "9,0", 9.0)
    ],
    ("environment.driver", 580),
    ("correction.costs.layer_ns", -1),
    ("correction.costs.kernel_ns", "0"),
    ("correction.costs.new_ns", 1),
    ("correction.costs.intervals.api_ns", [1]),
    ("correction.costs.intervals.api_ns", [1, 2, 3]),
    ("correction.costs.identified.api_ns", 1),
    ("correction.costs.intervals.new_ns", [0, 1]),
    ("correction.costs.identified.new_ns", True),
    ("correction.closure.M/L.error", None),
    ("correction.closure.M/L.by_round", [None]),
    ("correction.closure.M/L.more", 1),
    ("correction.tight_loops.layer_ns", -1),
    ("correction.tight_loops.intervals.x", [1]),
    ("correction.tight_loops.more", 1),
    ("correction.spread", [[0.0] * 7] * 6),
    ("correction.spread", [[0.0] * 7] * 8),
    ("correction.spread", [[0.0] * 6] * 7),
    ("correction.spread", [[0.0] * 8] * 7),
    ("correction.mostly_tracing.M/L", -1),
    ("correction.unshown", ["LAYERS"]),
    ("correction.more", 1),
    ("counters.metrics", [1]),
    ("counters.spread.a", "x"),
    ("rank.rank", -1),
    ("rank.size", 0),
    ("rank.host", None),
    ("rank.more", 1),
    *[
        (f"compiled.compilations.0.{key}", -1)
        for key in ("guards", "guard_check_ns", "total_ns", "inductor_ns", "triton_ns")
    ],
    ("compiled.compilations.0.phase", "backwards"),
    ("compiled.compilations.0.when", ""),
    ("compiled.compilations.0.failed", None),
    ("compiled.graph_breaks.0.times", -1),
    ("compiled.graph_breaks.0.reason", 1),
    ("trace.trace_id", "1" * 31),
    ("trace.trace_id", "1" * 33),
    ("trace.trace_id", "g" * 32),
    ("trace.parent_span_id", "1" * 15),
    ("trace.first_span_id", 0),
    ("trace.first_span_id", 2**63),
    ("stopped", 1),
    ("memory_device", 1),
    ("clock.method", None),
    ("clock.error_ns", -1),
    ("epoch_offset_ns", 1.5),
    ("epoch_offset_ns", 2**61 + 1),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_wrong_entries_of_the_manifest_are_refused(path: str, value: Any) -> None:
    """An entry that breaks its rule is refused with the way to it."""
    said = about({}, **put(path, value))
    assert "meta." in said
    assert path.rpartition(".")[2] in said or "[" in said


RIGHT = [
    ("environment.compute_capability", "12.1"),
    ("environment.compute_capability", "9"),
    ("environment.cpu_count", None),
    ("environment.later", {"any": [1, None, "x"]}),
    ("correction", None),
    ("correction.costs.backward_ns", 0),
    ("correction.costs.intervals.backward_ns", [0, 1]),
    ("correction.closure.M/L.error", float("nan")),
    ("correction.closure.M/L.low", -float("inf")),
    ("correction.mostly_tracing.M/L", float("nan")),
    ("rank", None),
    ("compiled", None),
    ("compiled.compilations.0.guards", None),
    ("compiled.compilations.0.triton_ns", None),
    ("trace.first_span_id", 2**63 - 1),
    ("clock", None),
    ("counters", None),
    ("gpu_states", []),
    ("doubts", [{"slug": "x", "numbers": [2**61]}]),
]


@pytest.mark.parametrize(("path", "value"), RIGHT)
def test_entries_within_their_rules_are_taken(path: str, value: Any) -> None:
    """What is not known, what early versions wrote and what later ones may add is a manifest."""
    assert about({}, **put(path, value)) == ""


@pytest.mark.parametrize(
    "value", [2**61 + 1, -(2**61) - 1, {"a": [{"b": "\ud800"}]}, {"\ud800": 1}, [["\ud800"]]]
)
def test_entries_of_later_versions_are_plain(value: Any) -> None:
    """What this version does not know has texts in Unicode and numbers of a sane size."""
    assert "meta.later" in about({}, later=value)


def test_a_manifest_names_its_levels() -> None:
    """At least one level is there, each with a name, a tracer, a status and a reason."""
    assert "meta.levels" in about({}, levels=[])
    [level, *_] = WHOLE.meta["levels"]
    assert about({}, levels=[level]) == ""
    for key in level:
        assert "meta.levels[0]" in about({}, levels=[{**level, key: 7}])
        assert f"lacks {key}" in about(
            {}, levels=[{name: said for name, said in level.items() if name != key}]
        )


def test_wrong_values_are_shown_in_few_words() -> None:
    """A refusal shows what stands there, cut where it is long."""
    assert "list of 3" in about({}, stopped=[1, 2, 3])
    assert "a number of 301 bits" in about({}, epoch_offset_ns=2**300)
    assert len(about({}, memory_device=7, stopped=list(range(10**5)))) < 400


def test_what_a_layer_sent_is_judged() -> None:
    """What merging ranks reads of a layer's arguments has the types that the structure run writes;
    other arguments may be anything.
    """
    sent = {"operation": "send", "bytes": 64, "dtype": "float32", "ranks": None, "peer": 1}
    assert complaint("layers", arguments=json.dumps({"communications": [sent], "x": [1]})) == ""
    wrong = [({**sent, "bytes": -1}, "bytes"), ({**sent, "peer": "one"}, "peer"), ({}, "operation")]
    for each, named in wrong:
        said = complaint("layers", arguments=json.dumps({"communications": [each]}))
        assert "layers.arguments" in said
        assert named in said
