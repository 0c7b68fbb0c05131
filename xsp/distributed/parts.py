"""What is kept of one rank's capture: so little that hundreds of ranks fit into memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from xsp.analysis.spans.rungs import runs_of
from xsp.capture.file import Capture
from xsp.distributed.communications import transfers
from xsp.distributed.exposure import computing, idle_from, kept_busy, within
from xsp.distributed.synchronising import collectives
from xsp.distributed.work import work_of
from xsp.errors import CaptureError
from xsp.types import Level


@dataclass(frozen=True, eq=False)
class RankPart:
    """One rank of a job.

    `boot` tells clocks: ranks with the same one read the same. `latency_ns` are the unprofiled
    latencies, one a round. `collectives` has the columns of `synchronising.collectives` and idle_ns
    (see `exposure.idle_from`), `busy` those of `exposure.kept_busy` while collectives last, `work`
    those of `work.work_of`, `transfers` those of `communications.transfers`.
    """

    rank: int
    size: int
    host: str
    boot: str
    trace_id: str
    name: str
    latency_ns: pd.Series
    collectives: pd.DataFrame
    busy: pd.DataFrame
    work: pd.DataFrame
    transfers: pd.DataFrame

    @property
    def rounds(self) -> set[int]:
        """Numbers of the rounds that this rank kept."""
        return set(self.latency_ns.index)

    def only(self, rounds: Collection[int]) -> RankPart:
        """What it has of these rounds."""
        return replace(
            self,
            latency_ns=self.latency_ns[self.latency_ns.index.isin(rounds)],
            collectives=self.collectives[self.collectives["round"].isin(rounds)],
            busy=self.busy[self.busy["round"].isin(rounds)],
            work=self.work[self.work["round"].isin(rounds)],
            transfers=self.transfers[self.transfers["round"].isin(rounds)],
        )


def in_common(parts: Sequence[RankPart]) -> list[RankPart]:
    """The same rounds of every rank: one may have left out those in which its GPU was throttled."""
    rounds = set.intersection(*(part.rounds for part in parts))
    if all(part.rounds == rounds for part in parts):
        return list(parts)
    return [part.only(rounds) for part in parts]


def part_of(capture: Capture, path: str) -> RankPart:
    """What a job's tables need of one capture, which can then be let go.

    Raises CaptureError: it is of a process that profiled alone.
    """
    place = _place(capture.meta, path)
    tables = capture.tables
    unprofiled = runs_of(tables["runs"], Level.MODEL)
    made, computed = collectives(tables, place["size"]), computing(tables)
    return RankPart(
        rank=place["rank"],
        size=place["size"],
        host=place["host"],
        boot=place["boot"],
        trace_id=capture.meta["trace"]["trace_id"],
        name=capture.meta["name"],
        latency_ns=unprofiled.set_index("round")["latency_ns"],
        collectives=made.assign(idle_ns=idle_from(made, computed)),
        busy=within(kept_busy(computed), made),
        work=work_of(tables),
        transfers=transfers(tables),
    )


def _place(meta: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    place: Mapping[str, Any] | None = meta.get("rank")
    if place is None:
        raise CaptureError(
            f"{path} was not recorded by several ranks together, so it belongs to no job: profile "
            "where torch.distributed is initialised, on every rank, without alone=True"
        )
    return place
