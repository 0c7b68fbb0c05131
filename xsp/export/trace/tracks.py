"""The tracks that slices are drawn on: threads of the host, streams of a GPU, and what stands
beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.export.trace.lanes import laid_out
from xsp.export.trace.slices import CATEGORIES, OUTSIDE, RANGES, THREAD

Ints = npt.NDArray[np.int64]

_KEYS = ["on_device", "context", "number", "side"]


@dataclass(frozen=True)
class Track:
    """Where slices are drawn: a thread of the host (`number`), or a stream of a context, that is of
    a GPU.

    `lane` counts further tracks of the same thread or stream, for slices that overlap those of the
    first; `side` is that of the slices (`xsp.export.trace.slices`).
    """

    on_device: bool
    context: int
    number: int
    side: int
    lane: int
    name: str

    @property
    def is_first(self) -> bool:
        """Whether it is the track of the thread or stream itself."""
        return self.side == THREAD and self.lane == 0


def tracks_of(
    slices: pd.DataFrame, rank: Ints, backward: npt.NDArray[np.bool_]
) -> tuple[list[Track], Ints, Ints]:
    """Tracks in order, the track of every slice, and the events.

    `backward` says which slices are layers of a backward pass: a thread that has no other layers is
    autograd's.
    """
    group = slices.groupby(_KEYS, sort=False).ngroup().to_numpy().astype(np.int64)
    start, end = slices["start_ns"].to_numpy(), slices["end_ns"].to_numpy()
    layout = laid_out(
        group, start, end, rank, slices["recorded_ns"].to_numpy(), ~slices["on_device"].to_numpy()
    )
    places = slices[_KEYS].assign(lane=layout.lane)
    distinct = places.drop_duplicates().sort_values(["on_device", "context"], kind="stable")
    index = places.merge(
        distinct.assign(track=np.arange(len(distinct))), how="left", on=[*_KEYS, "lane"]
    )["track"]
    contexts = int(slices.loc[slices["on_device"], "context"].nunique())
    threads = _thread_names(slices, backward)
    columns = [distinct[one].tolist() for one in [*_KEYS, "lane"]]
    tracks = []
    for device, context, number, side, lane in zip(*columns, strict=True):
        name = _name(device, context, number, side, lane, contexts, threads)
        tracks.append(Track(device, context, number, side, lane, name))
    return tracks, index.to_numpy(dtype=np.int64), layout.event


def _thread_names(slices: pd.DataFrame, backward: npt.NDArray[np.bool_]) -> dict[int, str]:
    """A name for each thread of the host, in order of appearance; the first ran the model."""
    on_host = ~slices["on_device"].to_numpy()
    is_layer = (slices["category"] == CATEGORIES.index("LAYER")).to_numpy() & on_host
    number = slices["number"].to_numpy()
    names: dict[int, str] = {}
    for thread in pd.unique(number[on_host]).tolist():
        layers = is_layer & (number == thread)
        if not names:
            names[thread] = "main thread"
        elif layers.any() and backward[layers].all():
            names[thread] = f"autograd thread {len(names) + 1}"
        else:
            names[thread] = f"thread {len(names) + 1}"
    return names


def _name(
    device: bool,
    context: int,
    number: int,
    side: int,
    lane: int,
    contexts: int,
    threads: dict[int, str],
) -> str:
    if device:
        name = f"stream {number}" + (f" of context {context}" if contexts > 1 else "")
    else:
        name = threads[number]
        name = {OUTSIDE: "work outside layers", RANGES: f"ranges of {name}"}.get(side, name)
    return f"{name}, overlapping ({lane + 1})" if lane else name
