"""A model's latency on a GPU from its bricks: their host and device timelines, one behind the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsp.brickwork.construction import Constructed, Times, summed
from xsp.brickwork.cutting import Decomposition
from xsp.brickwork.samples import Record

REPLAY = "replay"
DRAWS = 50
"""Timelines whose spread gives the interval."""
_Z = 1.959964

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
    program = _Program.of(digests, unique)
    typical = next(iter(unique.values())).facts["latencies"]
    as_measured = np.zeros((1, len(unique), 2))
    drawn = np.random.default_rng(seed).standard_normal((DRAWS, len(unique), 2))
    every = program.latency_ns(np.concatenate([as_measured, drawn]), typical)
    width = _Z * float(np.std(every[1:], ddof=1))
    return replace(found, latency_ns=float(every[0]), half_width_ns=width)


def host_ns(record: Record) -> tuple[float, float]:
    """Trimmed mean of how long a brick's call takes the host, and half of its 95 % interval."""
    own = Record(record.layer, record.algorithm, record.caches, record.facts["host_samples_ns"])
    return own.mean_ns, own.half_width_ns


def busy_ns(record: Record) -> float:
    """How long the operations of a call keep the GPU; NaN where it was not traced."""
    return float(record.facts.get("device", {}).get("busy_ns", np.nan))


@dataclass(frozen=True, eq=False)
class _Program:
    """Bricks in the order in which they run, and the operations that they launch.

    `brick` is the unique brick at each place. `host` and `busy` have by unique brick its mean and
    half of its 95 % interval in ns, shape (2, unique). `place` is the place that launches each
    operation, `share` when in the host time of its brick, `length` how long it takes in ns.
    """

    brick: Ints
    host: Floats
    busy: Floats
    place: Ints
    share: Floats
    length: Floats

    @classmethod
    def of(cls, digests: Sequence[str], unique: Mapping[str, Record]) -> _Program:
        number = {digest: place for place, digest in enumerate(unique)}
        brick = np.array([number[digest] for digest in digests], dtype=np.int64)
        works = [record.facts["device"] for record in unique.values()]
        count = np.array([len(each["duration_ns"]) for each in works])
        place = np.repeat(np.arange(len(brick)), count[brick])
        # Where the operations of a unique brick begin, and which of them each one is.
        first = np.cumsum(count) - count
        launched_before = np.cumsum(count[brick]) - count[brick]
        own = first[brick][place] + np.arange(len(place)) - launched_before[place]
        return cls(
            brick=brick,
            host=np.array([host_ns(record) for record in unique.values()]).T,
            busy=np.array([(each["busy_ns"], each["busy_half_ns"]) for each in works]).T,
            place=place,
            share=np.concatenate([each["launch_at"] for each in works])[own],
            length=np.concatenate([each["duration_ns"] for each in works])[own],
        )

    def latency_ns(self, off: Floats, typical: Mapping[str, float]) -> Floats:
        """Latencies, shape (draws,), of programs whose unique bricks are off by so many standard
        errors on the host and on the device: `off` has the shape (draws, unique, 2).
        """
        off_host, off_device = off[:, :, 0], off[:, :, 1]
        mean, half = self.host
        of_unique = np.maximum(mean + off_host * half / _Z, 0.0)
        host = of_unique[:, self.brick]
        ends = np.cumsum(host, axis=1)
        begins = ends - host
        launches = begins[:, self.place] + host[:, self.place] * self.share
        busy, busy_half = self.busy
        scale = 1.0 + off_device * busy_half / _Z / np.maximum(busy, 1.0)
        unique = self.brick[self.place]
        lengths = np.maximum(scale, 0.0)[:, unique] * self.length
        return latency_ns(ends[:, -1], launches, lengths, typical)


def latency_ns(
    host_end_ns: npt.ArrayLike,
    launches_ns: Floats,
    lengths_ns: Floats,
    typical: Mapping[str, float],
) -> Floats:
    """Latencies, shape (...), of programs whose host launches operations on one stream, and then
    waits for them. `launches_ns` and `lengths_ns` have the shape (..., operations) and are in the
    order of the stream; `host_end_ns`, shape (...), is when the host begins to wait.

    Operation i starts at max(launch i + launch_ns, end of i - 1 + gap_ns). The last one therefore
    ends at the maximum over i of the arrival of launch i, plus all lengths from i on, plus the gaps
    between them: what the replay of a recording computes for one stream and one wait. `typical` has
    launch_ns, gap_ns and wake_ns: see `device.latencies`.
    """
    host_end = np.asarray(host_end_ns, dtype=np.float64)
    count = launches_ns.shape[-1]
    if not count:
        return host_end
    from_here = np.cumsum(lengths_ns[..., ::-1], axis=-1)[..., ::-1]
    gaps = typical["gap_ns"] * np.arange(count - 1, -1, -1)
    ends = launches_ns + typical["launch_ns"] + from_here + gaps
    latency: Floats = np.maximum(host_end, ends.max(axis=-1) + typical["wake_ns"])
    return latency
