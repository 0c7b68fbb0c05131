"""Kernels and layers of a profile as plain pandas finds them, to check the analyses against."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

import xsp

NAMES = ("resnet50", "transformer", "train_step")
"""Keys of the fixture `profiles`."""

H100_FP16, H100_FP32, H100_DRAM = 989.4e12, 66.9e12, 3350e9
"""FLOP/s, FLOP/s and bytes/s of the H100 that they were recorded on, as NVIDIA states them."""


@cache
def deepest_kernels(prof: xsp.Profile) -> pd.DataFrame:
    """Kernels, copies and sets of the deepest rung's runs by launch, with their kernel's, layer's
    and call's row.
    """
    spans = prof.spans.set_index("span_id", drop=False)
    kernels = spans[spans["level"] == "KERNEL"].copy()
    above = spans.loc[kernels["parent_id"]]
    kernels["call"] = np.where(above["level"] == "LIBRARY", above["detail"], -1)
    while (above["level"] != "LAYER").any():
        above = spans.loc[np.where(above["level"] == "LAYER", above["span_id"], above["parent_id"])]
    kernels["layer"], kernels["layer_span"] = (
        above["detail"].to_numpy(),
        above["span_id"].to_numpy(),
    )
    facts = prof.table("kernels").loc[kernels["detail"]]
    kernels["kind"], kernels["config"] = facts["kind"].to_numpy(), kernels["detail"]
    launches = prof.table("api_calls").groupby(["run", "correlation_id"])["start_ns"].min()
    kernels["launch"] = launches.loc[
        pd.MultiIndex.from_frame(kernels[["run", "correlation_id"]])
    ].to_numpy()
    return kernels.sort_values(["run", "launch", "start_ns"], kind="stable").reset_index(drop=True)


def positions(prof: xsp.Profile) -> pd.DataFrame:
    """Rows of `deepest_kernels` that are kernels, with their position in the run."""
    kernels = deepest_kernels(prof)
    kernels = kernels[kernels["kind"] == "kernel"]
    return kernels.assign(position=kernels.groupby("run").cumcount())


def last_run(kernels: pd.DataFrame) -> pd.DataFrame:
    """The kernels of the last run, by position."""
    result: pd.DataFrame = kernels[kernels["run"] == kernels["run"].max()].reset_index(drop=True)
    return result


def timeline_by_layer(prof: xsp.Profile) -> pd.DataFrame:
    """Busy and idle ns of each layer and run on the corrected timeline: a walk along the device's
    time. The layer "" is the time in none.
    """
    corrected = prof.corrected
    assert corrected is not None
    spans = prof.spans
    for column in ("start_ns", "duration_ns"):
        spans.loc[corrected["row"], column] = corrected[column].to_numpy()
    spans = spans.loc[corrected["row"]].set_index("span_id", drop=False)
    layers = prof.table("layers")
    charged: dict[tuple[str, str, int], list[float]] = {}
    for run, kernels in (
        (int(str(one)), part) for one, part in deepest_kernels(prof).groupby("run")
    ):
        mine = spans[spans["run"] == run]
        call = mine[mine["level"] == "MODEL"].iloc[0]
        walk = HostWalk(mine[mine["level"] == "LAYER"], layers)
        reached = int(call["start_ns"])
        times = mine.loc[kernels["span_id"], ["start_ns", "duration_ns"]].to_numpy()
        entered = mine.loc[kernels["layer_span"], "start_ns"].to_numpy()
        facts = layers.loc[kernels["layer"], ["name", "phase"]].to_numpy()
        for at in np.argsort(times[:, 0], kind="stable"):
            start, end = int(times[at, 0]), int(times[at].sum())
            own = charged.setdefault((*facts[at], run), [0.0, 0.0])
            own[0] += max(end - max(start, reached), 0)
            if start > reached:
                cut = min(max(int(entered[at]), reached), start)
                own[1] += start - cut
                walk.charge(charged, run, reached, cut)
            reached = max(reached, end)
        walk.charge(charged, run, reached, int(call["start_ns"] + call["duration_ns"]))
    index = pd.MultiIndex.from_tuples(charged, names=["layer", "phase", "run"])
    return pd.DataFrame(list(charged.values()), index=index, columns=["busy", "idle"])


class HostWalk:
    """Which layer the host is in: of all open ones the one that began last."""

    def __init__(self, spans: pd.DataFrame, layers: pd.DataFrame) -> None:
        inside = layers.loc[spans["detail"]]
        real = (inside["name"] != "(outside layers)").to_numpy()
        starts = spans["start_ns"].to_numpy()[real]
        ends = starts + spans["duration_ns"].to_numpy()[real]
        keys = list(zip(inside["name"][real], inside["phase"][real], strict=True))
        self.edges = np.unique(np.concatenate([starts, ends]))
        self.owner: list[tuple[str, str]] = [("", "")] * len(self.edges)
        for layer in np.argsort(starts, kind="stable"):
            first, last = np.searchsorted(self.edges, [starts[layer], ends[layer]])
            self.owner[first:last] = [keys[layer]] * (last - first)

    def charge(
        self, charged: dict[tuple[str, str, int], list[float]], run: int, begin: int, end: int
    ) -> None:
        """Idle time from `begin` to `end`, to whom it belongs."""
        while begin < end:
            at = int(np.searchsorted(self.edges, begin, side="right"))
            until = min(end, int(self.edges[at])) if at < len(self.edges) else end
            key = self.owner[at - 1] if at else ("", "")
            charged.setdefault((*key, run), [0.0, 0.0])[1] += until - begin
            begin = until


def called_layers(prof: xsp.Profile) -> pd.DataFrame:
    """Rows of `layers` that the runs have spans of."""
    spans = prof.spans
    return prof.table("layers").loc[sorted(spans.loc[spans["level"] == "LAYER", "detail"].unique())]
