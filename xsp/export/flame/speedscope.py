"""speedscope's own file format (https://www.speedscope.app/file-format-schema.json): what each node
costs the latency, and one run as it happened, a profile for each thread and stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xsp.capture.writing import writable, write_file
from xsp.export.flame.stacks import Stacks, stacks_of
from xsp.words.distinct import distinct_names
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.export.trace.view import RunView

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_UNIT = "nanoseconds"


def write_speedscope(prof: ProfileData, view: RunView, path: Path) -> Path:
    """Write the file: first the latency by node, then the tracks of the run that `view` shows.

    Raises WriteError where it cannot be written.
    """
    target = writable(path)
    frames = _Frames()
    costs = _costs(stacks_of(prof), frames)
    profiles = [costs, *_tracks(view, frames)]
    document = {
        "$schema": _SCHEMA,
        "exporter": "xsp",
        "name": view.title,
        "activeProfileIndex": 0,
        "shared": {"frames": frames.every},
        "profiles": profiles,
    }
    return write_file(target, json.dumps(document, separators=(",", ":")).encode())


class _Frames:
    """Frames, each once, by name and line."""

    def __init__(self) -> None:
        self.every: list[dict[str, Any]] = []
        self._places: dict[tuple[str, str], int] = {}

    def place(self, name: str, source: str = "") -> int:
        key = name, source
        if key not in self._places:
            self._places[key] = len(self.every)
            self.every.append({"name": name, **_line(source)})
        return self._places[key]


def _line(source: str) -> dict[str, Any]:
    """`file` and `line` of `path:line`; nothing of anything else."""
    path, _, line = source.rpartition(":")
    return {"file": path, "line": int(line)} if path and line.isdigit() else {}


def _costs(found: Stacks, frames: _Frames) -> dict[str, Any]:
    rows = zip(found.frames, found.sources, strict=True)
    places = [frames.place(name, source) for name, source in rows]
    return {
        "type": "sampled",
        "name": "what each node costs the latency",
        "unit": _UNIT,
        "startValue": 0,
        "endValue": int(found.weights_ns.sum()),
        "samples": [[places[frame] for frame in stack] for stack in found.samples],
        "weights": found.weights_ns.tolist(),
    }


def _tracks(view: RunView, frames: _Frames) -> Iterator[dict[str, Any]]:
    """Begins and ends of each track, in ns since the run's first."""
    slices, events = view.slices, view.events
    first = int(slices["start_ns"].min())
    short = distinct_names(slices.loc[slices["on_device"], "name"])
    places = [frames.place(printable(short.get(name, name))) for name in slices["name"]]
    one, is_end = events >> 1, (events & 1).astype(bool)
    times = np.where(is_end, slices["end_ns"].to_numpy()[one], slices["start_ns"].to_numpy()[one])
    track = slices["track"].to_numpy()[one]
    for number, about in enumerate(view.tracks):
        mine = track == number
        if not mine.any():
            continue
        rows = zip(one[mine].tolist(), is_end[mine].tolist(), times[mine].tolist(), strict=True)
        shown = [
            {"type": "C" if end else "O", "frame": places[row], "at": int(at) - first}
            for row, end, at in rows
        ]
        where = "GPU, " if about.on_device else ""
        yield {
            "type": "evented",
            "name": f"{where}{about.name}",
            "unit": _UNIT,
            "startValue": shown[0]["at"],
            "endValue": shown[-1]["at"],
            "events": shown,
        }
