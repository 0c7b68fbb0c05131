"""The captures of one job's ranks, merged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from xsp.capture.file import load
from xsp.distributed import tables
from xsp.distributed.clocks import clocks
from xsp.distributed.matching import matched
from xsp.distributed.parts import RankPart, in_common, part_of
from xsp.distributed.sentences import left_out, sentences, transferred
from xsp.distributed.transfers import by_transfer, matched_transfers
from xsp.errors import CaptureError

Map = Callable[[Callable[[str], RankPart], Sequence[str]], Iterable[RankPart]]
"""Applies a function to each of several values, and gives the results in their order."""


@dataclass(frozen=True, eq=False)
class Job:
    """What the ranks of one job tell together. `parts` are in the order of ranks, and have the
    rounds that all of them kept; `rounds_left_out` are those of some ranks only.
    """

    parts: tuple[RankPart, ...]
    rounds_left_out: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many ranks the job had."""
        return self.parts[0].size

    @property
    def missing(self) -> list[int]:
        """Ranks of which there is no capture."""
        return sorted(set(range(self.size)) - {part.rank for part in self.parts})

    @cached_property
    def clocks(self) -> pd.DataFrame:
        """`clocks.clocks`: how each rank's stamps were put on the first rank's clock."""
        return clocks(self.parts)

    @cached_property
    def events(self) -> pd.DataFrame:
        """`matching.matched`: every collective of every round on every rank."""
        return matched(self.parts, self.clocks)

    def collectives(self) -> pd.DataFrame:
        """`tables.by_collective`: waiting and moving by collective of a step."""
        return tables.by_collective(self.events, self.size)

    def transfers(self) -> pd.DataFrame:
        """`transfers.by_transfer`: sends and receives between two ranks, by transfer of a step."""
        return by_transfer(matched_transfers(self.parts, self.clocks))

    def ranks(self) -> pd.DataFrame:
        """`tables.by_rank`: latency, waiting and how often it comes last, by rank."""
        return tables.by_rank(self.parts, self.events)

    def stragglers(self) -> pd.DataFrame:
        """`tables.stragglers`: where a rank takes longer than the others."""
        return tables.stragglers(self.parts)

    def __str__(self) -> str:
        """What the tables say, in sentences."""
        return "\n".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """The same, one by one."""
        said = sentences(self.parts, self.missing, self.clocks, self.ranks(), self.stragglers())
        return said + transferred(self.transfers()) + left_out(self.rounds_left_out)


def merge(
    paths: Sequence[str | os.PathLike[str]],
    *,
    map: Map = map,  # noqa: A002 - it stands for that one
) -> Job:
    """Read the captures of a job's ranks, one after another: what is kept of each grows with its
    collectives and layers, not with its spans.

    `map` is called as Python's own is, with a function of a capture's path and the paths: give
    what runs it on several machines, all of which see the files.

    Raises CaptureError: no capture, one of a process that profiled alone, of another job or of the
    same rank twice, ranks without a round in common, or ranks that made different collectives.
    """
    if not paths:
        raise CaptureError("there is no capture to merge: name those of a job's ranks")
    names = [os.fspath(path) for path in paths]
    parts = list(map(_read, names))
    _check_one_job(parts, names)
    common = in_common(parts)
    every = set().union(*(part.rounds for part in parts))
    gone = sorted(every - common[0].rounds)
    if every and len(gone) == len(every):
        raise CaptureError(
            "no round is in the captures of all these ranks, so nothing can be compared: measure "
            "more rounds, or merge the ranks that kept the same ones"
        )
    job = Job(tuple(sorted(common, key=lambda part: part.rank)), tuple(gone))
    # What cannot be matched is refused here, not when a table is asked for.
    _ = job.events, job.transfers()
    return job


def _read(path: str) -> RankPart:
    return part_of(load(path), path)


def _check_one_job(parts: Sequence[RankPart], paths: Sequence[str]) -> None:
    first = parts[0]
    seen: dict[int, str] = {}
    for part, path in zip(parts, paths, strict=True):
        if part.trace_id != first.trace_id or part.size != first.size:
            raise CaptureError(
                f"{path} and {paths[0]} are of different jobs: their traces are "
                f"{part.trace_id} and {first.trace_id}; name the captures of one job's ranks, "
                "which were recorded together"
            )
        if part.rank in seen:
            raise CaptureError(
                f"{path} and {seen[part.rank]} are both of rank {part.rank}: name each rank once"
            )
        seen[part.rank] = path
