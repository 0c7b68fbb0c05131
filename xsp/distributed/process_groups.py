"""Process groups as tables name them: by their ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

ALL = ""
"""All ranks of the job. Others are their ranks with commas between, `0,2`. Where several groups
have the same ranks, those after the first have torch's name after a colon, `0,2:7`: it is the same
on all ranks of a group, since they meet under it.
"""


def named(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the groups of one rank's communications.

    Which groups there are of the same ranks every one of these ranks sees, as it takes part.
    """
    rows = [(_joined(fact["ranks"]), fact.get("group", "")) for fact in facts]
    alike: dict[str, list[str]] = {}
    for ranks, name in sorted(set(rows), key=lambda row: (row[0], len(row[1]), row[1])):
        alike.setdefault(ranks, []).append(name)
    return [ranks if name == alike[ranks][0] else f"{ranks}:{name}" for ranks, name in rows]


def ranks_of(group: str, every: Sequence[int]) -> list[int]:
    """The ranks of a group, where `every` are those of the group of all."""
    ranks = group.partition(":")[0]
    return [int(each) for each in ranks.split(",")] if ranks else list(every)


def sizes_of(groups: pd.Series, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many ranks each of these groups has, in a job of `size`."""
    every = range(size)
    known = {group: len(ranks_of(group, every)) for group in groups.unique()}
    return groups.map(known).to_numpy(np.int64)


def _joined(ranks: Sequence[int] | None) -> str:
    return ALL if ranks is None else ",".join(map(str, ranks))
