"""Tables of single bricks, and of what each model brings to a pool."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import pandas as pd

from xsp.brickwork.composing import busy_ns, host_ns
from xsp.brickwork.plan import Subject
from xsp.brickwork.rounds import COLD, MODEL, WARM
from xsp.brickwork.samples import Record
from xsp.brickwork.tables import Records, times_for
from xsp.graphs.layer import Layer

BRICK_COLUMNS = [
    "brick",
    "operators",
    "layers",
    "occurrences",
    "models",
    "time_us",
    "ci_us",
    "warm_us",
    "cold_us",
    "host_us",
    "device_us",
    "rounds",
    "failure",
]


def brick_table(subjects: Sequence[Subject], records: Records, granularity: int) -> pd.DataFrame:
    """One row for each unique brick of a granularity (BRICK_COLUMNS), the costliest first.

    `warm_us` and `cold_us` are loops, which lie below and above where they were measured; on a
    GPU, `time_us` includes waiting for it, `host_us` is the call alone and `device_us` its work.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for subject in subjects:
        for brick in subject.decompositions[granularity].bricks:
            key = (brick.layer.digest, subject.algorithm)
            row = rows.setdefault(key, _brick_row(brick.layer, subject.algorithm, records))
            row["layers"] = brick.end - brick.begin
            row["occurrences"] += 1
            row["models"] |= {subject.model.name}
    table = pd.DataFrame(list(rows.values()), columns=BRICK_COLUMNS)
    table["models"] = [len(each) for each in table["models"]]
    total = table["time_us"] * table["occurrences"]
    return table.loc[total.sort_values(ascending=False, na_position="first").index].reset_index(
        drop=True
    )


def _brick_row(layer: Layer, algorithm: str, records: Records) -> dict[str, Any]:
    states = {state: records.get((layer.digest, algorithm, state)) for state in (MODEL, WARM, COLD)}
    own, warm, cold = states.values()
    return {
        "brick": layer.digest,
        "operators": layer.source,
        "occurrences": 0,
        "models": set(),
        "time_us": nan if own is None else own.mean_ns / 1e3,
        "ci_us": nan if own is None else own.half_width_ns / 1e3,
        "warm_us": nan if warm is None else warm.mean_ns / 1e3,
        "cold_us": nan if cold is None else cold.mean_ns / 1e3,
        "host_us": _host_us(own),
        "device_us": nan if own is None else busy_ns(own) / 1e3,
        "rounds": 0 if own is None else len(own.samples_ns),
        "failure": "" if own is None else own.failure,
    }


def _host_us(record: Record | None) -> float:
    """How long a call of a brick takes the host, where that is not its whole time."""
    known = record is not None and "host_samples_ns" in record.facts
    return host_ns(record)[0] / 1e3 if known and record is not None else nan


def leave_one_out(subjects: Sequence[Subject], records: Records, granularity: int) -> pd.DataFrame:
    """What each model adds to a pool of the others: model, bricks, `own` (bricks that no other
    has), `own_ms` (their time, once each), `shared` (share of the constructed latency that comes
    from bricks of others).
    """
    have = [
        {brick.layer.digest for brick in each.decompositions[granularity].bricks}
        for each in subjects
    ]
    rows = []
    for place, subject in enumerate(subjects):
        others = set().union(*have[:place], *have[place + 1 :])
        times = times_for(subject, records)
        cut = subject.decompositions[granularity]
        own = have[place] - others
        known = {
            digest: times[digest].mean_ns if digest in times else nan for digest in have[place]
        }
        shared = sum(known[each.layer.digest] for each in cut.bricks if each.layer.digest in others)
        whole = sum(known[each.layer.digest] for each in cut.bricks)
        rows.append(
            {
                "model": subject.model.name,
                "bricks": len(cut.bricks),
                "own": len(own),
                "own_ms": sum(known[each] for each in own) / 1e6,
                "shared": shared / whole,
            }
        )
    return pd.DataFrame(rows, columns=["model", "bricks", "own", "own_ms", "shared"])
