"""From which runs the latency of a level is read."""

from __future__ import annotations

import pandas as pd

from xsp.analysis.correction import spec_of
from xsp.types import Level


def runs_of(runs: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The runs of the rung that has `level` and the fewest levels; none if no rung has it.

    On a ladder these are the runs whose deepest level it is (XSP, section III-C). A profile imported from another tool
    has one rung, and every level's times hold the cost of tracing all of them.
    """
    levels = {rung: spec_of(str(rung)).levels for rung in runs["rung"].unique()}
    having = [rung for rung, there in levels.items() if level in there]
    return runs[runs["rung"] == min(having, key=lambda rung: len(levels[rung]))] if having else runs.iloc[:0]
