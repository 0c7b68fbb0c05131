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
        chosen = tuple(Level) if levels is None else parse_levels(levels)
        return cls(chosen, int(min_duration_ns), run, corrected)

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
    if selection.corrected:
        spans = _corrected(profile, spans)
    parent = profile.table("raw_spans")["parent"].to_numpy().astype(np.int64)
    has_parent = parent >= 0
    kept = _kept(profile, selection, spans)
    exported = nearest(parent, kept)
    link_row, link = _forward_links(profile, spans, kept)
    linked = np.where(link_row >= 0, exported[link_row], -1)
    above = _ids(profile, np.where(has_parent, exported[parent], -1))
    spans = spans.assign(
        launch=False,
        link_id=_ids(profile, linked),
        link=link,
        parent_id=np.where(has_parent, above, spans["parent_id"].to_numpy()),
    )
    found = spans[kept].drop(columns=["duration_ns", "iteration"])
    every = _with_launches(profile, selection, found, exported)
    return every.sort_values("start_ns", kind="stable")


def _kept(profile: ProfileData, selection: Selection, spans: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which spans are of the chosen runs and levels, and long enough."""
    of_runs = np.isin(spans["run"], selection.runs(profile))
    of_levels = np.isin(spans["level"], selection.levels)
    duration = (spans["end_ns"] - spans["start_ns"]).to_numpy()
    is_model = (spans["level"] == Level.MODEL).to_numpy()
    long_enough = is_model | (duration >= selection.min_duration_ns)
    kept: npt.NDArray[np.bool_] = of_runs & of_levels & long_enough
    return kept


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
    forward = profile.table("layers")["forward"]
    layers = spans[spans["level"] == Level.LAYER]
    # A layer that ran several times in a run is linked to its first call.
    first = layers.reset_index(names="row").drop_duplicates(["run", "detail"])
    asked = layers[kept[layers.index]]
    asked = asked.assign(of=forward.to_numpy()[asked["detail"]])
    asked = asked[asked["of"] >= 0].reset_index(names="asked")
    links = asked.merge(first, left_on=["run", "of"], right_on=["run", "detail"])
    row = np.full(len(spans), -1, dtype=np.int64)
    row[links["asked"]] = links["row"]
    return row, np.where(row >= 0, "forward", "").astype(object)


def _with_launches(
    profile: ProfileData, selection: Selection, found: pd.DataFrame, exported: Rows
) -> pd.DataFrame:
    """The spans, with the API calls that launched the kept device activities, to which these link.

    Launches are not rows of `spans`: their ids follow the last span's, in the order of `api_calls`.
    On a corrected timeline, and where a launch is shorter than what is kept, the link leads to the
    span that the launch lies in.
    """
    api = profile.table("api_calls")
    kernels = (found["level"] == Level.KERNEL).to_numpy()
    launched = found[kernels]
    launch = launch_of(
        launched["correlation_id"].to_numpy(),
        api["correlation_id"].to_numpy(),
        api["start_ns"].to_numpy(),
        run=launched["run"].to_numpy(),
        api_run=api["run"].to_numpy(),
    )
    is_exported = launch >= 0
    is_exported[is_exported] = _long_enough(api, selection)[launch[is_exported]]
    first = np.uint64(profile.trace.first_span_id) + np.uint64(len(profile.table("raw_spans")))
    launch_id = first + np.maximum(launch, 0).astype(np.uint64)
    link_id, link = found["link_id"].to_numpy().copy(), found["link"].to_numpy().copy()
    link_id[kernels] = np.where(is_exported, launch_id, launched["parent_id"].to_numpy())
    link[kernels] = "launch"
    spans = found.assign(name=found["name"].astype(object), link_id=link_id, link=link)
    api = api.loc[np.unique(launch[is_exported])]
    if not len(api):
        return spans
    parents = _ids(profile, exported[api["parent"].to_numpy()])
    launches = _launch_spans(profile.runs, api, first, parents)
    return pd.concat([spans, launches], ignore_index=True)


def _long_enough(api: pd.DataFrame, selection: Selection) -> npt.NDArray[np.bool_]:
    """Which API calls are spans of their own: a corrected timeline has none."""
    long_enough = api["duration_ns"].to_numpy() >= selection.min_duration_ns
    return long_enough & (not selection.corrected)


def _launch_spans(
    runs: pd.DataFrame, api: pd.DataFrame, first: np.uint64, parents: npt.NDArray[np.uint64]
) -> pd.DataFrame:
    by_run = runs.set_index("run")
    return pd.DataFrame(
        {
            "run": api["run"],
            "rung": api["run"].map(by_run["rung"]),
            "round": api["run"].map(by_run["round"]),
            "level": int(Level.KERNEL),
            "launch": True,
            "name": api["name"].astype(object),
            "span_id": first + api.index.to_numpy().astype(np.uint64),
            "parent_id": parents,
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


def _ids(profile: ProfileData, rows: Rows) -> npt.NDArray[np.uint64]:
    """Span ids of rows of the spans table, 0 for -1."""
    ids = np.uint64(profile.trace.first_span_id) + np.maximum(rows, 0).astype(np.uint64)
    return np.where(rows >= 0, ids, np.uint64(0))
