"""What the indices in the runs stand for, from what was found out before the ladder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from xsp.analysis.spans.assembly import Vocabulary
from xsp.analysis.spans.shared_values import SharedValues, as_series
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tensors import describe_tensors
from xsp.measuring.preparation import Prepared
from xsp.measuring.target import Target
from xsp.types import Level, Tracer
from xsp.words.labels import in_unicode

_LAYER_TEXTS = ("name", "type", "kind", "module", "phase", "source")


def words_of(target: Target, prepared: Prepared) -> Vocabulary:
    """Names, shapes and arguments for the assembly of the runs of a target made so far."""
    calls = [
        call_row(target.name, number, *describe_tensors((call.args, dict(call.kwargs))))
        for number, call in enumerate(target.calls)
    ]
    words = vocabulary(calls, prepared.structure, prepared.recorded, prepared.tracers)
    return replace(words, captured=prepared.captured)


def vocabulary(
    calls: list[dict[str, Any]],
    structure: Structure,
    recorded: Mapping[Level, list[dict[str, Any]]],
    tracers: Mapping[Level, Tracer],
) -> Vocabulary:
    """Names, shapes and arguments for the assembly of runs. `calls` are rows of `call_row`,
    `recorded` and `tracers` those of `Prepared`.
    """
    symbols = _names(tracers, Level.LIBRARY)
    known = {name: index for index, name in enumerate(symbols)}
    library_calls = [
        {"symbol": known[row["name"]], "arguments": row["arguments"]}
        for row in recorded.get(Level.LIBRARY, [])
        if row["name"] in known
    ]
    return Vocabulary(
        calls=_in_unicode(calls),
        modules=_in_unicode([vars(module) for module in structure.modules]),
        layers=_columns_in_unicode(structure.layer_columns()),
        calls_of_modules=_in_unicode([vars(call) for call in structure.calls_of_modules]),
        library_calls=library_calls,
        symbols=symbols,
        library_of=_library_of(),
        kernels=_names(tracers, Level.KERNEL),
        api_name=_api_name(traced=Level.KERNEL in tracers),
        operators=[in_unicode(name) for name in _names(tracers, Level.OP)],
    )


def _in_unicode(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: in_unicode(each) if isinstance(each, str) else each for name, each in row.items()}
        for row in rows
    ]


def _columns_in_unicode(columns: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _all_in_unicode(values) if name in _LAYER_TEXTS else values
        for name, values in columns.items()
    }


def _all_in_unicode(texts: Sequence[str]) -> SharedValues | pd.Series[str]:
    if isinstance(texts, SharedValues):
        return texts.mapped(in_unicode)
    # As a series they take a third of what so many texts of Python take.
    return as_series(texts if all(map(str.isascii, texts)) else list(map(in_unicode, texts)))


def _library_of() -> Callable[[str], str]:
    from xsp.levels.library.symbols import library_of

    return library_of


def _names(tracers: Mapping[Level, Tracer], level: Level) -> list[str]:
    tracer = tracers.get(level)
    return list(tracer.names) if tracer is not None else []


def _api_name(*, traced: bool) -> Callable[[int, int], str]:
    if not traced:
        return lambda domain, cbid: f"{domain}:{cbid}"
    from xsp.levels.kernel.cupti import api_name

    return api_name


def call_row(name: str, number: int, shapes: list[list[int]], dtypes: list[str]) -> dict[str, Any]:
    """A row of `calls`: the call of this number, with the tensors that it was given."""
    return {
        "name": name,
        "call": number,
        "input_shapes": json.dumps(shapes),
        "input_dtypes": json.dumps(dtypes),
        "batch_size": shapes[0][0] if shapes and shapes[0] else -1,
    }
