"""Sends and receives between two ranks, as a pipeline's stages make them, matched one to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.analysis.spans.statistics import trimmed_known
from xsp.distributed.communications import ANY
from xsp.distributed.parts import RankPart
from xsp.errors import CaptureError

MS = 1e6
PAIR = ["sender", "receiver", "number"]


def matched_transfers(parts: Sequence[RankPart], clock: pd.DataFrame) -> pd.DataFrame:
    """A row for each send of each round between ranks of which there are captures, with the receive
    that took it: the k-th from one rank to another is taken by the k-th receive there. Those to a
    rank that also receives from anyone are left out: what it took from whom is not known.

    Columns: round, sender, receiver, number, bytes, dtype, send_start_ns and receive_start_ns: when
    the calls that posted them began, on the first rank's clock.

    Raises CaptureError: a rank received something else than was sent to it, with the first.
    """
    offset = dict(zip(clock["rank"], clock["offset_ns"], strict=True))
    every = [_of_rank(part, offset[part.rank]) for part in parts]
    table = pd.concat(every, ignore_index=True)
    open_to_all = set(table.loc[table["peer"] == ANY, "receiver"])
    ranks = [part.rank for part in parts]
    table = table[~table["receiver"].isin(open_to_all)]
    table = table[table["sender"].isin(ranks) & table["receiver"].isin(ranks)]
    sent, received = (table[table["operation"] == kind] for kind in ("send", "receive"))
    key = ["round", *PAIR]
    both = sent.merge(received, on=key, how="outer", suffixes=("", "_there"), indicator=True)
    _check(both)
    stamps = {"start_ns": "send_start_ns", "start_ns_there": "receive_start_ns"}
    both = both.rename(columns=stamps)
    return both[[*key, "bytes", "dtype", "send_start_ns", "receive_start_ns"]]


def by_transfer(matched: pd.DataFrame) -> pd.DataFrame:
    """A row for each transfer of a step: sender, receiver, number, bytes, dtype, late_ms and
    late_ci_ms (half the 95 % interval over rounds): how much later than the receive the send was
    posted, less than 0 where the receiver came later, NaN where one of the two is not known. So
    long at least the data was not there.
    """
    late = (matched["send_start_ns"] - matched["receive_start_ns"]) / MS
    rounds = late.groupby([matched[name] for name in [*PAIR, "round"]])
    wide = rounds.sum(min_count=1).unstack()
    first = matched.drop_duplicates(PAIR).set_index(PAIR).sort_index()
    table = first[["bytes", "dtype"]].copy()
    table["late_ms"], table["late_ci_ms"] = trimmed_known(wide.to_numpy(np.float64).T)
    return table.reset_index()


def _of_rank(part: RankPart, offset_ns: float) -> pd.DataFrame:
    table = part.transfers
    is_send = table["operation"] == "send"
    return table.assign(
        sender=np.where(is_send, part.rank, table["peer"]),
        receiver=np.where(is_send, table["peer"], part.rank),
        start_ns=table["start_ns"] + offset_ns if offset_ns else table["start_ns"],
    )


def _check(both: pd.DataFrame) -> None:
    differs = (both["_merge"] != "both") | (both["bytes"] != both["bytes_there"])
    if not differs.any():
        return
    row = both[differs].iloc[0]
    raise CaptureError(
        f"rank {row['receiver']} did not receive what rank {row['sender']} sent to it: transfer "
        f"{row['number']} of round {row['round']} has {_said(row['bytes'])} there and "
        f"{_said(row['bytes_there'])} here; give the captures of one job, measured together"
    )


def _said(size: float) -> str:
    return "none" if np.isnan(size) else f"{size:.0f} bytes"
