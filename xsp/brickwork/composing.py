"""A model's latency on a GPU from its bricks: their host and device timelines, one behind the
other, by the replay that also takes the tracers' cost out of recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import (
    DeviceOps,
    HostEvents,
    HostWaits,
    Timeline,
    WaitKind,
)
from xsp.brickwork.construction import Constructed, Times, summed
from xsp.brickwork.cutting import Decomposition
from xsp.brickwork.samples import Record
from xsp.types import DeviceKind

REPLAY = "replay"
DRAWS = 50
"""Timelines whose spread gives the interval."""
_Z = 1.959964
_SHORT_NS = 1
"""Length of operations while the timeline is laid out, so that none is queued."""

Floats = npt.NDArray[np.float64]


def replayed(cut: Decomposition, times: Times, seed: int = 0) -> Constructed | None:
    """The bricks one behind the other as a program that does not wait between them: the host
    launches, each operation starts when its launch has arrived and the one before it has ended, and
    at the end the host waits. None where a brick was not traced on a GPU.

    The interval is the spread of timelines whose bricks vary within their intervals, host and
    device independently; equal bricks vary together.
    """
    digests = [each.layer.digest for each in cut.bricks]
    if any(digest in times and "device" not in times[digest].facts for digest in digests):
        return None
    found = replace(summed(cut, times), rule=REPLAY)
    if found.missing:
        return found
    unique = {digest: times[digest] for digest in digests}
    middle = _latency_ns(digests, unique, dict.fromkeys(unique, (0.0, 0.0)))
    generator = np.random.default_rng(seed)
    spread = [
        _latency_ns(digests, unique, {each: _drawn(generator) for each in unique})
        for _ in range(DRAWS)
    ]
    width = _Z * float(np.std(spread, ddof=1))
    return replace(found, latency_ns=middle, half_width_ns=width)


def host_ns(record: Record) -> tuple[float, float]:
    """Trimmed mean of how long a brick's call takes the host, and half of its 95 % interval."""
    own = Record(record.layer, record.algorithm, record.caches, record.facts["host_samples_ns"])
    return own.mean_ns, own.half_width_ns


def _drawn(generator: np.random.Generator) -> tuple[float, float]:
    host, device = generator.standard_normal(2).tolist()
    return host, device


def _latency_ns(
    digests: Sequence[str],
    unique: Mapping[str, Record],
    off: Mapping[str, tuple[float, float]],
) -> float:
    """Latency of the timeline in which each brick is off by so many standard errors, on the host
    and on the device.
    """
    parts = {digest: _part(record, *off[digest]) for digest, record in unique.items()}
    begin = np.concatenate([[0.0], np.cumsum([parts[each][0] for each in digests])])
    launches = np.concatenate(
        [start + parts[each][1] for start, each in zip(begin, digests, strict=False)]
    )
    lengths = np.concatenate([parts[each][2] for each in digests])
    facts = next(iter(unique.values())).facts["latencies"]
    return latency_ns(float(begin[-1]), launches, lengths, facts)


def _part(record: Record, host_off: float, device_off: float) -> tuple[float, Floats, Floats]:
    """Host time, launches from the brick's begin, and lengths of operations, in ns."""
    mean, half = host_ns(record)
    host = max(mean + host_off * half / _Z, 0.0)
    work = record.facts["device"]
    off_ns = device_off * work["busy_half_ns"] / _Z
    scale = max(1.0 + off_ns / max(work["busy_ns"], 1.0), 0.0)
    launches, lengths = np.asarray(work["launch_at"]), np.asarray(work["duration_ns"])
    return host, host * launches, scale * lengths


def latency_ns(
    host_end_ns: float, launches_ns: Floats, lengths_ns: Floats, typical: Mapping[str, float]
) -> float:
    """Latency of a program whose host launches operations on one stream at these times, in order,
    and then waits for them.

    `typical` has launch_ns, gap_ns and wake_ns: see `device.latencies`.
    """
    if not len(launches_ns):
        return host_end_ns
    launch = np.maximum.accumulate(np.rint(launches_ns).astype(np.int64))
    # Two launches need different stamps, for else the second operation would count as queued.
    launch = np.maximum.accumulate(launch - 2 * np.arange(len(launch))) + 2 * np.arange(len(launch))
    laid_out = _timeline(launch, max(round(host_end_ns), int(launch[-1])), typical)
    lengths = np.maximum(np.rint(lengths_ns).astype(np.int64), _SHORT_NS)
    ops = replace(laid_out.ops, end_ns=laid_out.ops.start_ns + lengths)
    played = replay(laid_out, Costs(), _latencies(typical), as_if=replace(laid_out, ops=ops))
    return float(played.latency_ns)


def _timeline(
    launch: npt.NDArray[np.int64], host_end: int, typical: Mapping[str, float]
) -> Timeline:
    """The program with operations that take no time: each starts as soon as its launch arrives."""
    count = len(launch)
    zeros, places = np.zeros(count, dtype=np.int64), np.arange(count)
    start = launch + round(typical["launch_ns"])
    end = start + _SHORT_NS
    woke = max(int(end[-1]) + round(typical["wake_ns"]), host_end)
    one = np.zeros(1, dtype=np.int64)
    return Timeline(
        start_ns=0,
        host_end_ns=host_end,
        end_ns=woke,
        clocks={0: 0},
        events=HostEvents(zeros, np.full(count, int(EventKind.LAUNCH)), launch, launch + 1),
        ops=DeviceOps(
            kind=np.full(count, int(DeviceKind.KERNEL)),
            stream=zeros,
            start_ns=start,
            end_ns=end,
            launch=places,
            row=places,
            after=np.zeros((0, 2), dtype=np.int64),
        ),
        waits=HostWaits(
            clock=one,
            kind=np.full(1, int(WaitKind.SYNCHRONIZE)),
            start_ns=np.full(1, host_end),
            end_ns=np.full(1, woke),
            event=one - 1,
            from_clock=one - 1,
            from_ns=one - 1,
            on=np.array([[0, count - 1]]),
        ),
        notes=(),
    )


def _latencies(typical: Mapping[str, float]) -> Latencies:
    launch, gap, wake = (float(typical[name]) for name in ("launch_ns", "gap_ns", "wake_ns"))
    return Latencies(
        launch_ns=(launch, launch, launch),
        gap_ns=(gap, gap, gap),
        event_ns=gap,
        wake_ns=(wake, wake, wake),
        return_ns=(0.0, 0.0, 0.0),
    )
