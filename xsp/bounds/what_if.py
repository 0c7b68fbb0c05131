"""What a model would take if something about it were otherwise, on its corrected timeline.

A sum of savings is wrong where the host or another stream is the limit; a replay of the whole
timeline is not (docs/replay.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import translate
from math import hypot, inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.statistics import trimmed
from xsp.bounds.as_if import Change, Floats, latency_ns, outside, within
from xsp.bounds.recorded import RecordedCall, Recording, recording
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

RUNS = 8
"""Runs that are replayed; the interval is that of their mean."""
KERNEL = "kernel:"
"""Names that begin so are kernels'; others are layers'."""

Names = str | Iterable[str]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Otherwise:
    """What is otherwise; every name is a pattern (`layer1.*`), of kernels after `kernel:`.

    `faster` is by how much, `takes_ms` what one call of a layer takes on the device, `gone` what is
    not computed; `fused` are groups of layers of which only the longest still takes device time.
    `no_sync`, `no_launch` and `cuda_graph` are layers without synchronisation, without the host's
    time for launches, and launched as one graph.
    """

    faster: Mapping[str, float] = field(default_factory=dict)
    takes_ms: Mapping[str, float] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    fused: tuple[tuple[str, ...], ...] = ()
    no_sync: tuple[str, ...] = ()
    no_launch: tuple[str, ...] = ()
    cuda_graph: tuple[str, ...] = ()
    fast_host: bool = False
    fast_gpu: bool = False

    @classmethod
    def of(
        cls,
        *,
        faster: Mapping[str, float] | None = None,
        takes_ms: Mapping[str, float] | None = None,
        gone: Names = (),
        fused: Sequence[Sequence[str]] = (),
        no_sync: Names = (),
        no_launch: Names = (),
        cuda_graph: Names = (),
        fast_host: bool = False,
        fast_gpu: bool = False,
    ) -> Otherwise:
        """From the arguments of `Profile.what_if`."""
        return cls(
            faster or {},
            takes_ms or {},
            _names(gone),
            tuple(tuple(group) for group in fused),
            _names(no_sync),
            _names(no_launch),
            _names(cuda_graph),
            fast_host,
            fast_gpu,
        )

    @property
    def patterns(self) -> list[str]:
        """Every name given."""
        groups = [name for group in self.fused for name in group]
        return [
            *self.faster,
            *self.takes_ms,
            *self.gone,
            *groups,
            *self.no_sync,
            *self.no_launch,
            *self.cuda_graph,
        ]


@dataclass(frozen=True)
class WhatIf:
    """A prediction: `latency_ms` measured, `predicted_ms` with the change, `gain_ms` between them
    with half of its 95 % interval.
    """

    latency_ms: float
    gain_ms: float
    half_width_ms: float
    calls: int

    @property
    def predicted_ms(self) -> float:
        """The latency with the change."""
        return self.latency_ms - self.gain_ms

    @property
    def speedup(self) -> float:
        """How many times faster."""
        return self.latency_ms / self.predicted_ms if self.predicted_ms > 0 else inf

    def __str__(self) -> str:
        return (
            f"{self.predicted_ms:.3f} ms instead of {self.latency_ms:.3f}: "
            f"{self.gain_ms:+.3f} ± {self.half_width_ms:.3f} ms gained"
        )


def what_if(profile: ProfileData, **changed: Any) -> WhatIf:
    """See `Profile.what_if`, whose arguments these are."""
    return predicted(profile, recording(profile, RUNS), Otherwise.of(**changed))


def predicted(profile: ProfileData, recorded: Recording, asked: Otherwise) -> WhatIf:
    """The prediction for one change, from calls that are corrected already.

    Raises XspError for a name that nothing has, and for a factor that is not above 0.
    """
    _check(asked, recorded)
    left = []
    for call in recorded.calls:
        after = latency_ns(call.run, _change(call, recorded, asked), recorded.typical)
        left.append(after / call.run.latency_ns)
    share, half = (float(each) for each in trimmed(left))
    latency = profile.latency_ms
    gain = latency * (1 - share)
    # The corrected timeline is off by the closure error, and so, in proportion, is what is read
    # off it.
    closure = profile.closure_error
    error = float(closure[["low", "high"]].iloc[-1].abs().max()) if len(closure) else 0.0
    spread = latency * float(np.nan_to_num(half))
    of_latency = float(np.nan_to_num(profile.latency_ci_ms)) * (1 - share)
    return WhatIf(latency, gain, hypot(spread, of_latency, gain * error), len(left))


def _names(given: Names) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _check(asked: Otherwise, recorded: Recording) -> None:
    for name, times in asked.faster.items():
        if not times > 0:
            raise XspError(f"the speed-up of {name!r} must be > 0, not {times}")
    call = recorded.calls[-1]
    kernels, layers = set(call.op_kernel.tolist()), {*call.layers["name"], ""}
    for pattern in asked.patterns:
        there = kernels if pattern.startswith(KERNEL) else layers
        if not _names_any(pattern, there):
            some = ", ".join(sorted(layers - {""})[:4])
            raise XspError(
                f"nothing in this profile is called {pattern!r}; layers are {some}, …; a pattern "
                f"such as 'layer1.*' names several, and {KERNEL}*gemm* names kernels"
            )


def _plain(pattern: str) -> str | None:
    """The name that a pattern without signs is; signs may be quoted, as in `x[[]0]`."""
    name = pattern.removeprefix(KERNEL).replace("[[]", "\0")
    return None if set("*?[") & set(name) else name.replace("\0", "[")


def _names_any(pattern: str, names: Set[str]) -> bool:
    plain = _plain(pattern)
    return plain in names if plain is not None else bool(_matching([pattern], names).any())


def _matching(patterns: Iterable[str], names: Iterable[str]) -> Bools:
    """Which names any of the patterns fits. Plain names are looked up: a model of 100,000 layers
    is asked for 50,000 of them at once.
    """
    plain, others = set(), []
    for pattern in patterns:
        name = _plain(pattern)
        if name is None:
            others.append(re.compile(translate(pattern.removeprefix(KERNEL))))
        else:
            plain.add(name)
    listed = list(names)
    fits = {name: name in plain or any(each.match(name) for each in others) for name in set(listed)}
    return np.array([fits[name] for name in listed], dtype=bool)


def _ops(call: RecordedCall, *patterns: str) -> Bools:
    of_kernels = [each for each in patterns if each.startswith(KERNEL)]
    of_layers = [each for each in patterns if not each.startswith(KERNEL)]
    found = np.zeros(len(call.op_layer), dtype=bool)
    for asked, names in ((of_layers, call.op_layer), (of_kernels, call.op_kernel)):
        if asked:
            found |= _matching(asked, names.tolist())
    return found


def _spans(call: RecordedCall, *patterns: str) -> Floats:
    """Host intervals of the layers that the patterns name; the whole call for "*"."""
    if "*" in patterns:
        return np.array([[call.run.start_ns, call.run.host_end_ns]], dtype=np.float64)
    asked = [each for each in patterns if not each.startswith(KERNEL)]
    if not asked:
        return np.zeros((0, 2))
    mine = _matching(asked, call.layers["name"])
    return call.layers.loc[mine, ["start_ns", "end_ns"]].to_numpy(dtype=np.float64)


def _change(call: RecordedCall, recorded: Recording, asked: Otherwise) -> Change:
    change = Change.none(call.run)
    for name, times in asked.faster.items():
        change = _scaled(call, change, name, 1.0 / times, recorded.has_device)
    for name, milliseconds in asked.takes_ms.items():
        change = _set(call, change, name, milliseconds * 1e6, recorded.has_device)
    if asked.gone:
        change = _without(call, change, asked.gone)
    for group in asked.fused:
        change = _fused(call, change, group, recorded.has_device)
    for name in asked.no_launch:
        change = change.also_free(call.launches(_ops(call, name)))
    for name in asked.cuda_graph:
        change = _graphed(call, change, name)
    for name in asked.no_sync:
        change = _released(call, change, name, recorded.typical.return_ns[0])
    if asked.fast_gpu:
        change = replace(change, duration_ns=np.full_like(change.duration_ns, nan))
    if asked.fast_host:
        change = change.also_free(_own_time(call, _spans(call, "*")))
    return change


def _own_time(call: RecordedCall, spans: Floats) -> Floats:
    """Host time in these intervals that is not spent waiting for the device."""
    waits = call.waits
    parts = [
        outside(waits[(waits[:, 1] > start) & (waits[:, 0] < end)], start, end)
        for start, end in spans
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


def _graphed(call: RecordedCall, change: Change, name: str) -> Change:
    """All of the host's time in these layers but one launch."""
    free = _own_time(call, _spans(call, name))
    launches = call.launches(_ops(call, name))
    if not len(launches) or not len(free):
        return change
    left = float(np.median(launches[:, 1] - launches[:, 0]))
    free[0, 0] = min(free[0, 0] + left, free[0, 1])
    return change.also_free(free)


def _released(call: RecordedCall, change: Change, name: str, return_ns: float) -> Change:
    """Waits that begin in these layers wait for nothing, and the call itself is not made."""
    spans, places, waits = _spans(call, name), call.inner_waits, call.waits
    inside = within(waits[:, 0], spans)
    released = change.released.copy()
    released[places[inside]] = True
    spent = waits[inside].copy()
    # A wait that waits for nothing still takes this long, which the next work makes up for.
    spent[:, 1] += return_ns
    return replace(change, released=released).also_free(spent)
