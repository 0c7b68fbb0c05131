"""The runs that a capture was made of, as tracers gave them, and runs of one level derived from
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xsp import Profile
from xsp.analysis.spans.assembly import Vocabulary, columns_of
from xsp.analysis.spans.rungs import spec_of
from xsp.capture.file import Capture, load
from xsp.capture.run import MODEL_CALLS, Run
from xsp.types import (
    API_CALLS,
    BACKWARD_BASE,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    SYNCHRONIZATIONS,
    Columns,
    Level,
    RunSpec,
    Schema,
    empty,
)

CAPTURES = Path(__file__).parents[1] / "examples" / "captures"
BUNDLED = ("h100_resnet50", "h100_transformer", "h100_train_step")
_BY_RUN = ("model_calls", "spans", "api_calls", "synchronizations")
_TABLES = {
    Level.LAYER: ("layer_events",),
    Level.LIBRARY: ("library_events",),
    Level.KERNEL: ("api_calls", "device_activity", "synchronizations"),
}


def bundled(name: str) -> Capture:
    """A capture that comes with the package, recorded on an H100."""
    return load(CAPTURES / f"{name}.xsp")


def words_of(capture: Capture) -> Vocabulary:
    """What the indices in `runs_of` stand for."""
    tables = capture.tables
    layers = tables["layers"].iloc[:-2].assign(code=np.arange(len(tables["layers"]) - 2))
    backward = layers["kind"] == "autograd"
    layers["code"] = np.where(backward, BACKWARD_BASE + layers["code"], layers["code"])
    nested = [
        name for name in map(str, layers) if name.endswith(("shapes", "dtypes", "weight_shape"))
    ]
    for name in (*nested, *(["arguments"] if "arguments" in layers else [])):
        layers[name] = [json.loads(text.replace("'", '"')) for text in layers[name]]
    symbols = list(dict.fromkeys(tables["library_calls"]["name"]))
    library = {name: str(one) for name, one in zip(*_columns(tables["library_calls"]), strict=True)}
    names = list(tables["api_calls"]["name"].cat.categories)
    return Vocabulary(
        calls=_records(tables["calls"]),
        modules=_records(tables["modules"]),
        layers=columns_of(_records(layers)),
        library_calls=[
            {"symbol": symbols.index(row["name"]), "arguments": json.loads(row["arguments"])}
            for row in tables["library_calls"].to_dict("records")
        ],
        symbols=symbols,
        library_of=lambda name: library[name],
        kernels=list(dict.fromkeys(tables["kernels"]["name"])),
        api_name=lambda _domain, cbid: str(names[cbid]),
    )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _columns(calls: pd.DataFrame) -> tuple[list[Any], list[Any]]:
    return calls["name"].tolist(), calls["library"].tolist()


def runs_of(capture: Capture, rung: str, count: int) -> list[Run]:
    """The first runs of a rung."""
    runs, words = capture.tables["runs"], words_of(capture)
    chosen = runs[runs["rung"] == rung][:count].to_dict("records")
    return [_run(capture, words, row) for row in chosen]


def _run(capture: Capture, words: Vocabulary, row: Mapping[Any, Any]) -> Run:
    tables = capture.tables
    mine = {name: tables[name][tables[name]["run"] == row["run"]] for name in _BY_RUN}
    spans = mine["spans"].assign(end_ns=mine["spans"]["start_ns"] + mine["spans"]["duration_ns"])
    of = {level: spans[spans["level"] == level] for level in Level}
    codes = np.array(words.layers["code"], dtype=np.int64)
    layers = of[Level.LAYER][of[Level.LAYER]["detail"] < len(codes)]
    called = tables["library_calls"]["name"].iloc[of[Level.LIBRARY]["detail"]]
    symbol = [words.symbols.index(name) for name in called]
    api = mine["api_calls"]
    api = api.assign(end_ns=api["start_ns"] + api["duration_ns"], cbid=api["name"].cat.codes)
    return Run(
        spec_of(row["rung"]),
        row["round"],
        row["position"],
        _filled(MODEL_CALLS, mine["model_calls"]),
        {
            "layer_events": _filled(
                LAYER_EVENTS, layers.assign(code=codes[layers["detail"].to_numpy()])
            ),
            "library_events": _filled(LIBRARY_EVENTS, of[Level.LIBRARY].assign(symbol=symbol)),
            "api_calls": _filled(API_CALLS, api),
            "device_activity": _device(tables["kernels"], words.kernels, of[Level.KERNEL]),
            "synchronizations": _filled(SYNCHRONIZATIONS, mine["synchronizations"]),
        },
        row["lost"],
    )


def _device(kernels: pd.DataFrame, names: Sequence[str], spans: pd.DataFrame) -> Columns:
    launched = kernels.iloc[spans["detail"]].reset_index(drop=True)
    kinds = {"kernel": 0, "memcpy": 1, "memset": 2}
    coded = launched.assign(
        kind=launched["kind"].map(kinds), name=[names.index(name) for name in launched["name"]]
    )
    table = _filled(DEVICE_ACTIVITY, pd.concat([spans.reset_index(drop=True), coded], axis=1))
    for shape in ("grid", "block"):
        table[shape] = launched[[f"{shape}_{axis}" for axis in "xyz"]].to_numpy(np.int32)
    return table


def _filled(schema: Schema, rows: pd.DataFrame) -> Columns:
    table = empty(schema, len(rows))
    for name in table:
        if name in rows:
            table[name][:] = rows[name].to_numpy()
    return table


def alone(run: Run, level: Level, number: int = 0) -> Run:
    """The run as it would have been with only this level traced."""
    tables = {name: run.tables[name] for name in _TABLES[level]}
    return replace(run, spec=RunSpec((Level.MODEL, level)), position=number, tables=tables)


def separate_runs(capture: Capture, rounds: int) -> list[Run]:
    """Rounds of a separate ladder, whose runs of one level are derived from runs of all levels that
    come after the annotated ones, so that what they belong to is known.
    """
    unprofiled = runs_of(capture, "M", rounds)
    deepest = runs_of(capture, "M/L/Lib/K", 2 * rounds)
    found = []
    for number, run in enumerate(unprofiled):
        later = replace(deepest[rounds + number], round=number)
        levels = (Level.LAYER, Level.LIBRARY, Level.KERNEL)
        found += [run, *(alone(later, level, 1 + at) for at, level in enumerate(levels))]
        found.append(replace(deepest[number], position=4))
    return found


def profile_of(capture: Capture, tables: dict[str, pd.DataFrame]) -> Profile:
    """These tables with the rest of a capture, and no correction."""
    return Profile(Capture({**capture.meta, "correction": None}, tables))
