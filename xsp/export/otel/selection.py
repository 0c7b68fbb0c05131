"""Which spans of a profile are exported, below which parent, and what they link to;
columns only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.profile_data import ProfileData
from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.corrected_times import with_corrected_times
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.rungs import deepest_rung
from xsp.errors import ExportError
from xsp.types import Level
from xsp.words.levels import parse_levels

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """Which spans to export.

    `run` is the number of a run, "all", or None for the last run of the deepest rung. MODEL spans
    are always kept, whatever their duration, because every other span hangs below one.
    """

    levels: tuple[Level, ...] = tuple(Level)
    min_duration_ns: int = 0
    run: int | str | None = None
    corrected: bool = False

    @classmethod
    def of(
        cls,
        levels: str | Iterable[Level | str] | None,
        min_duration_ns: int,
        run: int | str | None,
        corrected: bool,
    ) -> Selection:
        """Checked options. Raises LevelError for an unknown level, ExportError for a run or
        duration that is impossible.
        """
        possible = isinstance(min_duration_ns, Real) and 0 <= min_duration_ns < math.inf
        if isinstance(min_duration_ns, bool) or not possible:
            raise ExportError(
                f"min_duration_ns must be a finite number >= 0, not {min_duration_ns!r}"
            )
        if isinstance(run, str) and run != "all":
            raise ExportError(
                f"run must be the number of a run in prof.runs, 'all' or None, not {run!r}"
            )
        return cls(parse_levels(levels), int(min_duration_ns), run, corrected)

    def runs(self, profile: ProfileData) -> Rows:
        """Numbers of the runs to export. Raises ExportError for a run that the profile does not
        have.
        """
        runs = profile.runs
        deepest = runs[runs["rung"] == deepest_rung({"runs": runs})]
        if self.run is None:
            return np.array([deepest["run"].iloc[-1]], dtype=np.int64)
        eligible = deepest if self.corrected else runs
        if self.run == "all":
            return eligible["run"].to_numpy(dtype=np.int64)
        if self.run not in set(eligible["run"]):
            which = " of the deepest rung, which alone is corrected" if self.corrected else ""
            raise ExportError(
                f"run={self.run!r} is not one of the {len(eligible)} runs{which}; prof.runs "
                "lists them; 'all' sends every one"
            )
        return np.array([self.run], dtype=np.int64)


def select_spans(profile: ProfileData, selection: Selection) -> pd.DataFrame:
    """One row per span to export, in order of start.

    Columns: span_id, parent_id (0 for none), level (a Level's number), launch (whether this is the
    API call that launched a device activity), detail (row of the level's table; of `api_calls` for
    a launch), name, run, rung, round, start_ns, end_ns (monotonic clock), thread, stream,
    correlation_id, link_id (0 for none), link ("launch", "forward" or "").

    Parents and links that are filtered out are replaced by their nearest ancestor that is kept.
    """
    spans = profile.spans
    spans["level"] = spans["level"].cat.codes.astype(np.int64)
    parent = profile.table("raw_spans")["parent"].to_numpy().astype(np.int64)
    if selection.corrected:
        spans = _corrected(profile, spans)
    wanted = np.isin(spans["run"], selection.runs(profile)) & np.isin(
        spans["level"], selection.levels
    )
    duration = (spans["end_ns"] - spans["start_ns"]).to_numpy()
    long_enough = (duration >= selection.min_duration_ns) | (
        spans["level"] == Level.MODEL
    ).to_numpy()
    kept = wanted & long_enough
    exported = nearest(parent, kept)
    link_row, link = _forward_links(profile, spans, kept)
    spans = spans.assign(
        launch=False,
        link_id=_ids(profile, np.where(link_row >= 0, exported[link_row], -1)),
        link=link,
    )
    above = np.where(parent >= 0, exported[parent], -1)
    spans["parent_id"] = np.where(parent >= 0, _ids(profile, above), spans["parent_id"].to_numpy())
    found = spans[kept].drop(columns=["duration_ns", "iteration"])
    return _with_launches(profile, selection, found, exported).sort_values(
        "start_ns", kind="stable"
    )


def _corrected(profile: ProfileData, spans: pd.DataFrame) -> pd.DataFrame:
    corrected = profile.corrected
    if corrected is None:
        raise ExportError(
            "this profile has no corrected times (prof.corrected is None): it has only rung M or "
            "fewer than four rounds, or the correction fails (prof.closure_error); measure with "
            "iterations=4 or more, or leave out corrected"
        )
    timed = with_corrected_times(spans, corrected)
    return timed.assign(end_ns=timed["start_ns"] + timed["duration_ns"])


def _forward_links(
    profile: ProfileData, spans: pd.DataFrame, kept: npt.NDArray[np.bool_]
) -> tuple[Rows, npt.NDArray[Any]]:
    """Row of the forward span whose work a backward layer continues, -1 for none, in the
    same run.
    """
    forward = profile.table("layers")["forward"].to_numpy()
    is_layer = (spans["level"] == Level.LAYER).to_numpy()
    row = np.full(len(spans), -1, dtype=np.int64)
    if len(forward):
        of = np.where(is_layer, forward[np.where(is_layer, spans["detail"], 0)], -1)
        key = spans["run"].to_numpy().astype(np.int64) * len(forward)
        layers = np.flatnonzero(is_layer)
        known, first = np.unique((key + spans["detail"].to_numpy())[layers], return_index=True)
        asked = np.flatnonzero((of >= 0) & kept)
        at = np.minimum(np.searchsorted(known, (key + of)[asked]), max(len(known) - 1, 0))
        hit = known[at] == (key + of)[asked] if len(known) else np.zeros(0, dtype=bool)
        row[asked[hit]] = layers[first[at[hit]]]
    return row, np.where(row >= 0, "forward", "").astype(object)


def _with_launches(
    profile: ProfileData, selection: Selection, found: pd.DataFrame, exported: Rows
) -> pd.DataFrame:
    """The spans, with the API calls that launched the kept device activities, to which these link.

    Launches are not rows of `spans`: their ids follow the last span's, in the order of `api_calls`.
    On a corrected timeline, and where a launch is shorter than what is kept, the link leads to the
    span that the launch lies in.
    """
    kernels = (found["level"] == Level.KERNEL).to_numpy()
    api = profile.table("api_calls")
    launched = found[kernels]
    launch = launch_of(
        launched["correlation_id"].to_numpy(),
        api["correlation_id"].to_numpy(),
        api["start_ns"].to_numpy(),
        run=launched["run"].to_numpy(),
        api_run=api["run"].to_numpy(),
    )
    duration = np.append(api["duration_ns"].to_numpy(), -1)[launch]
    own = (launch >= 0) & (duration >= selection.min_duration_ns) & (not selection.corrected)
    first = np.uint64(profile.trace.first_span_id) + np.uint64(len(profile.table("raw_spans")))
    own_id = first + np.maximum(launch, 0).astype(np.uint64)
    link_id, link = found["link_id"].to_numpy().copy(), found["link"].to_numpy().copy()
    link_id[kernels] = np.where(own, own_id, launched["parent_id"].to_numpy())
    link[kernels] = "launch"
    api = api.loc[np.unique(launch[own])]
    rung, round_ = (profile.runs.set_index("run")[name] for name in ("rung", "round"))
    launches = pd.DataFrame(
        {
            "run": api["run"],
            "rung": api["run"].map(rung),
            "round": api["run"].map(round_),
            "level": int(Level.KERNEL),
            "launch": True,
            "name": api["name"].astype(object),
            "span_id": first + api.index.to_numpy().astype(np.uint64),
            "parent_id": _ids(profile, exported[api["parent"].to_numpy()]),
            "start_ns": api["start_ns"],
            "end_ns": api["start_ns"] + api["duration_ns"],
            "thread": api["thread"],
            "stream": -1,
            "correlation_id": api["correlation_id"],
            "detail": api.index,
            "link_id": np.uint64(0),
            "link": "",
        }
    )
    spans = found.assign(name=found["name"].astype(object), link_id=link_id, link=link)
    return pd.concat([spans, launches], ignore_index=True) if len(launches) else spans


def _ids(profile: ProfileData, rows: Rows) -> npt.NDArray[np.uint64]:
    """Span ids of rows of the spans table, 0 for -1."""
    ids = np.uint64(profile.trace.first_span_id) + np.maximum(rows, 0).astype(np.uint64)
    return np.where(rows >= 0, ids, np.uint64(0))
