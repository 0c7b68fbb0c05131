"""What the layers of one rank's capture say that they sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.rungs import runs_of
from xsp.types import Level, Tables

ALL = ""
"""The group of all ranks; others are their ranks, with commas between."""

_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_NOTHING = {"bytes": nan, "dtype": "", "group": ALL, "ticket": -1, "awaited": -1}
_COLUMNS = {"bytes": "float64", "dtype": "object", "group": "object", "ticket": "int64"}


def communications(layers: pd.DataFrame) -> pd.DataFrame:
    """By layer what its collectives moved together: bytes (NaN where not known), dtype, group; of
    one that does not block `ticket`, and of a wait the ticket that it was for (-1: none).
    """
    known = [_told(arguments) for arguments in _arguments(layers)]
    table = pd.DataFrame(known, columns=list(_NOTHING), index=layers.index)
    return table.astype({**_COLUMNS, "awaited": "int64"})


def transfers(tables: Tables) -> pd.DataFrame:
    """Sends and receives of one rank's rounds, in order: round, operation (`send`, `receive`),
    peer, number (of this operation with this peer in the round), bytes, dtype, start_ns of the call
    that posted it (NaN where that call has no row of its own, as before the first call of a model).
    """
    asked = _asked(tables["layers"])
    runs, spans = runs_of(tables["runs"], Level.LAYER)["run"], tables["spans"]
    posted = spans[(spans["level"] == Level.LAYER) & spans["run"].isin(runs)]
    posted = posted[["run", "start_ns", "detail"]].merge(asked, on="detail")
    posted = posted.sort_values(["run", "start_ns", "place"], kind="stable")
    rounds = tables["runs"].set_index("run")["round"]
    number = posted.groupby(["run", "operation", "peer"]).cumcount()
    started = posted["start_ns"].astype(np.float64).where(posted["kind"] == "function")
    posted = posted.assign(round=posted["run"].map(rounds), number=number, start_ns=started)
    return posted[list(TRANSFER)].astype(TRANSFER).reset_index(drop=True)


TRANSFER = {
    "round": "int64",
    "operation": "object",
    "peer": "int64",
    "number": "int64",
    "bytes": "float64",
    "dtype": "object",
    "start_ns": "float64",
}
"""Columns of `transfers`."""


def _asked(layers: pd.DataFrame) -> pd.DataFrame:
    """Sends and receives by the layer (`detail`) that posts them, and their `place` in it."""
    kinds = layers["kind"].to_numpy(object)
    rows = [
        {"detail": row, "kind": kinds[row], "place": place, **fact}
        for row, arguments in enumerate(_arguments(layers))
        for place, fact in enumerate(_facts(arguments))
    ]
    columns = ["detail", "kind", "place", "operation", "peer", "bytes", "dtype"]
    table = pd.DataFrame(rows, columns=columns).astype({"detail": "int64"})
    return table[table["peer"].notna()]


def _arguments(layers: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Of each layer; captures of early versions have none."""
    if "arguments" not in layers:
        return [{}] * len(layers)
    parsed = {text: json.loads(text) for text in layers["arguments"].unique()}
    return [parsed[text] for text in layers["arguments"]]


def _facts(arguments: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    facts: Sequence[Mapping[str, Any]] = arguments.get("communications", ())
    return facts


def _told(arguments: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: arguments.get(name, -1) for name in ("ticket", "awaited")}
    facts = [each for each in _facts(arguments) if each["operation"] in _COLLECTIVES]
    if not facts:
        return {**_NOTHING, **numbers}
    dtypes = dict.fromkeys(each["dtype"] for each in facts)
    groups = {_group(each["ranks"]) for each in facts}
    return {
        **numbers,
        "bytes": float(sum(each["bytes"] for each in facts)),
        "dtype": ", ".join(dtypes),
        "group": groups.pop() if len(groups) == 1 else ALL,
    }


def _group(ranks: Sequence[int] | None) -> str:
    return ALL if ranks is None else ",".join(map(str, ranks))
