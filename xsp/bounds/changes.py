"""What a what-if changes about one corrected call: lengths on the device, and host time that is not
spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import numpy as np

from xsp.bounds.as_if import Change, Floats, outside, within
from xsp.bounds.otherwise import KERNEL, Bools, Otherwise
from xsp.bounds.recorded import RecordedCall, Recording

GRAPH_GAP_NS = 400.0
"""Between kernels of a replayed CUDA graph: medians of 290 and 420 ns on an H200, where 1,000 lie
between those of a queue."""
GRAPH_LAUNCHES, GRAPH_NODES = 2.0, 60.0
"""A replay reaches the GPU after so many launch latencies, and one more for so many kernels. On
H200s whose launches took 6 to 7 µs, replays of 40 kernels took 134 and 166 µs with the wait, and
one of 342 kernels 1,120 µs; this makes it 150 and 1,080.
"""


def change_of(call: RecordedCall, recorded: Recording, asked: Otherwise) -> Change:
    """Everything that is asked for, as a change of one call."""
    change = _on_the_device(call, Change.none(call.run), asked, recorded.has_device)
    for name in asked.no_launch:
        change = change.also_free(call.launches(_ops(call, name)))
    for name in asked.no_framework:
        launches = call.launches(_ops(call, name))
        change = change.also_free(_own_time(call, _spans(call, name), launches))
    for name in asked.cuda_graph:
        change = _graphed(call, change, name, recorded.typical.launch_ns[0])
    for name in asked.no_sync:
        change = _released(call, change, name)
    if asked.fast_gpu:
        change = replace(change, duration_ns=np.full_like(change.duration_ns, nan))
    if asked.fast_host:
        change = change.also_free(_own_time(call, _spans(call, "*")))
    return change


def _on_the_device(
    call: RecordedCall, change: Change, asked: Otherwise, has_device: bool
) -> Change:
    """What is gone or fused, is faster, or takes another time in all that is left of it."""
    if asked.gone:
        change = _without(call, change, asked.gone)
    for group in asked.fused:
        change = _fused(call, change, group, has_device)
    for name, times in asked.faster.items():
        change = _scaled(call, change, name, 1.0 / times, has_device)
    for name, milliseconds in asked.takes_ms.items():
        change = _set(call, change, name, milliseconds * 1e6, has_device)
    return change


def _ops(call: RecordedCall, *patterns: str) -> Bools:
    of_kernels = [each for each in patterns if each.startswith(KERNEL)]
    of_layers = [each for each in patterns if not each.startswith(KERNEL)]
    found = np.zeros(len(call.op_layer), dtype=bool)
    for asked, names in ((of_layers, call.named_layers), (of_kernels, call.named_kernels)):
        if asked:
            found |= names.matching(asked)
    return found


def _spans(call: RecordedCall, *patterns: str) -> Floats:
    """Host intervals of the layers that the patterns name; the whole call for "*"."""
    if "*" in patterns:
        return np.array([[call.run.start_ns, call.run.host_end_ns]], dtype=np.float64)
    asked = [each for each in patterns if not each.startswith(KERNEL)]
    if not asked:
        return np.zeros((0, 2))
    return call.intervals[call.named_spans.matching(asked)]


def _own_time(call: RecordedCall, spans: Floats, without: Floats | None = None) -> Floats:
    """Host time in these intervals that is not spent waiting for the device, nor in the intervals
    of `without`.
    """
    busy = call.waits if without is None else np.concatenate([call.waits, without])
    parts = [
        outside(busy[(busy[:, 1] > start) & (busy[:, 0] < end)], start, end) for start, end in spans
    ]
    return np.concatenate([np.zeros((0, 2)), *parts])


def _scaled(
    call: RecordedCall, change: Change, name: str, share: float, has_device: bool
) -> Change:
    if has_device:
        mine = _ops(call, name)
        return replace(
            change, duration_ns=np.where(mine, change.duration_ns * share, change.duration_ns)
        )
    # On a CPU the layer is the host's: its last part does not take place.
    starts, ends = _spans(call, name).T
    kept = (ends - starts) * min(share, 1.0)
    return change.also_free(np.stack([starts + kept, ends], axis=1))


def _set(
    call: RecordedCall, change: Change, name: str, wanted_ns: float, has_device: bool
) -> Change:
    """Each call of the layer as long as wanted, its kernels in proportion."""
    spans = _spans(call, name)
    calls = max(len(spans), 1)
    if has_device:
        took = float(np.nansum(change.duration_ns[_ops(call, name)]))
    else:
        took = float((spans[:, 1] - spans[:, 0]).sum())
    return _scaled(call, change, name, wanted_ns * calls / took, has_device) if took else change


def _without(call: RecordedCall, change: Change, names: Sequence[str]) -> Change:
    """Neither computed nor launched: without the layers' host time, or the kernels' launches."""
    of_kernels = [name for name in names if name.startswith(KERNEL)]
    length = np.where(_ops(call, *names), nan, change.duration_ns)
    launches = call.launches(_ops(call, *of_kernels))
    spent = np.concatenate([_spans(call, *names), launches])
    # A copy that the host waits for is not waited for either, nor is any other wait in the layer.
    released = change.released.copy()
    released[call.inner_waits[within(call.waits[:, 0], spent)]] = True
    return replace(change, duration_ns=length, released=released).also_free(spent)


def _fused(call: RecordedCall, change: Change, group: Sequence[str], has_device: bool) -> Change:
    def took(name: str) -> float:
        if has_device:
            return float(np.nansum(change.duration_ns[_ops(call, name)]))
        spans = _spans(call, name)
        return float((spans[:, 1] - spans[:, 0]).sum())

    longest = max(group, key=took)
    return _without(call, change, [name for name in group if name != longest])


def _graphed(call: RecordedCall, change: Change, name: str, launch_ns: float) -> Change:
    """One launch instead of all of the host's time in these layers; kernels follow closer."""
    mine = _ops(call, name)
    free = _own_time(call, _spans(call, name))
    if not mine.any() or not len(free):
        return change
    left = launch_ns * (GRAPH_LAUNCHES + mine.sum() / GRAPH_NODES)
    free[0, 0] = min(free[0, 0] + left, free[0, 1])
    closer = np.where(mine, GRAPH_GAP_NS, np.inf)
    return replace(change, most_gap_ns=np.minimum(change.most_gap_ns, closer)).also_free(free)


def _released(call: RecordedCall, change: Change, name: str) -> Change:
    """Waits that begin in these layers are not made."""
    spans, places, waits = _spans(call, name), call.inner_waits, call.waits
    inside = within(waits[:, 0], spans)
    released = change.released.copy()
    released[places[inside]] = True
    return replace(change, released=released).also_free(waits[inside])
