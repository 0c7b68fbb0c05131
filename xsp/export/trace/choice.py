"""Which run of a profile an export shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from xsp.analysis.spans.rungs import deepest_rung
from xsp.errors import XspError


@dataclass(frozen=True)
class RunChoice:
    """What a caller asked for: a run by its number, or a rung, of which the last run is taken; and
    which times.

    By default the last run of the deepest rung, with its times as recorded.
    """

    run: int | None = None
    rung: str | None = None
    corrected: bool = False


@dataclass(frozen=True)
class ChosenRun:
    """The run that is shown."""

    run: int
    rung: str
    round: int
    corrected: bool

    @property
    def title(self) -> str:
        """`run 239, M/L/Lib/K`, and that the times are corrected ones."""
        return f"run {self.run}, {self.rung}" + (", corrected" if self.corrected else "")


def choose_run(
    wanted: RunChoice, tables: Mapping[str, pd.DataFrame], corrected: pd.DataFrame | None
) -> ChosenRun:
    """The run that `wanted` selects.

    Raises XspError if there is no such run or rung, if the two contradict each other, or if
    corrected times are wanted of a run that has none.
    """
    runs = tables["runs"]
    if wanted.run is None:
        row = _last_of(wanted.rung or deepest_rung(tables), runs)
    else:
        row = _numbered(wanted.run, runs)
        if wanted.rung not in (None, row["rung"]):
            raise XspError(
                f"run {wanted.run} is of rung {row['rung']}, not {wanted.rung}; give the run or "
                "the rung, not both"
            )
    found = ChosenRun(int(row["run"]), str(row["rung"]), int(row["round"]), wanted.corrected)
    if wanted.corrected:
        _require_corrected(found, tables, corrected)
    return found


def _numbered(run: int, runs: pd.DataFrame) -> pd.Series:
    found = runs[runs["run"] == run]
    if not len(found):
        raise XspError(
            f"there is no run {run!r}: runs are numbered 0 to {int(runs['run'].max())}; prof.runs "
            "lists them"
        )
    return found.iloc[0]


def _last_of(rung: str, runs: pd.DataFrame) -> pd.Series:
    found = runs[runs["rung"] == rung]
    if not len(found):
        known = ", ".join(dict.fromkeys(runs["rung"]))
        raise XspError(f"there is no rung {rung!r} in this profile; its rungs are {known}")
    return found.iloc[-1]


def _require_corrected(
    found: ChosenRun, tables: Mapping[str, pd.DataFrame], corrected: pd.DataFrame | None
) -> None:
    if corrected is None:
        raise XspError(
            "this profile has no corrected times: the tracers' costs were not fitted (prof.costs "
            "is empty), or the correction fails (prof.closure_error); export it with "
            "corrected=False"
        )
    if found.rung != deepest_rung(tables):
        raise XspError(
            f"run {found.run} is of rung {found.rung}, and only the deepest rung, "
            f"{deepest_rung(tables)}, has "
            "corrected times; choose one of its runs, or corrected=False"
        )
