"""The file's table of spans with the names, rungs and ids that it leaves to other tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.capture.schema import details_of
from xsp.tracing.context import TraceContext
from xsp.types import LEVEL_OF_NUMBER, Tables


def named_spans(tables: Tables, trace: TraceContext) -> pd.DataFrame:
    """One row per span of every run, with the columns of `ProfileData.spans`."""
    raw, runs = tables["spans"], tables["runs"]
    run = raw["run"].to_numpy()
    rounds = runs["round"].to_numpy()[run]
    levels = pd.Index([level.name for level in LEVEL_OF_NUMBER], dtype=object)
    first = np.uint64(trace.first_span_id)
    parent = raw["parent"].to_numpy()
    parent_id = first + np.maximum(parent, 0).astype(np.uint64)
    parent_id[parent < 0] = trace.parent_span_id
    return pd.DataFrame(
        {
            "run": run,
            "rung": runs["rung"].to_numpy(dtype=object)[run],
            "round": rounds,
            "level": pd.Categorical.from_codes(raw["level"].to_numpy(), categories=levels),
            "name": _names(tables),
            "span_id": first + np.arange(len(raw), dtype=np.uint64),
            "parent_id": parent_id,
            "start_ns": raw["start_ns"],
            "end_ns": raw["start_ns"] + raw["duration_ns"],
            "duration_ns": raw["duration_ns"],
            "thread": raw["thread"],
            "stream": raw["stream"],
            "correlation_id": raw["correlation_id"],
            "detail": raw["detail"],
            "iteration": rounds,
        }
    )


def _names(tables: Tables) -> pd.Categorical:
    """Each span's name, from the table of details of its level."""
    names = [details_of(tables, level)["name"].to_numpy(dtype=object) for level in LEVEL_OF_NUMBER]
    first = np.r_[0, np.cumsum([len(each) for each in names])]
    code, distinct = pd.factorize(np.concatenate(names))
    raw = tables["spans"]
    place = first[raw["level"].to_numpy()] + raw["detail"].to_numpy()
    return pd.Categorical.from_codes(code[place], categories=pd.Index(distinct, dtype=object))
