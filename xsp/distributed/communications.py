"""What the layers of one rank's capture say that they sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xsp.analysis.spans.rungs import runs_of
from xsp.analysis.work.collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BARRIER,
    RECEIVE,
    REDUCE_SCATTER,
    SEND,
)
from xsp.distributed.process_groups import named
from xsp.types import Level, Tables

_COLLECTIVES = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, BARRIER)

ANY = -1
"""In the place of a peer's rank."""

_OPERATIONS = {
    "detail": "int64",
    "type": "object",
    "group": "object",
    "bytes": "float64",
    "dtype": "object",
}


def operations(layers: pd.DataFrame) -> pd.DataFrame:
    """Collectives by the layer (`detail`) that made them, in order: detail, type, group (see
    `process_groups`), bytes (NaN of a barrier), dtype.
    """
    made = [
        (row, fact)
        for row, arguments in enumerate(_arguments(layers))
        for fact in _facts(arguments)
        if fact["operation"] in _COLLECTIVES
    ]
    groups = named([fact for _, fact in made])
    rows = [
        {
            "detail": row,
            "type": fact["operation"],
            "group": group,
            "bytes": np.nan if fact["operation"] == BARRIER else fact["bytes"],
            "dtype": "" if fact["operation"] == BARRIER else fact["dtype"],
        }
        for (row, fact), group in zip(made, groups, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(_OPERATIONS)).astype(_OPERATIONS)


def by_group(made: pd.DataFrame) -> pd.DataFrame:
    """A row for each layer and group of `operations`, in order: detail, group, bytes together (NaN
    where one is not known), dtype.
    """
    together = made.groupby(["detail", "group"], sort=False)
    found = together.agg(
        bytes=("bytes", lambda sizes: sizes.sum(skipna=False)),
        dtype=("dtype", lambda names: ", ".join(dict.fromkeys(names))),
    )
    types = {"detail": "int64", "group": "object", "bytes": "float64", "dtype": "object"}
    return found.reset_index()[list(types)].astype(types)


def waits(layers: pd.DataFrame) -> pd.DataFrame:
    """By layer, of one that does not block `ticket`, and of a wait `awaited`, the ticket that it
    was for (-1: none).
    """
    numbers = ("ticket", "awaited")
    known = [[each.get(name, -1) for name in numbers] for each in _arguments(layers)]
    return pd.DataFrame(known, columns=list(numbers), index=layers.index, dtype=np.int64)


def transfers(tables: Tables) -> pd.DataFrame:
    """Sends and receives of one rank's rounds, in order: round, operation (`send`, `receive`),
    peer (`ANY` of a receive from whoever sends), number (of this operation with this peer in the
    round), bytes, dtype, start_ns of the call that posted it (NaN where that call has no row of its
    own, as before the first call of a model).
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
    moved = table[table["operation"].isin((SEND, RECEIVE))]
    return moved.assign(peer=moved["peer"].fillna(ANY))


def _arguments(layers: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Of each layer; captures of early versions have none."""
    if "arguments" not in layers:
        return [{}] * len(layers)
    parsed = {text: json.loads(text) for text in layers["arguments"].unique()}
    return [parsed[text] for text in layers["arguments"]]


def _facts(arguments: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    facts: Sequence[Mapping[str, Any]] = arguments.get("communications", ())
    return facts
